"""Retries and circuit breaker: a failed call is sent again, within a budget; a server that fails is
left alone, and tried again with one call at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable
from threading import Lock

from cascade._numbers import to_count, to_number
from cascade.errors import (
    CircuitOpenError,
    DeadlineError,
    MalformedResponseError,
    ModelError,
    ModelTimeoutError,
    ModelUnavailableError,
    NotSentError,
    RateLimitError,
    StreamInterruptedError,
)
from cascade.middleware.base import Ask, CascadeMiddleware, Slot
from cascade.run import Call
from cascade.state import Completion

logger = logging.getLogger("cascade")

MAX_WAIT_S, MAX_DRAWN_S = 60.0, 8.0
"""A provider that asks to wait longer is treated as down; most seconds of a drawn wait."""

REMEMBERED_S = 10.0
"""A call pays for its part of a retry for about so long: after a quiet night, retries of all the
calls of the day before would hammer a server as if there were no budget."""


class Retries(CascadeMiddleware):
    """Retries of what may succeed when it is sent again: a server that fails, a rate limit.

    The wait before attempt n + 1 is drawn from [0, min(8 s, base_s·2ⁿ⁻¹)] ("full jitter"), on top
    of what the provider asks for by `Retry-After`, which is waited for once. A budget for each
    model at its server keeps one that is down from being hammered: in t seconds with n calls there
    are at most share·n + reserve·(1 + t/60) retries. Each attempt has its entry in the ledger.

    Args:
        attempts: of each call, the first included.
        base_s: seconds, see above.
        share: retries that each call pays for.
        reserve: retries that are allowed besides, each minute.

    Raises:
        ConfigurationError: a value has no meaning.
    """

    slot = Slot.ATTEMPTS

    def __init__(
        self,
        attempts: int = 3,
        *,
        base_s: float = 0.5,
        share: float = 0.2,
        reserve: int = 10,
        name: str = "retries",
    ) -> None:
        self.name = name
        self.attempts = to_count("Retries.attempts", attempts)
        self.base_s = to_number("Retries.base_s", base_s, least=0)
        self.share = to_number("Retries.share", share, least=0)
        self.reserve = to_count("Retries.reserve", reserve, least=0)
        self._budgets: dict[str, RetryBudget] = {}

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Send the call again while that is worth it."""
        if self.attempts == 1:
            return await handler(call)
        key = call.tier.model.place
        budget = self._budgets.get(key)
        if budget is None:
            budget = self._budgets.setdefault(key, RetryBudget(self.share, self.reserve))
        budget.deposit()
        waited = False
        for attempt in range(1, self.attempts + 1):
            try:
                return await handler(call)
            except ModelError as error:
                if waited and error.retry_after:
                    raise
                wait_s = self._wait_s(error, attempt, call, budget)
                if wait_s is None:
                    raise
                waited, failure = bool(error.retry_after), error
            # Outside of the handler: an error that is waited for would keep its frames alive.
            del failure
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _wait_s(
        self, error: ModelError, attempt: int, call: Call, budget: RetryBudget
    ) -> float | None:
        """Seconds to wait before the next attempt; None where there is none."""
        asked_s = error.retry_after or 0.0
        limit = call.request.timeout_s or math.inf
        if not error.retryable or attempt >= self.attempts:
            return None
        if asked_s > MAX_WAIT_S or asked_s >= limit or not budget.withdraw():
            return None
        # 2.0 ** 1024 is no float any more.
        most_s = min(MAX_DRAWN_S, self.base_s * 2.0 ** min(attempt - 1, 60))
        return asked_s + random.uniform(0, most_s)  # noqa: S311 - no secret


