"""What each call to a tier passes: its circuit breaker, its places, and its budget of retries."""

from __future__ import annotations

import logging
import random
import time
import weakref
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field, replace
from threading import Lock, RLock
from typing import Protocol

from cascade.errors import (
    CircuitOpenError,
    ConfigurationError,
    DeadlineError,
    MalformedResponseError,
    ModelTimeoutError,
    ModelUnavailableError,
    NotSentError,
    OverloadedError,
    RateLimitError,
    StreamInterruptedError,
)
from cascade.observing import Observers, TierEvent, TierEventKind
from cascade.resilience.breaking import BreakerState, CircuitBreaker
from cascade.resilience.budget import RetryBudget
from cascade.resilience.bulkhead import NoPlaceError, Places
from cascade.resilience.settings import Resilience

__all__ = ["OFF", "Door", "Doors", "Passage", "TierState", "is_outage"]

logger = logging.getLogger("cascade")

OFF = Resilience(retries=None, breaker=None, bulkhead=None)
"""Nothing of it."""

LONG_S = 600.0
"""How long a call may take that has no time limit, before it counts as lost."""

GRACE_S = 10.0
"""A call that tries a server counts as lost so long after its time limit."""

_OUTAGES = (
    ModelUnavailableError,
    ModelTimeoutError,
    StreamInterruptedError,
    MalformedResponseError,
)


def is_outage(error: BaseException) -> bool:
    """Whether a failed call says that the server is not well.

    A refused request says that it is. So does 429 with `Retry-After`, which is kept to anyway.
    """
    if isinstance(error, NotSentError | DeadlineError):
        return False
    if isinstance(error, RateLimitError):
        return error.retry_after is None
    return isinstance(error, _OUTAGES)


