from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation.plan import (
    Hardware,
    Interval,
    Ownership,
    Plan,
    PlanInputs,
    plan,
    render,
    verdict,
)
from cascade.ledger import Price

CHEAP = Price(input=1, output=2)  # $ per 1M tokens
DEAR = Price(input=10, output=20)
SPENT = {"input_tokens": 1000, "output_tokens": 500}  # c_S = $0.002, c_L = $0.02, r = 0.1


def planned(**changes: Any) -> Plan:
    return plan(PlanInputs(**{"small": CHEAP, "large": DEAR, **SPENT, **changes}))


def text(found: Plan) -> str:
    return f"{verdict(found)}\n{render(found)}"


def test_the_cost_ratio_is_the_break_even_accept_rate() -> None:
    found = planned()
    assert (found.draft_usd, found.check_usd, found.large_usd) == (
        Decimal("0.002"),
        Decimal(0),
        Decimal("0.02"),
    )
    assert found.cost_ratio == found.break_even_accept_rate == Decimal("0.1")
    assert found.verdict == "open"
    assert "saves from an accept rate of 10.0 % on" in verdict(found)


def test_the_saving_is_what_accepted_drafts_spare_less_draft_and_check() -> None:
    found = planned(accept_rate=0.6, check_usd="0.001")
    # 1000 · (0.6 · 0.02 − 0.002 − 0.001)
    assert found.saved_per_1000_usd == Interval(value=Decimal(9))
    assert found.relative_cost == Interval(value=Decimal("0.55"))
    assert found.verdict == "saves"
    assert "saves $9.00 per 1,000 requests" in text(found)


def test_a_call_of_the_self_check_reads_question_and_draft() -> None:
    # (1000 + 500 + 30) · $1/M + 4 · $2/M, twice
    assert planned(check_calls=2).check_usd == Decimal("0.003076")


def test_a_longer_answer_of_the_large_model_counts() -> None:
    assert planned(large_output_tokens=0).large_usd == Decimal("0.01")


@pytest.mark.parametrize("accept", [None, 0.99])
def test_a_draft_as_dear_as_the_large_model_never_pays(accept: float | None) -> None:
    found = planned(small=DEAR, accept_rate=accept)
    assert (found.verdict, found.break_even_accept_rate) == ("never", None)
    assert verdict(found).startswith("Never: draft and check cost 100.0 % of a large answer")


@pytest.mark.parametrize(
    ("accept", "expected", "said"),
    [
        (0.05, "loses", "an accept rate of 5.0 % is not above the 10.0 %"),
        (0.1, "loses", "Switch it off"),
        (0.11, "saves", "It saves $0.200 per 1,000"),
    ],
)
def test_the_accept_rate_decides(accept: float, expected: str, said: str) -> None:
    found = planned(accept_rate=accept)
    assert found.verdict == expected
    assert said in text(found)


def test_an_accept_rate_seen_on_few_examples_gives_intervals_and_may_leave_it_open() -> None:
    found = planned(accept_rate=0.15, accept_n=40)
    saved = found.saved_per_1000_usd
    assert saved is not None
    assert saved.low is not None
    assert saved.high is not None
    assert saved.low < 0 < saved.value < saved.high
    assert found.verdict == "uncertain"
    assert "Measure the accept rate on more examples" in text(found)
    assert planned(accept_rate=0.15, accept_n=4000).verdict == "saves"


def test_a_local_model_costs_its_busy_seconds() -> None:
    machine = Hardware(hourly_usd="0.5", utilisation="0.25", kw="0.4", kwh_usd="0.3")
    assert machine.price().per_hour == Decimal("2.12")  # 0.5 ÷ 0.25 + 0.4 × 0.3
    found = planned(small=machine.price(), busy_s=36)
    assert found.draft_usd == Decimal("0.0212")


def test_busy_seconds_come_from_speeds() -> None:
    priced = {"small": Price(per_hour=3600), "large": Price(input=10**9, output=0)}
    # 500 ÷ 50 + 1000 ÷ 500 seconds at a dollar each; the check reads 1530 and writes 4 tokens
    found = planned(**priced, tokens_per_s=50, prompt_tokens_per_s=500, check_calls=1, large_s=20)
    assert found.draft_usd == 12
    assert found.check_usd == Decimal("3.14")
    assert found.latency is not None
    assert found.latency.escalated_added_s == Decimal("15.14")


