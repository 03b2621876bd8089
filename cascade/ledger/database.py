"""Databases reached through SQLAlchemy Core: SQLite files and PostgreSQL servers.

The ledger, budgets, keys and lessons may share one database, each with a schema of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError
from typing_extensions import override

from cascade.errors import ConfigurationError, LedgerError, MissingDependencyError
from cascade.ledger.base import UnavailableError

try:
    import sqlalchemy as sa
    from sqlalchemy import event
    from sqlalchemy.dialects.postgresql import JSONB
    from sqlalchemy.engine import Dialect
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError, StatementError
    from sqlalchemy.exc import TimeoutError as PoolTimeoutError
    from sqlalchemy.pool import StaticPool
    from sqlalchemy.types import TypeDecorator
except ImportError as error:
    raise MissingDependencyError(
        'a database needs SQLAlchemy: in a clone, pip install ".[store]", or [postgres].'
    ) from error

T = TypeVar("T")

LOCK = 0x6361736361646500
"""Key of PostgreSQL's advisory lock under which schemas are made."""

BUSY_S = 0.9
"""Longest wait for a lock of SQLite."""

CONNECT_S, ANSWER_S = 5.0, 60.0
"""Longest wait for a server: to connect, and for one statement."""

_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def clean(words: str) -> str:
    """Text that every database takes: no NUL and no half of a surrogate pair."""
    if words.isascii() and "\0" not in words:
        return words
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def to_json(value: Any) -> str:
    """JSON text that every database takes, also of a record."""
    if isinstance(value, BaseModel):
        try:
            written = value.model_dump_json(exclude_none=True)
        except PydanticSerializationError:  # half of a surrogate pair
            return to_json(value.model_dump(mode="json", exclude_none=True))
    else:
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return clean(_ESCAPED_NUL.sub(r"\1\\ufffd", written) if "\\u0000" in written else written)


class Words(TypeDecorator[str]):
    """Text, cleaned."""

    impl = sa.Text
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class Money(TypeDecorator[Decimal]):
    """Dollars to the last digit: NUMERIC where it is exact, else text."""

    impl = sa.Text().with_variant(sa.Numeric(), "postgresql")
    cache_ok = True

    @override
    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class UtcTime(TypeDecorator[datetime]):
    """A time in UTC to the microsecond; as text it sorts as it should."""

    impl = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is not UTC:  # a time without a zone is taken for UTC
            value = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return value if dialect.name == "postgresql" else value.isoformat(timespec="microseconds")

    @override
    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)


