"""The chance of an audit, and the budget of a day."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.agents.audit_rates import AuditRates, Budget, Traffic
from cascade.ledger import Amounts

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
CENT = Decimal("0.01")


class Clock:
    def __init__(self, hours: float = 12.0) -> None:
        self.now = MIDNIGHT + timedelta(hours=hours)

    def __call__(self) -> float:
        return self.now.timestamp()

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)


class Spent:
    """A store that knows what was spent, and remembers since when it was asked."""

    def __init__(self, *, measured: str = "0", unknown: int = 0) -> None:
        self.amounts = Amounts(measured=Decimal(measured), unknown=unknown)
        self.since: list[datetime] = []

    async def spent(self, node: str, since: datetime) -> Amounts:
        assert node == "audit"
        self.since.append(since)
        return self.amounts


def test_a_constant_rate_is_the_same_for_all() -> None:
    rates = AuditRates(0.05)
    assert {rates.chance(p, usd) for p in (None, 0.1, 1.0) for usd in (None, CENT)} == {0.05}


def test_an_alarm_raises_the_rate_up_to_one() -> None:
    factor = 4.0
    rates = AuditRates(0.05, factor=lambda: factor)
    assert rates.chance(0.9, CENT) == pytest.approx(0.2)
    factor = 100.0
    assert rates.chance(0.9, CENT) == 1.0


def test_doubtful_and_cheap_drafts_have_a_higher_chance_where_it_is_optimal() -> None:
    def chance_after_others(confidence: float | None, usd: Decimal | None) -> float:
        rates = AuditRates(0.1, allocation="optimal")
        for _ in range(50):
            rates.chance(0.8, CENT)
        found = rates.chance(confidence, usd)
        assert found is not None
        return found

    assert chance_after_others(0.5, CENT) > chance_after_others(0.8, CENT)
    assert chance_after_others(0.8, CENT / 4) > 1.5 * chance_after_others(0.8, CENT)
    assert chance_after_others(None, CENT) == chance_after_others(0.5, CENT)
    assert chance_after_others(1.0, CENT) == 0.01
    assert chance_after_others(0.8, None) == pytest.approx(0.1)


@pytest.mark.parametrize(("rate", "floor"), [(0.05, 0.01), (0.2, 0.05)])
def test_the_optimal_rates_are_the_wanted_rate_on_average(rate: float, floor: float) -> None:
    rng = random.Random(0)
    rates = AuditRates(rate, floor, "optimal")
    chances = []
    for _ in range(5000):
        usd = Decimal(str(rng.lognormvariate(-5, 0.7)))
        chance = rates.chance(rng.betavariate(8, 2), usd)
        assert chance is not None
        chances.append(chance)
    assert sum(chances) / len(chances) == pytest.approx(rate, rel=0.1)
    assert min(chances) >= floor


@given(
    st.floats(0.001, 1.0),
    st.floats(0.001, 1.0),
    st.lists(st.tuples(st.floats(0, 1), st.decimals("0", "10", places=6)), max_size=30),
)
def test_a_chance_is_above_zero_and_at_most_one(
    rate: float, floor: float, drafts: list[tuple[float, Decimal]]
) -> None:
    rates = AuditRates(rate, floor, "optimal")
    for confidence, usd in drafts:
        chance = rates.chance(confidence, usd)
        assert chance is not None
        assert min(rate, floor) <= chance <= 1.0


def test_a_budget_that_is_ample_leaves_the_rate_alone() -> None:
    assert Budget(Decimal(1000), clock=Clock()).rate(0.1, CENT) == 0.1


def test_a_budget_lasts_until_midnight() -> None:
    clock = Clock(hours=0)
    budget = Budget(Decimal("1.00"), clock=clock)
    rng = random.Random(0)
    spent: list[float] = []
    for minute in range(24 * 60):
        for i in range(10):
            rate = budget.rate(0.5, CENT)
            if rate is not None and rng.random() < rate:
                budget.hold(f"{minute}-{i}", CENT)
                budget.settle(f"{minute}-{i}", CENT)
                spent.append(minute / 60)
        clock.pass_(minutes=1)
    # 14,400 drafts, 100 audits that can be paid for: they are spread over the day.
    assert 85 <= len(spent) <= 100
    quarters = [sum(6 * q <= hour < 6 * q + 6 for hour in spent) for q in range(4)]
    assert min(quarters) >= 10, quarters


def test_a_budget_is_never_exceeded_by_what_costs_as_expected() -> None:
    budget = Budget(Decimal("0.05"), clock=Clock(hours=23.99))
    drawn = 0
    for i in range(100):
        if budget.rate(1.0, CENT) is not None:
            budget.hold(str(i), CENT)
            drawn += 1
    assert drawn == 5
    assert not budget.affords(CENT)
    for i in range(5):
        budget.settle(str(i), CENT / 2)
    assert budget.affords(CENT)  # they were cheaper than estimated


def test_an_unknown_cost_counts_at_its_estimate() -> None:
    budget = Budget(Decimal("0.02"), clock=Clock())
    budget.hold("a", CENT)
    budget.settle("a", None)
    assert budget.affords(CENT)
    budget.hold("b", CENT)
    budget.settle("b", None)
    assert not budget.affords(CENT)


def test_audits_are_expected_to_cost_what_they_cost_with_their_judges() -> None:
    budget = Budget(Decimal("0.05"), clock=Clock())
    budget.hold("a", CENT)
    budget.settle("a", CENT * 4)
    assert not budget.affords(CENT)


def test_what_nobody_can_price_cannot_be_budgeted() -> None:
    assert Budget(Decimal(1), clock=Clock()).rate(0.1, None) is None


def test_the_budget_is_there_again_after_midnight() -> None:
    clock = Clock(hours=23)
    budget = Budget(CENT, clock=clock)
    budget.hold("a", CENT)
    budget.settle("a", CENT)
    assert budget.rate(0.5, CENT) is None
    clock.pass_(hours=2)
    assert budget.rate(0.5, CENT) is not None


async def test_nothing_is_audited_before_the_store_has_said_what_was_spent() -> None:
    store = Spent(measured="0.04")
    budget = Budget(Decimal("0.05"), store, Clock())
    assert budget.stale
    assert budget.rate(0.5, CENT) is None
    await budget.read()
    assert not budget.stale
    assert budget.rate(0.5, CENT) is not None
    assert not budget.affords(CENT * 2)
    assert store.since == [MIDNIGHT]


async def test_what_others_spend_is_seen_with_the_next_reading() -> None:
    store, clock = Spent(), Clock()
    budget = Budget(Decimal("0.05"), store, clock)
    await budget.read()
    store.amounts = Amounts(measured=Decimal("0.05"))
    assert budget.affords(CENT)
    clock.pass_(seconds=16)
    assert budget.stale
    await budget.read()
    assert not budget.affords(CENT)


async def test_own_spend_counts_once_before_and_after_it_is_read() -> None:
    store, clock = Spent(), Clock()
    budget = Budget(Decimal("0.02"), store, clock)
    await budget.read()
    budget.hold("a", CENT)
    budget.settle("a", CENT)
    assert not budget.affords(CENT * 2)
    assert budget.affords(CENT)
    store.amounts = Amounts(measured=CENT)
    await budget.read()
    assert budget.affords(CENT)
    assert not budget.affords(CENT * 2)


async def test_unknown_amounts_in_the_store_count_as_the_mean_of_audits() -> None:
    store = Spent(unknown=3)
    budget = Budget(Decimal("0.05"), store, Clock())
    budget.settle("a", CENT)
    await budget.read()
    assert budget.affords(CENT)
    assert not budget.affords(CENT * 3)


async def test_a_reading_of_yesterday_is_not_taken_for_todays() -> None:
    clock = Clock(hours=23.9)

    class Slow(Spent):
        async def spent(self, node: str, since: datetime) -> Amounts:
            clock.pass_(hours=1)
            return await super().spent(node, since)

    budget = Budget(Decimal("0.05"), Slow(measured="0.05"), clock)
    await budget.read()
    assert budget.affords(CENT)


async def test_without_a_store_there_is_nothing_to_read() -> None:
    budget = Budget(Decimal(1), clock=Clock())
    await budget.read()
    assert not budget.stale
    assert budget.affords(CENT)


def test_old_traffic_counts_less() -> None:
    traffic = Traffic()
    for minute in range(60):
        traffic.saw(minute * 60.0)
    busy = traffic.expected(3600.0, 3600.0)
    assert busy == pytest.approx(60, rel=0.2)
    for hour in range(2, 10):
        traffic.saw(hour * 3600.0)
    assert traffic.expected(9 * 3600.0, 3600.0) < 5
