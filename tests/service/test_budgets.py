"""What keys may spend: reservations, restarts, and what nobody knows.

The large tier costs $0.002 an answer of two tokens, and $0.1 at most for 100; a draft the same.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.errors import LedgerError
from cascade.ledger.store import open_store
from cascade.ledger.tags import tagged
from cascade.service.budgets import Account, start_of_day, start_of_month
from cascade.state import LedgerEntry
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import Gateway, configured, gateway, until

A_RUN = Decimal("0.2")
"""What is put aside for a run: an answer of 100 tokens from either tier."""

ALONE = {"model": "support/large"}


async def spent(running: Gateway) -> list[dict[str, Decimal]]:
    admin = await running.key("admin", admin=True)
    found = (await running.get("/admin/budgets", admin)).json()
    return [
        {name: Decimal(value) for name, value in account.items() if name.endswith("_usd") and value}
        for account in found
    ]


async def test_what_a_request_cost_is_counted_and_nothing_stays_put_aside(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        assert (await running.ask(await running.key(day_usd=Decimal(1)))).status_code == 200
        [account] = await spent(running)
        assert running.service.store is not None
        entries = await running.service.store.query()
    assert account["day_spent_usd"] == sum(e.cost_usd or 0 for e in entries) > 0
    assert account["reserved_usd"] == 0


async def test_an_exhausted_budget_answers_402_and_says_when_there_is_money_again(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        answer = await running.ask(await running.key(day_usd=Decimal("0.1")))
    assert answer.status_code == 402
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "budget_exhausted")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert f"{tomorrow:%Y-%m-%d}" in error["message"]
    assert not upstream.received


async def test_a_monthly_budget_holds_as_well(upstream: FakeServer, tmp_path: Path) -> None:
    async with gateway(configured(upstream, tmp_path)) as running:
        answer = await running.ask(await running.key(month_usd=Decimal("0.1")))
    assert answer.status_code == 402
    assert "for the month" in answer.json()["error"]["message"]


@pytest.mark.parametrize("of", ["the key", "the service"])
async def test_an_exhausted_budget_may_fall_to_the_models_of_this_machine(
    upstream: FakeServer, tmp_path: Path, of: str
) -> None:
    config = configured(upstream, tmp_path)
    config["cascades"]["support"]["tiers"][1]["local"] = False
    if of == "the service":
        config["budgets"] = {"exhausted": "local_only"}
    async with gateway(config) as running:
        own = {"exhausted": "local_only"} if of == "the key" else {}
        answer = await running.ask(await running.key(day_usd=Decimal("0.001"), **own))
    assert answer.json()["tier"] == "small"
    assert {received.body["model"] for received in upstream.received} == {"small"}


async def test_what_cannot_stay_on_this_machine_is_refused_all_the_same(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, budgets={"exhausted": "local_only"})
    for tier in config["cascades"]["support"]["tiers"]:
        tier["local"] = False
    async with gateway(config) as running:
        answer = await running.ask(await running.key(day_usd=Decimal("0.001")))
    assert answer.status_code == 402


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_budget_survives_a_restart(
    upstream: FakeServer, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    config = configured(upstream, tmp_path)
    if database == "postgres":
        config["ledger"] = await asyncio.to_thread(request.getfixturevalue, "postgres_url")
    async with gateway(config) as running:
        secret = await running.key(day_usd=Decimal(10))
        assert (await running.ask(secret)).status_code == 200
        before = await spent(running)
    async with gateway(config) as running:
        after = await spent(running)
    assert after == before
    assert after[0]["day_spent_usd"] > 0


@pytest.mark.parametrize(
    ("tag", "counted"),
    [("0.125", "0.125"), ("0", "0"), ("much", "0.01"), ("-5", "0.01"), ("NaN", "0.01")],
)
async def test_a_call_that_was_killed_counts_at_what_was_put_aside(
    upstream: FakeServer, tmp_path: Path, tag: str, counted: str
) -> None:
    config = configured(upstream, tmp_path)
    async with gateway(config) as running:
        await running.key(day_usd=Decimal(10))
        [key] = await running.in_loop(running.service.keys.list())
    store = open_store(config["ledger"])
    with tagged(key=key.id, reserved_usd=tag):
        for node in ("draft", "verify"):  # of one run: it was put aside once
            await store.begin(run_id="r", node=node)
    await store.aclose()
    async with gateway(config) as running:
        [account] = await spent(running)
    assert account["day_spent_usd"] == Decimal(counted)


async def test_a_call_under_way_is_in_the_ledger_with_its_key_and_what_is_put_aside(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(replies.HANG)
    config = configured(upstream, tmp_path, allow_tiers=True, shutdown_grace_s=0.2)
    async with gateway(config) as running:
        secret = await running.key(day_usd=Decimal(1))
        asking = asyncio.create_task(
            running.client.post(
                "/v1/chat/completions",
                json={
                    "model": "support/large",
                    "max_tokens": 50,
                    "messages": [{"role": "user", "content": "hello"}],
                    "cascade": {"tags": {"key": "another", "reserved_usd": "0"}},
                },
                headers={"X-API-Key": secret},
            )
        )
        await upstream.has_received(1)
        assert running.service.store is not None
        [attempt] = await running.service.store.unfinished()
        [key] = await running.in_loop(running.service.keys.list())
        asking.cancel()
    assert attempt.tags["key"] == key.id
    assert Decimal(attempt.tags["reserved_usd"]) == Decimal("0.05")


async def test_of_many_at_once_no_more_are_let_in_than_the_budget_covers(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(*[replies.HANG] * 20)
    config = configured(upstream, tmp_path, allow_tiers=True, shutdown_grace_s=0.2)
    async with gateway(config) as running:
        secret = await running.key(day_usd=Decimal("0.35"))  # three answers at $0.1 at most
        many = [asyncio.create_task(running.ask(secret, **ALONE)) for _ in range(20)]
        await until(lambda: sum(task.done() for task in many) == 17, "17 refusals")
        await upstream.has_received(3)
        assert {task.result().status_code for task in many if task.done()} == {402}
        [account] = await spent(running)
        assert account["reserved_usd"] == Decimal("0.3")
        assert sum(not task.done() for task in many) == len(upstream.received) == 3
        for task in many:
            task.cancel()


async def test_what_every_run_of_a_request_may_cost_is_put_aside_and_given_back(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with gateway(configured(upstream, tmp_path, allow_tiers=True)) as running:
        secret = await running.key(day_usd=Decimal("0.25"))
        three = await running.ask(secret, runs=3, **ALONE)
        two = await running.ask(secret, runs=2, **ALONE)
        [account] = await spent(running)
    assert (three.status_code, two.status_code) == (402, 200)
    assert account["day_spent_usd"] == Decimal("0.004")
    assert account["reserved_usd"] == 0


async def test_a_failed_request_gives_back_what_was_put_aside(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(replies.error(400, "no"))
    async with gateway(configured(upstream, tmp_path, allow_tiers=True)) as running:
        secret = await running.key(day_usd=Decimal(1))
        assert (await running.ask(secret, **ALONE)).status_code != 200
        [account] = await spent(running)
    assert account["reserved_usd"] == 0


async def test_a_call_of_unknown_cost_counts_as_configured(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path, allow_tiers=True)
    del config["cascades"]["support"]["tiers"][1]["price"]
    config["budgets"] = {"unknown_call_usd": "0.07"}
    async with gateway(config) as running:
        assert (
            await running.ask(await running.key(day_usd=Decimal(1)), **ALONE)
        ).status_code == 200
        before = await spent(running)
    async with gateway(config) as running:
        after = await spent(running)
    assert before[0]["day_spent_usd"] == Decimal("0.07")
    assert after == before


async def test_what_was_spent_yesterday_counts_for_the_month_alone(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = configured(upstream, tmp_path)
    async with gateway(config) as running:
        await running.key(day_usd=Decimal(1))
        [key] = await running.in_loop(running.service.keys.list())
    store = open_store(config["ledger"])
    now = datetime.now(UTC)
    with tagged(key=key.id):
        for at in (now, start_of_day(now) - timedelta(hours=1), now - timedelta(days=40)):
            entry = LedgerEntry(
                run_id=at.isoformat(), node="draft", latency_ms=1, cost_usd=Decimal(1),
                saved_usd=None, baseline_usd=None, basis="measured", cost_basis="measured", at=at,
            )  # fmt: skip
            store.append([entry])
    await store.aclose()
    async with gateway(config) as running:
        [account] = await spent(running)
    first = start_of_month(now) == start_of_day(now)
    assert account["day_spent_usd"] == 1
    assert account["month_spent_usd"] == (1 if first else 2)


async def test_a_budget_that_cannot_be_read_lets_nobody_in_and_is_read_again(
    upstream: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object) -> None:
        raise LedgerError("the ledger's database: gone")

    async with gateway(configured(upstream, tmp_path)) as running:
        secret = await running.key(day_usd=Decimal(1))
        with monkeypatch.context() as broken:
            broken.setattr(running.service.store, "cost", unreachable)
            answers = await asyncio.gather(*(running.ask(secret) for _ in range(3)))
        later = await running.ask(secret)
    assert [answer.status_code for answer in answers] == [503] * 3
    assert later.status_code == 200


def test_a_new_day_begins_with_nothing_spent_and_a_new_month_too() -> None:
    account = Account(datetime(2026, 1, 30, tzinfo=UTC), Decimal(1), Decimal(5))
    account.roll(datetime(2026, 1, 31, 0, 1, tzinfo=UTC))
    assert (account.day_usd, account.month_usd) == (0, 5)
    account.roll(datetime(2026, 2, 1, 0, 1, tzinfo=UTC))
    assert (account.day_usd, account.month_usd) == (0, 0)