json_type = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""Type of JSON within a row."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables that belong together, from which a new database is made.

    Attributes:
        name: for messages, and of the table that holds the version: `<name>_version`.
        version: of the tables, the newest revision of the migrations: "1", "2", …
        migrations: folder of alembic's scripts, which bring an older database up to date.
    """

    name: str
    metadata: sa.MetaData
    version: str
    migrations: Path | None = None


def database_url(url: str) -> tuple[Literal["sqlite", "postgresql", "memory"], sa.URL]:
    """The kind of a database, and its address for SQLAlchemy; a `ConfigurationError` where it is
    none, a `MissingDependencyError` where its driver is not installed."""
    given = sa.URL.create("")
    with suppress(ArgumentError, ValueError):  # also of a port
        given = sa.make_url(url)
    kind = given.get_backend_name()
    if kind == "memory":
        return "memory", sa.URL.create("sqlite")
    if kind in ("postgresql", "postgres"):
        if find_spec("asyncpg") is None or find_spec("greenlet") is None:
            raise MissingDependencyError(
                'PostgreSQL needs asyncpg: in a clone, pip install ".[postgres]".'
            )
        return "postgresql", given.set(drivername="postgresql+asyncpg")
    if kind == "sqlite" and given.database not in (None, "", ":memory:"):
        return "sqlite", given
    scheme, separator, _ = str(url).partition("://")
    shown = f"{scheme}://…" if separator else repr(url)  # it may hold a password
    raise ConfigurationError(
        f"{shown} is no address of a database: give sqlite:///ledger.db (a file), "
        "postgresql://user:password@host/database or memory://."
    )


class Database:
    """A database with one schema in it; it connects when it is first used.

    One in PostgreSQL belongs to one event loop. A file of SQLite is made with mode 0600.

    Args:
        url: see `database_url`, which may refuse it.
        schema: what is to be in it.
        read_only: nothing is written, made or migrated.
        own_thread: whether it is used in the event loop of a thread of its own: writes to SQLite
            hold that up, as it has to write at exit, too, when there are no other threads any more.
    """

    def __init__(
        self, url: str, schema: Schema, *, read_only: bool = False, own_thread: bool = False
    ) -> None:
        self.kind, self._url = database_url(url)
        self.path = Path(self._url.database or "") if self.kind == "sqlite" else None
        self.read_only = read_only
        self.place = f"{schema.name} in {self.path or 'its database'}"
        self._schema, self._own_thread = schema, own_thread
        self._engine: Any = None
        self._opened: tuple[int, int] | None = None
        self._file: sqlite3.Connection | None = None
        self._opening = asyncio.Lock()

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Result of work in a transaction that reads; `UnavailableError` without a database."""
        await self.open()
        return await self._transact(self._engine, work, reads=True)

    async def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Result of work in a transaction, which keeps all of it or nothing.

        Raises:
            UnavailableError: the database cannot be reached, is full or locked.
            LedgerError: it is open for reading only.
        """
        if self.read_only:
            raise LedgerError(f"{self.place} is open for reading only.")
        await self.open()
        if self._opened != _identity(self.path):
            raise UnavailableError(
                f"{self.place} was deleted or replaced while it was open, and what is written to "
                "it would be lost: put the file back, or close the ledger and open it anew."
            )
        return await self._transact(self._engine, work, reads=False)

    def write_now(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        """True if work in a transaction was done by the thread that asks, without a wait for a lock
        or a disk. Where it was not, `write` tells what is wrong."""
        if self.path is None or self.read_only or self._engine is None:
            return False
        if self._opened != _identity(self.path):  # `write` tells
            return False
        with suppress(Exception):
            if self._file is None:
                self._file = sqlite3.connect(self.path, timeout=0, check_same_thread=False)
                _set_up(self._file)
                # To move the journal takes a while: `write` does it, and `move_journal`.
                self._file.execute("PRAGMA wal_autocheckpoint = 0").close()
            with self._file:
                self._file.execute("BEGIN IMMEDIATE").close()
                work(self._file)
            return True
        return False

    async def open(self) -> None:
        """Connect, and make or migrate the schema.

        Raises:
            UnavailableError: the database cannot be reached.
            LedgerError: there is none to read, or it is of a newer version of this package.
        """
        async with self._opening:
            if self._engine is not None:
                return
            engine = self._connect()
            try:
                await self._transact(engine, self._bring_up_to_date, reads=self.read_only)
            except BaseException:
                await _dispose(engine)
                raise
            self._engine, self._opened = engine, _identity(self.path)

    async def aclose(self) -> None:
        """Close the connections; it may be used again, also in another event loop."""
        self._opening = asyncio.Lock()
        engine, self._engine = self._engine, None
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if engine is not None:
            await _dispose(engine)

    def move_journal(self) -> None:
        """Move SQLite's journal into the database, beside callers that write."""
        if self._engine is None:
            return
        with suppress(sqlite3.Error, SQLAlchemyError), closing(self._engine.raw_connection()) as it:
            it.driver_connection.execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    async def scrub(self) -> bool:
        """True if SQLite's journal was emptied, which has pages as they were before a deletion;
        PostgreSQL cleans its files by itself."""
        path = self.path
        if path is None:
            return self.kind == "memory"

        def emptied() -> bool:
            with closing(sqlite3.connect(path, timeout=BUSY_S)) as file, suppress(sqlite3.Error):
                busy, *_ = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                return not busy
            return False

        return await asyncio.to_thread(emptied)

    async def _transact(self, engine: Any, work: Callable[[sa.Connection], T], *, reads: bool) -> T:
        def transaction() -> T:
            with engine.execution_options(reads=reads).begin() as connection:
                return work(connection)

        with _told_apart(self.place):
            if self.kind == "postgresql":
                async with engine.begin() as connection:
                    return cast("T", await connection.run_sync(work))
            if self.kind == "memory" or (self._own_thread and not reads):
                return transaction()
            return await asyncio.to_thread(transaction)

    def _connect(self) -> Any:
        common: dict[str, Any] = {"hide_parameters": True, "json_serializer": to_json}
        if self.kind == "postgresql":
            from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415 - greenlet

            times = {"timeout": CONNECT_S, "command_timeout": ANSWER_S}
            more = {"connect_args": times, "isolation_level": "READ COMMITTED", **common}
            return create_async_engine(self._url, pool_size=3, pool_pre_ping=True, **more)
        url = self._url
        if self.path is None:
            common["poolclass"] = StaticPool
        elif self.read_only:
            if not self.path.exists():
                raise LedgerError(f"there is no {self.place}.")
            url = sa.make_url(f"sqlite:///{self.path.absolute().as_uri()}?mode=ro&uri=true")
        else:
            # SQLite makes the files beside it with the same mode. A file that is there is not
            # opened: to close it would drop the locks that this process holds on it for its other
            # databases, and the next process that leaves would delete the journal under them.
            with _told_apart(self.place), suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        arguments = {"timeout": BUSY_S, "check_same_thread": False}
        engine = sa.create_engine(url, connect_args=arguments, **common)

        def set_up(connection: sqlite3.Connection, record: object) -> None:
            del record
            _set_up(connection)
            if not self.read_only:
                connection.execute("PRAGMA journal_mode = WAL").close()

        event.listen(engine, "connect", set_up)
        event.listen(engine, "begin", _begin)
        return engine

    def _bring_up_to_date(self, connection: sa.Connection) -> None:
        """Make the tables where there are none, and migrate older ones."""
        newest, table = self._schema.version, f"{self._schema.name}_version"
        if self.kind == "postgresql" and not self.read_only:
            # One process at a time; in SQLite the transaction sees to that.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        version = None
        if sa.inspect(connection).has_table(table):
            version = connection.execute(sa.text(f"SELECT version_num FROM {table}")).scalar_one()  # noqa: S608
        if version == newest:
            return
        if version is None and self.read_only:
            raise LedgerError(f"there is no {self.place}.")
        if version is not None and (self.read_only or int(version) > int(newest)):
            raise LedgerError(
                f"{self.place} has version {version}, and this agent-cascade knows {newest}: use "
                "the version that wrote it, or open an older one once with read_only=False."
            )
        if version is not None:
            _migrate(connection, self._schema, table)
            return
        self._schema.metadata.create_all(connection)
        connection.execute(sa.text(f"CREATE TABLE {table} (version_num VARCHAR(32) PRIMARY KEY)"))
        connection.execute(sa.text(f"INSERT INTO {table} VALUES (:v)"), {"v": newest})  # noqa: S608


