"""Saving and quality of a cascade by random audits of accepted drafts, with 95 % intervals.

Of a fixed population of accepted drafts, draft i is audited with a known probability π_i,
independently of the others (Poisson sampling). Only that draw is random: no interval supposes that
requests come from any distribution. `runs` are columns, `report.RUNS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cascade.evaluation.render import Figure
from cascade.state import Basis

Array = NDArray[np.float64]

LEVEL = 0.95
# Costs have long tails, of which Student's interval covers 94 % where it says 95 %, and here 95 %
# (`benchmarks/audit_coverage.py`).
COST_LEVEL = 0.96
FEW = 5  # audits, below which the interval of a bounded value is all that is possible
TUNED = 50  # audits from which a proxy's weight κ is estimated; before it is 0, and for costs 1
MANY = 100  # audits from which the spread of costs is trusted without a floor
WORDY = 8.0  # times its prediction that the large model costs at most, where that has no range
ENOUGH_ESCALATED = 10  # requests whose costs say how costs vary, which before the ranges do
NO_AUDITS = "no audits yet: assumed limits"
_LARGE_ANSWERED = ("escalated", "shadow")  # outcomes


@dataclass(frozen=True, slots=True)
class SavingReport:
    """Saving against the large model alone, audits paid for: what is measured of it, the estimated
    baseline of the others, of which `assumed_usd` rests on assumed limits (`unknown` drafts have
    none), and their sum, also as a `share` of the large-only bill (`baseline`)."""

    measured_usd: float
    estimated_usd: float
    assumed_usd: float
    unknown: int
    saving: Figure
    share: Figure
    baseline: Figure


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of the answers by audits, with the large model's as the reference: drafts that were
    `checked` and `worse`, the loss q_L − q_cascade per request, the share of accepted drafts that
    are worse, and how many audits were `due`."""

    checked: int
    worse: int
    loss: Figure
    error_rate: Figure
    due: float


@dataclass(frozen=True, slots=True)
class Choice:
    """Outcome of another threshold on the decided requests; that of the latest is `in_force`. So
    many had been `escalated`, at a cost that is predicted where the large model was not asked;
    `worse` is P(accepted and worse than the large answer), from audits, else from 1 − calibrated
    confidence; for its interval drafts that were not compared may be all right, or all wrong."""

    threshold: float
    in_force: bool
    escalated: float
    cost_usd: float
    saving: Figure
    worse: Figure


