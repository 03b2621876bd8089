"""Waiting that many share: for what is good to know before an answer, and not worth a long wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

READY_S = 2.0
"""How long the first questions wait for what a ledger remembers of the time before a restart."""


class Patience:
    """So many seconds of waiting from the first wait on, however many wait, and however often.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return self._until is not None and time.monotonic() >= self._until

    async def wait_for(self, what: Awaitable[T] | Future[T]) -> bool:
        """Wait for something as long as there is patience; returns whether it is there.

        What was begun elsewhere goes on when nobody waits for it any more.
        """
        if self._until is None:
            self._until = time.monotonic() + self._seconds
        # Shielded: a caller that is cancelled would cancel it for all others.
        waited: Awaitable[T] = (
            asyncio.shield(asyncio.wrap_future(what)) if isinstance(what, Future) else what
        )
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                await waited
        except TimeoutError:
            return False
        return True
