"""Batches, back-pressure, and patience with databases that fail."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from cascade.errors import LedgerError
from cascade.ledger.store import (
    MemoryBackend,
    Selection,
    Store,
    UnavailableError,
    open_store,
    writer,
)
from cascade.ledger.store.base import Batch, Stored
from cascade.ledger.store.writer import Limits
from cascade.state import LedgerEntry


def entry(run: str = "r", **fields: object) -> LedgerEntry:
    return LedgerEntry(run_id=run, node="draft", **fields)  # type: ignore[arg-type]


class Moody(MemoryBackend):
    """Counts its batches, and waits or fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.may_write = threading.Event()
        self.may_write.set()
        self.fails: Callable[[Batch], Exception | None] = lambda batch: None
        self.opens = True

    async def open(self) -> None:
        if not self.opens:
            raise LedgerError("wrong password")

    async def write(self, batch: Batch) -> None:
        await asyncio.to_thread(self.may_write.wait)
        error = self.fails(batch)
        if error is not None:
            raise error
        self.batches.append(batch)
        await super().write(batch)


async def test_entries_are_written_together() -> None:
    backend = Moody()
    async with Store(backend) as store:
        for i in range(100):
            store.append([entry(str(i))])
        await store.flush()
        assert len(backend.batches) <= 3
        assert len(await store.query()) == 100


async def test_entries_are_written_soon_also_when_nobody_waits() -> None:
    backend = Moody()
    async with Store(backend, limits=Limits(linger_s=0.01)) as store:
        store.append([entry()])
        for _ in range(200):
            await asyncio.sleep(0.01)
            if backend.batches:
                break
        assert [len(batch.entries) for batch in backend.batches] == [1]


async def test_calls_that_begin_together_share_their_commits() -> None:
    backend = Moody()
    async with Store(backend) as store:
        await asyncio.gather(*(store.begin(run_id=str(i), node="draft") for i in range(50)))
        assert len(await store.unfinished()) == 50
        assert len(backend.batches) < 25


async def test_a_call_that_is_cancelled_while_it_is_written_down_is_taken_back() -> None:
    backend = Moody()
    backend.may_write.clear()
    async with Store(backend) as store:
        beginning = asyncio.create_task(store.begin(run_id="r", node="draft"))
        await asyncio.sleep(0.05)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        backend.may_write.set()
        assert await store.unfinished() == []


async def test_when_the_queue_is_full_append_waits_and_nothing_is_dropped() -> None:
    backend = Moody()
    backend.may_write.clear()
    store = Store(backend, limits=Limits(queue=10, batch=5))
    threading.Timer(0.2, backend.may_write.set).start()
    began = time.monotonic()
    await asyncio.to_thread(store.append, [entry(str(i)) for i in range(40)])
    assert time.monotonic() - began > 0.15
    assert [e.run_id for e in await store.query()] == [str(i) for i in range(40)]
    await store.aclose()


async def test_when_it_stays_full_append_says_so() -> None:
    backend = Moody()
    backend.may_write.clear()
    store = Store(backend, limits=Limits(queue=2, batch=1, full_s=0.1))
    with pytest.raises(LedgerError, match=r"full \(2 entries\)"):
        store.append(entry() for _ in range(5))
    backend.may_write.set()
    await store.aclose()


async def test_a_database_that_comes_back_gets_what_waited_for_it() -> None:
    backend = Moody()
    failures = iter([UnavailableError("busy"), UnavailableError("busy")])
    backend.fails = lambda batch: next(failures, None)
    async with Store(backend) as store:
        store.append([entry()])
        assert await store.begin(run_id="r", node="draft")
        assert len(await store.query()) == 1


async def test_who_waits_for_a_database_that_stays_away_is_told_and_entries_are_kept() -> None:
    backend = Moody()
    backend.fails = lambda batch: UnavailableError("gone")
    store = Store(backend, limits=Limits(patience_s=0.05))
    store.append([entry()])
    with pytest.raises(LedgerError, match=r"gone.*1 entries wait"):
        await store.begin(run_id="r", node="draft")
    with pytest.raises(LedgerError, match="gone"):
        await store.aclose()
    backend.fails = lambda batch: None
    assert len(await store.query()) == 1
    assert await store.unfinished() == []  # its call was not sent
    await store.aclose()


async def test_a_database_that_cannot_be_opened_is_reported_at_once() -> None:
    backend = Moody()
    backend.opens = False
    store = Store(backend)
    with pytest.raises(LedgerError, match="wrong password"):
        await store.begin(run_id="r", node="draft")
    backend.opens = True
    await store.aclose()


