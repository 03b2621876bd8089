"""One public model name: its cascade, and the gate that lets so many requests through at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from cascade.api import Cascade
from cascade.service.config import CascadeConfig
from cascade.service.faults import RETRY_AFTER_S, ServiceError


class Gate:
    """Lets so many requests through at a time, and so many wait, first come, first served."""

    def __init__(self, name: str, concurrency: int, queue: int, patience_s: float) -> None:
        self.name = name
        self.concurrency = concurrency
        self.queue = queue
        self.patience_s = patience_s
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def through(self, timeout_s: float | None = None) -> AsyncGenerator[None]:
        """Wait for a place, and hold it.

        Raises:
            ServiceError: 429, the queue is full, or the wait was too long.
        """
        if self.running < self.concurrency:
            self.running += 1
        else:
            await self._wait(timeout_s)
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, timeout_s: float | None) -> None:
        if len(self._waiting) >= self.queue:
            raise self._full(f"{len(self._waiting)} wait already")
        patience_s = self.patience_s if timeout_s is None else min(timeout_s, self.patience_s)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(patience_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._leave()  # the place was given in the same moment
            elif place in self._waiting:
                self._waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise self._full(f"no place was free within {patience_s:g} s") from None
            raise

    def _leave(self) -> None:
        """Give the place to the next who still waits."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1

    def _full(self, why: str) -> ServiceError:
        return ServiceError(
            429,
            f"{self.name} is busy: {self.running} requests run and {why}. Try again later.",
            "rate_limit_error",
            "queue_full",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )


class Served:
    """A cascade under its public name.

    `lease` keeps the cascade open while a request runs, also when another takes its place.
    """

    def __init__(self, name: str, config: CascadeConfig, cascade: Cascade, gate: Gate) -> None:
        self.name = name
        self.config = config
        self.cascade = cascade
        self.gate = gate
        self._leases: dict[int, int] = {}

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Cascade]:
        """The cascade as it is now, held until the request has ended."""
        cascade = self.cascade
        number = id(cascade)
        self._leases[number] = self._leases.get(number, 0) + 1
        try:
            yield cascade
        finally:
            self._leases[number] -= 1
            if not self._leases[number]:
                del self._leases[number]
                if cascade is not self.cascade:
                    await cascade.aclose()
