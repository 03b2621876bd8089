"""Estimators of saving and quality from random audits of accepted drafts, with 95 % intervals.

The population is fixed: N accepted drafts with a value each, and draft i is audited with a known
probability π_i, independently of the others (Poisson sampling). Only that draw is random, so no
interval supposes that requests come from any distribution. The functions are pure: arrays in,
records out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.state import Basis, Record

try:
    import numpy as np
    from numpy.typing import NDArray
    from scipy import special
except ImportError as error:
    raise MissingDependencyError(
        "estimates from audits need numpy and scipy: install agent-cascade with the extra "
        "`calibrate`."
    ) from error

Array = NDArray[np.float64]
Range = tuple[float, float]

LEVEL = 0.95

FEW = 5
"""Below so many audits the interval of a bounded value is one that holds for any number."""

MANY = 100
"""From so many audits their own spread is trusted without a floor."""

TUNED = 50
"""From so many audits the weight κ of a proxy for quality is estimated; it is 0 before. For costs
it is 1 throughout, the difference estimator."""

NO_AUDITS = "estimated, no audits yet"


class Estimate(Record):
    """A figure with its 95 % interval, which always holds the figure itself.

    Attributes:
        audits: how many it rests on.
        method: how the interval was made.
        note: what a reader must know about it.
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
    """

    measured_usd: float
    estimated_usd: float
    saving: Estimate
    share: Estimate
    baseline: Estimate

    @property
    def verified_usd(self) -> float:
        """Verified net saving: the lower end of the interval, which is what may be claimed."""
        return self.saving.low


@dataclass(frozen=True, slots=True)
class Sample:
    """Which accepted drafts were audited, and with which probability each.

    Attributes:
        rates: (N,) the probability π_i in (0, 1] with which draft i was to be audited.
        audited: (N,) whether it was.

    Raises:
        ConfigurationError: the lengths differ or a rate is not in (0, 1].
    """

    rates: Array
    audited: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.rates.shape != self.audited.shape or self.rates.ndim != 1:
            raise ConfigurationError(
                f"{self.rates.shape} audit rates for {self.audited.shape} drafts: give one each."
            )
        wrong = self.rates[~((self.rates > 0) & (self.rates <= 1))]
        if len(wrong):
            raise ConfigurationError(
                f"an audit rate of {wrong[0]:g}: a draft that is never audited says nothing; give "
                "rates above 0 and at most 1."
            )

    def __len__(self) -> int:
        return len(self.rates)

    @property
    def n(self) -> int:
        """How many were audited."""
        return int(self.audited.sum())

    @property
    def weights(self) -> Array:
        """1/π of the audited."""
        return np.asarray(1.0 / self.rates[self.audited])

    @property
    def complete(self) -> bool:
        """Whether every draft was audited: the figures are then measured."""
        return 0 < self.n == len(self)

    @property
    def constant(self) -> bool:
        """Whether all rates are equal: given their number, the audits are a simple sample."""
        return len(self) > 0 and bool(np.ptp(self.rates) <= 1e-12 * self.rates[0])


@dataclass(frozen=True, slots=True)
class Baselines:
    """Predictions of what the large model would have cost for the accepted drafts, in dollars.

    Attributes:
        predicted: (N,) made without these audits.
        least: (N,) the least it can be: the prompt's price.
        most: (N,) the most that is assumed while there are no audits.
        spread: standard deviation of the prediction's error, as known from other rows.
    """

    predicted: Array
    least: Array
    most: Array
    spread: float = 0.0


# Estimates ------------------------------------------------------------------------------------


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
    if requests < max(1, len(sample)):
        raise ConfigurationError(
            f"{requests} requests with {len(sample)} accepted drafts: count the escalated ones too."
        )
    kappa = 0.0
    if proxy is not None and sample.n >= TUNED:
        kappa = power(loss, proxy, sample)
    fitted = kappa * (np.zeros(len(sample)) if proxy is None else proxy)
    found = _bounded_mean(loss - fitted[sample.audited], sample, (-1.0 - kappa, 1.0 + kappa))
    shift = float(fitted.mean()) if len(fitted) else 0.0
    share = len(sample) / requests
    value, low, high = (
        min(1.0, max(-1.0, end + shift)) * share for end in (found.value, found.low, found.high)
    )
    method = f"PPI++ κ={kappa:.2f}, {found.method}" if kappa else found.method
    return found.model_copy(update={"value": value, "low": low, "high": high, "method": method})


def accepted_error_rate(wrong: Array, sample: Sample) -> Estimate:
    """P(wrong | accepted); `wrong` is 0 or 1, or between, for the audited."""
    _bounded(wrong, 0.0, 1.0)
    if not sample.n or not sample.constant or not np.isin(wrong, (0.0, 1.0)).all():
        return _bounded_mean(wrong, sample, (0.0, 1.0))
    ends = exact_share(int(wrong.sum()), sample.n, len(sample))
    return _estimate(float(wrong.mean()), ends, sample, "exact, hypergeometric")


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
    bill = [part + known + escalated_usd for part in rest]
    shares = [1.0 - spent_usd / part if part > 0 else 0.0 for part in bill]
    saved, share, baseline = (
        _estimate(value, (low, high), sample, method, note)
        for value, low, high in ([part + measured for part in rest], shares, bill)
    )
    return SavingReport(
        measured_usd=measured,
        estimated_usd=rest[0],
        saving=saved,
        share=share,
        baseline=baseline,
    )


def _unaudited(
    cost: Array, sample: Sample, baselines: Baselines
) -> tuple[tuple[float, float, float], str, str]:
    """Baseline of the drafts that were not audited: value, low, high; a note; the method."""
    if sample.complete or not len(sample):
        return (0.0, 0.0, 0.0), "", "exact"
    open_ = ~sample.audited
    least, most = float(baselines.least[open_].sum()), float(baselines.most[open_].sum())
    predicted = float(baselines.predicted[open_].sum())
    if not sample.n:
        return (predicted, least, most), NO_AUDITS, "assumed limits"
    residuals = cost - baselines.predicted[sample.audited]
    everything = float(baselines.predicted.sum()) - float(cost.sum())
    few = sample.n < MANY
    ends = student(residuals, sample, spread=baselines.spread if few else 0.0)
    middle, low, high = (
        max(least, everything + len(sample) * end) for end in (hajek_mean(residuals, sample), *ends)
    )
    note = f"{sample.n} audits: wider than their own spread asks for" if few else ""
    return (middle, low, high), note, "difference estimator, t"


def _bounded_mean(values: Array, sample: Sample, limits: Range) -> Estimate:
    if not sample.n:
        return _estimate(0.0, limits, sample, "assumed limits", NO_AUDITS)
    middle = hajek_mean(values, sample)
    if sample.complete:
        return _estimate(float(values.mean()), (math.inf, -math.inf), sample, "exact")
    if sample.n < FEW:
        note = f"only {sample.n} audits: an interval that holds for any number"
        return _estimate(middle, betting(values, sample, limits), sample, "betting", note)
    return _estimate(middle, adjusted(values, sample, limits), sample, "adjusted t")


def _estimate(value: float, ends: Range, sample: Sample, method: str, note: str = "") -> Estimate:
    return Estimate(
        value=value,
        # A bound never lies on the wrong side of what was measured.
        low=min(ends[0], value),
        high=max(ends[1], value),
        audits=sample.n,
        basis="measured" if sample.n == len(sample) else "estimated",
        method=method,
        note=note,
    )


def _bounded(values: Array, low: float, high: float) -> None:
    if len(values) and not (values.min() >= low and values.max() <= high):
        raise ConfigurationError(
            f"values from {values.min():g} to {values.max():g}; they belong in [{low:g}, {high:g}]."
        )


# Intervals ------------------------------------------------------------------------------------

BETS = np.geomspace(0.01, 0.98, 12)
"""Shares of the largest bet allowed: small ones for many audits, large ones for few."""


def hajek_mean(values: Array, sample: Sample) -> float:
    """Σ y/π ÷ Σ 1/π over the audited (Hájek 1971); `values` are those of the audited."""
    return float(np.average(values, weights=sample.weights))


def hajek_error(values: Array, sample: Sample) -> float:
    """Standard error of the Hájek mean under Poisson sampling, finite population included."""
    w, n = sample.weights, sample.n
    off = values - np.average(values, weights=w)
    variance = np.sum((1.0 - 1.0 / w) * (w * off) ** 2) / w.sum() ** 2
    return float(np.sqrt(variance * n / (n - 1)))


def degrees(sample: Sample) -> float:
    """Kish's effective number of audits, (Σw)²/Σw², less one; at least one."""
    w = sample.weights
    return max(1.0, float(w.sum() ** 2 / np.sum(w**2)) - 1.0)


