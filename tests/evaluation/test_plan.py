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


def test_the_cost_ratio_is_the_accept_rate_from_which_it_saves() -> None:
    found = planned()
    assert (found.draft_usd, found.check_usd, found.large_usd) == (
        Decimal("0.002"),
        Decimal(0),
        Decimal("0.02"),
    )
    assert found.cost_ratio == Decimal("0.1")
    assert found.verdict == "open"
    assert "saves from an accept rate of 10.0 % on" in found.sentence


def test_the_saving_is_what_accepted_drafts_spare_less_draft_and_check() -> None:
    found = planned(accept_rate=0.6, check_usd="0.001")
    # 1000 · (0.6 · 0.02 − 0.002 − 0.001)
    assert found.saved_per_1000_usd == Range(value=Decimal(9))
    assert found.relative_cost == Range(value=Decimal("0.55"))
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
    assert found.verdict == "never"
    assert found.sentence.startswith("Never: draft and check cost 100.0 % of a large answer")


@pytest.mark.parametrize(
    ("accept", "expected", "said"),
    [
        (0.05, "loses", "an accept rate of 5.0 % is not above the 10.0 %"),
        (0.1, "loses", "Switch it off"),
        (0.11, "saves", "It saves $0.20 per 1,000"),
    ],
)
def test_the_accept_rate_decides(accept: float, expected: str, said: str) -> None:
    found = planned(accept_rate=accept)
    assert found.verdict == expected
    assert said in text(found)


def test_an_accept_rate_seen_on_few_examples_may_leave_it_open() -> None:
    found = planned(accept_rate=0.15, accept_n=40)
    saved = found.saved_per_1000_usd
    assert saved is not None
    assert saved.low is not None
    assert saved.high is not None
    assert saved.low < 0 < saved.value < saved.high
    assert found.verdict == "uncertain"
    assert "Measure the accept rate on more examples" in text(found)
    assert planned(accept_rate=0.15, accept_n=4000).verdict == "saves"


def test_busy_seconds_come_from_reading_and_writing() -> None:
    priced = {"small": Price(per_hour=3600), "large": Price(input=10**9, output=0)}
    # 500 ÷ 50 + 1000 ÷ 500 seconds at a dollar each; the check reads 1530 and writes 4 tokens
    found = planned(**priced, tokens_per_s=50, prompt_tokens_per_s=500, check_calls=1)
    assert found.draft_usd == 12
    assert found.check_usd == Decimal("3.14")


def test_reading_is_never_free() -> None:
    words = {"output_tokens": 1, "input_tokens": 500, "tokens_per_s": 100}
    found = planned(small=Price(per_hour=3600), **words)
    assert found.draft_usd == Decimal("1.01")  # 1 ÷ 100 + 500 ÷ (5 · 100) seconds
    assert "Assumed: the small model reads 5 times faster" in text(found)


def test_seconds_of_a_draft_may_be_given() -> None:
    assert planned(small=Price(per_hour=3600), busy_s=36).draft_usd == 36


def test_the_month_has_its_fixed_cost() -> None:
    owned = {"purchase_usd": 360, "maintenance_hours": 1, "hour_usd": 60}
    found = planned(accept_rate=0.6, requests_per_month=20_000, **owned)
    assert found.fixed_usd == 70  # 360 ÷ 36 + 60
    assert found.from_requests == 7000
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
