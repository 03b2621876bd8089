"""95 % intervals for a mean over accepted drafts of which few were audited.

The population is fixed: N drafts with a value each, and draft i is looked at with a known
probability π_i, independently of the others (Poisson sampling). Only that draw is random, so no
interval here supposes that requests come from any distribution. Which one is used where, and what
each of them covers: `docs/audit.md`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError

LEVEL = 0.95

Range = tuple[float, float]

BETS = np.geomspace(0.01, 0.98, 12)
"""Shares of the largest bet allowed: small ones for many audits, large ones for few."""


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
                f"{self.rates.shape} audit rates for {self.audited.shape} drafts: give one each"
            )
        wrong = self.rates[~((self.rates > 0) & (self.rates <= 1))]
        if len(wrong):
            raise ConfigurationError(
                f"an audit rate of {wrong[0]:g}: a draft that is never audited says nothing; "
                "rates are above 0 and at most 1"
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
    def constant(self) -> bool:
        """Whether all rates are equal: given their number, the audits are a simple sample."""
        return len(self) > 0 and bool(np.ptp(self.rates) <= 1e-12 * self.rates[0])


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
    """Student's interval with one imaginary audit at either limit.

    Bonett and Price (2012) for paired 0/1 answers, Agresti and Coull (1998) for one share: it
    does not collapse to a point when all audits agree. Then, other values may still be there in
    as large a share as no audit would meet with probability (1 − level)/2.
    """
    w, (a, b) = sample.weights, limits
    pseudo = np.full(2, w.mean())
    y, weight = np.r_[values, limits], np.r_[w, pseudo]
    middle = float(np.average(y, weights=weight))
    variance = np.sum((1.0 - 1.0 / weight) * (weight * (y - middle)) ** 2) / weight.sum() ** 2
    half = float(special.stdtrit(degrees(sample) + 2, 0.5 + level / 2) * np.sqrt(variance))
    ends = (max(a, middle - half), min(b, middle + half))
    if np.ptp(values) > 0:
        return ends
    only = float(values[0])
    missed = -np.log1p(-min(1.0 / float(w.mean()), 1.0 - 1e-12)) * (degrees(sample) + 1) * w.mean()
    unseen = min(1.0, float(np.log(2.0 / (1.0 - level)) / missed))
    return min(ends[0], only - unseen * (only - a)), max(ends[1], only + unseen * (b - only))


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
