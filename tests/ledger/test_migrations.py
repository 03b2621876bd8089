"""A database of an older version is brought up to date by the one that opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table, Text, select

from cascade.errors import LedgerError
from cascade.ledger.database import Database


def notes(*columns: str) -> tuple[MetaData, Table]:
    metadata = MetaData()
    table = Table("notes", metadata, *(Column(name, Text) for name in ("word", *columns)))
    return metadata, table


@pytest.fixture
async def old(url: str) -> str:
    metadata, table = notes()
    database = Database(url, "notes", metadata)
    await database.write(lambda c: c.execute(table.insert(), {"word": "kept"}).rowcount)
    await database.aclose()
    return url


def newer(url: str, **options: Any) -> tuple[Database, Table]:
    def add_mood(op: Any) -> None:
        op.add_column("notes", Column("mood", Text))

    metadata, table = notes("mood")
    return Database(url, "notes", metadata, [add_mood], **options), table


async def test_an_older_database_is_migrated_once(old: str) -> None:
    pytest.importorskip("alembic")
    for _ in range(2):
        database, table = newer(old)
        statement = select(table.c.word, table.c.mood)
        found = await database.read(lambda c, s=statement: c.execute(s).all())  # type: ignore[misc]
        assert found == [("kept", None)]
        await database.aclose()


async def test_an_older_database_is_not_changed_by_a_reader_nor_a_newer_one_by_anybody(
    old: str, tmp_path: Path
) -> None:
    with pytest.raises(LedgerError, match=r"version 1, and this agent-cascade knows 2"):
        await newer(old, read_only=True)[0].read(lambda connection: None)
    url = f"sqlite:///{tmp_path}/new.db"
    database, _ = newer(url)
    await database.read(lambda connection: None)
    await database.aclose()
    with pytest.raises(LedgerError, match=r"version 2, and this agent-cascade knows 1"):
        await Database(url, "notes", notes()[0]).read(lambda connection: None)
