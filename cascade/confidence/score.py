"""Raw scores: numbers in [0, 1] that order drafts but are no probabilities until calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

SCORES = ("logprobs", "p_true")
"""Signals that give a raw score on their own, cheapest first."""


def raw_scores(signals: Mapping[str, float]) -> dict[str, float]:
    """The raw scores that the signals of a draft allow.

    `logprobs` is the geometric mean token probability, exp(mean log-probability);
    `p_true` is the self-check as it is.
    """
    scores = {}
    if "logprob_mean" in signals:
        scores["logprobs"] = math.exp(signals["logprob_mean"])
    if "p_true" in signals:
        scores["p_true"] = signals["p_true"]
    return scores


def combine(scores: Mapping[str, float], wanted: Sequence[str]) -> float | None:
    """One raw score from those that are wanted: the most doubtful one, None when one is missing.

    Uncalibrated scores have no common scale, so no weights are invented for them; a
    calibration replaces this rule.
    """
    if any(name not in scores for name in wanted):
        return None
    return min((scores[name] for name in wanted), default=None)
