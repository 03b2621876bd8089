"""PostgreSQL restarts, loses its connections, stands still or is not there at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from cascade.errors import LedgerError
from cascade.ledger.store import Store, engines, open_store
from cascade.ledger.store.writer import Limits
from tests.failing.worlds import asking, entries, entry, runs_of, until
from tests.ledger.store import postgres

GRACE = "cascade.ledger.store.store.GRACE_S"
LEAST = 20
"""Entries between two things that happen to the server."""


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    try:
        with postgres.running() as running:
            yield running
    except postgres.NoPostgresError as reason:
        pytest.skip(str(reason))


@pytest.fixture
async def store(server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    monkeypatch.setattr(GRACE, 30.0)  # a busy machine needs longer to hear what is wrong
    store = open_store(server.url, limits=Limits(patience_s=0.5))
    store.append([entry("first")])
    await store.flush()
    yield store
    await until(lambda: store.waiting == 0)
    await store.delete(everything=True)
    await store.aclose()


@asynccontextmanager
async def load(store: Store) -> AsyncIterator[list[str]]:
    """Entries that come all the time; the list is of those that were handed over."""
    sent = ["first"]

    async def send() -> None:
        while True:
            store.append([entry(str(len(sent)))])
            sent.append(str(len(sent)))
            await asyncio.sleep(0.002)

    sending = asyncio.create_task(send())
    try:
        yield sent
    finally:
        sending.cancel()
        await asyncio.wait([sending])


async def more(sent: list[str]) -> None:
    most = len(sent) + LEAST
    await until(lambda: len(sent) >= most)


async def all_kept(store: Store, sent: list[str]) -> None:
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == sent
    assert store.lost == 0


async def test_connections_that_are_ended_cost_no_entry(
    server: postgres.Server, store: Store
) -> None:
    async with load(store) as sent:
        for _ in range(5):
            admin = await asyncpg.connect(server.url)
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
            )
            await admin.close()
            await more(sent)
    await all_kept(store, sent)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_under_load_costs_no_entry(
    server: postgres.Server, store: Store, mode: str
) -> None:
    async with load(store) as sent:
        await more(sent)
        await asyncio.to_thread(server.stop, mode)
        await more(sent)
        await asyncio.to_thread(server.start)
        await more(sent)
    await all_kept(store, sent)


async def test_a_question_has_a_clear_error_while_it_is_away_and_is_answered_afterwards(
    server: postgres.Server, store: Store
) -> None:
    async with asking(store) as cascade:
        await asyncio.to_thread(server.stop)
        try:
            with pytest.raises(LedgerError, match="cannot be written: the ledger in its database"):
                await cascade.ainvoke("2 + 2?")
        finally:
            await asyncio.to_thread(server.start)
        assert (await cascade.ainvoke("2 + 2?")).answer == "yes"


async def test_who_is_not_crash_safe_has_answers_meanwhile(server: postgres.Server) -> None:
    store = open_store(server.url, crash_safe=False)
    async with asking(store) as cascade:
        await asyncio.to_thread(server.stop)
        try:
            results = [await cascade.ainvoke("2 + 2?") for _ in range(10)]
        finally:
            await asyncio.to_thread(server.start)
        assert {result.run_id for result in results} <= set(await runs_of(store))
    await store.delete(everything=True)
    await store.aclose()


async def test_a_server_that_stands_still_holds_up_a_call_no_longer_than_it_may(
    server: postgres.Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GRACE, 0.0)
    with server.held():
        with pytest.raises(LedgerError, match=r"has not answered for 0\.5 s"):
            await store.begin(run_id="r", node="draft")
        store.append(entries(3))
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == ["first", "0", "1", "2"]
    assert await store.unfinished() == []


async def test_a_statement_that_is_never_answered_is_given_up_and_its_entries_kept(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "ANSWER_S", 0.3)
    monkeypatch.setattr(engines, "CONNECT_S", 0.3)
    store = open_store(server.url)
    store.append(entries(1))
    await store.flush()
    with server.held():
        store.append(entries(2, first=1))
        await until(lambda: "trying again" in caplog.text)
    assert await runs_of(store) == ["0", "1", "2"]
    await store.delete(everything=True)
    await store.aclose()


async def test_a_server_that_comes_later_than_the_program_gets_what_waited(
    server: postgres.Server,
) -> None:
    await asyncio.to_thread(server.stop)
    try:
        store = open_store(server.url)
        store.append(entries(5))
        with pytest.raises(LedgerError, match=r"cannot be opened.*5 entries wait"):
            await store.flush()
    finally:
        await asyncio.to_thread(server.start)
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == ["0", "1", "2", "3", "4"]
    await store.delete(everything=True)
    await store.aclose()


async def test_a_server_that_may_not_be_written_keeps_entries_waiting(
    server: postgres.Server, store: Store
) -> None:
    admin = await asyncpg.connect(server.url)
    await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await admin.execute("SELECT pg_reload_conf()")
    try:
        with pytest.raises(LedgerError, match="read-only transaction"):
            await begun_until_refused(store)
        store.append(entries(2))
    finally:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()
    await until(lambda: store.waiting == 0)
    assert await runs_of(store) == ["first", "0", "1"]


async def begun_until_refused(store: Store) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:  # the server takes its settings on in its own time
        attempt = await store.begin(run_id="r", node="draft")
        assert attempt is not None
        store.withdraw(attempt)
