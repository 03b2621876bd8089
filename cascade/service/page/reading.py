"""The ledger as the page shows it: read off the service's event loop, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from cascade.ledger.store import Selection, Store
from cascade.ledger.tags import AGENT
from cascade.service.faults import ServiceError

if TYPE_CHECKING:
    from cascade.report import Report
    from cascade.report.thresholds import Thresholds

FRESH_S = 5.0
"""What was read is shown for so long, at least."""

IDLE = 20.0
"""And for so many times as long as reading took: a large ledger takes a twentieth of a core."""

MOST_KEPT = 8
"""Periods and tags that are kept; the one that was asked for longest ago goes."""


class Asked(NamedTuple):
    """What is asked of the ledger: the last so many days, 0 for all; one tag; tables by tags."""

    days: float = 0.0
    tag: tuple[str, str] | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the ledger said; `thresholds` is None where no draft was decided about."""

    report: Report
    thresholds: Thresholds | None
    at: datetime
    took_s: float


class Shelf:
    """Readings that are fresh enough; one that is under way is waited for and not begun again.

    Args:
        store: the ledger; None where nothing is kept.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._kept: OrderedDict[Asked, tuple[float, asyncio.Task[Reading]]] = OrderedDict()
        # One at a time: what reads a large ledger must not take all cores from the requests.
        self._reader = ThreadPoolExecutor(1, "cascade-page")

    async def read(self, asked: Asked) -> Reading:
        """What the ledger says.

        Raises:
            ServiceError: 404, there is no ledger; 501, a package is missing.
            LedgerError: it cannot be read.
        """
        if self._store is None:
            raise ServiceError(
                404,
                "this service keeps no ledger: set `ledger` in its configuration, for instance "
                "sqlite:///ledger.db.",
                code="no_ledger",
            )
        if find_spec("scipy") is None or find_spec("numpy") is None:
            raise ServiceError(
                501,
                "figures with intervals need numpy and scipy: pip install "
                "'agent-cascade[calibrate]'.",
                code="missing_package",
            )
        return await asyncio.shield(self._task(asked, self._store))

    def _task(self, asked: Asked, store: Store) -> asyncio.Task[Reading]:
        now = time.monotonic()
        _, task = self._kept.get(asked, (0.0, None))
        if task is None or not _fresh(task, self._kept[asked][0], now):
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._reader, _read, store, asked)
            task = asyncio.ensure_future(_awaited(work))
            self._kept[asked] = (now, task)
        self._kept.move_to_end(asked)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return task


async def _awaited(work: asyncio.Future[Reading]) -> Reading:
    return await work


def _fresh(task: asyncio.Task[Reading], begun: float, now: float) -> bool:
    if not task.done():
        return True
    if task.cancelled() or task.exception() is not None:
        return False
    took_s = task.result().took_s
    return now < begun + took_s + max(FRESH_S, IDLE * took_s)


def _read(store: Store, asked: Asked) -> Reading:
    """In a thread of its own, with an event loop of its own: a store answers in any."""
    return asyncio.run(_reading(store, asked))


async def _reading(store: Store, asked: Asked) -> Reading:
    # Here, as they load scipy, which a service that nobody looks at does not need.
    from cascade.report.making import TABLES, report_of  # noqa: PLC0415
    from cascade.report.reading import read  # noqa: PLC0415
    from cascade.report.thresholds import thresholds_of  # noqa: PLC0415

    begun, now = time.monotonic(), datetime.now(UTC)
    since = now - timedelta(days=asked.days) if asked.days else None
    tags: Mapping[str, str] = {} if asked.tag is None else dict([asked.tag])
    selection = Selection(since=since, tags=tags)
    keys = [key for key in asked.by if key != AGENT]  # it has tables of its own
    books = await read(store, selection, [*keys, AGENT])
    report = report_of(books, selection, (*TABLES, *(f"tag:{key}" for key in keys)))
    found = thresholds_of(books)
    return Reading(report, found, now, time.monotonic() - begun)
