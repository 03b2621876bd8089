"""The same promises on a real PostgreSQL server, which is restarted, held still and crashed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.errors import LedgerError
from cascade.ledger import open_store
from cascade.ledger.shared import Budgets, Reservation
from tests.ledger import postgres
from tests.ledger.samples import call, entry
from tests.ledger.test_budgets import CENT, spend_with_a_kill

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    try:
        with postgres.running() as started:
            yield started
    except postgres.NoPostgresError as reason:
        pytest.skip(str(reason))


@pytest.fixture
async def url(server: postgres.Server) -> str:
    async with open_store(server.url) as store:
        await store.delete(everything=True)
    return server.url


async def test_a_server_that_is_not_there_is_told_within_a_second() -> None:
    store = open_store("postgresql://nobody@127.0.0.1:9/x")
    began = time.monotonic()
    with pytest.raises(LedgerError, match="no call is sent"):
        await store.begin(call())
    assert time.monotonic() - began < 10
    assert await store.ready() is not None
    await store.aclose()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_loses_nothing_at_all(server: postgres.Server, url: str, mode: str) -> None:
    sent: list[str] = []
    async with open_store(url) as store:

        async def work() -> None:
            name = f"{len(asyncio.all_tasks())}-{time.monotonic_ns()}"
            try:
                await store.begin(call(name, id=name))
            except LedgerError:  # it is not sent
                return
            sent.append(name)
            await asyncio.sleep(0.01)
            store.append([entry(name, id=name)])

        def restart() -> None:
            server.stop(mode)
            server.start()

        await asyncio.gather(*(work() for _ in range(20)))
        assert sent
        restarting, working = asyncio.create_task(asyncio.to_thread(restart)), set()
        while not restarting.done():
            working.add(asyncio.create_task(work()))
            await asyncio.sleep(0.002)
        await asyncio.gather(restarting, *working)
        while await store.ready() is not None:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.05)
        await asyncio.gather(*(work() for _ in range(20)))
        assert sorted(e.id for e in await store.entries()) == sorted(sent)
        assert await store.unfinished() == []


async def test_a_server_that_stands_holds_up_no_call(server: postgres.Server, url: str) -> None:
    async with open_store(url) as store:
        await store.begin(call("before"))
        with server.held():
            began = time.monotonic()
            with pytest.raises(LedgerError, match="no call is sent"):
                await store.begin(call("a"))
            with pytest.raises(LedgerError, match="no call is sent"):
                await store.begin(call("b"))
            assert "has not answered" in (await store.ready() or "")
            assert time.monotonic() - began < 15
            store.append([entry("paid")])
            with pytest.raises(LedgerError, match="no call is sent"):
                await store.flush()
        while store.waiting:  # noqa: ASYNC110 - the thread tries again by itself
            await asyncio.sleep(0.02)
        await store.begin(call("after"))
        assert [e.run_id for e in await store.entries()] == ["paid"]
        assert {e.run_id for e in await store.unfinished()} == {"before", "after"}


def test_four_replicas_spend_a_budget_and_one_is_killed(url: str, tmp_path: Path) -> None:
    spend_with_a_kill(url, tmp_path / "paid", limit=Decimal(3))


async def test_budgets_come_back_with_the_server(server: postgres.Server, url: str) -> None:
    budgets = Budgets(url)
    limits = {"day": Decimal(10)}
    one = await budgets.reserve("restarted", CENT, limits)  # type: ignore[arg-type]
    assert isinstance(one, Reservation)
    await asyncio.to_thread(server.stop)
    budgets.settle(one, CENT / 2)
    with pytest.raises(LedgerError):
        await budgets.reserve("restarted", CENT, limits)  # type: ignore[arg-type]
    await asyncio.to_thread(server.start)
    while budgets.waiting:  # noqa: ASYNC110 - the thread tries again by itself
        await asyncio.sleep(0.02)
    account = await budgets.account("restarted")
    assert (account.day_usd, account.put_aside_usd) == (CENT / 2, 0)
    await budgets.aclose()
