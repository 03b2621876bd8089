from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.fleet import (
    Capacity,
    Costs,
    LognormalTime,
    Needs,
    Workload,
    laws_text,
    needs,
    needs_text,
    scenario_of,
    verdict,
)
from cascade.fleet.laws import waits_longer
from cascade.ledger import Price

LARGE = Price(input=1, output=10)
OWN = Costs(large=LARGE, replica_hour_usd=Decimal(3), gateway_hour_usd=1, database_hour_usd=1)


def workload(rate: float = 100, **changes: object) -> Workload:
    base: Mapping[str, object] = {
        "rate": rate,
        "escalation": 0.25,
        "small": LognormalTime(mean_s=1.0, cv=0.5),
        "large": LognormalTime(mean_s=4.0, cv=0.5),
        "input_tokens": 400,
        "output_tokens": 160,
    }
    return Workload(**{**base, **changes})


def capacity(**changes: object) -> Capacity:
    base: Mapping[str, object] = {"replica_slots": 16, "gateway_cpu_ms": 3.5, "rows_per_request": 7}
    return Capacity(**{**base, **changes})


def unit(found: Needs, part: str) -> int:
    return next(limit.units for limit in found.limits if limit.part == part)


def test_a_fleet_is_what_the_laws_say() -> None:
    found = needs(workload(), capacity(gateway_concurrency=400, large_places=400), OWN)
    assert found.gateways == 1
    assert found.gateway_busy == pytest.approx(0.35)
    assert found.small_in_flight == 100
    assert found.large_in_flight == 100
    assert found.large_tokens_per_minute == 100 * 0.25 * 560 * 60
    assert found.rows_per_s == 700
    assert found.replicas == 7  # 112 slots, busy for 89 %
    assert found.small_busy == pytest.approx(100 / 112)
    assert found.small_wait_s is not None
    assert found.small_wait_s[0] == 0 < found.small_wait_s[1] <= 0.25


def test_replicas_keep_the_wait_that_is_accepted() -> None:
    tight, loose = (
        needs(workload(20), capacity(replica_slots=1, wait_s=wait_s, busiest_slots=1))
        for wait_s in (0.01, 2)
    )
    assert tight.replicas is not None
    assert loose.replicas is not None
    assert tight.replicas > loose.replicas
    assert waits_longer(0.01, 20, 1.0, tight.replicas, cv=0.5) <= 0.01
    assert waits_longer(0.01, 20, 1.0, tight.replicas - 1, cv=0.5) > 0.01


def test_places_of_the_gateway_are_littles_law() -> None:
    found = needs(workload(), capacity(gateway_concurrency=64))
    # 64 places for 70 % of 2 s: 22.4 requests/s
    assert unit(found, "gateway, places") == 5
    assert found.gateways == 5
    assert found.first.part == "small model, slots"


def test_a_quota_is_named_where_it_ends() -> None:
    given = capacity(tokens_per_minute=420_000, requests_per_minute=10**6)
    found = needs(workload(), given)
    quota = found.first_quota
    assert quota is not None
    assert quota.carries == pytest.approx(0.7 * 7000 / 140)
    assert quota.units == 3
    assert "No machine helps with large model, tokens a minute" in verdict(found)
    assert "3 times as much is needed" in verdict(found)


def test_a_hosted_small_model_has_no_replicas() -> None:
    found = needs(
        workload(), capacity(replica_slots=None), Costs(large=LARGE, small=Price(input=1, output=1))
    )
    assert (found.replicas, found.small_busy, found.small_wait_s) == (None, None, None)
    assert found.bill is not None
    assert found.bill.small_usd == Decimal(100) * 3600 * 730 * Decimal("0.00056")
    assert "replicas" not in needs_text([found])


def test_the_bill_is_paid_by_the_mean_and_machines_stand_for_the_peak() -> None:
    even = needs(workload(), capacity(), OWN)
    peaked = needs(workload(peak=3), capacity(), OWN)
    assert even.bill is not None
    assert peaked.bill is not None
    assert even.bill.large_alone_usd == Decimal(100) * 3600 * 730 * Decimal("0.002")
    assert peaked.bill.large_alone_usd == even.bill.large_alone_usd
    assert peaked.bill.large_usd == even.bill.large_usd == even.bill.large_alone_usd / 4
    assert even.replicas is not None
    assert even.bill.small_usd == even.replicas * 3 * 730
    assert peaked.bill.small_usd > 2.5 * float(even.bill.small_usd)
    assert peaked.gigabytes_per_day == even.gigabytes_per_day


def test_a_cascade_that_loses_is_told_to_be_switched_off() -> None:
    found = needs(workload(0.5), capacity(), OWN)
    assert found.bill is not None
    assert found.bill.saved_usd < 0
    assert found.bill.saved_usd == found.bill.large_alone_usd - found.bill.cascade_usd
    assert f"It loses ${-found.bill.saved_usd:,.0f} a month" in verdict(found)
    assert "-$" in needs_text([found])


