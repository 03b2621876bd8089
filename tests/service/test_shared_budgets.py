"""What keys may spend over several replicas: two real processes, and the statements beneath.

The large tier costs $0.002 an answer of two tokens, and $0.1 at most for 100.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade.ledger.store import Store, UnavailableError, open_store
from cascade.ledger.tags import tagged
from cascade.service.budgets import Reservation
from cascade.service.config import BudgetConfig
from cascade.service.faults import ServiceError
from cascade.service.keys import Key, make_key
from cascade.service.shared import Replica, SharedBudgets, SharedDatabase
from cascade.state import LedgerEntry
from tests.ledger.store import postgres
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import configured
from tests.service.replicas import replicas, until

ALONE = {"model": "support/large"}
A_CALL = Decimal("0.1")


def shared(upstream: FakeServer, tmp_path: Path, url: str, **changes: Any) -> dict[str, Any]:
    config = configured(upstream, tmp_path, allow_tiers=True, **changes)
    return {**config, "ledger": url, "shutdown_grace_s": 0.5}


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


async def test_a_killed_replica_gives_back_what_it_had_not_begun_and_counts_the_rest(
    upstream: FakeServer, tmp_path: Path, postgres_url: str
) -> None:
    upstream.will(*[replies.HANG] * 2)
    config = shared(upstream, tmp_path, postgres_url, replicas={"lease_s": 1})
    config["cascades"]["support"]["concurrency"] = 2  # the third waits in the queue, not begun
    async with replicas(config, tmp_path) as found:
        killed, alive = found.running
        _, secret = await found.key(day_usd=Decimal("0.35"))
        hanging = [asyncio.create_task(killed.ask(secret, **ALONE)) for _ in range(3)]
        await upstream.has_received(2)
        three = "SELECT 1 FROM service_accounts WHERE reserved_usd = 0.3"
        await until(lambda: found.rows(three), "three reservations")
        refused = await alive.ask(secret, **ALONE)
        killed.kill()
        await asyncio.gather(*hanging, return_exceptions=True)
        await until(lambda: found.rows("SELECT 1 FROM service_spent"), "the end of the lease")
        [account] = await found.rows("SELECT reserved_usd FROM service_accounts")
        [spent] = await found.rows("SELECT cost_usd FROM service_spent")
        [alive_row] = await found.rows("SELECT count(*) AS n FROM service_replicas")
        answered = await alive.ask(secret, **ALONE)
    assert refused.status_code == 402
    assert account["reserved_usd"] == 0
    assert spent["cost_usd"] == 2 * A_CALL
    assert alive_row["n"] == 1
    assert answered.status_code == 200  # there is money for it again


# The statements beneath, without processes. ---------------------------------------------------


class One:
    """One replica without a gateway."""

    def __init__(self, url: str, lease_s: float = 30.0) -> None:
        self.store: Store = open_store(url)
        self.database = SharedDatabase(url)
        self.replica = Replica(self.database, lease_s)
        self.budgets = SharedBudgets(self.store, self.database, self.replica, BudgetConfig())

    async def reserve(self, key: Key, usd: str = "0.1", runs: int = 1) -> Reservation:
        return await self.budgets.reserve(key, Decimal(usd), runs, can_stay=False)

    async def aclose(self) -> None:
        await self.budgets.aclose()
        with suppress(UnavailableError):
            await self.replica.leave()
        await self.database.aclose()
        await self.store.aclose()


@asynccontextmanager
async def several(url: str, n: int = 2, lease_s: float = 30.0) -> AsyncGenerator[list[One]]:
    made = [One(url, lease_s) for _ in range(n)]
    try:
        yield made
    finally:
        for one in made:
            await one.aclose()


def a_key(**settings: Any) -> Key:
    return make_key("team", **{"day_usd": Decimal(1), **settings})[0]


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


async def test_a_replica_that_was_taken_for_dead_and_comes_back_pays_what_it_really_spent(
    postgres_url: str,
) -> None:
    key = a_key()
    async with several(postgres_url, lease_s=1.0) as (still, alive):
        begun, queued = await still.reserve(key, "0.4"), await still.reserve(key, "0.2")
        with tagged(key=key.id, reserved_usd="0.4", **begun.tags):
            attempt = await still.store.begin(run_id="r", node="expert")
        await alive.replica.beat()
        ended: list[str] = []
        while not ended:
            await asyncio.sleep(0.2)
            ended = await alive.replica.beat()
        lost = await alive.budgets.account(key)
        with tagged(key=key.id, **begun.tags):
            spent = LedgerEntry(
                run_id="r", node="expert", cost_usd=Decimal("0.03"), attempt_id=attempt
            )
            still.store.append([spent])
        for reservation in (begun, queued):
            reservation.close()
        mine = await still.budgets.account(key)
    assert ended == [still.replica.id]
    assert (lost.day_usd, lost.reserved_usd) == (Decimal("0.4"), 0)
    assert (mine.day_usd, mine.reserved_usd) == (Decimal("0.03"), 0)


async def test_after_an_outage_nobody_is_taken_for_dead_who_was_kept_from_saying_it_lives(
    postgres_url: str,
) -> None:
    async with several(postgres_url, lease_s=1.0) as (one, other):
        await one.replica.beat()
        await other.replica.beat()
        await asyncio.sleep(1.1)  # neither could reach the database
        assert await one.replica.beat() == []
        assert await other.replica.beat() == []


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
    assert await one.reserve(make_key("free")[0]) == Reservation()
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
