"""Retries and circuit breaker: a failed call is sent again, within a budget; a server that fails is
left alone, and tried again with one call at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
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
        share: retries that each call pays for; `reserve`, allowed besides, each minute.
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
        budget = self._budgets.get(call.tier.model.place)
        if budget is None:
            fresh = RetryBudget(self.share, self.reserve)
            budget = self._budgets.setdefault(call.tier.model.place, fresh)
        budget.deposit()
        attempt, waited = 1, False
        while True:
            try:
                return await handler(call)
            except ModelError as error:
                again = waited and error.retry_after
                wait_s = None if again else self._wait_s(error, attempt, call, budget)
                if wait_s is None:
                    raise
                attempt, waited = attempt + 1, bool(error.retry_after)
            # Outside of the handler: an error that is waited for would keep its frames alive.
            await asyncio.sleep(wait_s)

    def _wait_s(
        self, error: ModelError, attempt: int, call: Call, budget: RetryBudget
    ) -> float | None:
        """Seconds to wait before the next attempt; None where there is none."""
        asked_s, limit_s = error.retry_after or 0.0, call.request.timeout_s or math.inf
        hopeless = not error.retryable or attempt >= self.attempts
        if hopeless or asked_s > MAX_WAIT_S or asked_s >= limit_s or not budget.withdraw():
            return None
        # 2.0 ** 1024 is no float any more.
        most_s = min(MAX_DRAWN_S, self.base_s * 2.0 ** min(attempt - 1, 60))
        return asked_s + random.uniform(0, most_s)  # noqa: S311 - no secret


class RetryBudget:
    """Bucket that each call fills by a share of a retry, and each minute by a reserve; a retry
    takes one out."""

    def __init__(self, share: float, reserve: int) -> None:
        self._share, self._most = share, float(reserve)
        self._earned, self._reserve, self._at = 0.0, float(reserve), time.monotonic()
        self._lock = Lock()

    def deposit(self) -> None:
        """Count a call."""
        with self._lock:
            self._pass()
            self._earned += self._share

    def withdraw(self) -> bool:
        """Take a retry; False where there is none to take."""
        with self._lock:
            self._pass()
            if self._earned + self._reserve < 1:
                return False
            paid = min(1.0, self._earned)  # what calls have paid for goes first
            self._earned -= paid
            self._reserve -= 1 - paid
            return True

    def _pass(self) -> None:
        now = time.monotonic()
        passed, self._at = now - self._at, now
        self._earned *= math.exp(-passed / REMEMBERED_S)
        self._reserve = min(self._most, self._reserve + self._most * passed / 60)


WELL_S = 30.0
"""A breaker that was closed for longer begins with short pauses again."""

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
    an answer that cannot be read, 429 without `Retry-After`. Where the breaker is open, nothing is
    sent: the draft goes to the next tier, and the expert returns the draft, marked as degraded.

    Args:
        in_a_row: failures one after the other that open it.
        open_s: seconds until one call tries the server again; doubled with each failure of such a
            call, up to `most_open_s`.
    """

    slot = Slot.HEALTH

    def __init__(
        self,
        in_a_row: int = 5,
        *,
        open_s: float = 2.0,
        most_open_s: float = 15.0,
        name: str = "breaker",
    ) -> None:
        self.name = name
        self.in_a_row = to_count("Breaker.in_a_row", in_a_row)
        self.open_s = to_number("Breaker.open_s", open_s, above=0)
        self.most_open_s = to_number("Breaker.most_open_s", most_open_s, least=self.open_s)
        self._circuits: dict[str, Circuit] = {}

    async def wrap_model_call(self, call: Call, handler: Ask) -> Completion:
        """Pass the call on while its server is well, else a `CircuitOpenError`."""
        model = call.tier.model
        circuit = self._circuits.get(model.place)
        if circuit is None:
            circuit = self._circuits.setdefault(model.place, Circuit(self, model.name))
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
            return completion
        except ModelError as error:
            failed = _speaks_of_server(error)
            if failed:
                circuit.last, circuit.why = type(error).__name__, str(error)
            raise
        finally:
            circuit.leave(ticket, failed=failed)

    async def aclose(self) -> None:
        """Begin anew: calls that the closing cuts off say nothing about their server."""
        self._circuits.clear()


def _speaks_of_server(error: ModelError) -> bool | None:
    """True if a failure says that the server has failed; None where it says nothing."""
    if isinstance(error, NotSentError | DeadlineError):
        return None
    if isinstance(error, RateLimitError):
        return error.retry_after is None
    return isinstance(error, _OUTAGES)


class Circuit:
    """Breaker of one server. Each call that is let through gets a ticket, with which it tells how
    it ended: what was sent before the state last changed says nothing about the server now."""

    def __init__(self, settings: Breaker, server: str) -> None:
        self._settings, self._server = settings, server
        self._lock = Lock()
        self.state, self.last, self.why = "closed", "", ""
        self._ticket = self._row = self._openings = 0
        self._closed_at, self._until = -math.inf, 0.0

    @property
    def ready_in_s(self) -> float | None:
        """Seconds until a call may be sent; None while one tries the server."""
        return None if self.state == "half_open" else max(0.0, self._until - time.monotonic())

    def enter(self, lasts_s: float) -> int | None:
        """A ticket for a call that takes so long at most; None where it must not be sent."""
        if self.state == "closed":  # the usual way takes no lock
            return self._ticket
        with self._lock:
            now = time.monotonic()
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
            now = time.monotonic()
            if self.state == "closed":
                self._row = self._row + 1 if failed else 0
                if self._row >= self._settings.in_a_row:
                    self._open(now, f"{self._row} calls have failed one after the other")
            elif failed:
                self._open(now, "the call that tried it failed")
            elif failed is None:
                self._until = now  # the next call may try it
            else:
                self.state, self._row, self._closed_at = "closed", 0, now
                self._ticket += 1
                logger.info("%s answers again", self._server)

    def _open(self, now: float, why: str) -> None:
        given = self._settings
        if self.state == "closed" and now - self._closed_at > WELL_S:
            self._openings = 0  # it was well for long enough: this is another failure
        pause_s = min(given.most_open_s, given.open_s * 2.0 ** min(self._openings, 60))
        self.state, self._until = "open", now + pause_s
        self._ticket += 1
        self._openings += 1
        logger.warning("%s is left alone for %.1f s: %s", self._server, pause_s, why)
