"""Calls that are about to be sent, written by whoever waits for it, not by the writer's thread."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import pytest

from cascade.errors import LedgerError
from cascade.ledger.store import Batch, MemoryBackend, Store, open_store, sql
from cascade.ledger.store.base import Attempt
from cascade.ledger.store.sql import SqlBackend
from cascade.ledger.store.writer import MOST_AT_ONCE, WORTH_IT, Limits
from cascade.state import LedgerEntry


class Quick(MemoryBackend):
    """Keeps attempts at once, for as long as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[list[str]] = []
        self.may = True

    def write_now(self, batch: Batch) -> bool:
        if self.may:
            self.groups.append([attempt.run_id for attempt in batch.attempts])
            self._attempts.update({attempt.attempt_id: attempt for attempt in batch.attempts})
        return self.may


class Dead(SqlBackend):
    """Its writer's thread writes nothing."""

    async def write(self, batch: Batch) -> None:
        raise AssertionError(f"this was for who waits: {batch}")


def rows(path: Path) -> list[str]:
    file = sqlite3.connect(path)
    try:
        found = file.execute("SELECT run_id FROM ledger_attempts ORDER BY attempt_id").fetchall()
    finally:
        file.close()
    return [run_id for (run_id,) in found]


async def begin(store: Store, run_id: str) -> str | None:
    return await store.begin(run_id=run_id, node="draft", tier="small", model="m")


async def test_in_sqlite_a_call_is_in_the_file_without_the_writers_thread(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with Store(Dead(f"sqlite+aiosqlite:///{path}")) as store:
        await store.flush()
        assert await begin(store, "a")
        assert rows(path) == ["a"]


async def test_what_came_before_a_call_is_in_the_file_when_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    backend = Dead(f"sqlite+aiosqlite:///{path}")
    async with Store(backend, limits=Limits(linger_s=60)) as store:
        await store.flush()
        draft = await begin(store, "a")
        store.append([LedgerEntry(run_id="a", node="draft", attempt_id=draft)])
        await begin(store, "a")
        assert rows(path) == ["a"], "the second one; the first has its entry"
        assert [entry.run_id for entry in await store.query()] == ["a"]
        assert store.waiting == 0


async def test_what_waits_is_written_along_with_a_call_of_another_run(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with Store(Dead(f"sqlite+aiosqlite:///{path}"), limits=Limits(linger_s=60)) as store:
        await store.flush()
        store.append([LedgerEntry(run_id="a", node="draft")] * (WORTH_IT - 1))
        await begin(store, "b")
        assert (rows(path), store.waiting) == (["b"], WORTH_IT - 1), "a few can wait"
        store.append([LedgerEntry(run_id="a", node="draft")])
        await begin(store, "c")
        assert (rows(path), store.waiting) == (["b", "c"], 0)


async def test_more_than_a_loop_should_wait_for_is_left_to_the_writers_thread() -> None:
    backend = Quick()
    async with Store(backend, limits=Limits(linger_s=60)) as store:
        store.append([LedgerEntry(run_id="a", node="draft")] * (MOST_AT_ONCE + 1))
        await begin(store, "b")
        assert (backend.groups, store.waiting) == ([["b"]], MOST_AT_ONCE + 1)
        await begin(store, "a")
        assert backend.groups == [["b"]], "its own entries come first"
        assert len(await store.query()) == MOST_AT_ONCE + 1


async def test_the_journal_is_moved_though_the_thread_has_nothing_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "LONG_JOURNAL", 200_000)
    path = tmp_path / "ledger.db"
    backend = SqlBackend(f"sqlite+aiosqlite:///{path}")
    async with Store(backend, limits=Limits(linger_s=0.0)) as store:
        await store.flush()
        longest = 0
        for number in range(400):
            attempt = Attempt(attempt_id=f"{number:04}", run_id=f"{number:04}", node="draft")
            while not backend.write_now(Batch(attempts=[attempt])):
                await store.flush()
            if number % 20 == 0:
                await store.flush()
                longest = max(longest, (tmp_path / "ledger.db-wal").stat().st_size)
        assert len(rows(path)) == 400
        assert 200_000 < longest < 500_000


async def test_calls_that_begin_in_one_round_of_the_loop_are_written_together() -> None:
    backend = Quick()
    async with Store(backend) as store:
        await asyncio.gather(*(begin(store, name) for name in "abc"))
        await begin(store, "d")
    assert backend.groups == [["a", "b", "c"], ["d"]]


async def test_what_cannot_be_written_at_once_is_for_the_writers_thread() -> None:
    backend = Quick()
    backend.may = False
    async with Store(backend) as store:
        await asyncio.gather(*(begin(store, name) for name in "abc"))
        assert [attempt.run_id for attempt in await store.unfinished()] == ["a", "b", "c"]


async def test_while_another_process_writes_a_call_waits_its_turn(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with open_store(f"sqlite:///{path}") as store:
        await store.flush()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        beginning = asyncio.create_task(begin(store, "a"))
        await asyncio.sleep(0.05)
        assert not beginning.done()
        other.execute("COMMIT")
        other.close()
        assert await asyncio.wait_for(beginning, 30)
        assert rows(path) == ["a"]


async def test_a_durable_ledger_leaves_its_calls_to_the_writers_thread(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    backend = SqlBackend(f"sqlite+aiosqlite:///{path}", durable=True)
    async with Store(backend) as store:
        await store.flush()
        attempt = Attempt(attempt_id="a", run_id="a", node="draft")
        assert not backend.write_now(Batch(attempts=[attempt]))
        await begin(store, "b")
        assert rows(path) == ["b"]


async def test_who_gives_up_before_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with open_store(f"sqlite:///{path}") as store:
        await store.flush()
        beginning = [asyncio.create_task(begin(store, name)) for name in "ab"]
        await asyncio.sleep(0)
        beginning[0].cancel()
        assert isinstance((await asyncio.gather(*beginning, return_exceptions=True))[1], str)
        assert rows(path) == ["b"]
        await store.flush()
        assert rows(path) == ["b"]


async def test_all_may_give_up_before_it_is_written() -> None:
    backend = Quick()
    async with Store(backend) as store:
        beginning = asyncio.create_task(begin(store, "a"))
        await asyncio.sleep(0)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        assert await store.unfinished() == []
    assert backend.groups == []


async def test_a_store_that_was_closed_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = open_store(f"sqlite:///{path}")
    for name in "ab":
        await begin(store, name)
        await begin(store, name)
        await store.aclose()
    assert rows(path) == ["a", "a", "b", "b"]


async def test_a_table_that_is_gone_is_told_by_the_writers_thread(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with open_store(f"sqlite:///{path}") as store:
        await begin(store, "a")
        backend = store._backend
        file = sqlite3.connect(path)
        file.execute("DROP TABLE ledger_attempts")
        file.close()
        assert not backend.write_now(
            Batch(attempts=[Attempt(attempt_id="b", run_id="b", node="draft")])
        )


def test_event_loops_of_many_threads_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = open_store(f"sqlite:///{path}")

    async def work(name: str) -> None:
        for i in range(50):
            await begin(store, f"{name}{i}")

    threads = [threading.Thread(target=lambda n=n: asyncio.run(work(n))) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert sorted(rows(path)) == sorted(f"{name}{i}" for name in "abcd" for i in range(50))


def test_after_a_fork_the_connection_of_the_parent_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = open_store(f"sqlite:///{path}")
    asyncio.run(begin(store, "parent"))
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(begin(store, "child"))
        except LedgerError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    store.close()
    assert rows(path) == ["parent"]
