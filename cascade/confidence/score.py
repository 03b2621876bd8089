"""Raw scores: numbers in [0, 1] that order drafts but are no probabilities until calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping

FEATURES: Mapping[str, frozenset[str]] = {
    "logprobs": frozenset(
        {
            "logprob_mean",
            "logprob_min",
            "logprob_q10",
            "logprob_window_min",
            "margin_mean",
            "token_count",
        }
    ),
    "text": frozenset({"answer_words", "answer_truncated", "answer_refuses", "answer_hedges"}),
    "prompt": frozenset(
        {"prompt_words", "prompt_numbers", "prompt_negations", "prompt_lines", "prompt_symbols"}
    ),
}
"""Features of the built-in signals that are not called as their signal is."""


def combine(scores: Mapping[str, float]) -> float | None:
    """One raw score from several: the most doubtful one; None when there is none.

    Uncalibrated scores have no common scale, so no weights are invented for them; a
    calibration replaces this rule. Values outside [0, 1] are clipped; NaN is missing.
    """
    lowest = min((score for score in scores.values() if not math.isnan(score)), default=None)
    return None if lowest is None else min(1.0, max(0.0, lowest))


def score_of(signal: str, features: Mapping[str, float]) -> float | None:
    """The raw score of a signal, None when it is missing or no score by itself.

    For `logprobs` it is the geometric mean token probability, exp(mean log-probability); every
    other score is the feature of the signal's own name.
    """
    if signal == "logprobs":
        mean = features.get("logprob_mean")
        return math.exp(mean) if mean is not None and mean <= 0.0 else None
    return features.get(signal)
