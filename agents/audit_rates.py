"""With which chance an accepted draft is audited, and what a day's audits may cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from threading import Lock
from typing import Literal, Protocol, runtime_checkable

from cascade.ledger.amounts import Amounts
from cascade.ledger.draws import constant_rate, weight

Allocation = Literal["constant", "optimal"]
"""`constant`: every accepted draft has the same chance. `optimal`: π ∝ √(p(1 − p))/√c, with p the
confidence and c the large model's expected cost, which gives the shortest interval of the quality
loss for the same number of audits where the confidence is calibrated."""

REFRESH_S = 15.0
"""How old the sum may be that other processes have spent on audits."""

PRIOR_S = 600.0
"""The first draft counts as one in ten minutes: a burst at the start is no forecast of the day."""

MEMORY_S = 7200.0
"""Traffic of two hours and more ago counts half."""

NEWEST = 0.05
"""Least weight of the newest value in a running mean."""

DAY_S = 86_400.0


@runtime_checkable
class SpendStore(Protocol):
    """A store that knows what a node has spent, in this process and in others."""

    async def spent(self, node: str, since: datetime) -> Amounts:
        """Dollars of a node's entries since then, all that was appended before included."""
        ...


@dataclass(slots=True)
class Mean:
    """A mean that follows: plain over the first values, then exponential."""

    value: float = 0.0
    n: int = 0

    def plus(self, value: float) -> float:
        """The mean with one more value."""
        self.n += 1
        self.value += max(1.0 / self.n, NEWEST) * (value - self.value)
        return self.value


@dataclass(slots=True)
class Traffic:
    """How many accepted drafts are to be expected."""

    since: float | None = None
    count: float = 0.0

    def saw(self, now: float) -> None:
        """One more draft at this time, in seconds since 1970."""
        self.since = now if self.since is None else self.since
        self.count += 1
        if now - self.since > MEMORY_S:
            self.count /= 2
            self.since = now - (now - self.since) / 2

    def expected(self, now: float, seconds: float) -> float:
        """Drafts in the seconds to come; at least the present one."""
        # A clock that was set back has seen nothing since then.
        observed = PRIOR_S + (0.0 if self.since is None else max(0.0, now - self.since))
        return max(1.0, (self.count or 1.0) / observed * seconds)