@pytest.mark.parametrize(
    ("accept", "mean", "said"),
    [(None, None, "wait when escalated"), (0.5, "-1", "1.00 s shorter"), (0, "1", "1.00 s longer")],
)
def test_the_wait_grows_on_escalation_and_shrinks_on_acceptance(
    accept: float | None, mean: str | None, said: str
) -> None:
    found = planned(small_s=1, large_s=4, accept_rate=accept)
    latency = found.latency
    assert latency is not None
    assert (latency.escalated_added_s, latency.accepted_saved_s) == (1, 3)
    assert latency.mean_change_s == (None if mean is None else Decimal(mean))
    assert latency.break_even_accept_rate == Decimal("0.25")
    assert said in text(found)


def test_a_draft_slower_than_the_large_model_never_shortens_the_wait() -> None:
    found = planned(small_s=5, large_s=4)
    assert found.latency is not None
    assert found.latency.break_even_accept_rate is None
    assert "faster on average" in text(found)


OWNED = Ownership(
    purchase_usd=3600, maintenance_hours=2, hour_usd=50, standby_kw="0.1", kwh_usd="0.4"
)


def test_owning_costs_the_purchase_the_care_and_the_standby_power() -> None:
    # 3600 ÷ 36 + 2 × 50 + 0.1 × 730 × 0.4
    assert OWNED.monthly_usd() == Decimal("229.2")


def test_fixed_cost_is_paid_from_so_many_requests_a_month_on() -> None:
    found = planned(accept_rate=0.6, ownership=OWNED)  # $0.01 saved per request
    assert found.bill is not None
    assert found.bill.from_requests == Interval(value=Decimal(22920))
    assert "saves from 22,920 requests a month on" in text(found)


def test_the_number_of_requests_has_the_interval_of_the_accept_rate() -> None:
    found = planned(accept_rate=0.6, accept_n=100, ownership=OWNED)
    assert found.bill is not None
    needed = found.bill.from_requests
    assert needed is not None
    assert needed.low is not None
    assert needed.high is not None
    assert needed.low < needed.value < needed.high
    few = planned(accept_rate=0.15, accept_n=40, ownership=OWNED)
    assert few.bill is not None
    assert few.bill.from_requests is not None
    assert few.bill.from_requests.high is None
    assert "to never)" in text(few)


@pytest.mark.parametrize(
    ("requests", "expected", "said"),
    [
        (100_000, "saves", "$770.80 a month"),
        (1_000, "loses", "do not pay for the fixed cost"),
    ],
)
def test_the_bill_of_a_month_counts_the_fixed_cost(requests: int, expected: str, said: str) -> None:
    found = planned(accept_rate=0.6, ownership=OWNED, requests_per_month=requests)
    bill = found.bill
    assert bill is not None
    assert bill.large_only_usd == requests * Decimal("0.02")
    assert bill.saved_usd == requests * Decimal("0.01") - bill.fixed_usd
    assert bill.cascade_usd == bill.large_only_usd - bill.saved_usd
    assert found.verdict == expected
    assert said in text(found)


def test_a_bill_beyond_a_trillion_is_still_a_bill() -> None:
    found = planned(accept_rate=0.6, requests_per_month=10**15)
    assert found.bill is not None
    assert found.bill.saved_usd == 10**13


def test_a_bill_without_an_accept_rate_knows_the_large_model_alone() -> None:
    found = planned(requests_per_month=1000, ownership=OWNED)
    assert found.bill is not None
    assert (found.bill.large_only_usd, found.bill.saved_usd) == (20, None)
    assert "large model alone" in text(found)


def test_what_saves_nothing_pays_for_no_fixed_cost() -> None:
    assert "No number of requests pays for its $229.20 a month" in text(
        planned(accept_rate=0.05, ownership=OWNED)
    )


def test_a_bound_on_harm_forces_escalations() -> None:
    found = planned(draft_error=0.24, max_harm=0.05)
    assert found.harm is not None
    assert found.harm.forced_escalation == Decimal("0.19")
    assert found.harm.forced_escalation_conditional == Decimal("0.2")
    assert found.harm.largest_accept_rate == Decimal("0.81")
    assert found.harm.labels_needed == 45  # 0.95^45 < 0.1 < 0.95^44
    assert "forces at least 19.0 % of the requests to escalate" in text(found)