def test_audits_are_calls_to_the_large_model_that_are_paid() -> None:
    without, audited = (needs(workload(audited=each), capacity(), OWN) for each in (0, 0.1))
    assert without.bill is not None
    assert audited.bill is not None
    assert audited.bill.large_usd / audited.bill.large_alone_usd == Decimal("0.325")
    assert audited.bill.large_usd > without.bill.large_usd


def test_what_has_no_price_is_named() -> None:
    found = needs(workload(), capacity(), Costs(large=LARGE, replica_hour_usd=3))
    assert found.bill is not None
    assert found.bill.unpriced == ("gateways", "databases")
    assert "Without a price, and in no figure: gateways, databases." in verdict(found)


@settings(max_examples=50, deadline=None)
@given(rate=st.floats(0.1, 5_000), factor=st.floats(1, 20), escalation=st.floats(0, 1))
def test_more_requests_never_need_less(rate: float, factor: float, escalation: float) -> None:
    given = capacity(tokens_per_minute=10**6)
    few, many = (
        needs(workload(each, escalation=escalation), given, OWN) for each in (rate, factor * rate)
    )
    assert many.gateways >= few.gateways
    assert (many.replicas or 0) >= (few.replicas or 0)
    assert many.databases >= few.databases
    assert few.bill is not None
    assert many.bill is not None
    assert many.bill.cascade_usd >= few.bill.cascade_usd
    for limit in few.limits:
        if limit.part not in ("small model, slots", "database, connections"):
            assert limit.units * limit.carries >= rate * (1 - 1e-6)
            assert limit.units == 1 or (limit.units - 1) * limit.carries < rate * (1 + 1e-6)
    carried = [limit.carries for limit in few.limits]
    assert carried == sorted(carried)


@given(escalation=st.floats(0, 0.9))
def test_more_escalations_never_save_more(escalation: float) -> None:
    less, more = (
        needs(workload(escalation=each), capacity(), OWN) for each in (escalation, escalation + 0.1)
    )
    assert less.bill is not None
    assert more.bill is not None
    assert more.bill.saved_usd <= less.bill.saved_usd


def test_one_replica_carries_what_its_slots_wait_for() -> None:
    found = needs(workload(), capacity())
    carries = next(limit.carries for limit in found.limits if limit.part == "small model, slots")
    assert waits_longer(0.25, carries, 1.0, 16, cv=0.5) == pytest.approx(0.01, rel=1e-3)


def test_connections_of_a_database_are_counted_by_processes() -> None:
    given = capacity(gateway_cpu_ms=7, gateway_concurrency=10**6, large_places=10**6)
    found = needs(workload(2_000), given)
    assert found.gateways == 20  # 100 requests/s each
    assert unit(found, "database, connections") == 2  # 16 processes of 6 connections
    assert unit(found, "database, rows") == 2


def test_the_table_has_a_column_for_each_rate() -> None:
    fleets = [needs(workload(rate), capacity(), OWN) for rate in (10, 1000)]
    table = needs_text(fleets).splitlines()
    assert table[0].split() == ["requests/s,", "mean", "10.0", "1,000"]
    assert laws_text(fleets).splitlines()[0].split()[-5:] == [
        "at",
        "10.0/s",
        "at",
        "1,000/s",
        "law",
    ]


def test_a_scenario_is_the_fleet_at_its_busiest_time() -> None:
    found = needs(workload(100, peak=2), capacity())
    scenario = scenario_of(found, capacity())
    assert scenario.rate == 200
    assert (scenario.gateways, scenario.replicas) == (found.gateways, found.replicas)


@pytest.mark.parametrize(
    ("slots", "costs", "words"),
    [
        (None, {"replica_hour_usd": 3}, "replica_slots"),
        (16, {"small": LARGE}, "replica_hour_usd"),
        (16, {"large": Price(per_hour=1), "replica_hour_usd": 3}, "the large model"),
    ],
)
def test_prices_that_do_not_fit_are_refused(
    slots: int | None, costs: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        needs(workload(), capacity(replica_slots=slots), Costs(**{"large": LARGE, **costs}))


@pytest.mark.parametrize("small", [{}, {"small": LARGE, "replica_hour_usd": 3}])
def test_the_small_model_is_paid_in_one_way(small: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="by its tokens or by its machines"):
        Costs(large=LARGE, **small)


@pytest.mark.parametrize(
    "changes", [{"rate": 0}, {"rate": float("nan")}, {"escalation": 1.1}, {"peak": 0.5}]
)
def test_a_workload_that_is_none_is_refused_by_name(changes: dict[str, float]) -> None:
    (name,) = changes
    with pytest.raises(ConfigurationError, match=rf"Workload\({name}="):
        workload(**changes)
