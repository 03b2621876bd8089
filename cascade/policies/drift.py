"""Drift statistics: signals that moved, more escalations than before, more harm than promised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from cascade.errors import MissingDependencyError

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


class SignalWatch:
    """Windows of so many values of a signal, compared with its first values, or with `usual` ones.

    An alarm needs a PSI of at least 0.1 that is beyond chance (PSI ≈ (1/n + 1/m)·χ²), or such a
    Kolmogorov–Smirnov distance, each with half of `alpha`, the chance of a false alarm per window.
    """

    def __init__(
        self, reference: int, window: int, alpha: float, usual: Sequence[float] = ()
    ) -> None:
        self._reference, self._window, self._alpha = reference, window, alpha
        self._usual = usual
        self._values: list[float] = []

    def add(self, value: float) -> Shift | None:
        """Take a value; the shift of a window that it completes, where that is an alarm."""
        if math.isfinite(value):
            self._values.append(value)
        if len(self._values) < (self._window if self._usual else self._reference):
            return None
        usual, recent, self._values = self._usual, self._values, []
        if not usual:
            self._usual = recent
            return None
        edges = np.unique(np.quantile(usual, np.linspace(0.1, 0.9, 9)))
        before, now = (
            np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1).tolist()
            for part in (usual, recent)
        )
        tested: Any = stats.ks_2samp(usual, recent, method="asymp")
        found = Shift(psi(before, now), float(tested.pvalue))
        noise = 1.0 / len(usual) + 1.0 / len(recent)
        chance = noise * float(special.chdtri(len(edges), self._alpha / 2))
        moved = found.psi >= max(NOTABLE_PSI, chance) or found.ks_p < self._alpha / 2
        return found if moved else None


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


class HarmWatch:
    """E_t = Π (1 + η(A·W/π − α)), mixed over bets η and over the time when harm set in.

    While E[accepted · harm] ≤ α (`max_harm`) at every request, P(E ever reaches 1/δ) ≤ δ (Ville):
    it may be looked at after each request. A product of fixed bets loses what it has while all is
    well; half of the stake is therefore kept back and put in at t = 1, 2, … in parts of 1/(t(t+1)),
    which keeps it an e-process and sees a change that comes late.

    Only with an order fixed beforehand is the product an e-process, and the order in which audits
    end may hang on what they find. So a request waits for those that were decided before it, in a
    queue of `most`; the audit that the oldest waits for then counts as not made, which may hide
    harm and never invents it. Not thread-safe.
    """

    def __init__(self, max_harm: float, delta: float = 0.05, *, most: int = 2_000) -> None:
        self.max_harm, self.delta, self.n, self.alarm = max_harm, delta, 0, False
        self._logs = np.full(len(_BETS), -1e300)
        self._most = most
        self._waiting: dict[str, tuple[float, float | None, bool]] = {}

    @property
    def log_e(self) -> float:
        """log E_t, the stake that is still kept back included."""
        if not self.n:
            return 0.0
        mixed = float(np.logaddexp.reduce(self._logs)) - math.log(len(_BETS))
        return float(np.logaddexp(-math.log(2.0 * (self.n + 1)), mixed))

    def decided(self, run_id: str, rate: float | None) -> None:
        """Take a decision with the chance of an audit, None where the draft was not accepted. A
        draft that cannot be audited is left out."""
        if not self.alarm:
            self._waiting.setdefault(run_id, (1.0 if rate is None else rate, None, rate is None))
            self._advance()

    def audited(self, run_id: str, harm: float | None) -> None:
        """Take the harm that an audit found, from 0 to 1; None where the draft was not drawn, or
        the audit failed."""
        if run_id in self._waiting:
            self._waiting[run_id] = (self._waiting[run_id][0], harm, True)
        self._advance()

    def _advance(self) -> None:
        while self._waiting and not self.alarm:
            run_id, (rate, harm, known) = next(iter(self._waiting.items()))
            if not known and len(self._waiting) <= self._most:
                return
            del self._waiting[run_id]
            self.n += 1
            stake = math.log(0.5 / (self.n * (self.n + 1)) + (0.5 if self.n == 1 else 0.0))
            # The largest bet is fixed by α alone, so that it is known before the request.
            gain = ((harm or 0.0) / rate - self.max_harm) / self.max_harm
            self._logs = np.logaddexp(self._logs, stake) + np.log1p(_BETS * gain)
            self.alarm = self.log_e >= -math.log(self.delta)
