"""What keys may spend over several replicas: two real processes, and the statements beneath.

The large tier costs $0.002 an answer of two tokens, and $0.1 at most for 100.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade.ledger.store import UnavailableError
from cascade.ledger.tags import tagged
from cascade.service.budgets import Reservation
from cascade.service.faults import ServiceError
from cascade.state import LedgerEntry
from tests.ledger.store import postgres
from tests.servers.fake import FakeServer
from tests.service.replicas import ALONE, One, a_key, replicas, several, shared, until


async def test_two_replicas_under_load_spend_no_more_than_the_budget(
    upstream: FakeServer, tmp_path: Path, postgres_url: str
) -> None:
    config = shared(upstream, tmp_path, postgres_url)
    config["cascades"]["support"]["tiers"][1]["max_tokens"] = 4  # $0.004 at most, and really 0.002
    budget, at_most, a_call = Decimal("0.031"), Decimal("0.004"), Decimal("0.002")
    async with replicas(config, tmp_path) as found:
        key, secret = await found.key(day_usd=budget)

        async def ask(n: int) -> int:
            return (await found.running[n % 2].ask(secret, **ALONE)).status_code

        seen: Counter[int] = Counter()
        while seen[200] * a_call + at_most <= budget:  # there may be room for another
            seen.update(await asyncio.gather(*(ask(n) for n in range(10))))
        over = await asyncio.gather(*(ask(n) for n in range(4)))
        free = "SELECT 1 FROM service_accounts WHERE reserved_usd = 0"
        await until(lambda: found.rows(free), "giving back")
        [row] = await found.rows(f"SELECT * FROM cascade_spent('{key.id}', 0.01)")
        entries = await found.store.query()
    assert (set(seen), set(over)) == ({200, 402}, {402})
    spent = sum((entry.cost_usd or Decimal(0) for entry in entries), Decimal(0))
    assert spent == row["day_usd"] == row["month_usd"] == seen[200] * a_call
    assert budget - at_most < spent <= budget


async def test_of_many_at_once_no_more_are_let_in_than_the_budget_covers(postgres_url: str) -> None:
    key = a_key()
    async with several(postgres_url) as both:
        asked = [one.reserve(key) for one in both for _ in range(20)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        let_in = [each for each in told if isinstance(each, Reservation)]
        refused = [each for each in told if isinstance(each, ServiceError)]
        assert (len(let_in), len(refused)) == (10, 30)
        assert "$1 put aside" in str(refused[0])
        for reservation in let_in:
            reservation.close()
        for one in both:
            account = await one.budgets.account(key)  # gives back what ended there
        assert account.reserved_usd == 0


async def test_what_a_run_cost_is_counted_before_its_dollars_are_free(postgres_url: str) -> None:
    key = a_key()
    async with several(postgres_url) as (one, other):
        reservation = await one.reserve(key, "0.4", runs=2)
        with tagged(key=key.id, **reservation.tags):
            one.store.append([LedgerEntry(run_id="r", node="draft", cost_usd=Decimal("0.3"))])
            one.store.append([LedgerEntry(run_id="r", node="verify", cost_usd=None)])
        reservation.settle()
        mine = await one.budgets.account(key)
        seen = await other.budgets.account(key)
        assert (seen.day_usd, seen.month_usd) == (Decimal("0.31"), Decimal("0.31"))
        assert mine.reserved_usd == seen.reserved_usd == Decimal("0.4")
        reservation.close()


async def test_a_batch_that_is_written_twice_is_counted_once(postgres_url: str) -> None:
    key = a_key()
    async with several(postgres_url, 1) as [one]:
        with tagged(key=key.id):
            begun = await one.store.begin(run_id="r", node="draft")
            entry = LedgerEntry(run_id="r", node="draft", cost_usd=Decimal("0.3"), attempt_id=begun)
            for _ in range(2):
                one.store.append([entry])
                await one.store.flush()
        assert (await one.budgets.account(key)).day_usd == Decimal("0.3")


async def test_what_was_written_before_the_upgrade_is_counted(postgres_url: str) -> None:
    from cascade.ledger.store.engines import make_engine  # noqa: PLC0415
    from cascade.ledger.store.migrations import MIGRATIONS, migrate  # noqa: PLC0415
    from cascade.ledger.store.opening import database_url  # noqa: PLC0415

    key = a_key()
    engine = make_engine(database_url(postgres_url))
    before = [migration.name for migration in MIGRATIONS].index("replicas")
    await migrate(engine, to=before)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO ledger_entries (id, run_id, node, latency_ms, cost_usd, cost_basis, basis,"
            " outcome, note, at, tags) VALUES ('1', 'r', 'draft', 1, 0.25, 'measured', 'unknown',"
            f" 'ok', '', now(), '{{\"key\": \"{key.id}\"}}')"
        )
    await engine.dispose()
    async with several(postgres_url, 1) as [one]:
        assert (await one.budgets.account(key)).day_usd == Decimal("0.25")


async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_put_aside(
    postgres_url: str,
) -> None:
    key = a_key()
    async with several(postgres_url, 1) as [one]:
        (await one.reserve(key)).close()
        waiting = asyncio.create_task(one.reserve(key))
        await asyncio.sleep(0)  # it has asked
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        async def is_free() -> bool:
            return (await one.budgets.account(key)).reserved_usd == 0

        await until(is_free, "giving back")


async def test_a_request_that_is_cancelled_when_it_was_just_let_in_leaves_nothing_put_aside(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = a_key()
    async with several(postgres_url, 1) as [one]:
        ask_for = one.budgets._ask_for

        async def and_cancel(some: Any) -> None:
            await ask_for(some)  # it is told, and has not run since
            waiting.cancel()

        monkeypatch.setattr(one.budgets, "_ask_for", and_cancel)
        waiting = asyncio.create_task(one.reserve(key))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await one.budgets.account(key)).reserved_usd == 0
        assert not one.budgets._mine


async def test_what_this_replica_does_not_know_of_is_given_back(postgres_url: str) -> None:
    key = a_key()
    async with several(postgres_url, 1) as [one]:
        kept = await one.reserve(key)
        await one.reserve(key, "0.2")
        one.budgets._mine.discard(max(one.budgets._mine))
        ago = "UPDATE service_reservations SET made_at = made_at - interval '2 minutes'"
        await one.database.ask(ago)
        await one.budgets.tidy()
        assert (await one.budgets.account(key)).reserved_usd == Decimal("0.1")
        kept.close()


async def test_whatever_goes_wrong_in_the_database_nobody_waits_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with several(postgres_url, 1) as [one]:
        with monkeypatch.context() as broken:
            broken.setattr("cascade.service.shared.budgets._PUT_ASIDE", "SELECT 1 AS id")
            told = await asyncio.wait_for(
                asyncio.gather(*(one.reserve(a_key()) for _ in range(3)), return_exceptions=True),
                30,
            )
        assert all(isinstance(each, KeyError) for each in told)
        (await one.reserve(a_key())).close()


async def test_nothing_is_spent_on_a_budget_while_the_database_is_away() -> None:
    one = One("postgresql://cascade@127.0.0.1:1/postgres")
    with pytest.raises(UnavailableError):
        await one.reserve(a_key())
    one.budgets._settled.clear()  # nothing was put aside that could be given back
    await one.aclose()


async def test_a_database_that_stands_still_or_restarts_costs_requests_and_no_money(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cascade.ledger.store.engines.PROMPT_S", 1.0)
    key = a_key()
    try:
        with postgres.running() as server:
            async with several(server.url, 1) as [one]:
                (await one.reserve(key)).close()
                with server.held(), pytest.raises(UnavailableError):
                    await asyncio.wait_for(one.reserve(key, "0.5"), 30)
                (await one.reserve(key)).close()
                await asyncio.to_thread(server.stop)
                with pytest.raises(UnavailableError):
                    await one.reserve(key, "0.5")
                await asyncio.to_thread(server.start)
                last = await one.reserve(key, "0.2")

                async def is_clear() -> bool:
                    return (await one.budgets.account(key)).reserved_usd == Decimal("0.2")

                await until(is_clear, "giving back what nobody got")
                last.close()
    except postgres.NoPostgresError as reason:
        pytest.skip(str(reason))
