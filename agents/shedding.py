"""Under pressure, work that is not the answer is left out: audits first, then shadow drafts, then
paid signals.

    Cascade(…, shedding=Shedding(in_flight=64))

Pressure is one number: 0 where nothing is under way, 1 where all places are taken, more where
requests wait. What is left out is an entry of node `shed` in the ledger.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

from cascade.agents.entries import free_entry
from cascade.errors import ConfigurationError
from cascade.ledger.runs import SHED
from cascade.resilience import Doors
from cascade.resilience.settings import is_number
from cascade.state import LedgerEntry, Run
from cascade.tiers import OpenTier, door_to

logger = logging.getLogger("cascade")

Kind = Literal["audit", "shadow", "signal"]
"""What is left out, in this order."""

Load = Callable[[], float]
"""A pressure: 0 for idle, 1 where all places are taken, more where requests wait. It must not
block."""


@dataclass(frozen=True, slots=True)
class Shedding:
    """What counts as pressure, and from which on what is left out.

    The pressure is the largest of those that are given here.

    Args:
        in_flight: runs at work at the same time that are a pressure of 1.
        slack_s: seconds that are left of a run's deadline at a pressure of 1; at half of them it
            is 2.
        bulkheads: count the places of the tiers: 1 where all are taken, 2 where the queue is full.
        load: a pressure of your own, a function without arguments.
        audits: from this pressure on accepted drafts have a lower chance of an audit.
        shadows: from this pressure on no drafts are made beside the large model's answers.
        signals: from this pressure on no paid signal is taken where a free one gives a confidence.
        audits_kept: of the chance of an audit, under pressure. At 0 no draft has one, and what
            audits say is not about these drafts any more.

    Raises:
        ConfigurationError: a number has no meaning, the order is another one, or there is nothing
            that pressure could come from.
    """

    in_flight: int | None = None
    slack_s: float | None = None
    bulkheads: bool = True
    load: Load | None = None
    audits: float = 0.8
    shadows: float = 1.0
    signals: float = 1.2
    audits_kept: float = 0.1

    def __post_init__(self) -> None:
        for name in ("audits", "shadows", "signals", "in_flight", "slack_s"):
            value = getattr(self, name)
            left_out = value is None and name in ("in_flight", "slack_s")
            if not left_out and not (is_number(value) and value > 0):
                raise ConfigurationError(f"Shedding({name}={value!r}): a number above 0.")
        if not (is_number(self.audits_kept) and 0 <= self.audits_kept <= 1):
            raise ConfigurationError(
                f"Shedding(audits_kept={self.audits_kept!r}): a share, from 0 to 1."
            )
        if not self.audits <= self.shadows <= self.signals:
            raise ConfigurationError(
                f"Shedding(audits={self.audits}, shadows={self.shadows}, signals={self.signals}): "
                "audits are left out first and signals last. Give audits ≤ shadows ≤ signals."
            )
        if self.load is not None and not callable(self.load):
            raise ConfigurationError(
                f"Shedding(load={self.load!r}): give a function without arguments that returns the "
                "pressure, 1 where all places are taken."
            )
        given = (self.in_flight, self.slack_s, self.load)
        if not self.bulkheads and all(source is None for source in given):
            raise ConfigurationError(
                "Shedding(bulkheads=False) has nothing to go by: give in_flight=…, slack_s=… or "
                "load=…."
            )

    def mark(self, kind: Kind) -> float:
        """The pressure from which on this is left out."""
        return {"audit": self.audits, "shadow": self.shadows, "signal": self.signals}[kind]


def to_shedding(given: object) -> Shedding | None:
    """What was asked for; None for nothing.

    Raises:
        ConfigurationError: it is something else.
    """
    if given is None or given is False:
        return None
    if given is True:
        return Shedding()
    if isinstance(given, Shedding):
        return given
    raise ConfigurationError(
        f"shedding={given!r}: give True, False or Shedding(in_flight=…, slack_s=…, load=…)."
    )


@dataclass(slots=True)
class Pressure:
    """The pressure that a cascade is under; its variants share it. Safe between threads.

    Args:
        shedding: what counts.
        sources: pressures besides those that runs themselves make.
    """

    shedding: Shedding
    sources: Sequence[Load] = ()
    running: int = field(default=0, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)
    _failing: bool = field(default=False, init=False, repr=False)

    @contextmanager
    def at_work(self) -> Generator[None]:
        """A node of a run is at work: of each run there is one at a time."""
        with self._lock:
            self.running += 1
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1

    def now(self, left_s: float | None = None) -> float:
        """The pressure at this moment.

        Args:
            left_s: of the deadline of the run that asks; None for no deadline.
        """
        given = self.shedding
        found = [0.0, *(self._told(source) for source in self.sources)]
        if given.load is not None:
            found.append(self._told(given.load))
        if given.in_flight is not None:
            found.append(self.running / given.in_flight)
        if given.slack_s is not None and left_s is not None:
            found.append(given.slack_s / max(left_s, 1e-9))
        return max(found)

    def sheds(self, kind: Kind, left_s: float | None = None) -> float | None:
        """The pressure, where this is left out at it; else None."""
        now = self.now(left_s)
        return now if now >= self.shedding.mark(kind) else None

    def _told(self, source: Load) -> float:
        """A pressure; none where it cannot be had: an answer does not depend on it."""
        try:
            told = float(source())
            if not math.isfinite(told) or told < 0:
                raise ValueError(f"a pressure of {told}")
        except Exception:
            if not self._failing:
                logger.exception("the pressure of %r is not known and counts as none", source)
            self._failing = True
            return 0.0
        self._failing = False
        return told


def shed_entry(run: Run, kind: Kind, tier: str, pressure: float, what: str) -> LedgerEntry:
    """The entry of work that was left out."""
    note = f"under a pressure of {pressure:.2f} {what}"
    return free_entry(run, SHED, tier, note).model_copy(
        update={
            "signals": {kind: pressure},
            # Executed again after a crash, it counts once.
            "attempt_id": f"{SHED}-{kind}-{run.id}-{run.tier}",
        }
    )


def of_bulkheads(doors: Doors, tiers: Sequence[OpenTier]) -> float:
    """The pressure in the places of the tiers: 1 where all of one are taken, 2 where its queue is
    full.
    """
    return max((_of_tier(doors, tier) for tier in tiers), default=0.0)


def _of_tier(doors: Doors, tier: OpenTier) -> float:
    bulkhead, state = doors.settings.of(tier.name).bulkhead, door_to(doors, tier).state
    if bulkhead is None or state.running is None:
        return 0.0
    return of_queue(state.running, bulkhead.most, state.waiting, bulkhead.waiting)


def of_queue(running: int, places: int, waiting: int, most_waiting: int) -> float:
    """The pressure of so many who run and wait: from 0 to 1 while places are free, and from 1 to 2
    as the queue fills.
    """
    if not waiting:
        return min(1.0, running / places)
    return 1.0 + waiting / max(1, most_waiting)