def test_a_bound_that_allows_all_drafts_forces_nothing() -> None:
    found = planned(draft_error=0.05, max_harm=0.1)
    assert found.harm is not None
    assert found.harm.forced_escalation == 0
    assert "forces" not in verdict(found)


def test_a_bound_that_leaves_too_few_accepted_drafts_rules_the_cascade_out() -> None:
    found = planned(draft_error=0.96, max_harm=0.02, accept_rate=0.5)
    assert found.verdict == "never"
    assert "even perfect confidence accepts no more than 6.0 %" in text(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept_rate": 1.2}, r"PlanInputs\(accept_rate=1\.2\)"),
        ({"accept_rate": "nan"}, r"PlanInputs\(accept_rate=nan\)"),
        ({"input_tokens": -1}, r"PlanInputs\(input_tokens=-1\)"),
        ({"accept_n": 10}, "accept_n=10 needs accept_rate too"),
        ({"accept_rate": 0.5, "accept_n": 0}, r"accept_n=0"),
        ({"prompt_tokens_per_s": 9}, "prompt_tokens_per_s=9 needs tokens_per_s too"),
        ({"max_harm": 0.1}, "max_harm=0.1 needs draft_error too"),
        ({"max_harm": 0, "draft_error": 0.5}, r"max_harm=0\)"),
        ({"busy_s": 1, "tokens_per_s": 2}, "say the same twice"),
        ({"unknown": 1}, r"unknown=1"),
        ({"small": Price(per_hour=1)}, "priced per busy hour: give busy_s"),
        ({"large": Price(per_hour=1)}, "price of the large model is per hour"),
        ({"large": Price(input=0, output=0)}, r"costs \$0 per request"),
    ],
)
def test_a_wrong_figure_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        planned(**changes)


def test_a_missing_figure_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"PlanInputs\(large\): Field required"):
        PlanInputs(small=CHEAP, **SPENT)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hardware().price(), "price of the small model is not set"),
        (lambda: Hardware(kw=1), "kw=1 has no price: give kwh_usd"),
        (lambda: Hardware(utilisation="0.5"), "give hourly_usd"),
        (lambda: Hardware(hourly_usd=1, utilisation=0), r"Hardware\(utilisation=0\)"),
        (lambda: Ownership(maintenance_hours=2), "maintenance_hours=2 has no price: give hour_usd"),
        (lambda: Ownership(standby_kw=2), "standby_kw=2 has no price: give kwh_usd"),
        (lambda: Ownership(months=0), r"Ownership\(months=0\)"),
    ],
)
def test_a_machine_without_its_prices_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


RATES = st.decimals(0, 1, places=3)
PRICES = st.integers(0, 10_000).map(lambda cents: Decimal(cents) / 100)


@given(small=PRICES, large=PRICES, first=RATES, second=RATES)
def test_a_higher_accept_rate_never_saves_less(
    small: Decimal, large: Decimal, first: Decimal, second: Decimal
) -> None:
    assume(large > 0)
    priced = {"small": Price(input=small, output=small), "large": Price(input=large, output=large)}
    low, high = (planned(**priced, accept_rate=rate) for rate in sorted((first, second)))
    assert low.saved_per_1000_usd is not None
    assert high.saved_per_1000_usd is not None
    assert low.saved_per_1000_usd.value <= high.saved_per_1000_usd.value


@given(small=PRICES, large=PRICES, check=PRICES)
def test_at_the_break_even_accept_rate_exactly_nothing_is_saved(
    small: Decimal, large: Decimal, check: Decimal
) -> None:
    assume(large > 0)
    priced = {
        "small": Price(input=small, output=small),
        "large": Price(input=large, output=large),
        "check_usd": check / 1000,
    }
    rate = planned(**priced).break_even_accept_rate
    assume(rate is not None)
    found = planned(**priced, accept_rate=rate)
    assert found.saved_per_1000_usd == Interval(value=Decimal(0))
    assert found.verdict in {"loses", "never"}
