"""Row 8: the economic rule in dollars, and a budget in dollars."""

from __future__ import annotations

from statistics import mean

import pytest

from cascade import Cascade, EconomicPolicy
from cascade.policies import BudgetPolicy
from tests.acceptance import commands
from tests.acceptance.commands import World
from tests.acceptance.setups import pair
from tests.acceptance.upstream import Answer, Seen, Upstream

ASKED = (1_000, 100)
"""Tokens of each call: the large model takes $0.00225 for an answer."""


@pytest.mark.parametrize("p", [0.2, 0.6, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("price_of_error", [0.0001, 0.01, 0.1, 10.0])
def test_the_cheaper_of_both_sides_is_taken(
    upstream: Upstream, p: float, price_of_error: float
) -> None:
    result = pair(upstream, p, tokens=ASKED, price_of_error=price_of_error).invoke("?")
    decision = result.decision
    accept, escalate = decision.expected_cost_accept_usd, decision.expected_cost_escalate_usd
    assert accept is not None
    assert escalate is not None
    assert float(accept) == pytest.approx(price_of_error * (1 - p), rel=0.01)
    assert result.tier == ("small" if accept <= escalate else "large")
    if price_of_error in (0.0001, 10.0):
        assert result.tier == ("small" if price_of_error < 1 else "large")


def test_a_large_model_that_errs_too_is_worth_less(upstream: Upstream) -> None:
    """At p_L = 0.9 nothing is gained where the draft is as likely to be right."""
    for p_large, tier in ((1.0, "large"), (0.9, "small")):
        made = pair(upstream, 0.9, policy=EconomicPolicy(0.1, p_large))
        assert made.invoke("?").tier == tier


def test_with_a_calibration_the_rule_weighs_probabilities(world: World) -> None:
    given = {"calibrator": world.calibration, "price_of_error": 0.00001}
    with Cascade(*world.tiers(), **given) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in range(1_000, 1_030)])
    for result in results:
        accept = float(result.decision.expected_cost_accept_usd or 0)
        assert accept == pytest.approx(0.00001 * (1 - (result.confidence or 0)))
    assert {result.tier for result in results} == {"small", "large"}


@pytest.mark.parametrize("budget_usd", [0.0008, 0.0016])
def test_a_budget_in_dollars_is_kept_on_average(upstream: Upstream, budget_usd: float) -> None:
    def drafts(seen: Seen) -> Answer:
        return Answer("a draft", p=0.5 + 0.49 * commands.chance(int(seen.last)), tokens=ASKED)

    with pair(upstream, tokens=ASKED, policy=BudgetPolicy(budget_usd)) as cascade:
        upstream.says("small", drafts)
        later = [cascade.invoke(str(i)) for i in range(260)][100:]
    assert mean(float(r.ledger.cost_usd or 0) for r in later) == pytest.approx(budget_usd, rel=0.2)
    kept, gone = (
        mean(r.confidence or 0 for r in later if r.tier == tier) for tier in ("small", "large")
    )
    assert kept > gone
