"""Raw scores: numbers in [0, 1] that order drafts but are no probabilities until calibrated."""

from __future__ import annotations

from collections.abc import Mapping


def combine(scores: Mapping[str, float]) -> float | None:
    """One raw score from several: the most doubtful one; None when there is none.

    Uncalibrated scores have no common scale, so no weights are invented for them; a
    calibration replaces this rule. Values outside [0, 1] are clipped.
    """
    lowest = min(scores.values(), default=None)
    return None if lowest is None else min(1.0, max(0.0, lowest))