class RetryBudget:
    """Bucket that each call fills a little, and each retry takes one from.

    Args:
        share: of a retry that each call pays for.
        reserve: retries that are allowed besides, each minute.
        clock: seconds, never running backwards.
    """

    def __init__(
        self, share: float, reserve: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._share, self._most, self._clock = share, float(reserve), clock
        self._earned, self._reserve = 0.0, float(reserve)
        self._at = clock()
        self._lock = Lock()

    def deposit(self) -> None:
        """Count a call, the first of its attempts."""
        with self._lock:
            self._pass()
            self._earned += self._share

    def withdraw(self) -> bool:
        """Take a retry; False where there is none to take."""
        with self._lock:
            self._pass()
            if self._earned + self._reserve < 1:
                return False
            # What calls have paid for goes first.
            paid = min(1.0, self._earned)
            self._earned -= paid
            self._reserve -= 1 - paid
            return True

    def _pass(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        if passed > 0:
            self._earned *= math.exp(-passed / REMEMBERED_S)
            self._reserve = min(self._most, self._reserve + self._most * passed / 60)


WINDOW_S = 30.0
"""Time over which a breaker takes the share of failures."""

_OUTAGES = (
    ModelUnavailableError,
    ModelTimeoutError,
    StreamInterruptedError,
    MalformedResponseError,
)


class Breaker(CascadeMiddleware):
    """Circuit breaker: a server is left alone after failures, longer each time one more call fails.

        closed ──too many failures──→ open ──its time is over──→ half-open ──success──→ closed
                                       ↑                             │
                                       └──────────── failure ────────┘

    Counted is what speaks of the server: no listener, 5xx, no answer in time, a broken connection,
    an answer that cannot be read, 429 without `Retry-After`. A request that was refused shows that
    the server is well. Where the breaker is open, nothing is sent: the draft goes to the next tier,
    and the expert returns the draft, marked as degraded.

    Args:
        in_a_row: failures one after the other that open it.
        rate: share of failures among the calls of the last 30 s that opens it.
        least_calls: in that time, below which a share says nothing.
        open_s: seconds until one call tries the server again; doubled with each failure of such a
            call.
        most_open_s: most seconds between two of them.

    Raises:
        ConfigurationError: a value has no meaning.
    """

    slot = Slot.HEALTH

    def __init__(
        self,
        in_a_row: int = 5,
        *,
        rate: float = 0.5,
        least_calls: int = 20,
        open_s: float = 2.0,
        most_open_s: float = 15.0,
        name: str = "breaker",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.in_a_row = to_count("Breaker.in_a_row", in_a_row)
        self.rate = to_number("Breaker.rate", rate, above=0, most=1)
        self.least_calls = to_count("Breaker.least_calls", least_calls)
        self.open_s = to_number("Breaker.open_s", open_s, above=0)
        self.most_open_s = to_number("Breaker.most_open_s", most_open_s, least=self.open_s)
        self._clock = clock
        self._circuits: dict[str, Circuit] = {}

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Pass the call on while its server is well.

        Raises:
            CircuitOpenError: the server is left alone for now; nothing was sent.
        """
        model = call.tier.model
        key = call.tier.model.place
        circuit = self._circuits.get(key)
        if circuit is None:
            circuit = self._circuits.setdefault(key, Circuit(self, model.name, self._clock))
        ticket = circuit.enter(call.request.timeout_s or self.most_open_s)
        if ticket is None:
            ready_s = circuit.ready_in_s
            when = "one call tries it now" if ready_s is None else f"tried again in {ready_s:.1f} s"
            raise CircuitOpenError(
                f"{model.name} was not asked: it has failed too often ({circuit.last}) and is left "
                f"alone; {when}. {circuit.why}",
                model=model.name,
                ready_in_s=ready_s,
            )
        failed: bool | None = None
        try:
            completion = await handler(call)
            failed = False
        except ModelError as error:
            failed = _speaks_of_server(error)
            if failed:
                circuit.last, circuit.why = type(error).__name__, str(error)
            raise
        finally:
            circuit.leave(ticket, failed=failed)
        return completion

    async def aclose(self) -> None:
        """Begin anew: calls that the closing cuts off say nothing about their server."""
        self._circuits.clear()


def _speaks_of_server(error: ModelError) -> bool | None:
    """Whether a failure says that the server has failed; None where it says nothing."""
    if isinstance(error, NotSentError | DeadlineError):
        return None
    if isinstance(error, RateLimitError):
        return error.retry_after is None
    return isinstance(error, _OUTAGES)


class Circuit:
    """Breaker of one server. Safe to use from any thread and event loop.

    Each call that is let through gets a ticket, with which it tells how it ended. What was sent
    before the state last changed says nothing about the server as it is now.
    """

    def __init__(self, settings: Breaker, server: str, clock: Callable[[], float]) -> None:
        self._settings, self._server, self._clock = settings, server, clock
        self._lock = Lock()
        self.state, self.last, self.why = "closed", "", ""
        self._ticket = 0
        self._row = 0
        self._calls: deque[tuple[float, bool]] = deque(maxlen=10_000)
        self._openings = 0
        self._closed_at = float("-inf")
        self._until = 0.0

    @property
    def ready_in_s(self) -> float | None:
        """Seconds until a call may be sent; None while one tries the server."""
        return None if self.state == "half_open" else max(0.0, self._until - self._clock())

    def enter(self, lasts_s: float) -> int | None:
        """A ticket for a call that takes so long at most; None where it must not be sent."""
        if self.state == "closed":  # the usual way takes no lock
            return self._ticket
        with self._lock:
            now = self._clock()
            if self.state == "closed":
                return self._ticket
            if now < self._until:
                return None
            # Where the call that tries it is not heard of for so long, another one may.
            self.state, self._until = "half_open", now + lasts_s
            self._ticket += 1
            return self._ticket

    def leave(self, ticket: int, *, failed: bool | None) -> None:
        """Note how a call ended; None where that says nothing about the server."""
        if failed is None and self.state == "closed":
            return
        with self._lock:
            if ticket != self._ticket:
                return
            now = self._clock()
            if self.state == "closed":
                self._count(now, failed=bool(failed))
            elif failed:
                self._open(now, "the call that tried it failed")
            elif failed is None:
                self._until = now  # the next call may try it
            else:
                self.state, self._row, self._closed_at = "closed", 0, now
                self._ticket += 1
                self._calls.clear()
                logger.info("%s answers again", self._server)

    def _count(self, now: float, *, failed: bool) -> None:
        given, calls = self._settings, self._calls
        calls.append((now, failed))
        if not failed:
            self._row = 0
            return
        self._row += 1
        while calls and calls[0][0] < now - WINDOW_S:
            calls.popleft()
        failures = sum(bad for _, bad in calls)
        if self._row >= given.in_a_row:
            self._open(now, f"{self._row} calls have failed one after the other")
        elif len(calls) >= given.least_calls and failures >= given.rate * len(calls):
            self._open(now, f"{failures} of {len(calls)} calls have failed")

    def _open(self, now: float, why: str) -> None:
        given = self._settings
        if self.state == "closed" and now - self._closed_at > WINDOW_S:
            self._openings = 0  # it was well for long enough: this is another failure
        pause_s = min(given.most_open_s, given.open_s * 2.0 ** min(self._openings, 60))
        self.state, self._until = "open", now + pause_s
        self._ticket += 1
        self._openings += 1
        logger.warning("%s is left alone for %.1f s: %s", self._server, pause_s, why)
