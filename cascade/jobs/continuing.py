"""Rows whose runs wait for an answer that comes later, and how they go on.

Such a row stands in the journal with its draft (status `waiting`), so that nothing of it is paid
for twice whatever becomes of the process. It goes on with `Cascade.aresume` or `adecide`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal

from cascade.api import Cascade
from cascade.errors import CascadeError
from cascade.jobs import running
from cascade.jobs.journal import Record
from cascade.jobs.rows import Row
from cascade.ledger.tags import tagged
from cascade.pausing import WAITING, Paused
from cascade.result import CascadeResult

__all__ = ["answered", "drafted", "failed", "paused_in", "waiting"]


async def drafted(
    cascade: Cascade, row: Row, job: str, before: Collection[str] = WAITING
) -> Paused | Record:
    """Draft a row that can be read, as `running.ask` asks one.

    Args:
        cascade: whom to ask.
        row: which one.
        job: its name; the run's entries in the ledger have the tags `job` and `row`.
        before: the nodes that are not entered, as in `Cascade.adraft`.

    Returns:
        The run that waits; or the row's record, where it needs to wait for nothing, or has failed.
    """
    assert row.question is not None, "a row that cannot be read is not asked"
    try:
        with tagged(job=job, row=str(row.number)):
            found = await cascade.adraft(row.question, before=before)
    except CascadeError as error:
        return running.failed(row, error)
    return found if isinstance(found, Paused) else running.record_of(row, found)


def waiting(row: Row, paused: Paused, expected_usd: Decimal | None = None) -> Record:
    """A row that waits.

    Args:
        row: which one.
        paused: its run, which has cost what is counted here.
        expected_usd: what the answer that it waits for may cost.
    """
    return Record(
        row.number,
        row.key,
        "waiting",
        cost_usd=paused.ledger.cost_usd,
        counted_usd=running.counted(paused.ledger),
        run_id=paused.run.id,
        paused=paused.dump(),
        expected_usd=expected_usd,
    )


def answered(row: Row, result: CascadeResult, before: Record) -> Record:
    """A row that has waited and is answered; what it cost before is counted there already."""
    record, paused = running.record_of(row, result), paused_in(before)
    since = (record.counted_usd or Decimal(0)) - running.counted(paused.ledger)
    return replace(record, counted_usd=since)


def failed(row: Row, error: CascadeError | str, before: Record) -> Record:
    """A row that has waited and has no answer. It keeps its draft, for another attempt.

    Args:
        row: which one.
        error: of going on with its run, or why there was nothing to go on with.
        before: its record when it waited.
    """
    if isinstance(error, str):
        record = Record(row.number, row.key, "error", cost_usd=Decimal(0), error=error)
    else:
        record = running.failed(row, error)
    unknown = record.cost_usd is None or before.cost_usd is None
    return replace(
        record,
        cost_usd=None if unknown else (record.cost_usd or 0) + (before.cost_usd or Decimal(0)),
        run_id=before.run_id,
        paused=before.paused,
        expected_usd=before.expected_usd,
    )


def paused_in(record: Record) -> Paused:
    """The run of a row that waits."""
    assert record.paused is not None, "only rows that wait go on"
    return Paused.load(record.paused)
