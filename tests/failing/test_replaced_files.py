"""The file of an SQLite ledger is deleted, replaced or spoiled while it is in use."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from cascade.ledger.store import open_store
from cascade.ledger.store.opening import database_url
from cascade.ledger.store.writer import Limits
from tests.failing.worlds import asking, entries, runs_of, until


def remove_all(folder: Path) -> None:
    for path in folder.glob("ledger.db*"):
        path.unlink()


def remove_one(folder: Path) -> None:
    (folder / "ledger.db").unlink()


def put_another(folder: Path) -> None:
    (folder / "another.db").replace(folder / "ledger.db")


WAYS = [remove_all, remove_one, put_another]


@pytest.mark.parametrize("change", WAYS, ids=lambda way: way.__name__)
async def test_what_comes_after_it_is_in_the_file_that_is_there_then(
    tmp_path: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_store(f"sqlite:///{tmp_path}/another.db") as another:
        another.append(entries(1, first=100))
    store = open_store(f"sqlite:///{tmp_path}/ledger.db")
    store.append(entries(3))
    assert len(await runs_of(store)) == 3
    change(tmp_path)
    store.append(entries(3, first=3))
    expected = ["100"] if change is put_another else []
    assert await runs_of(store) == [*expected, "3", "4", "5"]
    assert f"{tmp_path}/ledger.db was deleted or replaced" in caplog.text
    await store.aclose()
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        assert await runs_of(store) == [*expected, "3", "4", "5"]


@pytest.mark.parametrize("change", WAYS[:2], ids=lambda way: way.__name__)
async def test_a_crash_safe_call_is_written_down_in_the_new_file(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/ledger.db")
    async with asking(store) as cascade:
        await cascade.ainvoke("2 + 2?")
        await store.flush()
        change(tmp_path)
        before = await store.begin(run_id="under way", node="draft")
        assert (await cascade.ainvoke("2 + 2?")).answer == "yes"
        assert [attempt.attempt_id for attempt in await store.unfinished()] == [before]
        assert len(await store.query()) == 3
    await store.aclose()


async def test_while_the_folder_is_gone_entries_wait(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    store = open_store(f"sqlite:///{folder}/ledger.db", limits=Limits(patience_s=0.1))
    store.append(entries(1))
    await store.flush()
    shutil.rmtree(folder)
    store.append(entries(2, first=1))
    await until(lambda: store.waiting == 2)
    folder.mkdir()
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == ["1", "2"]
    await store.aclose()


async def test_what_waits_for_a_spoiled_file_is_written_when_a_whole_one_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.db"
    async with open_store(f"sqlite:///{path}") as store:
        store.append(entries(2))
    shutil.copy(path, tmp_path / "backup.db")
    path.write_bytes(b"spoiled" * 1000)
    store = open_store(f"sqlite:///{path}", limits=Limits(patience_s=0.1))
    with caplog.at_level(logging.WARNING):
        store.append(entries(2, first=2))
        await until(lambda: "not a database" in caplog.text)
    (tmp_path / "backup.db").replace(path)
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == ["0", "1", "2", "3"]
    assert store.lost == 0
    await store.aclose()


async def test_tables_that_were_dropped_are_made_again(url: str) -> None:
    store = open_store(url, limits=Limits(patience_s=0.1))
    store.append(entries(1))
    await store.flush()
    await drop(url)
    store.append(entries(2, first=1))
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == ["1", "2"]
    await store.aclose()


async def drop(url: str) -> None:
    engine = create_async_engine(database_url(url))
    async with engine.begin() as connection:
        there = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        for table in there:
            cascading = "" if url.startswith("sqlite") else " CASCADE"
            await connection.execute(text(f"DROP TABLE {table}{cascading}"))
    await engine.dispose()