class Sample:
    """The audits that came of `total` drafts, each to be drawn with its rate π in (0, 1] and
    weighing 1/π, with what they found, NaN for the others. `size` is Kish's effective number of
    them, (Σw)²/Σw². Where fewer came than were due, they are taken for a random part of those,
    which cancels in Hájek's means and only widens intervals."""

    def __init__(self, rates: Array, found: Array) -> None:
        self.audited = ~np.isnan(found)
        self.found = found[self.audited]
        self.n, self.total = len(self.found), len(found)
        self.weights: Array = max(1.0, rates.sum() / max(1, self.n)) / rates[self.audited]
        self.size = float(self.weights.sum() ** 2 / np.sum(self.weights**2)) if self.n else 0.0

    def mean(self, values: Array) -> float:
        """Σ y/π ÷ Σ 1/π over the values of the audited (Hájek 1971)."""
        return float(np.average(values, weights=self.weights))

    def figure(self, value: float, low: float, high: float, method: str) -> Figure:
        """A share with its interval; no bound lies on the wrong side of what was measured."""
        basis: Basis = "estimated" if self.n < self.total else "measured"
        ends = min(low, value), max(high, value)
        return Figure(value, "share", *ends, basis, n=self.n, method=method)

    def bounded(self, values: Array, least: float = 0.0, most: float = 1.0) -> Figure:
        """Mean over all drafts of what is known of the audited, within limits: Student's interval
        with one imaginary audit at either limit, and half a draft for continuity (Bonett and Price
        2012 for paired 0/1 answers, Agresti and Coull 1998 for one share). Where all audits agree,
        other values may be there in as large a share as no audit would meet in 2.5 % of cases."""
        middle = self.mean(values) if self.n else 0.0
        if self.n == self.total:
            return self.figure(middle, middle, middle, "exact")
        if self.n < FEW:
            method = f"only {self.n} audits: all that is possible" if self.n else NO_AUDITS
            return self.figure(middle, least, most, method)
        w, degrees = self.weights, max(1.0, self.size - 1.0)
        y, weight = np.r_[values, least, most], np.r_[w, np.full(2, w.mean())]
        centre = float(np.average(y, weights=weight))
        variance = np.sum((1.0 - 1.0 / weight) * (weight * (y - centre)) ** 2) / weight.sum() ** 2
        half = float(special.stdtrit(degrees + 2, 0.5 + LEVEL / 2) * np.sqrt(variance))
        half += (most - least) / (2 * self.total)
        low, high = max(least, centre - half), min(most, centre + half)
        if np.ptp(values) == 0:
            only = float(values[0])
            missed = -np.log1p(-min(1.0 / float(w.mean()), 1.0 - 1e-12)) * (degrees + 1) * w.mean()
            unseen = min(1.0, float(np.log(2.0 / (1.0 - LEVEL)) / missed))
            low = min(low, only - unseen * (only - least))
            high = max(high, only + unseen * (most - only))
        return self.figure(middle, low, high, "adjusted t")

    def student(self, values: Array, spread: float) -> Array:
        """Hájek mean with Student's interval; for values with a mass at one point it is too narrow.
        The error is that of Poisson sampling from a finite population, and no less than for a
        standard deviation that is known from elsewhere (`spread`)."""
        w, middle = self.weights, self.mean(values)
        open_ = (1.0 - 1.0 / w) * w**2
        seen = np.sum(open_ * (values - middle) ** 2) * self.n / max(1, self.n - 1)  # 0 of one
        error = float(np.sqrt(max(spread**2 * np.sum(open_), seen))) / w.sum()
        half = float(special.stdtrit(max(1.0, self.size - 1.0), 0.5 + COST_LEVEL / 2)) * error
        return np.array([middle, middle - half, middle + half])


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's (1927) score interval of a share that was seen on n examples, an effective number
    perhaps: (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    z = float(special.ndtri((1.0 + LEVEL) / 2))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = (middle - spread) / scale, (middle + spread) / scale
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def account(runs: Any, spent: float, *, unpriced: bool = False) -> SavingReport:
    """The saving of runs that cost so much: the baseline of drafts without an audit is the sum of
    the predictions, corrected by the mean error on the audited, or where none could be audited, or
    another large model answered, within the ledger's limits. A cost without a price (`unpriced`)
    leaves no lower end, a draft without a baseline no upper one."""
    accepted, audited = runs.outcome == "accepted", ~np.isnan(runs.large)
    rated = runs[accepted & (runs.rate > 0)]
    blind = runs[(accepted & ~(runs.rate > 0) & ~audited) | (~accepted & (runs.predicted > 0))]
    sample = Sample(rated.rate, rated.large)
    known = float(runs.measured.sum() + runs.large[accepted & audited].sum())
    rest, assumed, method = np.zeros(3), _limits(blind), "exact"
    if not sample.n and sample.total:
        rest, method = _limits(rated), NO_AUDITS
    elif sample.n < sample.total:
        predicted = np.nan_to_num(rated.predicted)
        errors = sample.found - predicted[sample.audited]
        means = sample.student(errors, _spread(runs, rated) if sample.n < MANY else 0.0)
        rest = predicted.sum() - sample.found.sum() + sample.total * means
        rest, method = np.maximum(0.0, rest), f"difference estimator, t, {sample.n} audits"
    value, low, high = (known + rest + assumed).tolist()
    baseline = replace(sample.figure(value, low, high, method), unit="usd")
    if assumed.any():
        method = f"{method}; assumed limits where none could be" if sample.n else NO_AUDITS
        baseline = replace(baseline, basis="estimated", method=method)
    guessed = blind.predicted if sample.n else np.r_[blind.predicted, rated.predicted]
    unknown = int(np.isnan(guessed).sum())
    gaps: dict[str, Any] = {"value": None, "high": None} if unknown else {}
    more = gaps | ({"value": None, "low": None} if unpriced else {})
    share = baseline.map(lambda bill: 1.0 - spent / bill if bill > 0 else None, "share")
    return SavingReport(
        measured_usd=known - spent,
        estimated_usd=float(rest[0] + assumed[0]),
        assumed_usd=float(assumed[0]),
        unknown=unknown,
        saving=replace(baseline.map(lambda bill: bill - spent), **more),
        share=replace(share, **more),
        baseline=replace(baseline, **gaps),
    )


def _limits(drafts: Any) -> Array:
    most = np.where(np.isnan(drafts.high), WORDY * drafts.predicted, drafts.high)
    return np.array([np.nansum(each) for each in (drafts.predicted, drafts.low, most)])


def _spread(runs: Any, rated: Any) -> float:
    """Standard deviation of predicted costs, by those of escalated requests, or by their ranges."""
    costs = runs.measured[(runs.outcome == "escalated") & (runs.measured > 0)]
    if len(costs) >= ENOUGH_ESCALATED:
        return float(np.std(costs, ddof=1))
    widths = (rated.high - rated.low)[~np.isnan(rated.high - rated.low)]
    return float(np.sqrt(np.mean(widths**2))) / (2 * 1.96) if len(widths) else 0.0


def quality_of(runs: Any) -> Quality | None:
    """Loss and errors of the accepted drafts, over the requests that audits stand for or that the
    large model answered; None where no draft could be audited. With 1 − confidence as a proxy f of
    the loss y: PPI++, κ·mean f + Σ A_i (y_i − κ f_i)/π_i ÷ Σ A_i/π_i with κ = Cov(y, f)/Var(f),
    weighted by 1/π, within [0, 1] (arXiv 2311.01453, eq. 4; 2605.31278); Horvitz and Thompson's
    estimator in Hájek's form where κ is 0."""
    drafts = runs[runs.outcome == "accepted"]
    rated = drafts[drafts.rate > 0]
    if len(drafts) and not len(rated):
        return None
    sample, proxy = Sample(rated.rate, rated.loss), 1.0 - rated.confidence
    lost, f = sample.found, proxy[sample.audited]
    kappa = shift = 0.0
    if sample.n >= TUNED and not np.isnan(proxy).any() and np.ptp(f) > 0:
        (variance, covariance), _ = np.cov(f, lost, aweights=sample.weights)
        kappa = float(np.clip(covariance / variance, 0.0, 1.0))
        lost, shift = lost - kappa * f, float((kappa * proxy).mean())
    found = sample.bounded(lost, -1.0 - kappa, 1.0 + kappa)
    share = sample.total / max(1, sample.total + np.isin(runs.outcome, _LARGE_ANSWERED).sum())
    loss = found.map(lambda end: min(1.0, max(-1.0, end + shift)) * share)
    if kappa:
        loss = replace(loss, method=f"PPI++ κ={kappa:.2f}, {found.method}")
    wrong = sample.bounded(np.maximum(sample.found, 0.0))
    worse = int((sample.found > 0).sum())
    return Quality(sample.n, worse, loss, wrong, float(rated.rate.sum()))


def right(runs: Any, spent: float, quality: Quality | None) -> Figure:
    """Dollars per answer that is as good as the large model's; its interval is that of quality."""
    accepted = int((runs.outcome == "accepted").sum())
    answers = accepted + int(np.isin(runs.outcome, _LARGE_ANSWERED).sum())
    if quality is None or not answers or (accepted and not quality.checked):
        return Figure(None)
    wrong = quality.error_rate
    return wrong.map(lambda share: spent / max(answers - accepted * share, 1e-9), "usd")


def escalation(runs: Any) -> Figure:
    """Share of the decided requests that went to the large model."""
    up = int(np.isin(runs.outcome, ("escalated", "degraded")).sum())
    n = up + int(np.isin(runs.outcome, ("accepted", "abstained", "person")).sum())
    return Figure(up / n, "share", *wilson(up / n, n), n=n, method="Wilson") if n else Figure(None)


def reliability(runs: Any) -> list[tuple[float, float, float, float]]:
    """Confidence, and correctness (the large model's answer is not better) with its interval, on
    audited drafts, each weighted by 1/π, in groups of about equal size."""
    judged = runs[(runs.outcome == "accepted") & (runs.rate > 0)]
    judged = judged[~np.isnan(judged.loss + judged.confidence)]
    judged = judged[np.argsort(judged.confidence, kind="stable")]
    groups = []
    parts: Any = np.array_split(judged, min(10, max(1, len(judged) // 20)))
    for part in parts if len(judged) else ():
        sample = Sample(part.rate, part.loss)
        good = sample.mean(1.0 - np.maximum(part.loss, 0.0))
        groups.append((sample.mean(part.confidence), good, *wilson(good, sample.size)))
    return groups


def choices_of(runs: Any, spent: float, bill: Figure) -> tuple[Choice, ...]:
    """Outcomes of other thresholds, which rise, on the same decided requests; the `bill` is that of
    the large model alone."""
    decided = runs[np.isin(runs.outcome, ("accepted", *_LARGE_ANSWERED))]
    was, n, sure = decided.outcome == "accepted", len(decided), decided.confidence
    unseen = np.isnan(decided.large)
    large = np.where(decided.measured > 0, decided.measured, np.nan)
    large = np.where(was, np.where(unseen, decided.predicted, decided.large), large)
    movable = ~np.isnan(sure + large)
    if not movable.any():
        return ()
    ends = np.quantile(sure[movable], np.linspace(0, 1, 8), method="lower")
    given = decided.threshold[movable & ~np.isnan(decided.threshold)][-1:].tolist()
    choices = []
    for cut in sorted({0.0, 1.0, *np.clip([*ends, *given], 0.0, 1.0).tolist()}):
        taken = np.where(movable, sure >= cut, was)
        # The call of an audit becomes that of the escalation: it is paid already.
        cost = spent + float(large[was & ~taken & unseen].sum() - large[taken & ~was].sum())
        rated = taken & (decided.rate > 0)
        sample = Sample(decided.rate[rated], decided.loss[rated])
        errors = sample.bounded(np.maximum(sample.found, 0.0))
        # Audits stand for the drafts with a rate; those without are blind.
        blind = decided[taken & ~rated] if sample.n else decided[taken]
        judged = int(taken.sum()) - len(blind)
        value, low, high = (end * judged / n for end in errors.numbers)
        guess = float((1.0 - blind.confidence).sum()) / n
        known = value + guess if (blind.calibrated > 0).all() else None
        worse = Figure(known, "share", low, high + len(blind) / n)
        escalated, saving = 1.0 - float(taken.mean()), bill.map((-cost).__add__)
        choices.append(Choice(cut, cut in given, escalated, cost, saving, worse))
    return tuple(choices)