@dataclass(slots=True)
class Budget:
    """What audits may cost in a day of UTC, and what they have cost.

    The sum is read from the store, so that it survives restarts and other processes count too;
    what this process has spent since the reading is added at once. Audits under way count as
    estimated. Without a store that can tell, the budget is that of this process.

    Args:
        daily_usd: dollars per day.
        store: knows what was spent.
        clock: seconds since 1970.
    """

    daily_usd: Decimal
    store: SpendStore | None = None
    clock: Callable[[], float] = time.time
    _day: date | None = None
    _read_usd: Decimal | None = None
    _read_at: float = 0.0
    _own_usd: Decimal = Decimal(0)
    _held: dict[str, Decimal] = field(default_factory=dict)
    _audit_usd: Mean = field(default_factory=Mean)
    _traffic: Traffic = field(default_factory=Traffic)
    _lock: Lock = field(default_factory=Lock)

    def rate(self, wanted: float, usd: Decimal | None) -> float | None:
        """The wanted rate, or the lower one with which what is left lasts until midnight.

        None where the budget is used up, or where that is not known yet.

        Args:
            wanted: in (0, 1].
            usd: what this audit would probably cost; None where nobody knows.
        """
        with self._lock:
            now = self._roll()
            self._traffic.saw(now)
            left, each = self._left(), self._expected_usd(usd)
            if left is None or each is None or left < each or left <= 0:
                return None
            drafts = self._traffic.expected(now, DAY_S - now % DAY_S)
            return constant_rate(drafts, float(each), float(left), wanted)

    def affords(self, usd: Decimal | None) -> bool:
        """Whether one more audit can be paid for."""
        with self._lock:
            self._roll()
            left, each = self._left(), self._expected_usd(usd)
            return left is not None and each is not None and each <= left

    def hold(self, run_id: str, usd: Decimal | None) -> None:
        """An audit was drawn."""
        with self._lock:
            self._roll()
            self._held[run_id] = self._expected_usd(usd) or Decimal(0)

    def settle(self, run_id: str, usd: Decimal | None) -> None:
        """An audit has ended; None where its cost is unknown, so that it counts as estimated."""
        with self._lock:
            self._roll()
            held = self._held.pop(run_id, Decimal(0))
            self._own_usd += held if usd is None else usd
            if usd:
                self._audit_usd.plus(float(usd))

    @property
    def known(self) -> bool:
        """Whether it is known what was spent today."""
        with self._lock:
            self._roll()
            return self._read_usd is not None

    @property
    def stale(self) -> bool:
        """Whether the store should be asked again."""
        with self._lock:
            now = self._roll()
            # Either way: a clock that was set back would be believed to have read it just now.
            return self.store is not None and abs(now - self._read_at) > REFRESH_S

    def asked(self) -> None:
        """The store is about to be asked: nobody else has to."""
        with self._lock:
            self._read_at = self._roll()

    async def read(self) -> None:
        """Ask the store what was spent today.

        Raises:
            LedgerError: it cannot be read; nothing is audited until it can.
        """
        with self._lock:
            now = self._read_at = self._roll()
            day, own = self._day, self._own_usd
        if self.store is None:
            return
        spent = await self.store.spent("audit", datetime.fromtimestamp(now - now % DAY_S, UTC))
        with self._lock:
            self._roll()
            if self._day != day:
                return
            unpriced = spent.unknown * Decimal(str(self._audit_usd.value))
            self._read_usd = spent.known + unpriced
            self._own_usd -= own

    def _roll(self) -> float:
        now = self.clock()
        today = datetime.fromtimestamp(now, UTC).date()
        if self._day is None or self._day < today:
            known = self.store is None or self._day is not None
            self._day, self._own_usd, self._read_at = today, Decimal(0), 0.0
            self._read_usd = Decimal(0) if known else None
        elif today < self._day:
            # The clock was set back: what that day has cost already, the store knows. Without one
            # nothing is forgotten.
            self._day, self._read_at = today, 0.0
            if self.store is not None:
                self._read_usd, self._own_usd = None, Decimal(0)
        return now

    def _left(self) -> Decimal | None:
        if self._read_usd is None:
            return None
        held = sum(self._held.values(), Decimal(0))
        return self.daily_usd - self._read_usd - self._own_usd - held

    def _expected_usd(self, usd: Decimal | None) -> Decimal | None:
        """The estimate, or what audits cost on average where that is more: judges cost too."""
        mean = Decimal(str(self._audit_usd.value)) if self._audit_usd.n else None
        known = [amount for amount in (usd, mean) if amount is not None]
        return max(known, default=None)


@dataclass(slots=True)
class AuditRates:
    """The chance of each accepted draft, from what is known before the draw.

    Attributes:
        rate: of accepted drafts that are audited, on average.
        floor: least chance, as long as the budget lasts; a rate below it is its own floor.
        allocation: whether all have the same chance.
        budget: lowers the rate so that it lasts; None for no limit.
        factor: multiplies the rate at this moment; an alarm may raise it.
    """

    rate: float
    floor: float = 0.01
    allocation: Allocation = "constant"
    budget: Budget | None = None
    factor: Callable[[], float] = lambda: 1.0
    _weights: Mean = field(default_factory=Mean)
    _lock: Lock = field(default_factory=Lock)

    def chance(self, confidence: float | None, usd: Decimal | None) -> float | None:
        """π of an accepted draft; None where it cannot be audited.

        Args:
            confidence: that it is right; None where nobody knows.
            usd: what the large model would probably cost.
        """
        rate: float | None = min(1.0, self.rate * self.factor())
        if self.budget is not None:
            rate = self.budget.rate(rate or 0.0, usd)
        if rate is None or self.allocation == "constant":
            return rate
        p = 0.5 if confidence is None else confidence
        spread = (p * (1.0 - p)) ** 0.5
        with self._lock:
            if usd is not None and usd > 0:
                mine = weight(spread, float(usd))
            else:  # as expensive as the others
                mine = self._weights.value if self._weights.n else 0.0
            mean = self._weights.plus(mine)
        return min(1.0, max(min(self.floor, rate), rate * mine / mean if mean else rate))
