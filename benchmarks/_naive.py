"""What a user without a calibration could do: thresholds on raw signals, the baselines to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade.confidence.metrics import Array
from cascade.evaluation.features import RAW
from cascade.evaluation.recorded import Recorded


def single_signals(
    recorded: Recorded, helpers: Sequence[str] = ()
) -> dict[str, tuple[Array, Array, bool]]:
    """Raw signals: (higher is escalated, dollars per row, known before the draft)."""
    free = np.zeros(len(recorded))
    found: dict[str, tuple[Array, Array, bool]] = {}
    for name in recorded.draft.names:
        values = np.nan_to_num(recorded.draft.column(name))
        if name in (RAW, "margin", "answered"):
            found[name] = (-values, free, False)
        elif name in ("entropy", "distinct", "log_length"):
            found[name] = (values, free, False)
    if "rank1" in recorded.draft.names:
        second = np.exp(recorded.draft.column("rank1"))
        found["margin_p"] = (second - recorded.raw_score(), free, False)
    found["short"] = (recorded.prompt.column("log_chars"), free, True)
    for helper in helpers:
        block = recorded.panel((helper,))
        found[f"agree:{helper}"] = (-block.column("panel_same"), block.cost, False)
    return found


def lowest_threshold(confidence: Array, correct: Array, max_harm: float) -> float:
    """The lowest τ whose harm P(accept ∧ wrong) on these very rows is at most `max_harm`.

    Promises nothing about other rows, where it is exceeded about every second time; infinity
    where even the surest draft is wrong too often.
    """
    order = np.argsort(-confidence, kind="stable")
    harm = np.cumsum(correct[order] < 0.5) / len(order)
    ends = np.append(np.flatnonzero(np.diff(confidence[order]) < 0), len(order) - 1)
    good = ends[harm[ends] <= max_harm]
    return float(confidence[order][good[-1]]) if len(good) else float("inf")
