"""Budgets: never overspent, whatever runs at once, and whoever dies."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import LedgerError
from cascade.ledger.shared import Budgets, Refusal, Reservation, Window
from tests.ledger.processes import start

CENT = Decimal("0.01")


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 23, 50, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(Budgets, "clock", clock)
    return clock


async def asked(kind: Any, budgets: Budgets, usd: Decimal, **limits: Any) -> Any:
    found = await budgets.reserve("key", usd, limits)  # type: ignore[arg-type]
    assert isinstance(found, kind), found
    return found


granted, refused = partial(asked, Reservation), partial(asked, Refusal)


async def test_a_request_is_put_aside_then_counted_at_what_it_cost(url: str) -> None:
    budgets = Budgets(url)
    one = await granted(budgets, CENT, day=3 * CENT)
    assert (await budgets.account("key")).put_aside_usd == CENT
    for _ in range(2):  # once more changes nothing
        budgets.settle(one, CENT / 4)
    budgets.charge("key", CENT / 2)
    await budgets.aclose()
    account = await budgets.account("key")
    assert (account.day_usd, account.month_usd) == (CENT * 3 / 4, CENT * 3 / 4)
    assert account.put_aside_usd == (await budgets.account("other")).day_usd == 0
    await budgets.aclose()


async def test_a_refusal_tells_what_is_spent_from_what_is_only_put_aside(clock: Clock) -> None:
    budgets = Budgets("memory://")
    one = await granted(budgets, 2 * CENT, day=3 * CENT)
    waits = await refused(budgets, 2 * CENT, day=3 * CENT)
    assert (waits.why, waits.window, waits.account.put_aside_usd) == ("put_aside", "day", 2 * CENT)
    budgets.settle(one, 2 * CENT)
    over = await refused(budgets, 2 * CENT, day=3 * CENT, month=CENT)
    assert (over.why, over.limit_usd) == ("spent", 3 * CENT)
    await granted(budgets, CENT, day=3 * CENT)


async def test_each_window_begins_anew_and_none_when_the_clock_is_set_back(clock: Clock) -> None:
    budgets = Budgets("memory://")
    clock.now = datetime(2026, 1, 30, 12, tzinfo=UTC)
    budgets.charge("key", CENT)
    await budgets.account("key")
    clock.now += timedelta(days=1)
    budgets.charge("key", CENT)
    account = await budgets.account("key")
    assert (account.day_usd, account.month_usd) == (CENT, 2 * CENT)
    clock.now -= timedelta(days=1)
    assert (await budgets.account("key")).day_usd == CENT
    clock.now += timedelta(days=2)
    account = await budgets.account("key")
    assert (account.day_usd, account.month_usd) == (0, 0)


async def test_what_a_dead_process_put_aside_is_spent_in_the_end(url: str, clock: Clock) -> None:
    dead, alive = Budgets(url), Budgets(url)
    dead.lease = alive.lease = timedelta(seconds=60)
    lost = await granted(dead, 2 * CENT, day=3 * CENT)
    clock.now += timedelta(seconds=59)
    assert (await refused(alive, 2 * CENT, day=3 * CENT)).why == "put_aside"
    clock.now += timedelta(seconds=6)
    over = await refused(alive, 2 * CENT, day=3 * CENT)
    assert (over.why, over.account.day_usd) == ("spent", 2 * CENT)
    dead.settle(lost, CENT)  # it was only slow, and counts at its bound
    await dead.account("key")
    account = await alive.account("key")
    assert (account.day_usd, account.put_aside_usd) == (2 * CENT, 0)
    for budgets in (dead, alive):
        await budgets.aclose()


async def test_fifty_in_parallel_in_four_replicas_never_overspend(url: str) -> None:
    replicas = [Budgets(url) for _ in range(4)]
    limit, spent, rng = Decimal("0.5"), Decimal(0), random.Random(0)

    async def ask(number: int) -> None:
        nonlocal spent
        budgets = replicas[number % 4]
        one = await budgets.reserve("key", CENT, {"day": limit})
        if isinstance(one, Reservation):
            await asyncio.sleep(0)
            cost = Decimal(rng.randint(1, 10)) / 1000
            spent += cost
            budgets.settle(one, cost)

    for _ in range(6):
        await asyncio.gather(*map(ask, range(50)))
    account = [await budgets.account("key") for budgets in replicas][-1]
    assert limit - CENT < account.day_usd == spent <= limit
    assert account.put_aside_usd == 0
    for budgets in replicas:
        await budgets.aclose()


def test_of_four_replicas_on_one_file_one_may_be_killed(url: str, tmp_path: Path) -> None:
    spend_with_a_kill(url, tmp_path / "paid", limit=Decimal("0.30"))


def spend_with_a_kill(url: str, paid: Path, limit: Decimal) -> None:
    """Four processes with 50 requests each spend one budget; one is killed in the midst."""
    paid.write_text("")
    replicas = [start(url, str(limit), str(paid)) for _ in range(4)]
    for replica in replicas:
        assert replica.stdout.readline() == "ready\n"

    def wait_for(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    wait_for(lambda: paid.read_text().count("\n") >= 5)
    replicas[0].kill()

    async def account() -> Any:
        budgets = Budgets(url)
        try:
            return await budgets.account("key")
        finally:
            await budgets.aclose()

    # What the dead one had put aside counts when its lease has ended; the others spend the rest.
    wait_for(lambda: (a := asyncio.run(account())).day_usd > limit - CENT and not a.put_aside_usd)
    for replica in replicas:
        replica.kill()
        replica.communicate()
    spent = sum(map(Decimal, paid.read_text().split()))
    counted = asyncio.run(account())
    assert spent <= counted.day_usd <= limit


steps = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "charge", "wait"]), st.integers(1, 30)),
    max_size=30,
)


@settings(max_examples=30)
@given(steps=steps, limit=st.integers(20, 100))
async def test_no_limit_is_passed_but_by_charges(steps: list[tuple[str, int]], limit: int) -> None:
    clock, charged, budgets = Clock(), Decimal(0), Budgets("memory://")
    budgets.clock, budgets.lease = clock, timedelta(seconds=600)
    limits: dict[Window, Decimal] = {"month": Decimal(limit)}
    held: list[Reservation] = []
    for what, number in steps:
        if what == "reserve":
            found = await budgets.reserve("key", Decimal(number), limits)
            held += [found] if isinstance(found, Reservation) else []
        elif what == "settle" and held:
            one = held.pop(number % len(held))
            budgets.settle(one, one.usd * number / 30)
        elif what == "charge":
            charged += number
            budgets.charge("key", Decimal(number))
        else:
            clock.now += timedelta(seconds=60 * number)
        account = await budgets.account("key")
        assert account.month_usd + account.put_aside_usd <= limit + charged
        assert account.put_aside_usd <= sum(one.usd for one in held)


async def test_who_gives_up_before_the_answer_has_nothing_put_aside(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.ledger.shared.FEW", -1)  # the background is asked
    budgets = Budgets(url)
    await budgets.account("key")
    for _ in range(5):
        asking = asyncio.create_task(budgets.reserve("key", CENT, {"day": CENT}))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert (await budgets.account("key")).put_aside_usd == 0
    await budgets.aclose()


async def test_while_the_database_is_away_nothing_is_granted_or_forgotten(tmp_path: Path) -> None:
    budgets = Budgets(f"sqlite:///{tmp_path}/later/ledger.db")
    budgets.charge("key", CENT)
    with pytest.raises(LedgerError):
        await budgets.reserve("key", CENT, {"day": CENT})
    assert budgets.waiting
    (tmp_path / "later").mkdir()
    while budgets.waiting:  # noqa: ASYNC110 - the thread tries again by itself
        await asyncio.sleep(0.02)
    assert (await budgets.account("key")).day_usd == CENT
    await budgets.aclose()


async def test_closing_does_not_wait_for_a_database_that_stays_away(tmp_path: Path) -> None:
    budgets = Budgets(f"sqlite:///{tmp_path}/none/ledger.db")
    budgets.charge("key", CENT)
    await budgets.aclose()
    (tmp_path / "none").mkdir()  # it is counted, as long as the process lives
    await asyncio.wait_for(budgets.account("key"), 60)
