"""Raw scores: numbers in [0, 1] that order drafts but are no probabilities until calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping


def combine(scores: Mapping[str, float]) -> float | None:
    """One raw score from several: the most doubtful one; None when there is none.

    Uncalibrated scores have no common scale, so no weights are invented for them; a
    calibration replaces this rule. Values outside [0, 1] are clipped.
    """
    lowest = min(scores.values(), default=None)
    return None if lowest is None else min(1.0, max(0.0, lowest))


def score_of(signal: str, features: Mapping[str, float]) -> float | None:
    """The raw score of a signal, None when it is missing or no score by itself.

    For `logprobs` it is the geometric mean token probability, exp(mean log-probability); every
    other score is the feature of the signal's own name.
    """
    if signal == "logprobs":
        mean = features.get("logprob_mean")
        return None if mean is None else math.exp(mean)
    return features.get(signal)
