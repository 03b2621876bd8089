"""The schema, as numbered steps from the first day on.

A step that was ever released is never edited: what has to change becomes a new step. Each is
applied once, in its own transaction; those who start together wait for one another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cascade.errors import LedgerError
from cascade.ledger.store.engines import READS, told_apart
from cascade.ledger.store.shared_sql import (
    EVIDENCE_TABLES,
    ROLLOUT_TABLES,
    SHARED_FUNCTIONS,
    SHARED_TABLES,
)

LOCK = 0x0CA5CADE
"""Key of the advisory lock in PostgreSQL. SQLite has one writer anyhow."""

TYPES = {
    # Text keeps every digit of an amount; SQLite has no exact decimals.
    "sqlite": {
        "money": "TEXT",
        "time": "TEXT",
        "json": "TEXT",
        "count": "INTEGER",
        "day": "TEXT",
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
    },
    "postgresql": {
        "money": "NUMERIC",
        "time": "TIMESTAMP WITH TIME ZONE",
        "json": "JSONB",
        "count": "BIGINT",
        "day": "DATE",
        "serial": "BIGSERIAL PRIMARY KEY",
    },
}


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `{money}` and the like stand for the types of the database.

    `postgresql` is done there alone, afterwards and as it stands.
    """

    name: str
    statements: tuple[str, ...]
    postgresql: tuple[str, ...] = ()


MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "entries",
        (
            """CREATE TABLE ledger_entries (
                id TEXT NOT NULL PRIMARY KEY,
                run_id TEXT NOT NULL,
                node TEXT NOT NULL,
                tier TEXT,
                model TEXT,
                input_tokens {count},
                output_tokens {count},
                cached_tokens {count},
                reasoning_tokens {count},
                latency_ms DOUBLE PRECISION NOT NULL,
                cost_usd {money},
                saved_usd {money},
                baseline_usd {money},
                cost_basis TEXT NOT NULL,
                basis TEXT NOT NULL,
                outcome TEXT NOT NULL,
                note TEXT NOT NULL,
                at {time} NOT NULL
            )""",
            "CREATE INDEX ledger_entries_at ON ledger_entries (at, id)",
            "CREATE INDEX ledger_entries_run ON ledger_entries (run_id)",
        ),
    ),
    Migration(
        "attempts",
        (
            "ALTER TABLE ledger_entries ADD COLUMN attempt_id TEXT",
            """CREATE TABLE ledger_attempts (
                attempt_id TEXT NOT NULL PRIMARY KEY,
                run_id TEXT NOT NULL,
                node TEXT NOT NULL,
                tier TEXT,
                model TEXT,
                begun_at {time} NOT NULL
            )""",
        ),
    ),
    Migration(
        "tags",
        (
            "ALTER TABLE ledger_entries ADD COLUMN tags {json}",
            "ALTER TABLE ledger_attempts ADD COLUMN tags {json}",
        ),
    ),
    Migration(
        "audits",
        (
            *(
                f"ALTER TABLE ledger_entries ADD COLUMN {column}"
                for column in (
                    "cache_write_tokens {count}",
                    "tool_calls {count} NOT NULL DEFAULT 0",
                    "price TEXT",
                    "marginal_usd {money}",
                    "assumed_usd {money}",
                    "baseline_low_usd {money}",
                    "baseline_high_usd {money}",
                    "prompt_hash TEXT",
                    "answer_hash TEXT",
                    "action TEXT",
                    "confidence DOUBLE PRECISION",
                    "calibrated BOOLEAN NOT NULL DEFAULT FALSE",
                    "signals {json}",
                    "audit_rate DOUBLE PRECISION",
                    "large_usd {money}",
                    "loss DOUBLE PRECISION",
                )
            ),
            "CREATE INDEX ledger_entries_node ON ledger_entries (node, at)",
        ),
    ),
    Migration(
        "texts",
        (
            """CREATE TABLE ledger_texts (
                id TEXT NOT NULL PRIMARY KEY,
                run_id TEXT NOT NULL,
                node TEXT NOT NULL,
                tier TEXT,
                prompt TEXT NOT NULL,
                answer TEXT,
                at {time} NOT NULL,
                tags {json}
            )""",
            "CREATE INDEX ledger_texts_at ON ledger_texts (at, id)",
            "CREATE INDEX ledger_texts_run ON ledger_texts (run_id)",
            """CREATE TABLE ledger_pending (
                run_id TEXT NOT NULL PRIMARY KEY,
                payload TEXT NOT NULL,
                at {time} NOT NULL,
                tags {json},
                claimed_by TEXT,
                claimed_at {time}
            )""",
        ),
    ),
    Migration(
        "keys",
        (
            """CREATE TABLE service_keys (
                id TEXT NOT NULL PRIMARY KEY,
                name TEXT NOT NULL,
                digest TEXT NOT NULL UNIQUE,
                models {json},
                per_minute DOUBLE PRECISION,
                day_usd {money},
                month_usd {money},
                exhausted TEXT,
                tags {json},
                admin BOOLEAN NOT NULL DEFAULT FALSE,
                made_at {time} NOT NULL,
                revoked_at {time}
            )""",
        ),
    ),
    Migration("replicas", SHARED_TABLES, SHARED_FUNCTIONS),
    Migration("rollouts", ROLLOUT_TABLES),
    Migration("evidence", EVIDENCE_TABLES),
)