def student(values: Array, sample: Sample, level: float = LEVEL, *, spread: float = 0.0) -> Range:
    """Hájek mean ± Student's t; for values with a mass at one point it is too narrow.

    `spread` is a standard deviation known from elsewhere, a floor for that of a few audits; with
    one audit it is all there is.
    """
    w = sample.weights
    least = spread * float(np.sqrt(np.sum((1.0 - 1.0 / w) * w**2)) / w.sum())
    error = max(least, hajek_error(values, sample)) if sample.n > 1 else least
    half = float(special.stdtrit(degrees(sample), 0.5 + level / 2)) * error
    middle = hajek_mean(values, sample)
    return middle - half, middle + half


def adjusted(values: Array, sample: Sample, limits: Range, level: float = LEVEL) -> Range:
    """Student's interval with one imaginary audit at either limit, and half a draft for continuity.

    Bonett and Price (2012) for paired 0/1 answers, Agresti and Coull (1998) for one share: it
    does not collapse to a point when all audits agree. Then, other values may still be there in
    as large a share as no audit would meet with probability (1 − level)/2. Where nearly all drafts
    are audited, what the few others are is a whole number of drafts: hence the continuity.
    """
    w, (a, b) = sample.weights, limits
    y, weight = np.r_[values, limits], np.r_[w, np.full(2, w.mean())]
    middle = float(np.average(y, weights=weight))
    variance = np.sum((1.0 - 1.0 / weight) * (weight * (y - middle)) ** 2) / weight.sum() ** 2
    half = float(special.stdtrit(degrees(sample) + 2, 0.5 + level / 2) * np.sqrt(variance))
    half += (b - a) / (2 * len(sample))
    low, high = max(a, middle - half), min(b, middle + half)
    if np.ptp(values) > 0:
        return low, high
    only = float(values[0])
    missed = -np.log1p(-min(1.0 / float(w.mean()), 1.0 - 1e-12)) * (degrees(sample) + 1) * w.mean()
    unseen = min(1.0, float(np.log(2.0 / (1.0 - level)) / missed))
    return min(low, only - unseen * (only - a)), max(high, only + unseen * (b - only))


