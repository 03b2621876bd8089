"""What holds for every policy when the large model's price or the time that is left changes."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.policies import Situation, TierOutlook
from cascade.state import Assessment, Decision
from tests.policies.test_laws import POLICIES

CHANCES = st.floats(0, 1)
COSTS = st.decimals(0, 1, places=4)


def decided(name: str, confidence: float | None, cost: Decimal | None) -> Decision:
    situation = Situation(
        Assessment(confidence=confidence, calibrated=True),
        escalation_cost_usd=cost,
        above=(TierOutlook("large", None, cost),),
        escalation_s=2.0,
        time_left_s=10.0,
    )
    return POLICIES[name].decide(situation)


@pytest.mark.parametrize("name", POLICIES)
@given(confidence=CHANCES, costs=st.tuples(COSTS, COSTS))
def test_a_dearer_large_model_never_turns_accept_into_escalate(
    name: str, confidence: float, costs: tuple[Decimal, Decimal]
) -> None:
    cheap, dear = (decided(name, confidence, cost) for cost in sorted(costs))
    assert cheap.action != "accept" or dear.action == "accept"


@pytest.mark.parametrize("name", POLICIES)
@given(confidence=st.none() | CHANCES, cost=st.none() | COSTS)
def test_a_decision_is_the_same_each_time_and_says_why(
    name: str, confidence: float | None, cost: Decimal | None
) -> None:
    first, second = (decided(name, confidence, cost) for _ in range(2))
    assert first == second
    assert first.action in ("accept", "escalate", "abstain", "ask")
    assert first.reason
    assert first.confidence == confidence
    assert first.threshold is None or 0.0 <= first.threshold <= 1.0


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_accepted_without_a_confidence(name: str) -> None:
    for cost in (None, Decimal(0), Decimal(1)):
        assert decided(name, None, cost).action != "accept"
