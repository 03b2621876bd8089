"""Databases reached through SQLAlchemy Core: SQLite files and PostgreSQL servers. The ledger,
budgets, keys and lessons may share one, each with tables of its own."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import re
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pydantic_core
from typing_extensions import override

from cascade._portal import Portal
from cascade.errors import ConfigurationError, LedgerError, MissingDependencyError

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.dialects.postgresql import JSONB
    from sqlalchemy.util import greenlet_spawn
except ImportError as error:
    raise MissingDependencyError(
        'a database needs SQLAlchemy: in a clone, pip install ".[store]", or [postgres].'
    ) from error

T = TypeVar("T")

logger = logging.getLogger("cascade")

BUSY_S, CONNECT_S, ANSWER_S, PAUSE_S = 0.9, 5.0, 60.0, 0.1
"""Longest wait for a lock of SQLite, for a connection to a server, and for one statement there; and
time between two tries to write."""

background = Portal()
"""Thread with the event loop of all connections to PostgreSQL, and of what writers write."""

_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def clean(words: str) -> str:
    """Text that every database takes: no NUL and no half of a surrogate pair."""
    if words.isascii() and "\0" not in words:
        return words
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def to_json(value: Any) -> str:
    """JSON text that every database takes, also of a record."""
    try:
        written = pydantic_core.to_json(value, exclude_none=True).decode()
    except pydantic_core.PydanticSerializationError:  # half of a surrogate pair
        plain = pydantic_core.to_jsonable_python(value, exclude_none=True)
        written = clean(json.dumps(plain, ensure_ascii=False))
    return _ESCAPED_NUL.sub(r"\1\\ufffd", written) if "\\u0000" in written else written


class Words(sa.TypeDecorator[str]):
    """Text, cleaned."""

    impl = sa.Text
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else clean(value)


class Money(sa.TypeDecorator[Decimal]):
    """Dollars to the last digit: NUMERIC where it is exact, else text."""

    impl = sa.Text().with_variant(sa.Numeric(), "postgresql")
    cache_ok = True

    @override
    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    @override
    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class UtcTime(sa.TypeDecorator[datetime]):
    """A time in UTC to the microsecond; as text it sorts as it should."""

    impl = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> Any:
        if value is not None and value.tzinfo is not UTC:  # without a zone it is taken for UTC
            value = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        if value is None or dialect.name == "postgresql":
            return value
        return value.isoformat(timespec="microseconds")

    @override
    def process_result_value(self, value: Any, dialect: sa.Dialect) -> datetime | None:
        return datetime.fromisoformat(value) if isinstance(value, str) else value


json_type = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""Type of JSON within a row."""


@lru_cache
def _for_sqlite(statement: Any) -> tuple[str, list[tuple[str, Any]]]:
    """A statement as text with the names of its values and their conversions."""
    dialect = sqlite.dialect(json_serializer=to_json)
    compiled = statement.compile(dialect=dialect)
    types = {name: bound.type.dialect_impl(dialect) for name, bound in compiled.binds.items()}
    return str(compiled), [(n, types[n].bind_processor(dialect)) for n in compiled.positiontup]


def execute(connection: Any, statement: Any, *rows: Mapping[str, Any]) -> Any:
    """Execute a statement with its values; of one row it gives what was found, as it is in the
    database. SQLite is asked without SQLAlchemy, which takes longer than SQLite itself."""
    file = connection
    if isinstance(connection, sa.Connection):
        file = connection.connection.driver_connection
    if not isinstance(file, sqlite3.Connection):
        return connection.execute(statement, rows)
    text, forms = _for_sqlite(statement)
    values = [[form(row[n]) if form else row[n] for n, form in forms] for row in rows]
    return file.execute(text, *values) if len(rows) == 1 else file.executemany(text, values)