def betting(values: Array, sample: Sample, limits: Range, level: float = LEVEL) -> Range:
    """The means that no mixture of fixed bets on Z_i = A_i·y_i/π_i refutes; never too narrow.

    For a fixed bet λ and the true mean m, E Π(1 + λ(Z_i − m)) = Π(1 + λ(y_i − m)) ≤ 1, because a
    geometric mean is at most the arithmetic one. So a mixture over λ exceeds 2/(1 − level) with
    probability at most (1 − level)/2 on either side (Markov), for any values within the limits
    and any known rates. The bets are those of Waudby-Smith and Ramdas (2010.09686), unadaptive.
    """
    a, b = limits
    if not len(sample):
        return limits
    top = 1.0 / float(sample.rates.min())
    z = values * sample.weights
    z_low, z_high = min(a, a * top), max(b, b * top)

    def log_wealth(m: float, bets: Array) -> float:
        terms = np.log1p(bets[:, None] * (z[None, :] - m)).sum(1)
        rest = (len(sample) - len(z)) * np.log1p(-bets * m)
        return float(np.logaddexp.reduce(terms + rest) - np.log(len(bets)))

    limit = float(np.log(2.0 / (1.0 - level)))
    low = _edge(lambda m: log_wealth(m, BETS / (b - z_low)) - limit, limits)
    high = _edge(lambda m: log_wealth(m, -BETS / (z_high - a)) - limit, limits)
    return (a if low is None else low), (b if high is None else high)


