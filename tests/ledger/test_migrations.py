"""A database of an older version is brought up to date by the one that opens it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, MetaData, Table, Text, select

from cascade.errors import LedgerError
from cascade.ledger.database import Database, Schema
from cascade.ledger.tables import LEDGER

SECOND = """
from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "2", "1"


def upgrade():
    op.add_column("notes", Column("mood", Text))
"""


def notes(*columns: str) -> tuple[MetaData, Table]:
    metadata = MetaData()
    table = Table("notes", metadata, *(Column(name, Text) for name in ("word", *columns)))
    return metadata, table


@pytest.fixture
async def old(url: str) -> str:
    metadata, table = notes()
    database = Database(url, Schema("notes", metadata, "1"))
    await database.write(lambda c: c.execute(table.insert(), {"word": "kept"}).rowcount)
    await database.aclose()
    return url


@pytest.fixture
def newer(tmp_path: Path) -> tuple[Schema, Table]:
    metadata, table = notes("mood")
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "versions/0001_first.py"):
        (folder / name).write_text((LEDGER.migrations / name).read_text())
    (folder / "versions" / "0002_mood.py").write_text(SECOND)
    return Schema("notes", metadata, "2", folder), table


async def test_an_older_database_is_migrated_once(old: str, newer: tuple[Schema, Table]) -> None:
    pytest.importorskip("alembic")
    schema, table = newer

    def read(connection: Connection) -> list[tuple[str, str | None]]:
        return [tuple(row) for row in connection.execute(select(table.c.word, table.c.mood))]

    for _ in range(2):
        database = Database(old, schema)
        assert await database.write(read) == [("kept", None)]
        await database.aclose()


async def test_an_older_database_is_not_changed_by_a_reader_nor_a_newer_one_by_anybody(
    old: str, newer: tuple[Schema, Table], tmp_path: Path
) -> None:
    with pytest.raises(LedgerError, match=r"version 1, and this agent-cascade knows 2"):
        await Database(old, newer[0], read_only=True).read(lambda connection: None)
    url = f"sqlite:///{tmp_path}/new.db"
    database = Database(url, newer[0])
    await database.open()
    await database.aclose()
    with pytest.raises(LedgerError, match=r"version 2, and this agent-cascade knows 1"):
        await Database(url, Schema("notes", notes()[0], "1")).open()