@dataclass(frozen=True, slots=True)
class Schema:
    """Steps that belong together; several schemas may be in one database.

    Attributes:
        table: where the steps that were applied are written down.
        what: whose schema it is, for messages.
        steps: the migrations, numbered from 1.
    """

    table: str
    what: str
    steps: tuple[Migration, ...]


LEDGER = Schema("ledger_schema", "the ledger", MIGRATIONS)

READABLE = 1 + [migration.name for migration in MIGRATIONS].index("texts")
"""The oldest version in which there is all that a reader asks for: later steps are not about
entries."""


async def check(engine: AsyncEngine) -> None:
    """See to it that the schema can be read as it is.

    Raises:
        LedgerError: there is none, or it is too old or too new; it says what to do.
    """
    async with engine.execution_options(**{READS: True}).connect() as connection:
        version = await _version(connection, LEDGER)
    if not version:
        raise LedgerError("there is no ledger in this database.")
    if version < READABLE:
        raise LedgerError(
            f"the ledger's schema has version {version}, and reading takes {READABLE}: let "
            "open_store(…, read_only=False) bring it up to date, which programs of older versions "
            "cannot read any more, or read it with the version that wrote it."
        )


async def migrate(engine: AsyncEngine, *, to: int | None = None, schema: Schema = LEDGER) -> None:
    """Bring a schema up to a version, the newest unless another is named.

    Nothing is written where that is its version, so that a report can be made by who may only
    read.

    Raises:
        LedgerError: the database was written by a newer version of this package.
    """
    to = len(schema.steps) if to is None else to
    async with engine.execution_options(**{READS: True}).connect() as connection:
        if await _version(connection, schema) >= to:
            return
    for _ in range(to + 1):
        async with engine.begin() as connection:
            if await _step(connection, to, schema):
                return


class MigratedEngine:
    """A database that is connected to, and brought up to date, when somebody first needs it.

    It belongs to one event loop.

    Args:
        make: makes its engine.
        place: what errors call it.
        migrate: brings it up to date.
    """

    def __init__(
        self,
        make: Callable[[], AsyncEngine],
        place: str = "the ledger's database",
        *,
        migrate: Callable[[AsyncEngine], Awaitable[None]] = migrate,
    ) -> None:
        self._make = make
        self._place = place
        self._migrate = migrate
        self._engine: AsyncEngine | None = None
        self._opening = asyncio.Lock()

    async def get(self) -> AsyncEngine:
        """The engine. Where it cannot be had, the next one who asks tries again.

        Raises:
            UnavailableError: the database cannot be reached.
            LedgerError: it was written by a newer version of this package.
        """
        async with self._opening:
            if self._engine is None:
                engine = self._make()
                try:
                    with told_apart(self._place):
                        await self._migrate(engine)
                except BaseException:
                    await engine.dispose()
                    raise
                self._engine = engine
            return self._engine

    async def aclose(self) -> None:
        """Close the connections; it may be used again afterwards."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None


async def _version(connection: AsyncConnection, schema: Schema) -> int:
    """The schema's version; 0 where there is none.

    Raises:
        LedgerError: it is newer than this package.
    """
    if not await connection.run_sync(lambda sync: inspect(sync).has_table(schema.table)):
        return 0
    newest = f"SELECT coalesce(max(version), 0) FROM {schema.table}"  # noqa: S608 - a constant
    found = await connection.execute(text(newest))
    version: int = found.scalar_one()
    if version > len(schema.steps):
        raise LedgerError(
            f"the schema of {schema.what} has version {version}, and this agent-cascade knows "
            f"{len(schema.steps)}: use the version that wrote it, or a newer one."
        )
    return version


async def _step(connection: AsyncConnection, to: int, schema: Schema) -> bool:
    """Apply the next migration; returns whether there was none left."""
    dialect = connection.dialect.name
    if dialect == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    await connection.execute(
        text(
            f"CREATE TABLE IF NOT EXISTS {schema.table} "
            "(version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"
        )
    )
    version = await _version(connection, schema)
    if version >= to:
        return True
    migration = schema.steps[version]
    for statement in migration.statements:
        await connection.execute(text(statement.format(**TYPES[dialect])))
    for statement in migration.postgresql if dialect == "postgresql" else ():
        await connection.execute(text(statement))
    await connection.execute(
        text(f"INSERT INTO {schema.table} VALUES (:version, :name, :at)"),  # noqa: S608
        {"version": version + 1, "name": migration.name, "at": datetime.now(UTC).isoformat()},
    )
    return False