def database_url(url: str) -> sa.URL:
    """The address of a database for SQLAlchemy, `sqlite://` in memory; a `ConfigurationError` where
    it is none, a `MissingDependencyError` where its driver is not installed."""
    given = sa.URL.create("")
    with suppress(exc.ArgumentError, ValueError):  # also of a port
        given = sa.make_url(url)
    kind = given.get_backend_name()
    if kind == "memory":
        return sa.URL.create("sqlite")
    if kind in ("postgresql", "postgres"):
        if find_spec("asyncpg") is None or find_spec("greenlet") is None:
            raise MissingDependencyError(
                'PostgreSQL needs asyncpg: in a clone, pip install ".[postgres]".'
            )
        # What libpq and most providers call `sslmode`.
        asked = {"ssl" if name == "sslmode" else name: said for name, said in given.query.items()}
        return given.set(drivername="postgresql+asyncpg", query=asked)
    if kind == "sqlite" and given.database not in (None, "", ":memory:") and not given.query:
        return given
    scheme, separator, _ = str(url).partition("://")
    shown = f"{scheme}://…" if separator else repr(url)  # it may hold a password
    raise ConfigurationError(
        f"{shown} is no address of a database: give sqlite:///ledger.db (a file), "
        "postgresql://user:password@host/database or memory://."
    )


