"""Row 5: more tiers than two, from small to large."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cascade import Cascade, Decision, Policy, Price, Situation
from cascade.events import Decided, Token
from cascade.result import CascadeResult
from tests.acceptance.setups import calls_of, entries_of, total, tries
from tests.acceptance.upstream import Upstream, failure

NAMES = ("small", "medium", "large")
Q = "Capital of Australia?"


def three(upstream: Upstream, small: float, medium: float, **options: Any) -> Cascade:
    """Three tiers, priced $1, $10 and $100 per million tokens, and how sure two of them are."""
    upstream.echoes("small", small)
    upstream.echoes("medium", medium)
    prices = (Price(input=n, output=n) for n in (1, 10, 100))
    tiers = [
        upstream.tier(name, name=name, price=price)
        for name, price in zip(NAMES, prices, strict=True)
    ]
    return Cascade(tiers=tiers, middleware=[tries(1)], **options)


@pytest.mark.parametrize(
    ("small", "medium", "answers", "nodes"),
    [
        (0.9, 0.9, "small", ["draft"]),
        (0.3, 0.9, "medium", ["draft", "draft"]),
        (0.3, 0.3, "large", ["draft", "draft", "expert"]),
    ],
)
@pytest.mark.parametrize("driver", ["cascade", "graph"])
async def test_the_first_tier_that_is_sure_enough_answers(
    upstream: Upstream, driver: str, small: float, medium: float, answers: str, nodes: list[str]
) -> None:
    made = three(upstream, small, medium)
    if driver == "graph":
        state = await made.graph.ainvoke({"messages": [("human", Q)]})
        assert state["messages"][-1].text == f"{answers}: {Q}"
        assert state["messages"][-1].response_metadata["tier"] == answers
    else:
        result = await made.ainvoke(Q)
        assert (result.answer, result.tier) == (f"{answers}: {Q}", answers)
        assert result.escalated is (answers != "small")
        assert [node for node, _ in calls_of(result)] == nodes
        judged = [e.decision.action for e in entries_of(result) if e.decision is not None]
        last = "escalate" if answers == "large" else "accept"
        assert judged == [*["escalate"] * (nodes.count("draft") - 1), last]
    assert upstream.models() == list(NAMES[: NAMES.index(answers) + 1])


async def test_what_is_accepted_in_the_middle_saves_the_baseline_less_both_drafts(
    upstream: Upstream,
) -> None:
    result = await three(upstream, 0.3, 0.9).ainvoke(Q)
    ledger = result.ledger
    assert ledger.cost_usd == total(entries_of(result), "cost_usd")
    assert ledger.saved_usd == total(entries_of(result), "saved_usd")
    assert ledger.baseline_usd is not None
    assert ledger.saved_usd == ledger.baseline_usd - ledger.cost_usd
    assert ledger.cost_usd == Decimal(3 + 4) / 10**6 + Decimal(10 * (3 + 4)) / 10**6


async def test_tiers_without_a_name_are_called_by_their_models(upstream: Upstream) -> None:
    upstream.echoes("a", 0.3)
    tiers = [upstream.tier(name) for name in ("a", "b", "c")]
    assert (await Cascade(tiers=tiers).ainvoke(Q)).tier == "openai:b"


async def test_a_policy_may_escalate_past_a_tier(upstream: Upstream) -> None:
    class Jump(Policy):
        def decide(self, situation: Situation) -> Decision:
            return Decision(action="escalate", tier="large", reason="too hard")

    assert (await three(upstream, 0.3, 0.9, policy=Jump()).ainvoke(Q)).tier == "large"
    assert upstream.models() == ["small", "large"]


@pytest.mark.parametrize("down", ["small", "medium"])
async def test_a_tier_that_is_down_is_passed_over(upstream: Upstream, down: str) -> None:
    made = three(upstream, 0.3, 0.3)
    upstream.next(down, failure(503))
    result = await made.ainvoke(Q)
    assert (result.tier, result.degraded) == ("large", False)
    assert ("draft", "failed") in calls_of(result)


async def test_where_the_last_tier_is_down_the_best_draft_stands_in(upstream: Upstream) -> None:
    made = three(upstream, 0.3, 0.5)
    upstream.next("large", failure(503))
    result = await made.ainvoke(Q)
    assert (result.tier, result.degraded, result.escalated) == ("medium", True, True)
    assert result.answer == f"medium: {Q}"


async def test_a_stream_tells_each_decision_and_the_words_of_the_last_tier_alone(
    upstream: Upstream,
) -> None:
    events = [event async for event in three(upstream, 0.3, 0.3).astream(Q)]
    assert [e.tier for e in events if isinstance(e, Decided)] == ["small", "medium"]
    assert {e.tier for e in events if isinstance(e, Token)} == {"large"}
    assert isinstance(events[-1], CascadeResult)


async def test_a_single_tier_answers_everything(upstream: Upstream) -> None:
    result = await Cascade(tiers=[upstream.tier("small", name="only")]).ainvoke(Q)
    assert (result.tier, result.escalated) == ("only", False)
    assert calls_of(result) == [("expert", "ok")]
