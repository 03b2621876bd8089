"""Early stop of a draft that is still being written.

Two facts tell that it cannot be accepted any more. A geometric mean over at most N tokens has a
ceiling. And the smallest mean over 16 tokens only falls while the answer grows, so that the final
value of calibration drafts bounds the running one (early stopping as in DeepConf, arXiv 2508.15260,
with a conformal bound in place of its percentile).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from cascade.confidence.base import WINDOW, worst_window

EarlyRow = tuple[float, float]
"""Of a calibration draft: its confidence, and its `logprob_window_min`."""

ROUNDING = 1e-9
"""Sums of the same numbers in another order differ by less."""


def ceiling(total: float, limit: int) -> float:
    """The highest geometric mean probability that an answer of at most `limit` tokens can still
    reach, `total` being the sum of its log-probabilities so far: the rest is certain at best."""
    return min(1.0, math.exp(total / limit) + ROUNDING)


def tail_mean(values: Sequence[float]) -> float | None:
    """Mean of the last `WINDOW` log-probabilities; None before there are so many."""
    return worst_window(values[-WINDOW:]) if len(values) >= WINDOW else None


def drafts_needed(share: float) -> int:
    """The fewest accepted calibration drafts that bound a share: 1/share − 1, rounded up."""
    return math.ceil(1.0 / share) - 1


def lowest_kept(
    rows: Sequence[EarlyRow], accepts: Callable[[float], bool], share: float
) -> float | None:
    """The running window below which a draft is given up; None where too few drafts bound it.

    With n accepted drafts it is the r-th smallest window, r = ⌊share·(n + 1)⌋. A further accepted
    draft of the same kind falls below it with probability at most r/(n + 1) ≤ share (split
    conformal prediction, arXiv 2107.07511, appendix D). `rows` are sorted, `accepts` is monotone.
    """
    first = bisect_left(rows, True, key=lambda row: accepts(row[0]))
    lowest = sorted(window for _, window in rows[first:])
    rank = math.floor(share * (len(lowest) + 1))
    return lowest[rank - 1] if rank else None
