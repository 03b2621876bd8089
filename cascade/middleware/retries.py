"""Retries: a failed call is sent again after a wait, within a budget."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable
from threading import Lock

from cascade._numbers import to_count, to_number
from cascade.errors import ModelError
from cascade.middleware.base import Ask, CascadeMiddleware, Slot
from cascade.run import Call
from cascade.state import Completion

MAX_WAIT_S = 60.0
"""A provider that asks to wait longer than this is treated as down."""

REMEMBERED_S = 10.0
"""A call pays for its part of a retry for about so long: after a quiet night, retries of all the
calls of the day before would hammer a server as if there were no budget."""


class Retries(CascadeMiddleware):
    """Repeats what may succeed when it is sent again: a server that fails, a rate limit.

    The wait before attempt n + 1 is drawn from [0, min(cap_s, base_s·2ⁿ⁻¹)] ("full jitter"), on top
    of what the provider asks for by `Retry-After`, which is waited for once. A budget for each model
    at its server keeps one that is down from being hammered: in t seconds with n calls there are at
    most share·n + reserve·(1 + t/60) retries. Each attempt has its entry in the ledger.

    Args:
        attempts: of each call, the first included.
        base_s: seconds, see above.
        cap_s: most seconds of one drawn wait.
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
        cap_s: float = 8.0,
        share: float = 0.2,
        reserve: int = 10,
        name: str = "retries",
    ) -> None:
        self.name = name
        self.attempts = to_count("Retries.attempts", attempts)
        self.base_s = to_number("Retries.base_s", base_s, least=0)
        self.cap_s = to_number("Retries.cap_s", cap_s, least=0)
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
        most_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))
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
