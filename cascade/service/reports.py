"""Reports of the ledger for the page and `/admin/report`: made in a thread, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from cascade.ledger.base import Selection
from cascade.ledger.store import SqlLedger

if TYPE_CHECKING:
    from cascade.evaluation.report import Report

KEPT_S, MOST = 30.0, 32
"""Seconds for which a report is shown again, and reports that are kept."""


async def report_of_period(store: SqlLedger, selection: Selection) -> Report:
    """The report of a period, made in a thread of its own: it takes a second for 60,000 entries."""
    from cascade.evaluation.report import make_report  # noqa: PLC0415 - numpy

    return await asyncio.to_thread(lambda: asyncio.run(make_report(store, selection)))


class Reports:
    """Reports that were made a moment ago; requests that come together wait for one report."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, tuple[float, asyncio.Task[Report]]] = OrderedDict()

    async def get(self, store: SqlLedger, selection: Selection) -> Report:
        """The report of a selection.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        name = repr(selection)
        at, task = self._made.get(name, (0.0, None))
        if task is None or time.monotonic() - at > KEPT_S or task.cancelled() or _failed(task):
            task = asyncio.create_task(report_of_period(store, selection))
            self._made[name] = (time.monotonic(), task)
            self._made.move_to_end(name)
            while len(self._made) > MOST:
                self._made.popitem(last=False)
        return await asyncio.shield(task)


def _failed(task: asyncio.Task[Report]) -> bool:
    return task.done() and task.exception() is not None
