"""Saving, quality loss and accepted-error rate from audits of accepted drafts, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.evaluation.audit.intervals import (
    Range,
    Sample,
    adjusted,
    betting,
    exact_share,
    hajek_mean,
    student,
)
from cascade.state import Basis, Record

FEW = 5
"""Below so many audits the interval of a bounded value is the one that holds for any number."""

MANY = 100
"""From so many audits their own spread is trusted without a floor."""

TUNED = 50
"""From so many audits the weight κ of a proxy for quality is estimated; it is 0 before. For costs
it is 1 throughout, the difference estimator."""

NO_AUDITS = "estimated, no audits yet"


class Estimate(Record):
    """A figure with its 95 % interval.

    Attributes:
        method: how the interval was made.
        note: what a reader must know about it, for instance that there are no audits yet.
    """

    value: float
    low: float
    high: float
    audits: int
    basis: Basis
    method: str
    note: str = ""


class SavingReport(Record):
    """What was saved against the large model alone, in dollars, audits paid for.

    Attributes:
        measured_usd: of escalated and audited requests, whose baseline is known, less all costs
            of the cascade.
        estimated_usd: the baseline of accepted drafts that were not audited.
        saving: their sum.
        share: the saving as a share of the large-only bill.
        baseline: the large-only bill.
        verified_usd: the lower end of the saving's interval, which is what may be claimed.
    """

    measured_usd: float
    estimated_usd: float
    saving: Estimate
    share: Estimate
    baseline: Estimate

    @property
    def verified_usd(self) -> float:
        """The verified net saving."""
        return self.saving.low


@dataclass(frozen=True, slots=True)
class Baselines:
    """Predictions of what the large model would have cost for the accepted drafts, in dollars.

    Attributes:
        predicted: (N,) from a model that has not seen these audits.
        least: (N,) the least it can be: the prompt's price.
        most: (N,) the most that is assumed while there are no audits.
        spread: standard deviation of the prediction's error on the rows that it was fitted on.
    """

    predicted: Array
    least: Array
    most: Array
    spread: float = 0.0


def horvitz_thompson(values: Array, sample: Sample) -> float:
    """(1/N) Σ A_i·y_i/π_i; `values` are those of the audited. Unbiased for any known rates."""
    return float(np.sum(values * sample.weights)) / len(sample)


def ppi(values: Array, proxy: Array, sample: Sample, kappa: float | None = None) -> float:
    """PPI++: κ·mean f + (1/N) Σ A_i (y_i − κ f_i)/π_i (arXiv 2311.01453, eq. 4; 2605.31278).

    `values` are those of the audited, `proxy` has one for every draft. Without `kappa` it is the
    one of least variance; exactly unbiased when it was fixed beforehand.
    """
    if kappa is None:
        kappa = power(values, proxy, sample)
    rest = values - kappa * proxy[sample.audited]
    return float(kappa * proxy.mean() + horvitz_thompson(rest, sample))


def power(values: Array, proxy: Array, sample: Sample) -> float:
    """κ = Cov(y, f)/Var(f), weighted by 1/π, within [0, 1]; 0 for a proxy that does not vary."""
    f, w = proxy[sample.audited], sample.weights
    if len(f) < 2 or np.ptp(f) == 0:
        return 0.0
    f_off, y_off = f - np.average(f, weights=w), values - np.average(values, weights=w)
    return float(np.clip(np.sum(w * f_off * y_off) / np.sum(w * f_off**2), 0.0, 1.0))


def quality_loss(
    loss: Array, sample: Sample, *, requests: int, proxy: Array | None = None
) -> Estimate:
    """q_L − q_cascade per request: Σ (q_L − q_S) over accepted drafts ÷ all requests.

    Args:
        loss: q_L − q_S in [−1, 1] of the audited; an escalated request loses nothing.
        sample: over the accepted drafts.
        requests: all of them, escalated ones included.
        proxy: a guess of the loss of every accepted draft in [−1, 1], for PPI++.

    Raises:
        ConfigurationError: a loss is outside [−1, 1], or fewer requests than drafts.
    """
    _bounded(loss, -1.0, 1.0)
    share = _share_accepted(sample, requests)
    kappa = 0.0
    if proxy is not None and sample.n >= TUNED:
        kappa = power(loss, proxy, sample)
    fitted = kappa * (np.zeros(len(sample)) if proxy is None else proxy)
    found = _bounded_mean(loss - fitted[sample.audited], sample, (-1.0 - kappa, 1.0 + kappa))
    shift = float(fitted.mean()) if len(fitted) else 0.0
    ends = (max(-1.0, found.low + shift), min(1.0, found.high + shift))
    return found.model_copy(
        update={
            "value": (found.value + shift) * share,
            "low": ends[0] * share,
            "high": ends[1] * share,
            "method": f"PPI++ κ={kappa:.2f}, {found.method}" if kappa else found.method,
        }
    )


def accepted_error_rate(wrong: Array, sample: Sample) -> Estimate:
    """P(wrong | accepted); `wrong` is 0 or 1 for the audited."""
    _bounded(wrong, 0.0, 1.0)
    if not sample.n or not sample.constant or not np.isin(wrong, (0.0, 1.0)).all():
        return _bounded_mean(wrong, sample, (0.0, 1.0))
    low, high = exact_share(int(wrong.sum()), sample.n, len(sample))
    return _estimate(float(wrong.mean()), (low, high), sample, "exact, hypergeometric")


def saving(
    large_cost: Array,
    sample: Sample,
    baselines: Baselines,
    *,
    escalated_usd: float,
    spent_usd: float,
) -> SavingReport:
    """The saving of all requests.

    Args:
        large_cost: what the large model cost for the audited drafts, in dollars.
        sample: over the accepted drafts.
        baselines: predictions for the accepted drafts.
        escalated_usd: what it cost for the escalated requests, where it is its own baseline.
        spent_usd: everything that the cascade spent: drafts, checks, escalations, audits.
    """
    known = float(large_cost.sum())
    rest, note, method = _unaudited(large_cost, sample, baselines)
    measured = known + escalated_usd - spent_usd

    def figure(values: tuple[float, float, float]) -> Estimate:
        value, low, high = values
        basis: Basis = "measured" if sample.n == len(sample) else "estimated"
        return _estimate(value, (low, high), sample, method, note, basis)

    bill = [part + known + escalated_usd for part in rest]
    shares = [1.0 - spent_usd / b if b > 0 else 0.0 for b in bill]
    return SavingReport(
        measured_usd=measured,
        estimated_usd=rest[0],
        saving=figure((rest[0] + measured, rest[1] + measured, rest[2] + measured)),
        share=figure((shares[0], shares[1], shares[2])),
        baseline=figure((bill[0], bill[1], bill[2])),
    )


def _unaudited(
    cost: Array, sample: Sample, baselines: Baselines
) -> tuple[tuple[float, float, float], str, str]:
    """Baseline of the drafts that were not audited: value, low, high; a note; the method."""
    open_ = ~sample.audited
    least, most = float(baselines.least[open_].sum()), float(baselines.most[open_].sum())
    predicted = float(baselines.predicted[open_].sum())
    if not sample.n:
        return (predicted, least, most), NO_AUDITS, "assumed limits"
    residuals = cost - baselines.predicted[sample.audited]
    everything = float(baselines.predicted.sum()) - float(cost.sum())
    middle = everything + len(sample) * hajek_mean(residuals, sample)
    few = sample.n < MANY
    spread = baselines.spread if few else 0.0
    low, high = (
        everything + len(sample) * end for end in student(residuals, sample, spread=spread)
    )
    note = f"{sample.n} audits: wider than their own spread asks for" if few else ""
    ends = max(least, low), max(least, high)
    return (max(least, middle), *ends), note, "difference estimator, t"


def _bounded_mean(values: Array, sample: Sample, limits: Range) -> Estimate:
    if not sample.n:
        return _estimate(0.0, limits, sample, "assumed limits", NO_AUDITS)
    middle = hajek_mean(values, sample)
    if sample.n < FEW:
        low, high = betting(values, sample, limits)
        note = f"only {sample.n} audits: an interval that holds for any number"
        return _estimate(middle, (min(low, middle), max(high, middle)), sample, "betting", note)
    return _estimate(middle, adjusted(values, sample, limits), sample, "adjusted t")


def _estimate(
    value: float,
    ends: Range,
    sample: Sample,
    method: str,
    note: str = "",
    basis: Basis | None = None,
) -> Estimate:
    return Estimate(
        value=value,
        low=ends[0],
        high=ends[1],
        audits=sample.n,
        basis=basis or ("measured" if 0 < sample.n == len(sample) else "estimated"),
        method=method,
        note=note,
    )


def _share_accepted(sample: Sample, requests: int) -> float:
    if requests < max(1, len(sample)):
        raise ConfigurationError(
            f"{requests} requests with {len(sample)} accepted drafts: count the escalated ones too"
        )
    return len(sample) / requests


def _bounded(values: Array, low: float, high: float) -> None:
    if len(values) and not (values.min() >= low and values.max() <= high):
        raise ConfigurationError(
            f"values from {values.min():g} to {values.max():g}; they belong in [{low:g}, {high:g}]"
        )
