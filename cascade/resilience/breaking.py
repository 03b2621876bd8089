"""A circuit breaker: leaves a server alone that fails, and tries it again with one call at a time.

closed ──too many failures──→ open ──its time is over──→ half-open ──the call succeeds──→ closed
                               ↑                             │
                               └──── the call fails ─────────┘   (for longer each time)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Literal

from cascade.resilience.settings import Breaker

__all__ = ["BreakerState", "CircuitBreaker"]

BreakerState = Literal["closed", "open", "half_open"]

PARTS = 10
"""Parts of the window: what is older than it is forgotten a tenth at a time."""


class _Window:
    """Calls and failures of the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._part_s = seconds / PARTS
        self._parts = [[-PARTS, 0, 0] for _ in range(PARTS)]  # which part of time, calls, failures

    def add(self, now: float, *, failed: bool) -> None:
        number = int(now / self._part_s)
        part = self._parts[number % PARTS]
        if part[0] != number:
            part[:] = [number, 0, 0]
        part[1] += 1
        part[2] += failed

    def sums(self, now: float) -> tuple[int, int]:
        oldest = int(now / self._part_s) - PARTS
        recent = [part for part in self._parts if part[0] > oldest]
        return sum(part[1] for part in recent), sum(part[2] for part in recent)

    def clear(self) -> None:
        for part in self._parts:
            part[:] = [-PARTS, 0, 0]


class CircuitBreaker:
    """Counts failures, and says whether a call may be sent. From any thread and event loop.

    Each call that is let through gets a ticket, with which it tells how it ended. What was sent
    before the breaker last changed its state says nothing about the server as it is now.

    Args:
        settings: when it opens, and for how long.
        clock: seconds, never running backwards.
        on_change: is told of each new state and why, outside of any lock.
    """

    def __init__(
        self,
        settings: Breaker,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState, str], None] | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._on_change = on_change
        self._lock = Lock()
        self._state: BreakerState = "closed"
        self._ticket = 0
        self._row = 0
        self._window = _Window(settings.window_s)
        self._trying: set[int] = set()
        self._openings = 0
        self._closed_at = -float("inf")
        self._until = 0.0
        """While open, when it is over; while half-open, when the call that tries is given up."""

    @property
    def state(self) -> BreakerState:
        """What it does with calls now."""
        return self._state

    @property
    def ready_in_s(self) -> float | None:
        """Seconds until a call may be sent, 0 where one may be now; None while one tries it."""
        with self._lock:
            left_s = 0.0 if self._state == "closed" else max(0.0, self._until - self._clock())
            return None if left_s and self._state == "half_open" else left_s

    def is_shut(self) -> bool:
        """Whether a call would be refused now."""
        return self._state != "closed" and self.ready_in_s != 0

    def enter(self, lasts_s: float) -> int | None:
        """A ticket for a call; None where it must not be sent.

        Args:
            lasts_s: how long to wait for it. Where a call that tries the server is not heard of for
                so long, another one may try it too.
        """
        if self._state == "closed":  # the usual way takes no lock
            return self._ticket
        changed = False
        with self._lock:
            now = self._clock()
            if self.state == "closed":
                return self._ticket
            if now < self._until:
                return None
            changed = self._state == "open"
            self._state = "half_open"
            self._until = now + lasts_s
            self._ticket += 1
            ticket = self._ticket
            self._trying.add(ticket)
        if changed:
            self._tell("half_open", "one call tries it")
        return ticket

    def holds(self, ticket: int) -> bool:
        """Whether a call with this ticket may still be sent."""
        return ticket == self._ticket or self._state == "closed"

    def leave(self, ticket: int, *, failed: bool | None) -> None:
        """How a call ended.

        Args:
            ticket: of the call.
            failed: whether the server has failed; None where that says nothing about it.
        """
        told: tuple[BreakerState, str] | None = None
        with self._lock:
            now = self._clock()
            if self._state == "half_open" and ticket in self._trying:
                self._trying.discard(ticket)
                told = self._tried(now, failed, last=ticket == self._ticket)
            elif self._state == "closed" and ticket == self._ticket and failed is not None:
                told = self._counted(now, failed=failed)
        if told is not None:
            self._tell(*told)

    def _tried(
        self, now: float, failed: bool | None, *, last: bool
    ) -> tuple[BreakerState, str] | None:
        """A call that tried the server has ended: the last one, or one that took too long."""
        if failed is False:
            self._ticket += 1
            self._state, self._row, self._closed_at = "closed", 0, now
            self._window.clear()
            self._trying.clear()
            return "closed", "the call that tried it succeeded"
        if not last:
            return None
        if failed:
            return self._open(now, "the call that tried it failed")
        self._until = now  # the next call may try it
        return None

    def _counted(self, now: float, *, failed: bool) -> tuple[BreakerState, str] | None:
        self._window.add(now, failed=failed)
        if not failed:
            self._row = 0
            return None
        self._row += 1
        given = self.settings
        if given.in_a_row is not None and self._row >= given.in_a_row:
            return self._open(now, f"{self._row} calls have failed one after the other")
        if given.rate is not None:
            calls, failures = self._window.sums(now)
            if calls >= given.least_calls and failures >= given.rate * calls:
                return self._open(now, f"{failures} of {calls} calls have failed")
        return None

    def _open(self, now: float, why: str) -> tuple[BreakerState, str]:
        given = self.settings
        if self._state == "closed" and now - self._closed_at > given.window_s:
            self._openings = 0  # it was well for long enough: this is another failure
        self._ticket += 1
        self._trying.clear()
        grown = given.open_s * given.growth ** min(self._openings, 60)
        pause_s = min(given.most_open_s, grown)
        self._state, self._until = "open", now + pause_s
        self._openings += 1
        return "open", f"{why}; it is tried again in {pause_s:g} s"

    def _tell(self, state: BreakerState, why: str) -> None:
        if self._on_change is not None:
            self._on_change(state, why)