def _edge(excess: Callable[[float], float], limits: Range) -> float | None:
    """Where the excess changes its sign between the limits, if it does."""
    low, high = limits
    rising = excess(high) > 0
    if (excess(low) > 0) == rising:
        return None
    while high - low > 1e-9:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if (excess(middle) > 0) == rising else (middle, high)
    return 0.5 * (low + high)


def exact_share(successes: int, n: int, population: int, level: float = LEVEL) -> Range:
    """Shares of a population of N that n draws without replacement do not refute.

    Clopper and Pearson's (1934) argument with the hypergeometric law; for audits of one rate,
    given their number.
    """
    from scipy.stats import hypergeom  # noqa: PLC0415 - heavy

    tail = (1.0 - level) / 2
    least, most = successes, population - (n - successes)
    # The one probability grows with the count and the other falls: each has one edge.
    low = bisect_left(
        range(least, most),
        True,
        key=lambda count: bool(hypergeom.sf(successes - 1, population, count, n) > tail),
    )
    high = bisect_left(
        range(least + 1, most + 1),
        True,
        key=lambda count: bool(hypergeom.cdf(successes, population, count, n) <= tail),
    )
    return (least + low) / population, (least + high) / population


# Design ---------------------------------------------------------------------------------------

_Z2 = 1.959963984540054**2


def audits_needed(variance: float, half_width: float, population: int | None = None) -> int:
    """Audits for a 95 % interval of ± half_width: 3.84·Var(d)/h², less where N is small.

    With disagreement in 10 % of drafts Var(d) ≈ 0.1: ±2 points take 961, ±1 point 3,842.
    """
    if half_width <= 0 or variance < 0:
        raise ConfigurationError(
            f"half_width={half_width:g}, variance={variance:g}: the width is above 0, the variance "
            "not below."
        )
    needed = _Z2 * variance / half_width**2
    if population is not None:
        needed = needed / (1.0 + needed / population) if population else 0.0
    return math.ceil(needed - 1e-9)


def optimal_rates(spread: Array, cost: Array, budget: float, *, floor: float = 0.01) -> Array:
    """Rates π_i ∝ sd(d_i − f_i)/√c_i, within [floor, 1], that spend the budget on average.

    Neyman's allocation for unequal costs; the floor keeps every draft in view, also those whose
    spread was judged too small, and is kept even when it costs more than the budget.

    Args:
        spread: (N,) standard deviation of what the audit would find, given what is known.
        cost: (N,) dollars of auditing each; above 0.
        budget: dollars for all N together, for instance of a day.
    """
    if not 0 < floor <= 1 or np.any(cost <= 0):
        raise ConfigurationError(f"floor={floor:g}, costs from {cost.min():g}: above 0, please.")
    shape = spread / np.sqrt(cost)

    def rates(scale: float) -> Array:
        return np.asarray(np.clip(scale * shape, floor, 1.0))

    low, high = 0.0, 1.0 / max(float(shape[shape > 0].min(initial=np.inf)), 1e-300)
    high = high if math.isfinite(high) else 0.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rates(middle) @ cost <= budget else (low, middle)
    return rates(high if rates(high) @ cost <= budget else low)


# Shadow start ---------------------------------------------------------------------------------

LEAST = 30
"""Fewer shadow rows are too early whatever they say."""

_ENDLESS = 1e-9
"""Shadow rows stand for requests to come: a sample from a population without end."""

_CANDIDATES = 100
_SURE = 2.0
"""Half widths of an interval between a figure and its limit: as many other rows then confirm it
with a probability of about 0.9."""


