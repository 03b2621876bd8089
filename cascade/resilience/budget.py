"""How many retries a tier is allowed, so that one that is down is not hammered by them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from threading import Lock

from cascade.resilience.settings import Retries

__all__ = ["RetryBudget"]

REMEMBERED_S = 10.0
"""A call pays for its part of a retry for about so long: after a quiet night, retries of all the
calls of the day before would hammer a server as if there were no budget."""


class RetryBudget:
    """A bucket that each call fills a little, and each retry takes one from.

    In any time of t seconds with n calls there are at most `share` · n + `reserve` · (1 + t/60)
    retries, and those that calls of the seconds before had paid for.

    Args:
        settings: how much.
        clock: seconds, never running backwards.
    """

    def __init__(self, settings: Retries, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = settings.share
        self._most = float(settings.reserve)
        self._clock = clock
        self._earned = 0.0
        self._reserve = self._most
        self._at = clock()
        self._lock = Lock()

    def deposit(self) -> None:
        """A call is made, the first of its attempts."""
        with self._lock:
            self._pass()
            self._earned += self._share

    def withdraw(self) -> bool:
        """Take a retry; False where there is none to take."""
        with self._lock:
            self._pass()
            if self._earned >= 1:
                self._earned -= 1
                return True
            # What calls have paid for and what is allowed besides make whole ones together.
            if self._earned + self._reserve >= 1:
                self._reserve -= 1 - self._earned
                self._earned = 0.0
                return True
            return False

    @property
    def left(self) -> int:
        """Retries that it would allow now."""
        with self._lock:
            self._pass()
            return int(self._earned + self._reserve)

    def _pass(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        if passed > 0:
            self._earned *= math.exp(-passed / REMEMBERED_S)
            self._reserve = min(self._most, self._reserve + self._most * passed / 60)
