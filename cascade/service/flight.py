"""The requests that are under way, so that a shutdown can wait for them and name the rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from cascade.observing import ObservedRun, Observer
from cascade.service.faults import ServiceError

logger = logging.getLogger("cascade")


@dataclass(eq=False, slots=True)
class Flight:
    """One request that has a place, or waits for one."""

    model: str
    task: asyncio.Task[object] | None
    run_ids: list[str] = field(default_factory=list)
    stopped: bool = False

    @property
    def name(self) -> str:
        """Its runs, for the log and the client."""
        runs = ", ".join(self.run_ids) or "none yet"
        return f"{self.model} (run {runs})"


_current: ContextVar[Flight | None] = ContextVar("flight", default=None)


class Flights(Observer):
    """All requests under way. It looks on at each cascade to learn their runs' ids."""

    def __init__(self) -> None:
        self._all: set[Flight] = set()
        self._landed = asyncio.Event()
        self.draining = False

    def __len__(self) -> int:
        return len(self._all)

    @asynccontextmanager
    async def under_way(self, model: str) -> AsyncGenerator[Flight]:
        """Count a request until it has ended.

        Raises:
            ServiceError: 503, it was stopped by `stop`.
        """
        flight = Flight(model, asyncio.current_task())
        self._all.add(flight)
        _current.set(flight)
        try:
            yield flight
        except asyncio.CancelledError:
            if not flight.stopped or flight.task is None:
                raise
            flight.task.uncancel()
            raise stopped(flight) from None
        finally:
            self._all.discard(flight)
            self._landed.set()

    def run_began(self, run: ObservedRun) -> None:
        """A run of the request of this context."""
        flight = _current.get()
        if flight is not None and run.id not in flight.run_ids:
            flight.run_ids.append(run.id)

    async def drain(self, grace_s: float) -> None:
        """Let no request in any more, and wait until those under way have ended, but not longer;
        then stop the rest by name.
        """
        self.draining = True
        if await self._empty_within(grace_s):
            return
        for flight in list(self._all):
            logger.warning("shutdown: stopped after %g s: %s", grace_s, flight.name)
            flight.stopped = True
            if flight.task is not None:
                flight.task.cancel()
        await self._empty_within(grace_s)

    async def _empty_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._all:
                    self._landed.clear()
                    await self._landed.wait()
        except TimeoutError:
            return False
        return True


def stopped(flight: Flight) -> ServiceError:
    """What the client of a stopped request is told."""
    return ServiceError(
        503,
        f"the service was shut down before the request to {flight.name} had ended. Its ledger "
        "entries are written; ask again.",
        "server_error",
        "shut_down",
        headers={"Connection": "close", "Retry-After": "1"},
    )