class SlowToClose(Moody):
    """Ends only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.ending, self.may_end = threading.Event(), threading.Event()

    async def aclose(self) -> None:
        self.ending.set()
        await asyncio.to_thread(self.may_end.wait)


def test_an_entry_that_comes_while_it_is_closed_is_for_the_next_thread() -> None:
    backend = SlowToClose()
    store = Store(backend)
    store.append([entry("first")])
    closing = [threading.Thread(target=store.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    assert backend.ending.wait(5)
    late = threading.Thread(target=store.append, args=([entry("late")],))
    late.start()
    late.join(0.1)
    backend.may_end.set()
    for thread in (*closing, late):
        thread.join(5)
    store.close()
    written = [s.entry.run_id for batch in backend.batches for s in batch.entries]
    assert written == ["first", "late"]


class SlowToRead(Moody):
    """Answers only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.may_read = threading.Event(), threading.Event()

    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        self.reading.set()
        await asyncio.to_thread(self.may_read.wait)
        return await super().page(selection, after, limit)


async def test_a_store_that_is_closed_still_answers_what_it_was_asked() -> None:
    backend = SlowToRead()
    store = Store(backend)
    store.append([entry()])
    asked = asyncio.create_task(store.query())
    assert await asyncio.to_thread(backend.reading.wait, 5)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0.05)
    backend.may_read.set()
    assert len(await asked) == 1
    await closing


async def test_one_entry_that_is_refused_does_not_hold_up_the_others() -> None:
    backend = Moody()
    bad = "bad"
    backend.fails = lambda batch: (
        ValueError("no") if any(s.entry.run_id == bad for s in batch.entries) else None
    )
    store = Store(backend)
    store.append([entry("a"), entry(bad), entry("b")])
    with pytest.raises(LedgerError, match=r"refused entries.*bad"):
        await store.flush()
    assert [e.run_id for e in await store.query()] == ["a", "b"]
    await store.aclose()


async def test_of_many_that_are_refused_the_last_ones_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "MOST_TOLD", 2)
    backend = Moody()
    backend.fails = lambda batch: ValueError("no") if batch.entries else None
    async with Store(backend) as store:
        store.append([entry("first"), entry("second"), entry("third")])
        with pytest.raises(LedgerError, match=r"second.*third") as told:
            await store.flush()
        assert "first" not in str(told.value)


async def test_an_attempt_that_is_refused_is_an_error_of_its_call() -> None:
    backend = Moody()
    backend.fails = lambda batch: ValueError("no") if batch.attempts else None
    store = Store(backend)
    with pytest.raises(LedgerError, match="cannot keep"):
        await store.begin(run_id="r", node="draft")
    with pytest.raises(LedgerError, match="refused"):
        await store.flush()
    await store.aclose()


async def test_a_number_that_no_database_can_keep_is_refused_by_name(url: str) -> None:
    store = open_store(url)
    store.append([entry("a"), entry("b", input_tokens=2**80)])
    with pytest.raises(LedgerError, match="run_id='b'"):
        await store.flush()
    assert [e.run_id for e in await store.query()] == ["a"]
    await store.aclose()


async def test_a_server_that_nobody_runs_is_told() -> None:
    store = open_store("postgresql://nobody@127.0.0.1:9/x", limits=Limits(patience_s=0.1))
    with pytest.raises(LedgerError, match="ledger cannot be opened"):
        await store.begin(run_id="r", node="draft")
    with pytest.raises(UnavailableError):
        await store._writer.call(lambda: store._backend.delete(Selection(run_id="r")))
    await store.aclose()  # nothing waits for it
    atexit.unregister(store._writer._at_exit)  # it would be tried once more


async def test_a_table_that_is_gone_is_told(sqlite_url: str) -> None:
    async with open_store(sqlite_url, limits=Limits(patience_s=0.1)) as store:
        await store.query()
        engine = store._backend._connected()  # type: ignore[attr-defined]
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DROP TABLE ledger_entries")
        with pytest.raises(UnavailableError, match="no such table"):
            await store.query()


def test_a_store_that_was_in_use_is_refused_after_a_fork() -> None:
    store = open_store("memory://")
    store.append([entry()])
    child = os.fork()
    if child == 0:
        try:
            store.append([entry()])
        except LedgerError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    store.close()
    store.close()


def test_an_event_loop_that_ended_meanwhile_harms_nobody() -> None:
    backend = Moody()
    store = Store(backend)

    async def give_up() -> None:
        backend.may_write.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.begin(run_id="gone", node="draft"), 0.05)

    async def look() -> list[str]:
        await store.begin(run_id="next", node="draft")
        return [attempt.run_id for attempt in await store.unfinished()]

    asyncio.run(give_up())
    backend.may_write.set()
    assert asyncio.run(look()) == ["next"]
    store.close()


async def test_calls_that_begin_together_are_told_together_and_one_may_give_up() -> None:
    backend = Moody()
    async with Store(backend) as store:
        backend.may_write.clear()
        begun = [asyncio.create_task(store.begin(run_id=str(i), node="draft")) for i in range(9)]
        await asyncio.sleep(0.05)
        begun[4].cancel()
        backend.may_write.set()
        done = await asyncio.gather(*begun, return_exceptions=True)
        assert isinstance(done.pop(4), asyncio.CancelledError)
        assert len(set(done)) == 8
        assert [a.run_id for a in await store.unfinished()] == list("01235678")
        assert len([batch for batch in backend.batches if batch.attempts]) <= 2
