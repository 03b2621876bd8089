"""How the databases are reached: engines, SQLite's settings, and which errors pass."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from cascade.ledger.store.base import UnavailableError

T = TypeVar("T")

BUSY_MS = 15_000
"""How long SQLite waits for another process that writes, before the writer tries again."""

BLOCKED_MS = 50
"""How much of it the writer's thread stands still at a time; in between it serves readers."""

CONNECT_S = 10.0
"""How long a server that says nothing is waited for when connecting."""

ANSWER_S = 60.0
"""How long a server may take for a statement. One that stands still would be waited for for ever:
its connections stay open."""

PROMPT_S = 5.0
"""How long a statement may take that a request waits for."""

RETRY_S = 0.02
"""Between two attempts to get a lock; whoever holds it needs milliseconds."""

READS = "cascade_reads"
"""The execution option of connections that only read."""


def make_engine(url: str, *, durable: bool = False, read_only: bool = False) -> AsyncEngine:
    """The engine that opens, migrates and reads, and writes to PostgreSQL.

    Errors of the database repeat no parameters: they may be prompts.
    """
    if not url.startswith("sqlite"):
        settings = {"synchronous_commit": "on"} if durable else {}
        if read_only:
            settings["default_transaction_read_only"] = "on"
        arguments: dict[str, object] = {"server_settings": settings, "timeout": CONNECT_S}
        arguments["command_timeout"] = ANSWER_S
        return create_async_engine(
            url, connect_args=arguments, pool_size=2, pool_pre_ping=True, hide_parameters=True
        )
    engine = create_async_engine(
        url, connect_args={"timeout": BUSY_MS / 1000}, hide_parameters=True
    )
    if not read_only:
        event.listen(engine.sync_engine, "connect", _turn_wal_on)
    _prepare(engine.sync_engine, durable=durable)
    return engine


def make_prompt_engine(url: str) -> AsyncEngine:
    """The engine for single statements to PostgreSQL that a request waits for.

    Each is a transaction of its own and one round trip: no connection is tried before it is used,
    so that the first statement after a restart of the server may find its connection ended.
    """
    settings = {"default_transaction_isolation": "read committed"}
    arguments = {"server_settings": settings, "timeout": PROMPT_S, "command_timeout": PROMPT_S}
    return create_async_engine(
        url,
        connect_args=arguments,
        pool_size=3,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )


def make_sqlite_writer(url: str, *, durable: bool = False) -> Engine:
    """The engine that writes to an open SQLite ledger, in the thread of its writer itself.

    A commit there is a matter of microseconds; the asynchronous driver would hand each statement
    of a transaction to another thread and back.
    """
    engine = _make_sqlite(url, {"timeout": BLOCKED_MS / 1000})
    _prepare(engine, durable=durable)
    return engine


def make_sqlite_writer_at_once(url: str) -> Engine:
    """The engine that writes to an open SQLite ledger from any thread, and never waits.

    Neither for a lock nor for the disk: what the journal has collected is moved into the database
    by the writer's thread, which is the one moment at which SQLite waits for the disk.
    """
    engine = _make_sqlite(url, {"timeout": 0, "check_same_thread": False})
    _prepare(engine, durable=False)
    event.listen(engine, "connect", _leave_journal)
    return engine


def _make_sqlite(url: str, arguments: dict[str, Any]) -> Engine:
    return create_engine(
        url.replace("+aiosqlite", ""), connect_args=arguments, hide_parameters=True
    )


VALUES = ("21", "22", "23", "54")
"""Classes of SQLSTATE that are about what is to be written: cardinality, data, integrity, size."""


@contextmanager
def told_apart(place: str = "the ledger's database") -> Iterator[None]:
    """Tell what may succeed later from what never will.

    Never is only what a database refuses for its values. All else may pass, if somebody mends it:
    a server that restarts, a full disk, a password that was changed, a table that is missing. What
    waits for it is not thrown away.
    """
    try:
        yield
    except (OSError, PoolTimeoutError) as error:
        raise UnavailableError(f"{place}: {error}") from error
    except sqlite3.Error as error:
        if _refuses_values(error):
            raise
        raise UnavailableError(f"{place}: {error}") from error
    except DBAPIError as error:
        if error.orig is not None and _refuses_values(error.orig):
            raise
        raise UnavailableError(f"{place}: {error.orig}") from error


def _refuses_values(error: BaseException) -> bool:
    if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError):
        return True
    if isinstance(error, sqlite3.Error):
        return "binding" in str(error)
    # asyncpg calls a value that it cannot send an error of the interface, and of ValueError.
    said = str(getattr(error, "sqlstate", None) or "")
    return said[:2] in VALUES or isinstance(error.__cause__, ValueError | TypeError)


async def patiently(action: Callable[[], T]) -> T:
    """Do something with SQLite that may find it locked, and then again, for `BUSY_MS`."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            return action()
        except (OperationalError, sqlite3.OperationalError) as error:
            cause = error.orig if isinstance(error, OperationalError) else error
            if not _is_locked(cause) or time.monotonic() > until:
                raise
            await asyncio.sleep(RETRY_S)


def _prepare(engine: Engine, *, durable: bool) -> None:
    event.listen(engine, "connect", partial(_set_up_sqlite, durable=durable))
    event.listen(engine, "begin", _begin_sqlite)


def _set_up_sqlite(connection: Any, record: object, *, durable: bool) -> None:
    del record
    # Python's driver begins transactions by itself, but not before statements that change the
    # schema; without it, _begin_sqlite says when and how.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    cursor.execute("PRAGMA secure_delete = ON")  # deleted texts are overwritten, not only unlinked
    cursor.close()


def _leave_journal(connection: Any, record: object) -> None:
    del record
    connection.execute("PRAGMA wal_autocheckpoint = 0").close()


def _turn_wal_on(connection: Any, record: object) -> None:
    """Set the journal's mode, which SQLite's own busy timeout does not wait for.

    Of several processes that open a new file at once, all but the first are told that it is
    locked; a moment later the mode is set and asking for it needs no lock.
    """
    del record
    cursor = connection.cursor()
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_locked(error) or time.monotonic() > until:
                raise
            await_only(asyncio.sleep(RETRY_S))
        else:
            break
    cursor.close()


def _is_locked(error: object) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer.
    reads = connection.get_execution_options().get(READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
