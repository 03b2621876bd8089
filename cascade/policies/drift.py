"""Drift statistics: signals that moved, more escalations than before, more harm than promised.

Pure: numbers in, frozen records out. `judge` and `update` return the next record, and
`model_dump_json` keeps one between restarts.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Self

from pydantic import Field

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.state import Record

try:
    import numpy as np
    from scipy import special
except ImportError as error:
    raise MissingDependencyError(
        "drift statistics need numpy and scipy: install agent-cascade with the extra `calibrate`."
    ) from error

NOTABLE_PSI = 0.1
"""A smaller shift than this is no cause for alarm, however certain it is."""

_BETS = np.geomspace(0.002, 0.9, 10)


def psi(reference: Sequence[int], recent: Sequence[int]) -> float:
    """Population stability index Σ (p − q)·ln(p/q) of two histograms; half a count is added."""
    p, q = (np.asarray(counts, dtype=np.float64) + 0.5 for counts in (reference, recent))
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))


def ks_p(reference: Sequence[float], recent: Sequence[float], size: int | None = None) -> float:
    """p-value of the two-sample Kolmogorov–Smirnov distance, by its limit law.

    Args:
        reference: values, or quantiles of `size` values.
        recent: values to compare with them.
        size: by default as many as `reference` holds.
    """
    a, b = np.sort(reference), np.sort(recent)
    at = np.concatenate([a, b])
    below = [np.searchsorted(part, at, side="right") / len(part) for part in (a, b)]
    distance = np.abs(below[0] - below[1]).max()
    n, m = size or len(a), len(b)
    return float(special.kolmogorov(distance * np.sqrt(n * m / (n + m))))


class SignalDrift(Record):
    """PSI and Kolmogorov–Smirnov distance of windows of one signal against a reference.

    An alarm needs a PSI of at least 0.1 that is also beyond chance (PSI ≈ (1/n + 1/m)·χ²), or a
    KS distance that is; each with half of `alpha`, the chance of a false alarm per window.

    Attributes:
        reference: values of usual times.
        size: how many values `reference` stands for, where it holds quantiles of them. Quantiles
            have no counts, so that only the KS distance gives an alarm then.
    """

    reference: tuple[float, ...] = Field(min_length=2)
    size: int | None = Field(default=None, ge=2)
    alpha: float = Field(default=0.001, gt=0, lt=1)
    psi: float | None = None
    ks_p: float | None = None
    alarm: bool = False

    def judge(self, recent: Sequence[float]) -> Self:
        """The record after a window of these values."""
        edges = np.unique(np.quantile(self.reference, np.linspace(0.1, 0.9, 9)))
        before, now = (
            np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1)
            for part in (self.reference, recent)
        )
        found = psi(before.tolist(), now.tolist())
        scale = 1.0 / len(self.reference) + 1.0 / len(recent)
        chance = scale * float(special.chdtri(len(edges), self.alpha / 2))
        p = ks_p(self.reference, recent, self.size)
        shifted = self.size is None and found >= max(NOTABLE_PSI, chance)
        alarm = shifted or p < self.alpha / 2
        return self.model_copy(update={"psi": found, "ks_p": p, "alarm": alarm})


class EscalationChart(Record):
    """Two-sided Bernoulli CUSUM of the escalation rate (Reynolds and Stoumbos 1999).

    Attributes:
        usual_low, usual_high: the rate in control lies between them.
        odds: a rate of so many times the odds, or of one part of it, is to be found.
        run_length: requests between false alarms, at least: a CUSUM of likelihood ratios with
            limit h has an average run length of e^h or more (Lorden 1971); each side has half.
        up, down: log-likelihood ratios since their last zero.
    """

    usual_low: float = Field(gt=0, lt=1)
    usual_high: float = Field(gt=0, lt=1)
    odds: float = Field(default=1.5, gt=1)
    run_length: float = Field(default=100_000.0, gt=2)
    up: float = 0.0
    down: float = 0.0
    n: int = 0
    alarm: bool = False

    @classmethod
    def start(cls, escalated: int, n: int, *, run_length: float = 100_000.0) -> Self:
        """From a count in control; its 95 % interval (Clopper–Pearson) is no cause for alarm."""
        if not 0 <= escalated <= n or n < 1:
            raise ConfigurationError(f"{escalated} escalated of {n}: give a part of a whole.")
        low = special.betaincinv(escalated, n - escalated + 1, 0.025) if escalated else 0.0
        high = special.betaincinv(escalated + 1, n - escalated, 0.975) if escalated < n else 1.0
        return cls(
            usual_low=max(float(low), 1e-6),
            usual_high=min(float(high), 1 - 1e-6),
            run_length=run_length,
        )

    def update(self, escalated: bool) -> Self:
        """The chart after one more request."""
        limit = math.log(2.0 * self.run_length)
        up = max(0.0, self.up + _ratio(self.usual_high, self.odds, escalated))
        down = max(0.0, self.down + _ratio(self.usual_low, 1 / self.odds, escalated))
        alarm = self.alarm or up >= limit or down >= limit
        return self.model_copy(update={"up": up, "down": down, "n": self.n + 1, "alarm": alarm})


def _ratio(p: float, odds: float, happened: bool) -> float:
    other = odds * p / (1 - p + odds * p)
    return math.log(other / p) if happened else math.log((1 - other) / (1 - p))


class SignalWatch:
    """Windows of a signal, compared with its first values or with a given reference.

    Args:
        reference: values that become the reference, where none is given.
        window: values that are compared with it at a time.
        alpha: chance of a false alarm per window.
        drift: with a reference that is known already.
    """

    def __init__(
        self, reference: int, window: int, alpha: float, drift: SignalDrift | None = None
    ) -> None:
        self._reference, self._window, self._alpha = reference, window, alpha
        self._drift = drift
        self._values: list[float] = []

    def add(self, value: float) -> SignalDrift | None:
        """Take a value; the record of a window that it completes, if that gives an alarm."""
        if not math.isfinite(value):
            return None
        self._values.append(value)
        if len(self._values) < (self._reference if self._drift is None else self._window):
            return None
        values, self._values = self._values, []
        if self._drift is None:
            self._drift = SignalDrift(reference=tuple(values), alpha=self._alpha)
            return None
        found = self._drift.judge(values)
        return found if found.alarm else None


class RateWatch:
    """Chart of the escalation rate that learns what is usual from its first decisions.

    Args:
        reference: decisions that are usual.
        run_length: requests between false alarms, at least.
    """

    def __init__(self, reference: int, run_length: float) -> None:
        self._reference, self._run_length = reference, run_length
        self._chart: EscalationChart | None = None
        self._escalated = self._n = 0

    def add(self, escalated: bool) -> EscalationChart | None:
        """Take a decision; the chart, if it gives an alarm."""
        if self._chart is None:
            self._n += 1
            self._escalated += escalated
            if self._n >= self._reference:
                counts = (self._escalated, self._n)
                self._chart = EscalationChart.start(*counts, run_length=self._run_length)
            return None
        self._chart = self._chart.update(escalated)
        return self._chart if self._chart.alarm else None


class HarmProcess(Record):
    """E_t = Π (1 + η(A·W/π − α)), mixed over bets η and over the time when harm set in.

    While E[accepted · harm] ≤ α at every request, which with harm 0 or 1 is P(accepted and
    wrong), P(E ever reaches 1/δ) ≤ δ (Ville): it may be looked at after each request. A product of
    fixed bets loses what it has while all is well; half of the stake is therefore kept back and put
    in at t = 1, 2, … in parts of 1/(t(t+1)), which keeps it an e-process and sees a change that
    comes late.

    Attributes:
        max_harm: α.
        delta: δ, the chance of ever giving a false alarm.
        n: requests so far.
        logs: log-wealth of each bet.
        peak: the largest log E_t so far.
    """

    max_harm: float = Field(gt=0, lt=1)
    delta: float = Field(default=0.05, gt=0, lt=1)
    n: int = 0
    logs: tuple[float, ...] = (-1e300,) * len(_BETS)
    peak: float = 0.0
    alarm: bool = False

    @property
    def log_e(self) -> float:
        """log E_t, the stake that is still kept back included.

        Those of processes that see other requests add up: a product of e-processes is one.
        """
        if not self.n:
            return 0.0
        mixed = float(np.logaddexp.reduce(self.logs)) - math.log(len(_BETS))
        kept = -math.log(2.0 * (self.n + 1))
        return max(kept, mixed) + math.log1p(math.exp(-abs(kept - mixed)))

    def update(self, harm: float | None, rate: float) -> Self:
        """The process after one more request.

        Args:
            harm: of an audited draft, from 0 (right) to 1 (wrong); None where nothing was audited.
            rate: the probability π with which it was to be audited, known before; 1 for a request
                that was not accepted, whose harm is None.
        """
        if not 0 < rate <= 1:
            raise ConfigurationError(f"an audit rate of {rate:g}: it is above 0 and at most 1.")
        if harm is not None and not 0 <= harm <= 1:
            raise ConfigurationError(f"a harm of {harm:g}: it is between 0 and 1.")
        t = self.n + 1
        stake = math.log(0.5 / (t * (t + 1)) + (0.5 if t == 1 else 0.0))
        # The largest bet is fixed by α alone, so that it is known before the request.
        gain = ((harm or 0.0) / rate - self.max_harm) / self.max_harm
        logs = np.logaddexp(self.logs, stake) + np.log1p(_BETS * gain)
        following = self.model_copy(update={"n": t, "logs": tuple(logs.tolist())})
        peak = max(self.peak, following.log_e)
        alarm = self.alarm or peak >= -math.log(self.delta)
        return following.model_copy(update={"peak": peak, "alarm": alarm})


class HarmQueue:
    """Feeds a `HarmProcess` in the order in which requests were decided.

    Audits end in another order, and which of them ends first may hang on what they find. Only with
    an order fixed beforehand is the product an e-process at every look, so that each request waits
    for those before it. Not thread-safe.

    Args:
        process: to go on with.
        most: requests that wait, at most; the audit that the oldest of them waits for then counts
            as not made, which may hide harm and never invents it.
    """

    def __init__(self, process: HarmProcess, most: int = 2_000) -> None:
        self.process = process
        self._most = most
        self._waiting: OrderedDict[str, tuple[float, float | None, bool]] = OrderedDict()

    def decided(self, run_id: str, rate: float | None) -> bool:
        """Take a decision; whether the process has given its alarm.

        Args:
            run_id: of the request.
            rate: chance of an audit, where the draft was accepted; None where it was not. A draft
                that cannot be audited says nothing: leave it out.
        """
        if run_id not in self._waiting:
            self._waiting[run_id] = (1.0 if rate is None else rate, None, rate is None)
        return self._advance()

    def audited(self, run_id: str, harm: float | None) -> bool:
        """Take the result of an audit; whether the process has given its alarm.

        Args:
            run_id: of the request.
            harm: from 0 to 1; None where the draft was not drawn, or its audit failed.
        """
        if run_id in self._waiting:
            self._waiting[run_id] = (self._waiting[run_id][0], harm, True)
        return self._advance()

    def _advance(self) -> bool:
        while self._waiting:
            rate, harm, known = next(iter(self._waiting.values()))
            if not known and len(self._waiting) <= self._most:
                break
            self._waiting.popitem(last=False)
            if not self.process.alarm:
                self.process = self.process.update(harm, rate)
        return self.process.alarm
