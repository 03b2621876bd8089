"""Replicas that die, are taken for dead, or go: what they had put aside is released, and counted.

The large tier costs $0.1 at most for 100 tokens.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

from cascade.ledger.tags import tagged
from cascade.service.shared import SharedDatabase
from cascade.state import LedgerEntry
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import gateway
from tests.service.replicas import ALONE, One, a_key, replicas, several, shared, until

A_CALL = Decimal("0.1")


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


async def lapse(alive: One, *dead: One) -> None:
    """End their leases, and let the other have held its own for long."""
    await alive.replica.beat()
    held = "UPDATE service_replicas SET since = since - interval '1 hour' WHERE id = :id"
    over = "UPDATE service_replicas SET until = now() - interval '1 second' WHERE id = :id"
    await alive.database.ask(held, id=alive.replica.id)
    for one in dead:
        await alive.database.ask(over, id=one.replica.id)


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


async def test_what_a_replica_lost_is_counted_once_however_often_it_is_taken_for_dead(
    postgres_url: str,
) -> None:
    key = a_key()
    async with several(postgres_url) as (still, alive):
        begun = await still.reserve(key, "0.4")
        with tagged(key=key.id, reserved_usd="0.4", **begun.tags):
            await still.store.begin(run_id="r", node="expert")
        for _ in range(2):
            await still.replica.beat()  # it is back
            await lapse(alive, still)
            assert await alive.replica.beat() == [still.replica.id]
        account = await alive.budgets.account(key)
    assert (account.day_usd, account.reserved_usd) == (Decimal("0.4"), 0)


async def test_replicas_are_released_while_a_request_puts_aside_for_the_same_keys(
    postgres_url: str,
) -> None:
    first, second = sorted((a_key(), a_key()), key=lambda key: key.id)
    lock = "SELECT 1 FROM service_accounts WHERE key_id = $1 FOR UPDATE"
    waits = (
        "SELECT 1 FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with several(postgres_url, 3) as (alive, *others):
        dead = sorted(others, key=lambda one: one.replica.id)
        for one, key in zip(dead, (second, first), strict=True):  # against the order of the keys
            await one.reserve(key)
        await lapse(alive, *dead)
        async with dead[0].database.connection() as driver, driver.transaction():
            await driver.fetch(lock, first.id)
            beating = asyncio.create_task(alive.replica.beat())
            await until(lambda: dead[1].database.ask(waits), "waiting for the first key")
            await driver.fetch(lock, second.id)
        assert await beating == [one.replica.id for one in dead]
        for key in (first, second):
            assert (await alive.budgets.account(key)).reserved_usd == 0


async def test_after_an_outage_nobody_is_taken_for_dead_who_was_kept_from_saying_it_lives(
    postgres_url: str,
) -> None:
    async with several(postgres_url, lease_s=1.0) as (one, other):
        await one.replica.beat()
        await other.replica.beat()
        await asyncio.sleep(1.1)  # neither could reach the database
        assert await one.replica.beat() == []
        assert await other.replica.beat() == []


async def test_the_lease_is_renewed_until_the_last_audit_has_ended(
    upstream: FakeServer, tmp_path: Path, postgres_url: str
) -> None:
    config = shared(upstream, tmp_path, postgres_url, replicas={"lease_s": 1})
    async with gateway({**config, "shutdown_grace_s": 10.0}) as running:
        parts = running.service.shared
        assert parts is not None
        renewed: list[bool] = []

        async def audit() -> None:
            ask = "SELECT until FROM service_replicas"
            [before] = await parts.database.ask(ask)

            async def later() -> bool:
                return await parts.database.ask(ask) != [before]

            await until(later, "renewing")
            renewed.append(True)

        await running.service.served["support"].cascade.aclose()
        running.service.served["support"].aclose = audit  # type: ignore[method-assign]
    assert renewed
    database = SharedDatabase(postgres_url)
    assert await database.ask("SELECT id FROM service_replicas") == []  # it has left
    await database.aclose()
