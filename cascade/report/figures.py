"""From the runs of a ledger to the inputs of the estimators, and to their figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np

from cascade.confidence.metrics import Array
from cascade.evaluation.audit.design import audits_needed
from cascade.evaluation.audit.estimates import (
    FEW,
    Baselines,
    Estimate,
    SavingReport,
    accepted_error_rate,
    quality_loss,
    saving,
)
from cascade.evaluation.audit.intervals import Sample, hajek_mean
from cascade.evaluation.shares import wilson
from cascade.ledger.baseline import WORDY
from cascade.report.reading import Row
from cascade.report.records import Needed, Quality, Rate, Reliability

ENOUGH_ESCALATED = 10
"""From so many escalated requests they say how far a prediction of the large model's cost is off;
before that, the ranges of the predictions do."""

ASSUMED_VARIANCE = 0.1
"""Variance of the loss before audits say more: drafts disagree with the large model in 10 %."""

LARGE_BIN = 20
"""Audited drafts in a group of similar confidence, at least, where there are several groups."""

MOST_BINS = 10

_Z_95 = 1.96


def can_be_audited(row: Row) -> bool:
    """Whether the accepted draft had a chance to be audited."""
    return row.rate is not None and row.rate > 0


def accepted(rows: Sequence[Row]) -> list[Row]:
    """Runs that ended with an accepted draft."""
    return [row for row in rows if row.outcome == "accepted"]


def reviewed(rows: Sequence[Row]) -> list[Row]:
    """Runs whose draft the large model was shown, to approve or correct it."""
    return [row for row in rows if row.reviewed]


def stood_in(rows: Sequence[Row]) -> list[Row]:
    """Runs that another large model answered, as the large one could not be had."""
    return [row for row in rows if row.stood_in]


def account(rows: Sequence[Row], spent: Decimal) -> tuple[SavingReport, float]:
    """The saving of runs that cost so much; and the part of the baseline that is assumed.

    Assumed is the baseline of drafts that could not be audited and were not, that the large model
    was shown, or in whose place another large model answered: audits of others do not stand for
    them, so it enters with the limits that the ledger has for it.
    """
    drafts, shown = accepted(rows), reviewed(rows) + stood_in(rows)
    rated = [row for row in drafts if can_be_audited(row)]
    others = [row for row in drafts if not can_be_audited(row)]
    known = [row.large for row in others if row.large is not None]
    blind = [row for row in others if row.large is None] + shown
    large = _column([math.nan if row.large is None else float(row.large) for row in rated])
    sample, _ = thinned(_rates(rated), ~np.isnan(large))
    found = saving(
        large[sample.audited],
        sample,
        _baselines(rated, _spread(rows, rated), limited=sample.n == 0),
        escalated_usd=float(sum((row.measured for row in rows), sum(known, Decimal(0)))),
        spent_usd=float(spent),
    )
    if not shown and (not drafts or len(known) == len(drafts)):
        exact = {"note": "", "basis": "measured", "method": "exact"}
        parts = {name: getattr(found, name) for name in ("saving", "share", "baseline")}
        return found.model_copy(
            update={name: part.model_copy(update=exact) for name, part in parts.items()}
        ), 0.0
    limits = _baselines(blind, 0.0, limited=True)
    extra = tuple(float(part.sum()) for part in (limits.predicted, limits.least, limits.most))
    return _with(found, extra, float(spent)), extra[0]


def thinned(rates: Array, came: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[Sample, float]:
    """The sample of audits that came, and the share of the drawn ones that they are taken for.

    A draw whose audit failed leaves no trace. Where clearly fewer came than the rates say (three
    standard deviations), those that came are taken for a random part of the drawn ones. The
    share is common to all, so that it cancels in Hájek's means and only widens intervals.
    """
    drawn, n = float(rates.sum()), int(came.sum())
    chance = 3.0 * float(np.sqrt(np.sum(rates * (1.0 - rates))))
    share = n / drawn if 0 < n < drawn - chance - 1e-9 else 1.0
    return Sample(rates * share, came), share


def quality(rows: Sequence[Row]) -> Quality | None:
    """Loss and errors of the accepted drafts that could be audited.

    Each request counts whose loss is known to be none (the large model answered) or for which
    audits stand; what it answered with a draft before it is not known to be as good. None where
    there are such answers or accepted drafts, and audits stand for none.
    """
    drafts = accepted(rows)
    rated = [row for row in drafts if can_be_audited(row)]
    unknown = len(drafts) + len(reviewed(rows))
    if unknown and not rated:
        return None
    sample, share = thinned(_rates(rated), np.array([r.loss is not None for r in rated], bool))
    loss = _column([row.loss for row in rated if row.loss is not None])
    sure = [row.confidence for row in rated if row.confidence is not None]
    proxy = 1.0 - _column(sure) if len(sure) == len(rated) and sure else None
    safe = sum(row.outcome in ("escalated", "shadow") and not row.reviewed for row in rows)
    found = quality_loss(loss, sample, requests=max(1, safe + len(rated)), proxy=proxy)
    error_rate = accepted_error_rate(np.maximum(loss, 0.0), sample)
    if not drafts:
        exact = {"value": 0.0, "low": 0.0, "high": 0.0, "note": "", "basis": "measured"}
        found, error_rate = (e.model_copy(update=exact) for e in (found, error_rate))
    return Quality(
        loss=found,
        error_rate=error_rate,
        represented=len(rated) / unknown if unknown else 1.0,
        assumed_finished=share,
    )


def escalation(rows: Sequence[Row]) -> Rate | None:
    """Share of the decided requests that went to the large model; None where none was decided."""
    outcomes = [row.outcome for row in rows]
    up = sum(outcome in ("escalated", "degraded") for outcome in outcomes)
    n = up + sum(outcome in ("accepted", "abstained", "person") for outcome in outcomes)
    return _rate(up / n, n, n) if n else None


def reliability(rows: Sequence[Row]) -> tuple[Reliability, ...]:
    """Confidence against correctness on audited drafts, each weighted by 1/π.

    Groups are of equal weight and in the order of confidence. A draft is correct as far as the
    large model's answer is not better.
    """
    judged = [
        (row.confidence, 1.0 - max(0.0, row.loss), 1.0 / row.rate)
        for row in accepted(rows)
        if row.loss is not None and row.confidence is not None and row.rate
    ]
    if not judged:
        return ()
    columns = np.array(sorted(judged), dtype=np.float64)
    count = min(MOST_BINS, max(1, len(columns) // LARGE_BIN))
    reached = np.cumsum(columns[:, 2]) / columns[:, 2].sum()
    place = np.minimum((reached * count - 1e-9).astype(int), count - 1)
    return tuple(_group(columns[place == i]) for i in range(count) if (place == i).any())


def needed(rows: Sequence[Row], precision: float, days: float) -> Needed:
    """How many audits a half width of `precision` takes, at the spread of those at hand.

    Args:
        rows: the runs.
        precision: of the quality loss per request.
        days: over which these runs were.
    """
    rated = [row for row in accepted(rows) if can_be_audited(row)]
    found = [row for row in rated if row.loss is not None]
    share = len(rated) / max(
        1, sum(r.outcome in ("escalated", "shadow") for r in rows) + len(rated)
    )
    variance = ASSUMED_VARIANCE
    if len(found) >= FEW:
        loss = _column([row.loss for row in rated if row.loss is not None])
        weights = 1.0 / _rates(found)
        variance = float(
            np.average((loss - np.average(loss, weights=weights)) ** 2, weights=weights)
        )
        # Audits that all agree do not prove that there is nothing to find.
        variance = max(variance, 1.0 / len(found))
    audits = audits_needed(variance, precision / (share or 1.0))
    missing = max(0, audits - len(found))
    return Needed(
        precision=precision,
        audits=audits,
        missing=missing,
        days=missing / len(found) * max(1.0, days) if found else None if missing else 0.0,
        assumed=len(found) < FEW,
    )


def _rates(rows: Sequence[Row]) -> Array:
    return _column([row.rate or 0.0 for row in rows])


def _column(values: Sequence[float]) -> Array:
    return np.array(values, dtype=np.float64)


def _baselines(rows: Sequence[Row], spread: float, *, limited: bool) -> Baselines:
    """Predictions of accepted drafts; an unknown one is taken for nothing.

    `limited`: the limits are those of the ledger. Beside audits the least is nothing, as the
    ledger's range is then that of one request and says nothing sure of a sum.
    """
    predicted = [0.0 if row.predicted is None else float(row.predicted) for row in rows]
    most = [
        WORDY * p if row.high is None else float(row.high)
        for row, p in zip(rows, predicted, strict=True)
    ]
    least = [float(row.low) if limited and row.low is not None else 0.0 for row in rows]
    return Baselines(_column(predicted), _column(least), _column(most), spread)


def _spread(rows: Sequence[Row], rated: Sequence[Row]) -> float:
    """How far a prediction of the large model's cost is off, as a standard deviation.

    On escalated requests, which vary more than accepted ones: about a plane over prompt and
    draft length. With too few of them, from the ranges of the predictions.
    """
    hard = [
        (row.expert[0], row.expert[1], row.draft_tokens)
        for row in rows
        if row.outcome == "escalated" and row.expert is not None and row.draft_tokens is not None
    ]
    if len(hard) >= ENOUGH_ESCALATED:
        table = np.array(hard, dtype=np.float64)
        design = np.column_stack([np.ones(len(table)), table[:, 1:]])
        slopes = np.linalg.lstsq(design, table[:, 0], rcond=None)[0]
        return float(np.sqrt(np.sum((table[:, 0] - design @ slopes) ** 2) / (len(table) - 3)))
    widths = [float(r.high - r.low) for r in rated if r.high is not None and r.low is not None]
    return float(np.sqrt(np.mean(np.square(widths)))) / (2 * _Z_95) if widths else 0.0


def _with(found: SavingReport, extra: tuple[float, ...], spent: float) -> SavingReport:
    """The report with more baselines: value, least and most."""
    if not any(extra):
        return found
    value, low, high = extra
    bill = _shifted(found.baseline, value, low, high)
    shares = [1.0 - spent / b if b > 0 else 0.0 for b in (bill.value, bill.low, bill.high)]
    return found.model_copy(
        update={
            "estimated_usd": found.estimated_usd + value,
            "saving": _shifted(found.saving, value, low, high),
            "baseline": bill,
            "share": found.share.model_copy(
                update={"value": shares[0], "low": shares[1], "high": shares[2]}
            ),
        }
    )


def _shifted(figure: Estimate, value: float, low: float, high: float) -> Estimate:
    ends = {"value": figure.value + value, "low": figure.low + low, "high": figure.high + high}
    return figure.model_copy(update={**ends, "basis": "estimated"})


def _group(part: Array) -> Reliability:
    confidence, correct, weight = part.T
    sample = Sample(1.0 / weight, np.ones(len(part), dtype=bool))
    effective = float(weight.sum() ** 2 / np.sum(weight**2))
    return Reliability(
        confidence=hajek_mean(confidence, sample),
        correct=_rate(hajek_mean(correct, sample), effective, len(part)),
    )


def _rate(value: float, effective: float, n: int) -> Rate:
    low, high = wilson(value, effective)
    return Rate(value=value, low=low, high=high, n=n)
