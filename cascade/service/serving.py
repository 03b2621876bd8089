"""One public model name: its cascade, and the gate that lets so many requests through at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from cascade.agents.shedding import of_queue
from cascade.api import Cascade
from cascade.errors import CascadeError
from cascade.service.config import CascadeConfig
from cascade.service.faults import RETRY_AFTER_S, ServiceError

logger = logging.getLogger("cascade")

CASCADE_TAG = "cascade"
"""The tag of ledger entries that names the cascade, as clients call it: reports tell them apart."""


CALIBRATION_TAG = "calibration"
"""The tag that names the version of the calibration by which a request was decided, where it was
rolled out to several replicas."""


class Gate:
    """Lets so many requests through at a time, and so many wait, first come, first served."""

    def __init__(self, name: str, concurrency: int, queue: int, patience_s: float) -> None:
        self.name = name
        self.concurrency = concurrency
        self.queue = queue
        self.patience_s = patience_s
        self.running = 0
        self.refused = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def pressure(self) -> float:
        """From 0 to 1 while places are free, and from 1 to 2 as the queue fills. Before it refuses
        anybody, cascades with `shedding` leave out what is not the answer.
        """
        return of_queue(self.running, self.concurrency, self.waiting, self.queue)

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
        self.refused += 1
        return ServiceError(
            429,
            f"{self.name} is busy: {self.running} requests run and {why}. Try again later.",
            "rate_limit_error",
            "queue_full",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )


class Served:
    """A cascade under its public name, with its gate.

    A request leases the cascade while it runs. When another takes its place, the old one is
    closed as soon as the last of its requests has ended.
    """

    def __init__(self, name: str, config: CascadeConfig, cascade: Cascade, gate: Gate) -> None:
        self.name = name
        self.config = config
        self.cascade = cascade
        self.gate = gate
        self._leases: dict[Cascade, int] = {cascade: 0}
        self._versions: dict[Cascade, str] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def tag(self) -> str:
        """The value of `CASCADE_TAG` in its ledger entries."""
        return self.config.tags.get(CASCADE_TAG, self.name)

    @asynccontextmanager
    async def lease(self) -> AsyncGenerator[Cascade]:
        """The cascade as it is now, held until the request has ended."""
        cascade = self.cascade
        self._leases[cascade] += 1
        try:
            yield cascade
        finally:
            self._leases[cascade] -= 1
            self._close_if_idle(cascade)

    def version_of(self, cascade: Cascade) -> str | None:
        """Which version of its calibration a cascade has that is leased; None for its file's."""
        return self._versions.get(cascade)

    def swap(self, cascade: Cascade, version: str | None = None) -> None:
        """Let another cascade take its place, for requests that begin from now on."""
        old, self.cascade = self.cascade, cascade
        self._leases[cascade] = 0
        if version is not None:
            self._versions[cascade] = version
        self._close_if_idle(old)

    async def aclose(self) -> None:
        """Close the cascade, and those that it followed."""
        for cascade in list(self._leases):
            await cascade.aclose()
        await asyncio.gather(*self._closing)

    def _close_if_idle(self, cascade: Cascade) -> None:
        if cascade is self.cascade or self._leases[cascade]:
            return
        del self._leases[cascade]
        self._versions.pop(cascade, None)
        # In a task of its own: the last request must not wait for the audits of the others.
        task = asyncio.create_task(self._close(cascade))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, cascade: Cascade) -> None:
        try:
            await cascade.aclose()
        except CascadeError as error:
            logger.warning("%s: the cascade before could not be closed: %s", self.name, error)
