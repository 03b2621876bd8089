"""The schema grows step by step, whoever starts it."""

from __future__ import annotations

import asyncio
import atexit
import sqlite3
from contextlib import closing
from pathlib import Path
from subprocess import run
from sys import executable

import asyncpg
import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from cascade.errors import LedgerError
from cascade.ledger.store import open_store
from cascade.ledger.store.engines import make_engine
from cascade.ledger.store.migrations import MIGRATIONS, migrate
from cascade.ledger.store.tables import metadata
from cascade.state import LedgerEntry


def with_driver(url: str) -> str:
    return url.replace("sqlite:", "sqlite+aiosqlite:").replace("sql:", "sql+asyncpg:")


def engine_of(url: str) -> AsyncEngine:
    return make_engine(with_driver(url))


async def columns(connection: AsyncConnection) -> dict[str, set[str]]:
    def look(sync: object) -> dict[str, set[str]]:
        found = inspect(sync)
        return {t: {c["name"] for c in found.get_columns(t)} for t in found.get_table_names()}  # type: ignore[attr-defined]

    return await connection.run_sync(look)


async def test_all_steps_together_make_the_schema_that_the_code_expects(url: str) -> None:
    engine = engine_of(url)
    await migrate(engine)
    async with engine.connect() as connection:
        found = await columns(connection)
        steps = await connection.execute(text("SELECT version, name FROM ledger_schema"))
        assert steps.all() == [(i + 1, m.name) for i, m in enumerate(MIGRATIONS)]
    await engine.dispose()
    del found["ledger_schema"]
    assert found == {t.name: {c.name for c in t.columns} for t in metadata.sorted_tables}


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_ledger_of_any_older_version_keeps_its_entries(url: str, version: int) -> None:
    engine = engine_of(url)
    await migrate(engine, to=version)
    at = {"sqlite": "2026-01-01T00:00:00.000000+00:00"}.get(engine.dialect.name, "2026-01-01Z")
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO ledger_entries (id, run_id, node, latency_ms, cost_usd, cost_basis, "
                "basis, outcome, note, at) VALUES ('1', 'old', 'draft', 1.5, '0.125', 'measured', "
                f"'unknown', 'ok', '', '{at}')"
            )
        )
    await engine.dispose()
    async with open_store(url) as ledger:
        ledger.append([LedgerEntry(run_id="new", node="draft")])
        old, new = await ledger.query()
    assert (old.run_id, str(old.cost_usd), old.saved_usd, old.attempt_id) == (
        "old",
        "0.125",
        None,
        None,
    )
    assert new.run_id == "new"


async def test_a_ledger_of_a_newer_version_is_left_alone(sqlite_url: str) -> None:
    engine = create_async_engine(with_driver(sqlite_url))
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE ledger_schema (version, name, applied_at)"))
        await connection.execute(text("INSERT INTO ledger_schema VALUES (99, 'future', '')"))
    await engine.dispose()
    ledger = open_store(sqlite_url)
    with pytest.raises(LedgerError, match="version 99"):
        await ledger.query()
    atexit.unregister(ledger._writer._at_exit)  # it would be tried once more


async def test_who_may_only_read_can_read(postgres_url: str) -> None:
    async with open_store(postgres_url) as ledger:
        ledger.append([LedgerEntry(run_id="r", node="draft")])
    admin = await asyncpg.connect(postgres_url)
    try:
        await admin.execute("CREATE ROLE reader LOGIN")
        await admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        async with open_store(postgres_url.replace("cascade@", "reader@")) as ledger:
            assert [entry.run_id for entry in await ledger.query()] == ["r"]
    finally:
        await admin.execute("DROP OWNED BY reader; DROP ROLE reader")
        await admin.close()


async def test_a_ledger_that_is_up_to_date_is_opened_beside_a_long_write(sqlite_url: str) -> None:
    async with open_store(sqlite_url) as ledger:
        ledger.append([LedgerEntry(run_id="r", node="draft")])
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        reader = open_store(sqlite_url)
        assert [entry.run_id for entry in await asyncio.wait_for(reader.query(), 5)] == ["r"]
    await reader.aclose()


def test_importing_the_package_loads_no_database(tmp_path: Path) -> None:
    script = (
        "import sys, cascade, cascade.ledger.store as s; [getattr(cascade, n) for n in "
        "cascade.__all__]; assert not {'sqlalchemy', 'pyarrow', 'aiosqlite'} & set(sys.modules)"
    )
    assert run([executable, "-c", script], cwd=tmp_path, check=False).returncode == 0