@dataclass(frozen=True, slots=True)
class ShadowRows:
    """Requests that both models answered; the threshold must have been chosen on other rows.

    Attributes:
        confidence: (n,) of the draft; below 0 where there is none.
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
        more: how many more rows would probably decide it; 0 when it is decided.
    """

    threshold: float
    escalation_rate: float
    saving: Estimate
    loss: Estimate
    verdict: Literal["ready", "not worth it", "too early"]
    more: int
    reason: str


def forecast(
    rows: ShadowRows, threshold: float, *, max_loss: float, min_saving: float = 0.0
) -> Forecast:
    """What would be saved and lost if drafts of this confidence and above were accepted.

    Ready when the saving's lower end is above `min_saving` and the loss's upper end at most
    `max_loss`; not worth it when an interval rules that out; too early otherwise.
    """
    n = len(rows.confidence)
    taken = rows.confidence >= threshold
    saved, lost, variances = _figures(rows, taken)
    verdict: Literal["ready", "not worth it", "too early"] = "too early"
    reason, more = "the intervals still hold both answers", 0
    if n < LEAST:
        reason = f"{n} rows; nothing is said below {LEAST}"
    elif saved.high <= min_saving:
        verdict = "not worth it"
        reason = f"saves at most {saved.high:.1%}, wanted is over {min_saving:.1%}"
    elif lost.low > max_loss:
        verdict = "not worth it"
        reason = f"loses at least {lost.low:.1%}, allowed is {max_loss:.1%}"
    elif saved.low > min_saving and lost.high <= max_loss:
        verdict, reason = "ready", f"saves at least {saved.low:.1%}, loses at most {lost.high:.1%}"
    if verdict == "too early":
        gaps = (abs(saved.value - min_saving), abs(lost.value - max_loss))
        pairs = zip(variances, gaps, strict=True)
        wanted = max(audits_needed(variance, max(gap, 0.002)) for variance, gap in pairs)
        more = max(1, LEAST - n, wanted - n)
    return Forecast(
        threshold=threshold,
        escalation_rate=float(1.0 - taken.mean()) if n else 1.0,
        saving=saved,
        loss=lost,
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
    found = []
    shares = np.linspace(0.0, 1.0, _CANDIDATES)
    for threshold in np.unique(np.quantile(confidences, shares, method="higher")):
        saved, lost, _ = _figures(rows, rows.confidence >= threshold)
        room = min(
            (saved.value - min_saving) / max(saved.value - saved.low, 1e-12),
            (max_loss - lost.value) / max(lost.high - lost.value, 1e-12),
        )
        found.append((min(room, _SURE), saved.value, float(threshold)))
    return max(found)[2]


def _figures(
    rows: ShadowRows, taken: NDArray[np.bool_]
) -> tuple[Estimate, Estimate, tuple[float, float]]:
    """Saving and loss when these drafts are accepted, and the variances of one row."""
    n = len(taken)
    saved = np.where(taken, rows.large_usd, 0.0) - rows.draft_usd
    bill = float(rows.large_usd.sum())
    share = float(saved.sum()) / bill if bill > 0 else 0.0
    sample = Sample(np.full(n, _ENDLESS), np.ones(n, dtype=bool))

    def figure(value: float, ends: Range) -> Estimate:
        note = "" if n >= LEAST else "too few rows"
        found = _estimate(value, ends, sample, "t", note)
        return found.model_copy(update={"basis": "estimated"})

    if n < 2 or not bill > 0:
        return figure(share, (-math.inf, 1.0)), figure(0.0, (-1.0, 1.0)), (1.0, 1.0)
    lost = np.where(taken, rows.loss, 0.0)
    # The ratio's linearised values: their mean is 0, their spread that of the ratio.
    off = (saved - share * rows.large_usd) / rows.large_usd.mean()
    low, high = student(off, sample)
    return (
        figure(share, (share + low, share + high)),
        figure(float(lost.mean()), adjusted(lost, sample, (-1.0, 1.0))),
        (float(off.var()), float(lost.var())),
    )