class Database:
    """A database for one part of this package, in any thread and event loop. It connects, and
    makes or migrates its tables, when it is first used. A file of SQLite is made with mode 0600.

    Args:
        url: see `database_url`, which may refuse it.
        name: of the part, for messages and for the table of its version, `<name>_version`.
        migrations: lead from version 1 to 2, 2 to 3, …, by `alembic.operations.Operations`.
        read_only: nothing is written, made or migrated.
    """

    def __init__(
        self,
        url: str,
        name: str,
        metadata: sa.MetaData,
        migrations: Sequence[Callable[[Any], object]] = (),
        *,
        read_only: bool = False,
    ) -> None:
        address = database_url(url)
        self.on_server, file = address.drivername != "sqlite", address.database
        self.path = None if self.on_server or file is None else Path(file)
        self.place = f"{name} in {self.path or 'its database'}"
        self.read_only, self._migrations = read_only, migrations
        version = sa.Column("version_num", sa.Integer, primary_key=True)
        self._version = sa.Table(f"{name}_version", metadata, version, keep_existing=True)
        self._opened: tuple[int, int] | None = None
        options: dict[str, Any] = {"creator": lambda: self._connect(BUSY_S)}
        if self.on_server:
            times = {"timeout": CONNECT_S, "command_timeout": ANSWER_S}
            options = {"connect_args": times, "pool_size": 3, "pool_pre_ping": True}
        elif self.path is None:  # one connection, which one thread has at a time
            options |= {"poolclass": sa.QueuePool, "pool_size": 1, "max_overflow": 0}
        options |= {"hide_parameters": True, "json_serializer": to_json}
        self._engine = sa.create_engine(address, **options)

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Result of work in a transaction that reads; see `write`."""
        return await self.write(work, reads=True)

    async def write(self, work: Callable[[sa.Connection], T], *, reads: bool = False) -> T:
        """Result of work in a transaction, which keeps all of it or nothing.

        Raises:
            LedgerError: the database cannot be reached, is full or locked, which may pass; there is
                none to read, it is open for reading only, or of a newer version of this package.
        """
        if self.on_server:
            return await asyncio.wrap_future(self._there(self._transact, work, reads))
        if background.is_here():  # also at exit, when there are no other threads any more
            return self._transact(work, reads)
        return await asyncio.to_thread(self._transact, work, reads)

    def move_journal(self, *, wait: bool = False) -> bool:
        """True if SQLite's journal was moved into the database and emptied: it has pages as they
        were before a deletion, which is then for good. PostgreSQL cleans its files by itself."""
        if self.path is None:
            return not self.on_server
        with suppress(sqlite3.Error), closing(self._connect(BUSY_S * wait)) as file:
            for mode in ("PASSIVE", "TRUNCATE"):  # the second has little left to do
                busy, *_ = file.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            return not busy
        return False

    def close(self) -> None:
        """Close the connections; it may be used again, but for `memory://`."""
        self._opened = None
        if self.on_server:
            self._there(self._engine.dispose).result()
        else:
            self._engine.dispose()

    async def aclose(self) -> None:
        """`close` in another thread."""
        await asyncio.to_thread(self.close)

    def _there(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        work: Any = greenlet_spawn(function, *arguments)
        return asyncio.run_coroutine_threadsafe(work, background.loop(waits=False))

    def _transact(self, work: Callable[[sa.Connection], T], reads: bool) -> T:
        first = self._opened is None
        if self.read_only and not reads:
            raise LedgerError(f"{self.place} is open for reading only.")
        if not (reads or first) and self._opened != self._identity():
            raise LedgerError(
                f"{self.place} was deleted or replaced while it was open, and what is written to "
                "it would be lost: put the file back, or close the ledger and open it anew."
            )
        connection: sa.Connection | None = None
        try:
            with self._engine.begin() as connection:
                if not self.on_server:
                    # One that reads first and writes later could not wait for another writer.
                    only_reads = self.read_only or (reads and not first)
                    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
                if first:
                    self._bring_up_to_date(connection)
                done = work(connection)
        except (OSError, sqlite3.Error, exc.StatementError, exc.TimeoutError) as error:
            # What is refused for its values would be again, all else may pass. Of SQLSTATE these
            # classes are about values; one that asyncpg cannot send is a `ValueError`.
            cause = getattr(error, "orig", None) or error
            refused = sqlite3.DataError | sqlite3.IntegrityError | ValueError | TypeError
            state = str(getattr(cause, "sqlstate", None) or "")[:2]
            if connection is None and isinstance(cause.__cause__ or cause, refused):
                raise LedgerError(f"{self.place}: its address is refused: {cause}") from cause
            if state in ("22", "23", "54") or isinstance(cause.__cause__ or cause, refused):
                raise
            raise LedgerError(f"{self.place}: {str(cause) or 'no answer in time'}") from cause
        except (TypeError, OverflowError) as error:
            if connection is not None:
                raise
            raise LedgerError(f"{self.place}: its address is refused: {error}") from error
        self._opened = self._opened or self._identity()
        return done

    def _identity(self) -> tuple[int, int] | None:
        """Device and number of the file (of another database always the same); None: it is gone."""
        with suppress(OSError):
            found = (self.path or Path("/")).stat()
            return found.st_dev, found.st_ino
        return None

    def _connect(self, wait_s: float) -> sqlite3.Connection:
        place = ":memory:"
        if self.path is not None:
            if self._opened is None and not self.path.exists():
                if self.read_only:
                    raise LedgerError(f"there is no {self.place}.")
                # SQLite makes the files beside it with the same mode. A file that is there is not
                # opened: to close it would drop the locks that this process holds on it for its
                # other databases, and the next process that leaves would delete the journal.
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            place = f"{self.path.absolute().as_uri()}?mode={'ro' if self.read_only else 'rw'}"
        connection = sqlite3.connect(
            place, timeout=wait_s, uri=True, check_same_thread=False, isolation_level=None
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA secure_delete = ON")  # texts are not only unlinked
        if not self.read_only:
            connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def _bring_up_to_date(self, connection: sa.Connection) -> None:
        if self.on_server and not self.read_only:
            # One process at a time; in SQLite the transaction sees to that.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('cascade'))"))
        table, newest = self._version, 1 + len(self._migrations)
        known = sa.inspect(connection).has_table(table.name)
        found = connection.execute(sa.select(table)).scalar_one() if known else 0
        if found == newest:
            return
        if self.read_only and not known:
            raise LedgerError(f"there is no {self.place}.")
        if self.read_only or found > newest:
            raise LedgerError(
                f"{self.place} has version {found}, and this agent-cascade knows {newest}: use "
                "the version that wrote it, or open an older one once with read_only=False."
            )
        if not known:
            table.metadata.create_all(connection)
        else:
            from alembic.migration import MigrationContext  # noqa: PLC0415 - seldom
            from alembic.operations import Operations  # noqa: PLC0415

            operations = Operations(MigrationContext.configure(connection))
            for migrate in self._migrations[found - 1 :]:
                migrate(operations)
            connection.execute(table.delete())
        connection.execute(table.insert(), {"version_num": newest})


# --- written through a queue

BATCH, LITTLE, JOURNAL = 1_000, 200, 4_000
"""Changes of one transaction, and of one that an event loop makes; transactions by event loops,
some 40 MB, after which SQLite's journal is moved."""

