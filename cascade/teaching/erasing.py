"""Deletion for good: rows, what points to them, and what the database's files still hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from cascade.ledger.store import Selection, UnavailableError, open_store
from cascade.ledger.store.engines import BUSY_MS, RETRY_S, make_engine, told_apart
from cascade.ledger.store.opening import database_url
from cascade.ledger.store.tables import attempts, entries, pending, texts
from cascade.teaching.lessons import LessonSelection
from cascade.teaching.schema import deleted, exported, exports, lessons, verdicts
from cascade.teaching.writing import SOME, changed, forget_in_groups, where

logger = logging.getLogger("cascade")

SCRUB_S = 5.0
"""How long to wait for readers that keep the journal open."""


def delete_from(
    connection: Connection, selection: LessonSelection
) -> tuple[int, int, tuple[str, ...]]:
    """Delete all that is meant, and write down which runs it was of.

    Returns:
        how many lessons and verdicts, and the files in which the lessons still are.
    """
    ids: dict[str, None] = {}
    for table in (lessons, verdicts):
        meant = select(table.c.run_id).where(*where(table, selection)).order_by(table.c.at)
        ids |= dict.fromkeys(connection.execute(meant).scalars())
    n_lessons = n_verdicts = 0
    files: dict[str, None] = {}
    run_ids = list(ids)
    for start in range(0, len(run_ids), SOME):
        some = run_ids[start : start + SOME]
        files |= dict.fromkeys(_files_with(connection, some))
        n_lessons += _delete(connection, lessons, lessons.c.run_id.in_(some))
        n_verdicts += _delete(connection, verdicts, verdicts.c.run_id.in_(some))
        _delete(connection, exported, exported.c.run_id.in_(some))
    n_verdicts += _delete_spoken(connection, selection)
    if run_ids:
        forget_in_groups(connection, ids)
        now = datetime.now(UTC)
        connection.execute(insert(deleted), [{"run_id": i, "at": now} for i in run_ids])
    if n_lessons or n_verdicts:
        changed(connection)
    return n_lessons, n_verdicts, tuple(files)


def _delete_spoken(connection: Connection, selection: LessonSelection) -> int:
    """Delete what a user said of answers to others, where all of the user's is meant."""
    user, tenant = selection.user, selection.tenant
    if user is None or selection != LessonSelection(user=user, tenant=tenant):
        return 0
    spoken = verdicts.c.by == user
    return _delete(
        connection, verdicts, spoken if tenant is None else spoken & (verdicts.c.tenant == tenant)
    )


def _files_with(connection: Connection, run_ids: Sequence[str]) -> Sequence[str]:
    holding = select(exported.c.export_id).where(exported.c.run_id.in_(run_ids))
    paths = select(exports.c.path).where(exports.c.id.in_(holding)).order_by(exports.c.at)
    return connection.execute(paths).scalars().all()


def _delete(connection: Connection, table: Table, which: ColumnElement[bool]) -> int:
    return connection.execute(delete(table).where(which)).rowcount


async def erase_from_ledger(url: str, selection: Selection) -> tuple[int, bool]:
    """Delete entries of a ledger with their texts, audits and verdicts, and scrub its files.

    Labels of drafts (`labelled_drafts`) and calibrations from a shadow start are made of these
    entries, and have nothing of them any more. The sums of the ledger are without them, too.

    Args:
        url: of the ledger.
        selection: which entries.

    Returns:
        how many entries there were, and whether the database's files hold nothing of them.
    """
    async with open_store(url) as ledger:
        n = await ledger.delete(selection)
    engine = make_engine(database_url(url))
    try:
        return n, await scrub(engine, (entries, attempts, texts, pending))
    finally:
        await engine.dispose()


async def scrub(engine: AsyncEngine, tables: Sequence[Table]) -> bool:
    """Take out of the database's own files what was deleted from its tables.

    SQLite overwrites deleted rows in the database (`secure_delete`), but its journal holds the
    pages as they were until it is emptied. PostgreSQL keeps dead rows until they are vacuumed.

    Returns:
        whether that was possible; not, where a reader keeps the journal open all the time, or the
        database is away by now: what was deleted is, in any case.
    """
    try:
        with told_apart():
            return await _scrubbed(engine, tables)
    except UnavailableError as error:
        logger.warning("what was deleted may still be in the database's files: %s", error)
        return False


async def _scrubbed(engine: AsyncEngine, tables: Sequence[Table]) -> bool:
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    if engine.dialect.name == "postgresql":
        async with autocommit.connect() as connection:
            await connection.exec_driver_sql(f"VACUUM {', '.join(t.name for t in tables)}")
        return True
    until = time.monotonic() + SCRUB_S
    while True:
        try:
            if await _empty_journal(engine):
                return True
        except OperationalError as error:
            if "locked" not in str(error.orig):
                raise
        if time.monotonic() > until:
            return False
        await asyncio.sleep(RETRY_S)


async def _empty_journal(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        # Past SQLAlchemy, which would begin a transaction, in which there are no checkpoints; and
        # without SQLite's own long wait for readers, in which nobody could be told anything.
        await driver.execute("PRAGMA busy_timeout = 0")
        try:
            cursor = await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            busy, *_ = await cursor.fetchone()
            await cursor.close()
        finally:
            await driver.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    return not busy
