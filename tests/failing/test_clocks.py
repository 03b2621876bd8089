"""The machine's clock jumps, forward and back, by hours and days."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

import pytest

from cascade._clock import steady_time
from cascade.agents.audit_rates import Budget, Traffic
from cascade.agents.deadline import Deadline
from cascade.ledger import Amounts
from cascade.ledger.store import Store, open_store
from cascade.ledger.tags import tagged
from cascade.service import budgets
from cascade.service.budgets import Account, Budgets, start_of_day
from cascade.service.config import BudgetConfig
from cascade.service.faults import ServiceError
from cascade.service.keys import KEY_TAG, Key
from cascade.state import Run
from tests.failing.worlds import asking, entry

HOURS = [-30 * 24, -25, -5, 5, 25, 30 * 24]
CENT = Decimal("0.01")
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@contextmanager
def clock_set(monkeypatch: pytest.MonkeyPatch, hours: float) -> Iterator[None]:
    """Set by so many hours, for whoever asks `time.time`."""
    true = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: true() + hours * 3600)
        yield


@pytest.mark.parametrize("hours", HOURS)
def test_a_deadline_is_neither_longer_nor_shorter(
    monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    run = Run("r", "q", begun_at=steady_time())
    with clock_set(monkeypatch, hours):
        left = Deadline(60.0).left_s(run)
    assert left is not None
    assert 0 < left <= 60


@pytest.mark.parametrize("hours", [5, 30 * 24])
def test_a_run_of_a_process_whose_clock_was_ahead_has_no_more_than_its_deadline(
    hours: float,
) -> None:
    run = Run("r", "q", begun_at=steady_time() + hours * 3600)
    assert Deadline(60.0).left_s(run) == 60.0


@pytest.mark.parametrize("hours", HOURS)
async def test_a_question_with_a_deadline_is_answered_while_the_clock_jumps(
    monkeypatch: pytest.MonkeyPatch, sqlite_url: str, hours: float
) -> None:
    async with open_store(sqlite_url) as store, asking(store, deadline=30) as cascade:
        with clock_set(monkeypatch, hours):
            result = await cascade.ainvoke("2 + 2?")
        assert result.answer == "yes"
        assert all(0 <= each.latency_ms < 30_000 for each in result.ledger)


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()

    def set(self, **by: float) -> None:
        self.now += timedelta(**by)


class Spent:
    def __init__(self, usd: str) -> None:
        self.usd, self.asked = Decimal(usd), 0

    async def spent(self, node: str, since: datetime) -> Amounts:
        self.asked += 1
        return Amounts(measured=self.usd)


async def test_a_day_of_audits_that_begins_again_is_read_again_before_anything_is_spent() -> None:
    clock = Clock()
    budget = Budget(10 * CENT, Spent("0.10"), clock)
    await budget.read()
    assert not budget.affords(CENT)
    clock.set(hours=13)  # after midnight
    assert budget.affords(CENT)
    clock.set(hours=-13)
    assert not budget.known
    assert not budget.affords(CENT)
    await budget.read()
    assert budget.known
    assert not budget.affords(CENT)


def test_without_a_store_a_day_of_audits_is_not_forgotten_when_the_clock_is_set_back() -> None:
    clock = Clock()
    budget = Budget(10 * CENT, None, clock)
    budget.hold("r", 10 * CENT)
    budget.settle("r", 10 * CENT)
    assert not budget.affords(CENT)
    clock.set(hours=-13)  # before midnight
    assert not budget.affords(CENT)


async def test_what_others_spend_on_audits_is_read_again_when_the_clock_was_set_back() -> None:
    clock = Clock()
    budget = Budget(CENT, Spent("0"), clock)
    await budget.read()
    assert not budget.stale
    clock.set(hours=-3)
    assert budget.stale


@pytest.mark.parametrize("hours", [-1 / 6, -3, -48])
def test_traffic_is_expected_while_the_clock_is_behind(hours: float) -> None:
    traffic = Traffic()
    for _ in range(100):
        traffic.saw(10_000.0)
    assert traffic.expected(10_000.0 + hours * 3600, 600.0) == pytest.approx(100.0)


class Now(datetime):
    """`datetime`, at a time that a test sets."""

    at = NOON

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        del tz
        return cls.at


KEY = Key(id="k", name="key", digest="d", day_usd=3 * CENT)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> type[Now]:
    monkeypatch.setattr(budgets, "datetime", Now)
    Now.at = NOON
    return Now


def spend(counted: Budgets, store: Store | None, usd: Decimal, at: datetime) -> None:
    spent = entry(cost_usd=usd, at=at)
    with tagged(**{KEY_TAG: KEY.id}):
        if store is not None:
            store.append([spent])
        counted.recorded("c", spent)


@pytest.mark.parametrize("hours", [13, 13 + 24 * 40])
async def test_a_day_of_a_key_does_not_begin_anew_when_the_clock_goes_there_and_back(
    now: type[Now], sqlite_url: str, hours: float
) -> None:
    async with open_store(sqlite_url) as store:
        counted = Budgets(store, BudgetConfig())
        await counted.account(KEY)
        spend(counted, store, 3 * CENT, now.at)
        for at in (NOON, NOON + timedelta(hours=hours), NOON):
            now.at = at
            account = await counted.account(KEY)
        assert account.day_usd == 3 * CENT
        with pytest.raises(ServiceError, match="budget"):
            await counted.reserve(KEY, CENT, can_stay=False)
        now.at = NOON + timedelta(days=1)
        await counted.reserve(KEY, CENT, can_stay=False)


async def test_a_ledger_that_cannot_be_read_then_gives_nobody_a_new_day(
    now: type[Now], sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_store(sqlite_url) as store:
        counted = Budgets(store, BudgetConfig())
        await counted.account(KEY)
        spend(counted, store, 3 * CENT, now.at)
        now.at = NOON - timedelta(hours=13)

        async def fail(*_: object) -> None:
            raise OSError("away")

        with monkeypatch.context() as patch:
            patch.setattr(store, "cost", fail)
            for _ in range(2):
                with pytest.raises(OSError, match="away"):
                    await counted.reserve(KEY, CENT, can_stay=False)
        with pytest.raises(ServiceError, match="budget"):
            await counted.reserve(KEY, CENT, can_stay=False)


async def test_where_nothing_is_kept_what_was_counted_counts_on(now: type[Now]) -> None:
    counted = Budgets(None, BudgetConfig())
    await counted.account(KEY)
    spend(counted, None, 3 * CENT, now.at)
    now.at = NOON - timedelta(hours=13)
    with pytest.raises(ServiceError, match="budget"):
        await counted.reserve(KEY, CENT, can_stay=False)


def test_an_account_keeps_its_day_when_the_clock_is_behind() -> None:
    account = Account(start_of_day(NOON), day_usd=CENT, month_usd=CENT)
    account.roll(NOON - timedelta(days=40))
    assert (account.day, account.day_usd, account.month_usd) == (start_of_day(NOON), CENT, CENT)