def _migrate(connection: sa.Connection, schema: Schema, table: str) -> None:
    from alembic import command  # noqa: PLC0415 - only where a database is older
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(schema.migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, version_table=table)
    command.upgrade(config, "head")


# --- SQLite's connections, and errors


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Device and number of a file; None where there is none."""
    with suppress(OSError):
        found = None if path is None else path.stat()
        return None if found is None else (found.st_dev, found.st_ino)
    return None


def _set_up(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None  # transactions begin where it is said
    connection.execute("PRAGMA synchronous = NORMAL").close()
    connection.execute("PRAGMA secure_delete = ON").close()  # texts are not only unlinked


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer.
    reads = connection.get_execution_options().get("reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


async def _dispose(engine: Any) -> None:
    if (disposed := engine.dispose()) is not None:
        await disposed


@contextmanager
def _told_apart(place: str) -> Iterator[None]:
    """Errors that may pass, as `UnavailableError`: all but what is refused for its values."""
    try:
        yield
    except (OSError, PoolTimeoutError) as error:
        raise UnavailableError(f"{place}: {error or 'no answer in time'}") from error
    except (sqlite3.Error, StatementError) as error:
        cause = error.orig if isinstance(error, StatementError) and error.orig else error
        if _refuses_values(cause):
            raise
        raise UnavailableError(f"{place}: {cause}") from cause


def _refuses_values(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.DataError | sqlite3.IntegrityError)
    # asyncpg calls a value that it cannot send an error of the interface, and of ValueError. Of
    # SQLSTATE these classes are about values: cardinality, data, integrity, size.
    state = str(getattr(error, "sqlstate", None) or "")[:2]
    wrong = ValueError | TypeError
    return (
        state in ("21", "22", "23", "54")
        or isinstance(error, wrong)
        or isinstance(error.__cause__, wrong)
    )
