"""A ledger that may be read only: of whoever reports on it, or by accident of who writes it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.store import open_store
from cascade.ledger.store.migrations import MIGRATIONS, READABLE, migrate
from cascade.ledger.store.opening import database_url
from cascade.ledger.store.writer import Limits
from tests.failing.worlds import asking, entries, entry, open_folder, runs_of, until, unwritable


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


async def filled(url: str, n: int = 3) -> None:
    async with open_store(url) as store:
        store.append(entries(n))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_reader_reads_in_a_folder_that_cannot_be_written(folder: Path) -> None:
    url = f"sqlite:///{folder}/ledger.db"
    await filled(url)
    with unwritable(folder):
        async with open_store(url, read_only=True) as store:
            assert await runs_of(store) == ["0", "1", "2"]
            assert (await store.cost()).known == 3 * entry().cost_usd  # type: ignore[operator]


async def test_what_only_the_journal_has_is_not_left_out_of_what_is_read(folder: Path) -> None:
    await filled(f"sqlite:///{folder}/ledger.db")
    writer = open_store(f"sqlite:///{folder}/ledger.db")
    writer.append([entry("late")])
    await writer.flush()
    copies = folder / "copies"
    copies.mkdir(mode=0o777)
    for name in ("ledger.db", "ledger.db-wal"):
        shutil.copy(folder / name, copies / name)
    await writer.aclose()
    with unwritable(copies):
        reader = open_store(f"sqlite:///{copies}/ledger.db", read_only=True)
        with pytest.raises(LedgerError, match=r"ledger\.db-wal.*Copy both files"):
            await reader.query()
        await reader.aclose()
    async with open_store(f"sqlite:///{copies}/ledger.db", read_only=True) as reader:
        assert (await runs_of(reader))[-1] == "late"


async def test_a_reader_reads_while_another_process_writes(sqlite_url: str) -> None:
    async with open_store(sqlite_url) as writer, open_store(sqlite_url, read_only=True) as reader:
        for n in range(1, 4):
            writer.append([entry(str(n))])
            await writer.flush()
            assert len(await reader.query()) == n


async def test_a_reader_makes_no_file(tmp_path: Path) -> None:
    reader = open_store(f"sqlite:///{tmp_path}/none.db", read_only=True)
    with pytest.raises(LedgerError, match=r"there is no ledger .*none\.db"):
        await reader.query()
    assert contents(tmp_path) == {}


async def test_a_file_that_is_no_ledger_is_no_ledger(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE another (x)")
    reader = open_store(f"sqlite:///{tmp_path}/other.db", read_only=True)
    with pytest.raises(LedgerError, match="no ledger in this database"):
        await reader.query()


async def older(url: str, version: int) -> None:
    engine = create_async_engine(database_url(url))
    await migrate(engine, to=version)
    await engine.dispose()


async def test_a_reader_leaves_an_older_schema_as_it_is(url: str) -> None:
    assert len(MIGRATIONS) > READABLE
    await older(url, READABLE)
    for _ in range(2):
        async with open_store(url, read_only=True) as reader:
            assert await reader.query() == []
            assert await reader.unfinished() == []


async def test_a_schema_too_old_to_be_read_is_named_and_not_migrated(url: str) -> None:
    await older(url, READABLE - 1)
    for _ in range(2):
        reader = open_store(url, read_only=True)
        with pytest.raises(LedgerError, match=rf"version {READABLE - 1}.*takes {READABLE}"):
            await reader.query()
        await reader.aclose()
    await filled(url)
    async with open_store(url, read_only=True) as reader:
        assert len(await reader.query()) == 3


async def test_a_reader_refuses_whatever_would_write(url: str) -> None:
    await filled(url)
    async with open_store(url, read_only=True) as reader:
        with pytest.raises(LedgerError, match="reading only"):
            reader.append(entries(1))
        with pytest.raises(LedgerError, match="reading only"):
            await reader.delete(everything=True)
        async with asking(reader) as cascade:
            with pytest.raises(LedgerError, match="reading only"):
                await cascade.ainvoke("2 + 2?")
        assert len(await reader.query()) == 3


def test_a_ledger_in_memory_has_nothing_to_read() -> None:
    with pytest.raises(ConfigurationError, match="nothing in it"):
        open_store("memory://", read_only=True)


async def test_entries_wait_until_their_file_may_be_written_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{folder}/ledger.db"
    await filled(url)
    with unwritable(folder):
        store = open_store(url, limits=Limits(patience_s=0.1))
        store.append(entries(4, first=3))
        await until(lambda: "trying again" in caplog.text)
        assert store.waiting == 4
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == [str(number) for number in range(7)]
    await store.aclose()
