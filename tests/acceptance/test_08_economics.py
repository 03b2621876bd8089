"""Row 8: the economic rule in dollars, and a budget in dollars."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pytest

from cascade import Cascade, ConfigurationError, EconomicPolicy, Price
from tests.acceptance import commands, edition
from tests.acceptance.commands import World
from tests.acceptance.upstream import Answer, Seen, Upstream

CHEAP, DEAR = Price(input="0.1", output="0.4"), Price(input=10, output=40)


def pair(upstream: Upstream, p: float = 0.9, **options: Any) -> Cascade:
    upstream.says("small", Answer("Sydney", p=p, tokens=(100, 10)))
    upstream.says("large", Answer("Canberra", tokens=(100, 10)))  # $0.0014
    return Cascade(
        upstream.tier("small", price=CHEAP), upstream.tier("large", price=DEAR), **options
    )


@pytest.mark.parametrize(("price_of_error", "tier"), [(0.0001, "small"), (10.0, "large")])
def test_what_an_error_costs_decides(upstream: Upstream, price_of_error: float, tier: str) -> None:
    with pair(upstream, price_of_error=price_of_error) as cascade:
        assert cascade.invoke("?").tier == tier


@pytest.mark.parametrize("p", [0.2, 0.6, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("price_of_error", [0.001, 0.01, 0.1])
def test_the_cheaper_of_both_sides_is_taken(
    upstream: Upstream, p: float, price_of_error: float
) -> None:
    with pair(upstream, p, price_of_error=price_of_error) as cascade:
        decision = cascade.invoke("?").decision
    accept, escalate = decision.expected_cost_accept_usd, decision.expected_cost_escalate_usd
    assert accept is not None
    assert escalate is not None
    assert float(accept) == pytest.approx(price_of_error * (1 - p), rel=0.01)
    assert decision.action == ("accept" if accept <= escalate else "escalate")


def test_the_policy_may_be_given_itself(upstream: Upstream) -> None:
    with pair(upstream, policy=EconomicPolicy(0.0001)) as cascade:
        assert cascade.invoke("?").tier == "small"


def test_a_large_model_that_errs_too_is_worth_less(upstream: Upstream) -> None:
    """At p_L = 0.9 nothing is gained where the draft is as likely to be right."""
    tiers = {}
    for p_large in (1.0, 0.9):
        with pair(upstream, 0.9, policy=EconomicPolicy(0.1, p_large)) as cascade:
            tiers[p_large] = cascade.invoke("?").tier
    assert tiers == {1.0: "large", 0.9: "small"}


def test_the_price_of_an_error_needs_a_price_of_the_large_model(upstream: Upstream) -> None:
    small, large = upstream.tier("small"), upstream.tier("large")
    with pytest.raises(ConfigurationError, match=r"Price\("):
        Cascade(small, large, price_of_error=0.05)


@pytest.mark.parametrize("price_of_error", [0, -1, float("nan")])
def test_a_price_of_an_error_that_is_none_is_refused(
    upstream: Upstream, price_of_error: float
) -> None:
    with pytest.raises(ConfigurationError, match="price_of_error"):
        pair(upstream, price_of_error=price_of_error)


def test_with_a_calibration_the_rule_weighs_probabilities(world: World) -> None:
    small, large = world.tiers()
    with Cascade(small, large, calibrator=world.calibration, price_of_error=0.00001) as cascade:
        results = cascade.batch([f"Capital {i}?" for i in range(1_000, 1_030)])
    for result in results:
        accept = result.decision.expected_cost_accept_usd
        assert result.calibrated
        assert float(accept or 0) == pytest.approx(0.00001 * (1 - (result.confidence or 0)))
    assert {result.tier for result in results} == {"small", "large"}


@pytest.mark.parametrize("budget_usd", [0.0005, 0.001])
def test_a_budget_in_dollars_is_kept_on_average(upstream: Upstream, budget_usd: float) -> None:
    def drafts(seen: Seen) -> Answer:
        return Answer("a draft", p=0.5 + 0.49 * commands.chance(int(seen.last)), tokens=(100, 10))

    with pair(upstream, policy=edition.budget(budget_usd)) as cascade:
        upstream.says("small", drafts)
        results = [cascade.invoke(str(i)) for i in range(260)]
    later = results[100:]
    assert mean(float(r.ledger.cost_usd or 0) for r in later) == pytest.approx(budget_usd, rel=0.2)
    kept = [r.confidence or 0 for r in later if r.tier == "small"]
    gone = [r.confidence or 0 for r in later if r.tier == "large"]
    assert mean(kept) > mean(gone)


# --- what the first edition does not have


@edition.fails_on_first("there is no such keyword")
@pytest.mark.parametrize(("threshold", "tier"), [(0.6, "small"), (0.95, "large")])
def test_a_threshold_is_a_keyword(upstream: Upstream, threshold: float, tier: str) -> None:
    with pair(upstream, 0.9, threshold=threshold) as cascade:
        assert cascade.invoke("?").tier == tier