Waiter = asyncio.Future[None]


@dataclass(eq=False, slots=True)
class Change:
    """A change that waits to be written; `work` is None where only its turn is waited for. One that
    is `kept` must not be lost."""

    work: Any
    kept: bool = False
    done: Waiter | None = None


class Writer(Database, ABC):
    """Database with a queue of changes from any thread and event loop, which a background loop
    makes in their order and in batches; where that fails, they are tried again.

    Attributes:
        linger_s: time that changes wait for others, unless a caller waits for one.
        slow_s, patience_s: longest wait for the database, and where it could not be written.
    """

    linger_s, slow_s, patience_s = 0.05, ANSWER_S, 0.9

    def __init__(self, url: str, name: str, metadata: sa.MetaData, **options: Any) -> None:
        super().__init__(url, name, metadata, **options)
        self._queue: deque[Change] = deque()
        self._room, self._urgent = threading.Condition(), asyncio.Event()
        self._problem: str | None = None
        self._writing: Sequence[Change] = ()  # in the background, now: callers must not write
        self._serving = False
        self._process: int | None = None  # that uses it
        self._file: sqlite3.Connection | None = None  # of `_write_here`
        self._in_journal = 0  # transactions by it

    @abstractmethod
    def _make(self, works: Sequence[Any], connection: Any) -> None:
        """Make changes, by their `work`, in a transaction."""

    @property
    def waiting(self) -> list[Any]:
        """What must not be lost, and is not written yet."""
        with self._room:
            return [change.work for change in (*self._writing, *self._queue) if change.kept]

    def _put(self, *works: Any, kept: bool = False, done: Waiter | None = None) -> None:
        with self._room:
            self._begin_use()
            self._queue.extend(Change(work, kept, done) for work in works)
            self._wake(urgent=len(self._queue) >= LITTLE or done is not None)

    async def _written(self, work: Any = None, undo: Any = None, *, here: bool = False) -> None:
        """Wait until a change is written, with all before it; `here`, where that can be, by the
        thread that asks. Where it is given up after a try, which may have come through, `undo` is
        put; a `LedgerError` says why."""
        if here and self._write_here(work):
            return
        done = asyncio.get_running_loop().create_future()
        self._put(work, done=done)
        try:
            async with asyncio.timeout(self.patience_s if self._problem else self.slow_s):
                await done
        except BaseException as error:
            with self._room:
                if mine := [change for change in self._queue if change.done is done]:
                    self._queue.remove(*mine)
                elif undo is not None:
                    self._put(undo)
            if isinstance(error, TimeoutError):
                raise self._unavailable() from None
            raise

    def _write_here(self, work: Any) -> bool:
        """True if the thread that asks has written a change to SQLite, with what waits, and without
        a wait for a lock or a disk. Not while the background writes, which tells what is wrong."""
        with self._room:
            self._begin_use()
            works = [*(change.work for change in self._queue), work]
            busy = self._writing or self._problem or self._in_journal >= 2 * JOURNAL
            there = self.path is not None and self._opened and self._opened == self._identity()
            if busy or not there or len(works) > LITTLE:
                return False
            try:
                if self._file is None:
                    self._file = self._connect(wait_s=0)
                    self._file.execute("PRAGMA wal_autocheckpoint = 0")  # see `_serve`
                with self._file:
                    self._file.execute("BEGIN IMMEDIATE")
                    self._make(works, self._file)
            except Exception:  # noqa: BLE001 - the background tries again
                return False
            written, self._queue = self._queue, deque()
            self._in_journal += 1
            if self._in_journal >= JOURNAL:
                self._wake()
        _tell(written)
        return True

    @override
    def close(self) -> None:
        """Write what is left, and disconnect; a `LedgerError` where that cannot be done yet.
        It may be used again, but for `memory://`."""
        with self._room:
            if self._process not in (None, os.getpid()):
                return  # it belongs to the process before a fork
            if self._serving:
                self._wake(urgent=True)
            self._room.wait_for(lambda: self._problem or not self._serving, self.slow_s)
            self._room.wait_for(lambda: not self._serving, self.patience_s)
            if self.waiting:
                raise self._unavailable()
            self._process = None
            atexit.unregister(self._at_exit)
            if self._file is not None:
                self._file.close()
                self._file = None
        super().close()

    def _unavailable(self) -> LedgerError:
        slow = f"{self.place} has not answered for {self.slow_s} s"
        why, n = (self._problem or slow).rstrip("."), len(self.waiting)
        return LedgerError(f"{why}; {n:,} changes wait, no call is sent.")

    def _at_exit(self) -> None:
        try:
            self.close()
        except LedgerError:
            for work in self.waiting:
                logger.error("the process ends before this was written: %s", work)

    def _begin_use(self) -> None:
        if self.read_only:
            raise LedgerError(f"{self.place} is open for reading only.")
        if self._process is None:
            self._process = os.getpid()
            atexit.register(self._at_exit)
        elif self._process != os.getpid():
            raise LedgerError(
                f"{self.place} was in use before the process forked: open a store of its own in "
                "each process, with open_store(…)."
            )

    def _wake(self, *, urgent: bool = False) -> None:
        if not self._serving:
            loop, self._serving = background.loop(), True
            asyncio.run_coroutine_threadsafe(self._serve(), loop)
        if urgent and not self._urgent.is_set():
            background.loop().call_soon_threadsafe(self._urgent.set)

    async def _serve(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._urgent.wait(), self.linger_s)
        if self._in_journal >= JOURNAL:
            self._in_journal = 0
            self.move_journal()
        while True:
            with self._room:
                self._writing = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                self._room.notify_all()
                if not self._writing:
                    self._serving = False
                    self._urgent.clear()
                    return
            await self._write(self._writing)

    async def _write(self, changes: Sequence[Change]) -> None:
        """Write changes, as often as it takes; those that can never be kept are refused."""
        while works := [change.work for change in changes if change.work is not None]:
            try:
                await self.write(partial(self._make, works))
                break
            except LedgerError as error:
                if self._problem is None:
                    logger.warning("a database cannot be written, trying again: %s", error)
                self._problem = str(error)
                with self._room:
                    _tell((*changes, *self._queue), self._unavailable())
                    self._room.notify_all()
                if self._process is None:  # it was closed, and nothing must be kept
                    return
                await asyncio.sleep(PAUSE_S)
            except Exception as error:  # noqa: BLE001 - the caller is told, or the log
                if len(changes) > 1:
                    for each in changes:
                        await self._write([each])
                else:
                    refused = LedgerError(f"{self.place} refused {works[0]} ({error})")
                    logger.error("%s", refused)
                    _tell(changes, refused)
                return
        if works and self._problem is not None:
            logger.warning("%s is written again", self.place)
            self._problem = None
        _tell(changes)


def _tell(changes: Iterable[Change], error: LedgerError | None = None) -> None:
    """Tell the callers who wait that it is written, or why not: each event loop once."""
    waiting = defaultdict[asyncio.AbstractEventLoop, list[Waiter]](list)
    for change in changes:
        if change.done is not None:
            waiting[change.done.get_loop()].append(change.done)

    def end(its: Iterable[Waiter]) -> None:
        for done in its:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

    for loop, its in waiting.items():
        with suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(end, its)
