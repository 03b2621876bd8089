"""Drift statistics: signals that moved, more escalations than before, more harm than promised.

Numbers in, findings out: no clock, no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from pydantic import Field

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.state import Record

try:
    import numpy as np
    from scipy import special, stats
except ImportError as error:
    raise MissingDependencyError(
        "drift statistics need numpy and scipy: install agent-cascade with the extra `calibrate`."
    ) from error

NOTABLE_PSI, NOTABLE_ODDS = 0.1, 1.5
"""A smaller shift of a signal, or of the escalation rate either way, is no cause for alarm."""

_BETS = np.geomspace(0.002, 0.9, 10)


def psi(reference: Sequence[int], recent: Sequence[int]) -> float:
    """Population stability index Σ (p − q)·ln(p/q) of two histograms; half a count is added."""
    p, q = (np.asarray(counts, dtype=np.float64) + 0.5 for counts in (reference, recent))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))


class Shift(NamedTuple):
    """Shift of a signal within a window."""

    psi: float
    ks_p: float
    alarm: bool


class SignalWatch:
    """Windows of so many values of a signal, compared with a reference: its first values, or
    `usual` ones that are known already, such as quantiles of `size` values.

    An alarm needs a PSI of at least 0.1 that is beyond chance (PSI ≈ (1/n + 1/m)·χ²), or such a
    Kolmogorov–Smirnov distance, each with half of `alpha`, the chance of a false alarm per window.
    Quantiles have no counts: of them the distance decides.
    """

    def __init__(
        self,
        reference: int,
        window: int,
        alpha: float,
        usual: Sequence[float] = (),
        size: int | None = None,
    ) -> None:
        self._reference, self._window, self._alpha = reference, window, alpha
        self._usual, self._size = usual, size
        self._values: list[float] = []

    def add(self, value: float) -> Shift | None:
        """Take a value; what a window that it completes shows, if that gives an alarm."""
        if not math.isfinite(value):
            return None
        self._values.append(value)
        if len(self._values) < (self._window if self._usual else self._reference):
            return None
        values, self._values = self._values, []
        if not self._usual:
            self._usual = values
            return None
        found = self.judge(values)
        return found if found.alarm else None

    def judge(self, recent: Sequence[float]) -> Shift:
        """Shift within a window of these values."""
        usual, n, m = self._usual, self._size or len(self._usual), len(recent)
        edges = np.unique(np.quantile(usual, np.linspace(0.1, 0.9, 9)))
        before, now = (
            np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1)
            for part in (usual, recent)
        )
        found = psi(before.tolist(), now.tolist())
        chance = (1.0 / n + 1.0 / m) * float(special.chdtri(len(edges), self._alpha / 2))
        tested: Any = stats.ks_2samp(usual, recent, method="asymp")
        p = float(special.kolmogorov(tested.statistic * math.sqrt(n * m / (n + m))))
        shifted = self._size is None and found >= max(NOTABLE_PSI, chance)
        return Shift(found, p, shifted or p < self._alpha / 2)


class RateWatch:
    """Two-sided Bernoulli CUSUM of the escalation rate (Reynolds and Stoumbos 1999).

    Args:
        reference: first decisions, which are usual: a rate within their 95 % interval
            (`usual_low` to `usual_high`, Clopper–Pearson) gives no alarm.
        run_length: requests between false alarms, at least: a CUSUM of likelihood ratios (`up`,
            `down`) with limit h has an average run length of e^h or more (Lorden 1971).
    """

    def __init__(self, reference: int, run_length: float) -> None:
        self._reference, self._limit = reference, math.log(2.0 * run_length)
        self._escalated = self._n = 0
        self.usual_low = self.usual_high = self.up = self.down = 0.0

    def add(self, escalated: bool) -> Self | None:
        """Take a decision; the chart, once it has given an alarm."""
        self._n += 1
        if self._n <= self._reference:
            self._escalated += escalated
            if self._n == self._reference:
                usual = stats.binomtest(self._escalated, self._n).proportion_ci()
                self.usual_low, self.usual_high = max(usual.low, 1e-6), min(usual.high, 1 - 1e-6)
            return None
        if max(self.up, self.down) < self._limit:
            up = self.up + _ratio(self.usual_high, NOTABLE_ODDS, escalated)
            down = self.down + _ratio(self.usual_low, 1 / NOTABLE_ODDS, escalated)
            self.up, self.down = max(0.0, up), max(0.0, down)
        return self if max(self.up, self.down) >= self._limit else None


def _ratio(p: float, odds: float, happened: bool) -> float:
    other = odds * p / (1 - p + odds * p)
    return math.log(other / p) if happened else math.log((1 - other) / (1 - p))


class HarmProcess(Record):
    """E_t = Π (1 + η(A·W/π − α)), mixed over bets η and over the time when harm set in.

    While E[accepted · harm] ≤ α (`max_harm`) at every request, P(E ever reaches 1/δ) ≤ δ (Ville):
    it may be looked at after each request. A product of fixed bets loses what it has while all is
    well; half of the stake is therefore kept back and put in at t = 1, 2, … in parts of 1/(t(t+1)),
    which keeps it an e-process and sees a change that comes late.
    """

    max_harm: float = Field(gt=0, lt=1)
    delta: float = Field(default=0.05, gt=0, lt=1)
    n: int = 0
    logs: tuple[float, ...] = (-1e300,) * len(_BETS)
    alarm: bool = False

    @property
    def log_e(self) -> float:
        """log E_t, the stake that is still kept back included."""
        if not self.n:
            return 0.0
        mixed = float(np.logaddexp.reduce(self.logs)) - math.log(len(_BETS))
        return float(np.logaddexp(-math.log(2.0 * (self.n + 1)), mixed))

    def update(self, harm: float | None, rate: float) -> Self:
        """The process after one more request, with the harm of an audited draft, from 0 to 1, and
        the probability π with which it was to be audited; (None, 1) where it was not accepted."""
        if not 0 < rate <= 1 or not 0 <= (harm or 0.0) <= 1:
            raise ConfigurationError(
                f"an audit rate of {rate:g}, a harm of {harm}: the rate is above 0 and at most 1, "
                "a harm between 0 and 1."
            )
        t = self.n + 1
        stake = math.log(0.5 / (t * (t + 1)) + (0.5 if t == 1 else 0.0))
        # The largest bet is fixed by α alone, so that it is known before the request.
        gain = ((harm or 0.0) / rate - self.max_harm) / self.max_harm
        logs = np.logaddexp(self.logs, stake) + np.log1p(_BETS * gain)
        following = self.model_copy(update={"n": t, "logs": tuple(logs.tolist())})
        alarm = self.alarm or following.log_e >= -math.log(self.delta)
        return following.model_copy(update={"alarm": alarm})


class HarmQueue:
    """Queue of a `HarmProcess`, in the order in which requests were decided.

    Audits end in another order, which may hang on what they find; only with an order fixed
    beforehand is the product an e-process. `most` requests wait; the audit that the oldest of them
    waits for then counts as not made, which may hide harm and never invents it. Not thread-safe.
    """

    def __init__(self, process: HarmProcess, most: int = 2_000) -> None:
        self.process = process
        self._most = most
        self._waiting: dict[str, tuple[float, float | None, bool]] = {}

    def decided(self, run_id: str, rate: float | None) -> bool:
        """Take a decision with the chance of an audit, None where the draft was not accepted;
        whether the process has given its alarm. A draft that cannot be audited is left out."""
        known = (1.0 if rate is None else rate, None, rate is None)
        self._waiting.setdefault(run_id, known)
        return self._advance()

    def audited(self, run_id: str, harm: float | None) -> bool:
        """Take the harm that an audit found, None where the draft was not drawn or the audit
        failed; whether the process has given its alarm."""
        if run_id in self._waiting:
            self._waiting[run_id] = (self._waiting[run_id][0], harm, True)
        return self._advance()

    def _advance(self) -> bool:
        while self._waiting:
            run_id, (rate, harm, known) = next(iter(self._waiting.items()))
            if not known and len(self._waiting) <= self._most:
                break
            del self._waiting[run_id]
            if not self.process.alarm:
                self.process = self.process.update(harm, rate)
        return self.process.alarm
