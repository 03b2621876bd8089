"""Row 4: the verifier as an agent of its own, and one of the user's in its place."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cascade import Cascade, CascadeError, Decision, Policy, Situation, Verdict
from tests.acceptance import setups
from tests.acceptance.commands import pair
from tests.acceptance.upstream import Upstream

QUESTION = "What is the capital of Australia?"


class Judge:
    """A verifier that is an object, and remembers what it was asked."""

    def __init__(self, says: Any) -> None:
        self.says = says
        self.heard: list[tuple[str, str]] = []

    def __call__(self, question: str, answer: str) -> Any:
        self.heard.append((question, answer))
        return self.says


@pytest.mark.parametrize(
    ("says", "tier"),
    [
        (True, "small"),
        (False, "large"),
        (0.9, "small"),
        (0.1, "large"),
        (Verdict(accept=True, reason="seen in the atlas"), "small"),
        (Verdict(accept=False, reason="not in the atlas"), "large"),
        (Verdict(confidence=0.9, calibrated=True), "small"),
        (Verdict(confidence=0.1), "large"),
    ],
)
def test_a_verifier_of_the_users_decides(upstream: Upstream, says: Any, tier: str) -> None:
    judge = Judge(says)
    with pair(upstream, 0.5, verifier=judge) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, judge.heard) == (tier, [(QUESTION, "Canberra")])
    if isinstance(says, Verdict):
        assert says.reason in result.decision.reason
        assert result.calibrated == says.calibrated
        assert says.confidence in (None, result.confidence)


async def test_a_verifier_may_be_asynchronous_and_ask_a_cascade_of_its_own(
    upstream: Upstream,
) -> None:
    upstream.says("judge", "yes")
    async with Cascade(tiers=[upstream.tier("judge")]) as other:

        async def judge(question: str, answer: str) -> bool:
            said = await other.ainvoke(f"Is {answer!r} right for {question!r}?")
            return said.answer == "yes"

        async with pair(upstream, 0.5, verifier=judge) as cascade:
            assert (await cascade.ainvoke(QUESTION)).tier == "small"
    assert "'Canberra'" in upstream.asked("judge")[0].last


@pytest.mark.parametrize("cost", [Decimal("0.01"), None])
def test_what_a_verdict_costs_counts_and_an_unknown_cost_stays_unknown(
    upstream: Upstream, cost: Decimal | None
) -> None:
    with pair(upstream, verifier=Judge(Verdict(accept=False, cost_usd=cost))) as cascade:
        result = cascade.invoke(QUESTION)
    (verify,) = [e for e in setups.entries_of(result) if e.node == "verify"]
    assert (verify.cost_usd, verify.saved_usd) == (cost, None if cost is None else -cost)
    assert (result.ledger.cost_usd is None) == (cost is None)


def test_a_draft_that_facts_rule_out_is_not_shown_to_a_verifier(upstream: Upstream) -> None:
    judge = Judge(True)
    with pair(upstream, says=(" ", "Canberra"), verifier=judge) as cascade:
        assert cascade.invoke(QUESTION).tier == "large"
    assert judge.heard == []


def test_a_policy_of_the_users_decides(upstream: Upstream) -> None:
    class Never(Policy):
        def decide(self, situation: Situation) -> Decision:
            assert situation.assessment.confidence == pytest.approx(0.5)
            return Decision(action="accept", reason="whatever it is")

    with pair(upstream, 0.5, policy=Never()) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, result.decision.reason) == ("small", "whatever it is")


# --- what is lost by mistake elsewhere


def test_a_policy_that_returns_something_else_is_told_so(upstream: Upstream) -> None:
    class Wrong(Policy):
        def decide(self, situation: Situation) -> Decision:
            return "accept"  # type: ignore[return-value]

    with pair(upstream, policy=Wrong()) as cascade, pytest.raises(CascadeError) as raised:
        cascade.invoke(QUESTION)
    assert "Decision" in str(raised.value)
    assert ("draft", "ok") in setups.calls_of(raised.value)
