from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.evaluation.plan import Plan, plan, recorded
from cascade.evaluation.render import to_text
from tests.evaluation.synthetic import recording

CHEAP, DEAR = Decimal("0.002"), Decimal("0.02")


def planned(draft: Decimal = CHEAP, large: Decimal = DEAR, **changes: Any) -> Plan:
    given = {name: Decimal(str(value)) for name, value in changes.items() if name != "accept_n"}
    return plan(draft, large, accept_n=changes.get("accept_n"), **given)


def text(found: Plan) -> str:
    return " ".join(to_text(found.document).split())


def test_the_saving_is_what_accepted_drafts_spare_less_draft_and_check() -> None:
    found = planned(accept_rate=0.6, check_usd="0.001")
    assert found.figures["saved_per_1000_usd"].value == 9  # 1000 · (0.6 · 0.02 − 0.002 − 0.001)
    assert found.figures["relative_cost"].value == Decimal("0.55")
    assert "saves $9.00 per 1,000 requests" in text(found)


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "open", "saves from an accept rate of 10.0 % on"),
        ({"accept_rate": 0.05}, "loses", "an accept rate of 5.0 % is not above the 10.0 %"),
        ({"accept_rate": 0.1}, "loses", "Switch it off"),
        ({"accept_rate": 0.11}, "saves", "It saves $0.20 per 1,000"),
        ({"draft": DEAR}, "never", "Never: draft and check cost 100.0 % of a large answer"),
        ({"draft": DEAR, "accept_rate": 0.99}, "never", "Never"),
        ({"fixed_usd": 7}, "open", "fixed cost is not counted: say how many requests"),
        ({"fixed_usd": 7, "requests": 1000}, "open", "saves from an accept rate of 45.0 % on"),
        ({"fixed_usd": 70, "requests": 1000}, "never", "Never: draft, check and fixed cost 3"),
        ({"accept_rate": 0.15, "accept_n": 40}, "uncertain", "Measure the accept rate on more"),
        ({"accept_rate": 0.15, "accept_n": 4000}, "saves", "It saves"),
    ],
)
def test_the_accept_rate_decides(changes: dict[str, Any], verdict: str, said: str) -> None:
    found = planned(**changes)
    assert found.verdict == verdict
    assert said in text(found)


def test_the_month_has_its_fixed_cost() -> None:
    found = planned(accept_rate=0.6, requests=20_000, fixed_usd=70)
    assert found.from_requests == 7000
    months = [found.figures[name].value for name in ("large_month_usd", "month_usd")]
    assert months == [Decimal(400), Decimal(270)]
    assert "fixed cost is paid for from 7,000 requests a month" in text(found)
    few = planned(accept_rate=0.6, requests=100, fixed_usd=70)
    assert few.verdict == "loses"
    assert "do not pay for the fixed cost" in few.document.sentence
    assert planned(accept_rate=0.05, fixed_usd=70).from_requests is None


def test_recorded_answers_say_what_they_cost_and_how_many_drafts_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(row.to_line() for row in recording(200)))
    found = recorded(path, "small", "large", rate=True)
    costs = [float(found[name]) for name in ("draft_usd", "large_usd")]
    assert costs == pytest.approx([1e-5, 1e-4])
    assert 0 < found["accept_rate"] < 1
    assert found["accept_n"] == 200
    assert "accept_rate" not in recorded(path, "small", "large", rate=False)
    path.write_text("".join(row.to_line() for row in recording(40)))
    assert "accept_rate" not in recorded(path, "small", "large")  # none is recommended
    path.write_text("".join(row.to_line() for row in recording(40, cheap=None)))
    with pytest.raises(ConfigurationError, match="record `cost_usd`"):
        recorded(path, "small", "large", rate=True)


@given(ratio=st.integers(1, 99), accept=st.floats(0, 1))
def test_a_cascade_saves_exactly_where_more_is_accepted_than_drafts_cost(
    ratio: int, accept: float
) -> None:
    assume(abs(accept - ratio / 100) > 1e-6)
    found = planned(Decimal(ratio), Decimal(100), accept_rate=accept)
    assert found.verdict == ("saves" if accept > ratio / 100 else "loses")
