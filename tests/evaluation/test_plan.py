from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation.plan import Plan, PlanInputs, Range, plan, to_document
from cascade.evaluation.render import to_text
from cascade.ledger.prices import Price

CHEAP = Price(input=1, output=2)  # $ per 1M tokens
DEAR = Price(input=10, output=20)
SPENT = {"input_tokens": 1000, "output_tokens": 500}  # c_S = $0.002, c_L = $0.02, r = 0.1


def planned(**changes: Any) -> Plan:
    return plan(PlanInputs(**{"small": CHEAP, "large": DEAR, **SPENT, **changes}))


def text(found: Plan) -> str:
    return to_text(to_document(found), width=500)


def test_the_saving_is_what_accepted_drafts_spare_less_draft_and_check() -> None:
    found = planned(accept_rate=0.6, check_usd="0.001")
    costs = found.draft_usd, found.check_usd, found.large_usd
    assert costs == (Decimal("0.002"), Decimal("0.001"), Decimal("0.02"))
    # 1000 · (0.6 · 0.02 − 0.002 − 0.001)
    assert found.saved_per_1000_usd == Range(value=Decimal(9))
    assert found.relative_cost == Range(value=Decimal("0.55"))
    assert "saves $9.00 per 1,000 requests" in text(found)


def test_a_call_of_the_self_check_reads_question_and_draft() -> None:
    # (1000 + 500 + 30) · $1/M + 4 · $2/M, twice
    assert planned(check_calls=2).check_usd == Decimal("0.003076")
    assert planned(large_output_tokens=0).large_usd == Decimal("0.01")


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "open", "saves from an accept rate of 10.0 % on"),
        ({"accept_rate": 0.05}, "loses", "an accept rate of 5.0 % is not above the 10.0 %"),
        ({"accept_rate": 0.1}, "loses", "Switch it off"),
        ({"accept_rate": 0.11}, "saves", "It saves $0.20 per 1,000"),
        ({"small": DEAR}, "never", "Never: draft and check cost 100.0 % of a large answer"),
        ({"small": DEAR, "accept_rate": 0.99}, "never", "Never"),
        ({"accept_rate": 0.15, "accept_n": 40}, "uncertain", "Measure the accept rate on more"),
        ({"accept_rate": 0.15, "accept_n": 4000}, "saves", "It saves"),
    ],
)
def test_the_accept_rate_decides(changes: dict[str, Any], verdict: str, said: str) -> None:
    found = planned(**changes)
    assert found.verdict == verdict
    assert said in text(found)


def test_busy_seconds_come_from_reading_and_writing() -> None:
    by_hour = {"small": Price(per_hour=3600)}  # a dollar a second
    # 500 ÷ 50 + 1000 ÷ 500; the check reads 1530 and writes 4 tokens
    found = planned(**by_hour, tokens_per_s=50, prompt_tokens_per_s=500, check_calls=1)
    assert (found.draft_usd, found.check_usd) == (12, Decimal("3.14"))
    short = planned(**by_hour, output_tokens=1, input_tokens=500, tokens_per_s=100)
    assert short.draft_usd == Decimal("1.01")  # 1 ÷ 100 + 500 ÷ (5 · 100)
    assert "Assumed: the small model reads 5 times faster" in text(short)
    assert planned(**by_hour, busy_s=36).draft_usd == 36


def test_the_month_has_its_fixed_cost() -> None:
    owned = {"purchase_usd": 360, "maintenance_hours": 1, "hour_usd": 60}
    found = planned(accept_rate=0.6, requests_per_month=20_000, **owned)
    assert (found.fixed_usd, found.from_requests) == (70, 7000)  # 360 ÷ 36 + 60
    assert found.monthly_usd == (Decimal(400), Decimal(270))
    assert "saves from 7,000 requests a month on" in text(found)
    few = planned(accept_rate=0.6, requests_per_month=100, **owned)
    assert few.verdict == "loses"
    assert "do not pay for the fixed cost" in few.sentence
    assert "No number of requests pays" in planned(accept_rate=0.05, **owned).sentence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept_rate": 1.5}, "accept_rate=1.5: "),
        ({"accept_n": 10}, "accept_n=10 needs accept_rate too"),
        ({"prompt_tokens_per_s": 10}, "needs tokens_per_s too"),
        ({"maintenance_hours": 1}, "needs hour_usd too"),
        ({"busy_s": 1, "tokens_per_s": 1}, "say the same twice"),
        ({"small": Price(per_hour=1)}, "give busy_s"),
        ({"large": Price(per_hour=1)}, "give it per token"),
        ({"large": Price(input=0, output=0)}, "nothing to save"),
    ],
)
def test_figures_that_cannot_be_planned_with_are_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        planned(**changes)


@given(ratio=st.integers(1, 99), accept=st.floats(0, 1))
def test_a_cascade_saves_exactly_where_more_is_accepted_than_drafts_cost(
    ratio: int, accept: float
) -> None:
    assume(abs(accept - ratio / 100) > 1e-6)
    large = Price(input=100, output=100)
    found = planned(small=Price(input=ratio, output=ratio), large=large, accept_rate=accept)
    assert found.verdict == ("saves" if accept > ratio / 100 else "loses")
