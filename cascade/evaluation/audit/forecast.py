"""Shadow start: what going live at a threshold would save and lose, before anyone depends on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.metrics import Array
from cascade.evaluation.audit.design import audits_needed
from cascade.evaluation.audit.estimates import Estimate
from cascade.evaluation.audit.intervals import Sample, adjusted, student
from cascade.state import Record

LEAST = 30
"""Fewer shadow rows are too early whatever they say."""

_TINY_RATE = 1e-9
"""Shadow rows stand for requests to come: a sample from a population without end."""

Verdict = Literal["ready", "not worth it", "too early"]

CANDIDATES = 100
"""Thresholds that are tried."""

_SURE = 2.0
"""Times the half width of an interval that a figure is to be away from its limit: then as many
other rows confirm it with a probability of about 0.9."""


@dataclass(frozen=True, slots=True)
class ShadowRows:
    """Requests that both models answered; the threshold must have been chosen on other rows.

    Attributes:
        confidence: (n,) of the draft.
        draft_usd: (n,) of draft and checks.
        large_usd: (n,) of the large model.
        loss: (n,) q_L − q_S in [−1, 1]; without labels 1 where the draft disagrees, else 0.
    """

    confidence: Array
    draft_usd: Array
    large_usd: Array
    loss: Array


class Forecast(Record):
    """Saving as a share of the large-only bill and quality loss per request, at a threshold.

    Attributes:
        threshold: from which confidence on drafts are accepted; None where that was decided
            otherwise.
        more: how many more rows would probably decide it; 0 when it is decided.
    """

    threshold: float | None
    escalation_rate: float
    saving: Estimate
    loss: Estimate
    verdict: Verdict
    more: int
    reason: str


def forecast(
    rows: ShadowRows, threshold: float, *, max_loss: float, min_saving: float = 0.0
) -> Forecast:
    """What would be saved and lost if drafts of this confidence and above were accepted."""
    n = len(rows.confidence)
    accepted = rows.confidence >= threshold
    saving, loss, variances = _figures(rows, accepted)
    verdict, reason = _verdict(n, saving, loss, max_loss, min_saving)
    gaps = (abs(saving.value - min_saving), abs(loss.value - max_loss))
    more = _more(n, variances, gaps) if verdict == "too early" else 0
    return Forecast(
        threshold=threshold,
        escalation_rate=float(1.0 - accepted.mean()) if n else 1.0,
        saving=saving,
        loss=loss,
        verdict=verdict,
        more=more,
        reason=reason,
    )


def easiest_threshold(
    rows: ShadowRows, *, max_loss: float, min_saving: float = 0.0
) -> float | None:
    """The threshold for a forecast on other rows; None where no draft has a confidence or the
    large model costs nothing.

    Of those that as many other rows will probably confirm, the one that saves most; where there is
    none, the one that is nearest to it, measured in half widths of its intervals.
    """
    confidences = rows.confidence[rows.confidence >= 0]
    if len(rows.confidence) < 2 or not len(confidences) or not rows.large_usd.sum() > 0:
        return None
    shares = np.linspace(0.0, 1.0, CANDIDATES)
    found = []
    for threshold in np.unique(np.quantile(confidences, shares, method="higher")):
        saving, loss, _ = _figures(rows, rows.confidence >= threshold)
        room = min(
            (saving.value - min_saving) / max(saving.value - saving.low, 1e-12),
            (max_loss - loss.value) / max(loss.high - loss.value, 1e-12),
        )
        found.append((min(room, _SURE), saving.value, float(threshold)))
    return max(found)[2]


def _figures(
    rows: ShadowRows, accepted: NDArray[np.bool_]
) -> tuple[Estimate, Estimate, tuple[float, float]]:
    """Saving and loss when these drafts are accepted, and the variances of one row."""
    n = len(accepted)
    saved = np.where(accepted, rows.large_usd, 0.0) - rows.draft_usd
    share = float(saved.sum() / rows.large_usd.sum()) if n else 0.0
    if n < 2:
        return _figure(share, (-math.inf, 1.0), n), _figure(0.0, (-1.0, 1.0), n), (1.0, 1.0)
    lost = np.where(accepted, rows.loss, 0.0)
    sample = Sample(np.full(n, _TINY_RATE), np.ones(n, dtype=bool))
    # The ratio's linearised values: their mean is 0, their spread that of the ratio.
    off = (saved - share * rows.large_usd) / rows.large_usd.mean()
    low, high = student(off, sample)
    saving = _figure(share, (share + low, share + high), n)
    loss = _figure(float(lost.mean()), adjusted(lost, sample, (-1.0, 1.0)), n)
    return saving, loss, (float(off.var()), float(lost.var()))


def _verdict(
    n: int, saving: Estimate, loss: Estimate, max_loss: float, min_saving: float
) -> tuple[Verdict, str]:
    if n < LEAST:
        return "too early", f"{n} rows; nothing is said below {LEAST}"
    if saving.high <= min_saving:
        return "not worth it", f"saves at most {saving.high:.1%}, wanted is over {min_saving:.1%}"
    if loss.low > max_loss:
        return "not worth it", f"loses at least {loss.low:.1%}, allowed is {max_loss:.1%}"
    if saving.low > min_saving and loss.high <= max_loss:
        return "ready", f"saves at least {saving.low:.1%}, loses at most {loss.high:.1%}"
    return "too early", "the intervals still hold both answers"


def _more(n: int, variances: tuple[float, float], gaps: tuple[float, float]) -> int:
    """3.84·Var/h² rows, h being how far the figure is from its limit; at least one more."""
    pairs = zip(variances, gaps, strict=True)
    wanted = [audits_needed(v, max(gap, 0.002)) for v, gap in pairs]
    return max(1, LEAST - n, max(wanted) - n)


def _figure(value: float, ends: tuple[float, float], n: int) -> Estimate:
    note = "" if n >= LEAST else "too few rows"
    return Estimate(
        value=value, low=ends[0], high=ends[1], audits=n, basis="estimated", method="t", note=note
    )