class Named(Protocol):
    """The model behind a door."""

    @property
    def name(self) -> str:
        """The model string."""
        ...

    @property
    def server(self) -> Hashable | None:
        """What tells its server from others; None where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class TierState:
    """How a tier stands at this moment.

    Attributes:
        breaker: what its circuit breaker does with calls; None where it has none.
        ready_in_s: seconds until a call may be sent, 0 where one may be now; None while one call
            tries it.
        running: calls that are under way; None where nobody counts them.
        waiting: calls that wait for a place.
        retries_left: that the budget would allow now; None where there is none.
    """

    breaker: BreakerState | None
    ready_in_s: float | None
    running: int | None
    waiting: int
    retries_left: int | None


class _Core:
    """What those share that ask one server: one breaker, one set of places, one budget."""

    def __init__(self, name: str, settings: Resilience, clock: Callable[[], float]) -> None:
        given, self.name = settings, name
        self.breaker: CircuitBreaker | None = None
        if given.breaker is not None:
            self.breaker = CircuitBreaker(given.breaker, clock, self._changed)
        self.places = None if given.bulkhead is None else Places(given.bulkhead)
        self.budget = None if given.retries is None else RetryBudget(given.retries, clock)
        self._lock = Lock()
        self._doors: tuple[weakref.ref[Door], ...] = ()

    def add(self, door: Door) -> None:
        """Tell a door of each change too, for as long as there is one."""
        with self._lock:
            alive = [known for known in self._doors if known() is not None]
            self._doors = (*alive, weakref.ref(door))

    def _changed(self, state: BreakerState, why: str) -> None:
        level = logging.WARNING if state == "open" else logging.INFO
        logger.log(level, "%s: the circuit breaker is %s: %s", self.name, _WORDS[state], why)
        if state == "open" and self.places is not None:
            self.places.turn_away()
        for known in self._doors:
            if (door := known()) is not None:
                door.tell(_KINDS[state], why)


_WORDS = {"closed": "closed", "open": "open", "half_open": "half-open"}
_KINDS: dict[BreakerState, TierEventKind] = {
    "closed": "breaker_closed",
    "open": "breaker_opened",
    "half_open": "breaker_half_open",
}


class Passage:
    """A call on its way through a door; it has to be ended once, and may be more often."""

    __slots__ = ("_core", "_ended", "_ticket")

    def __init__(self, core: _Core, ticket: int) -> None:
        self._core = core
        self._ticket = ticket
        self._ended = False

    def end(self, *, failed: bool | None = None) -> None:
        """The call is over.

        Args:
            failed: whether the server has failed; None where that says nothing about it.
        """
        if self._ended:
            return
        self._ended = True
        core = self._core
        if core.breaker is not None:
            core.breaker.leave(self._ticket, failed=failed)
        if core.places is not None:
            core.places.give_back()


class Door:
    """The way to a tier of one cascade.

    Args:
        tier: its name.
        model: behind it.
        core: what it shares with others.
        settings: of the tier.
        observers: of the cascade.
        draw: a number in [0, 1), for the waits.
    """

    def __init__(
        self,
        tier: str,
        model: Named,
        core: _Core,
        settings: Resilience,
        observers: Observers,
        draw: Callable[[], float],
    ) -> None:
        self.tier = tier
        self.model = model.name
        self.settings = settings
        self._core = core
        self._observers = observers
        self._draw = draw
        core.add(self)
        if core.breaker is not None and observers:
            self.tell(_KINDS[core.breaker.state], "")

    @property
    def attempts(self) -> int:
        """Attempts of one call, with the first."""
        return 1 if self.settings.retries is None else self.settings.retries.attempts

    @property
    def is_open(self) -> bool:
        """Whether the tier is left alone now: a call would not be sent."""
        return self._core.breaker is not None and self._core.breaker.is_shut()

    @property
    def state(self) -> TierState:
        """How the tier stands."""
        breaker, places, budget = self._core.breaker, self._core.places, self._core.budget
        return TierState(
            breaker=None if breaker is None else breaker.state,
            ready_in_s=0.0 if breaker is None else breaker.ready_in_s,
            running=None if places is None else places.running,
            waiting=0 if places is None else places.waiting,
            retries_left=None if budget is None else budget.left,
        )

    async def enter(
        self,
        *,
        first: bool = True,
        left_s: float | None = None,
        lasts_s: float | None = None,
        usual_s: float | None = None,
    ) -> Passage:
        """Let a call through, after a wait for a place where none is free.

        Args:
            first: whether it is the first attempt.
            left_s: until the deadline of the run.
            lasts_s: how long the call takes at most.
            usual_s: how long calls take as a rule; None where nobody knows.

        Raises:
            CircuitOpenError: the tier is left alone.
            OverloadedError: there was no place.
        """
        core, ticket = self._core, 0
        breaker, places = core.breaker, core.places
        if breaker is not None:
            given = breaker.enter(_patience_s(breaker, lasts_s, usual_s))
            if given is None:
                raise self._shut(breaker)
            ticket = given
        if places is not None and not places.take():
            await self._wait(places, breaker, ticket, left_s)
        if first and core.budget is not None:
            core.budget.deposit()
        return Passage(core, ticket)

    def no_retry(self) -> str | None:
        """Why a call that has failed must not be sent again; None where it may be, and is then
        taken from the budget.
        """
        if self.is_open:
            return "It is not tried again: its circuit breaker is open."
        budget = self._core.budget
        if budget is not None and not budget.withdraw():
            why = "It is not tried again: the retry budget is used up."
            self.tell("retry_refused", why)
            return why
        self.tell("retried", "it is tried again")
        return None

    def wait_s(self, attempt: int, left_s: float | None = None) -> float:
        """Seconds before the attempt after this one: full jitter, and no more than half of what is
        left of the run's time, so that there is time for the attempt itself.
        """
        retries = self.settings.retries
        if retries is None:
            return 0.0
        most_s = retries.most_s(attempt)
        return self._draw() * (most_s if left_s is None else max(0.0, min(most_s, left_s / 2)))

    def tell(self, kind: TierEventKind, why: str) -> None:
        """Tell the observers of the cascade."""
        if self._observers:
            self._observers.tier_event(
                TierEvent(self._observers.cascade, self.tier, self.model, kind, why)
            )

    async def _wait(
        self, places: Places, breaker: CircuitBreaker | None, ticket: int, left_s: float | None
    ) -> None:
        try:
            await places.wait(None if left_s is None else max(0.0, left_s / 2))
        except NoPlaceError as error:
            if breaker is not None:
                breaker.leave(ticket, failed=None)
                if not breaker.holds(ticket):
                    raise self._shut(breaker) from None
            why = f"{places.settings.most} calls to it run already, and {error}"
            self.tell("no_place", why)
            raise OverloadedError(
                f"{self.model} was not asked: {why}. Ask later, or raise Bulkhead(most).",
                model=self.model,
            ) from None
        except BaseException:
            if breaker is not None:
                breaker.leave(ticket, failed=None)
            raise
        if breaker is not None and not breaker.holds(ticket):
            places.give_back()
            raise self._shut(breaker)

    def _shut(self, breaker: CircuitBreaker) -> CircuitOpenError:
        ready_in_s = breaker.ready_in_s
        when = "one call tries it now" if ready_in_s is None else f"in {ready_in_s:.1f} s one may"
        self.tell("not_sent", "its circuit breaker is open")
        return CircuitOpenError(
            f"{self.model} was not asked: it has failed too often and is left alone; {when}.",
            model=self.model,
            ready_in_s=ready_in_s,
        )


def _patience_s(breaker: CircuitBreaker, lasts_s: float | None, usual_s: float | None) -> float:
    """How long to wait for a call that tries a server before another one does.

    A server that hangs is seen to be back by a call that comes later: with a time limit of two
    minutes, the first one would keep all others out for so long.
    """
    most_s = (LONG_S if lasts_s is None else lasts_s) + GRACE_S
    if usual_s is None:
        return most_s
    return min(most_s, max(breaker.settings.most_open_s, 2 * usual_s))


@dataclass(slots=True)
class Doors:
    """The doors to the tiers of a cascade, made as they are needed.

    Cascades that ask the same servers may know the same: give one `Doors` to all of them. Shared is
    what has the same address, model, key and settings; a model without an address is not shared.

    Args:
        settings: of all tiers.
        shared: what others know.
        observers: of the cascade.
        clock: seconds, never running backwards.
        draw: a number in [0, 1), for the waits.
    """

    settings: Resilience = field(default_factory=Resilience)
    shared: dict[Hashable, _Core] = field(default_factory=dict, repr=False)
    observers: Observers = field(default_factory=Observers, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    draw: Callable[[], float] = field(default=random.random, repr=False)
    _doors: dict[int, Door] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: RLock = field(default_factory=RLock, init=False, repr=False, compare=False)

    @classmethod
    def read(cls, given: Resilience | Doors | None, observers: Observers) -> Doors:
        """The doors of one cascade, from what was given as its `resilience`."""
        if isinstance(given, Doors):
            return replace(given, observers=observers)
        return cls(OFF if given is None else given, observers=observers)

    def check(self, tiers: Collection[str]) -> None:
        """Refuse settings of a tier that is not there.

        Raises:
            ConfigurationError: with its name.
        """
        for name in self.settings.tiers:
            if name not in tiers:
                raise ConfigurationError(
                    f"Resilience(tiers={{{name!r}: …}}): there is no such tier; there are "
                    f"{', '.join(tiers)}."
                )

    def with_attempts(self, attempts: int) -> Doors:
        """The same with so many attempts of each call."""
        return replace(self, settings=self.settings.with_attempts(attempts))

    def of(self, tier: str, model: Named, key: str | None = None) -> Door:
        """The door to a tier.

        Args:
            tier: its name.
            model: behind it.
            key: with which it is asked: limits are those of a key.
        """
        door = self._doors.get(id(model))
        if door is not None:
            return door
        with self._lock:
            # By the object: a stand-in for a tier's model is not the server behind it.
            if id(model) not in self._doors:
                self._doors[id(model)] = self._make(tier, model, key)
                # Variants of a cascade have models of their own, and come and go.
                weakref.finalize(model, self._doors.pop, id(model), None).atexit = False
            return self._doors[id(model)]

    def _make(self, tier: str, model: Named, key: str | None) -> Door:
        settings = replace(self.settings.of(tier), tiers={})
        core = None
        if model.server is None:
            core = _Core(model.name, settings, self.clock)
        else:
            parts = (model.server, model.name, key, repr(settings))
            core = self.shared.setdefault(parts, _Core(model.name, settings, self.clock))
        return Door(tier, model, core, settings, self.observers, self.draw)
