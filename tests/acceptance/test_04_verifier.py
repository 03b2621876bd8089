"""Row 4: the verifier as an agent of its own, and one of the user's in its place."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from cascade import (
    Cascade,
    CascadeError,
    Decision,
    Policy,
    Price,
    Situation,
    ThresholdPolicy,
    Verdict,
)
from tests.acceptance import edition
from tests.acceptance.upstream import Upstream

QUESTION = "What is the capital of Australia?"
PRICE = Price(input=1, output=1)


def made(upstream: Upstream, **options: Any) -> Cascade:
    upstream.says("small", "Canberra", p=0.5)
    upstream.says("large", "Canberra it is")
    small, large = (upstream.tier(name, price=PRICE) for name in ("small", "large"))
    return edition.cascade(small, large, **options)


class Judge:
    """A verifier that is an object, and remembers what it was asked."""

    def __init__(self, says: Any) -> None:
        self.says, self.heard = says, []

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
        (Verdict(confidence=0.9), "small"),
        (Verdict(confidence=0.1), "large"),
    ],
)
def test_a_verifier_of_the_users_decides(upstream: Upstream, says: Any, tier: str) -> None:
    judge = Judge(says)
    with made(upstream, verifier=judge) as cascade:
        result = cascade.invoke(QUESTION)
    assert result.tier == tier
    assert judge.heard == [(QUESTION, "Canberra")]
    if isinstance(says, Verdict) and says.reason:
        assert says.reason in result.decision.reason


async def test_a_verifier_may_be_asynchronous(upstream: Upstream) -> None:
    async def judge(question: str, answer: str) -> bool:
        await asyncio.sleep(0)
        return answer == "Canberra"

    async with made(upstream, verifier=judge) as cascade:
        assert (await cascade.ainvoke(QUESTION)).tier == "small"


def test_an_asynchronous_verifier_serves_synchronous_callers(upstream: Upstream) -> None:
    async def judge(question: str, answer: str) -> bool:
        await asyncio.sleep(0)
        return False

    with made(upstream, verifier=judge) as cascade:
        assert cascade.invoke(QUESTION).tier == "large"


def test_what_a_verdict_costs_counts_against_the_saving(upstream: Upstream) -> None:
    with made(upstream, verifier=Judge(Verdict(accept=False, cost_usd=Decimal("0.01")))) as cascade:
        result = cascade.invoke(QUESTION)
    (verify,) = [e for e in edition.entries_of(result) if e.node == "verify"]
    assert (verify.cost_usd, verify.saved_usd) == (Decimal("0.01"), Decimal("-0.01"))


def test_a_verdict_of_unknown_cost_leaves_the_runs_cost_unknown(upstream: Upstream) -> None:
    with made(upstream, verifier=Judge(Verdict(accept=True, cost_usd=None))) as cascade:
        assert cascade.invoke(QUESTION).ledger.cost_usd is None


def test_a_confidence_is_a_score_unless_the_verdict_says_that_it_is_calibrated(
    upstream: Upstream,
) -> None:
    for calibrated in (False, True):
        judge = Judge(Verdict(confidence=0.9, calibrated=calibrated))
        with made(upstream, verifier=judge) as cascade:
            result = cascade.invoke(QUESTION)
        assert (result.confidence, result.calibrated) == (0.9, calibrated)


def test_a_cascade_may_be_the_verifier_of_another(upstream: Upstream) -> None:
    """An agent as verifier: its own answer says whether the draft stands."""
    upstream.says("judge", "yes", p=0.99)
    with Cascade(tiers=[upstream.tier("judge")]) as other:

        async def judge(question: str, answer: str) -> bool:
            said = await other.ainvoke(f"Is {answer!r} right for {question!r}?")
            return said.answer == "yes"

        with made(upstream, verifier=judge) as cascade:
            assert cascade.invoke(QUESTION).tier == "small"
    assert "'Canberra'" in upstream.asked("judge")[0].last


def test_a_draft_that_facts_rule_out_is_not_shown_to_a_verifier(upstream: Upstream) -> None:
    judge = Judge(True)
    with made(upstream, verifier=judge) as cascade:
        upstream.next("small", " ")
        result = cascade.invoke(QUESTION)
    assert (result.tier, judge.heard) == ("large", [])


def test_a_policy_of_the_users_decides(upstream: Upstream) -> None:
    class Never(Policy):
        def decide(self, situation: Situation) -> Decision:
            assert situation.assessment.confidence == pytest.approx(0.5)
            return Decision(action="accept", reason="whatever it is")

    with made(upstream, policy=Never()) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, result.decision.reason) == ("small", "whatever it is")


@pytest.mark.parametrize(("threshold", "tier"), [(0.4, "small"), (0.6, "large")])
def test_a_threshold_is_that_of_the_policy(upstream: Upstream, threshold: float, tier: str) -> None:
    with made(upstream, policy=ThresholdPolicy(threshold)) as cascade:
        result = cascade.invoke(QUESTION)
    assert (result.tier, result.decision.threshold) == (tier, threshold)


# --- what the first edition does wrong


def broken(question: str, answer: str) -> bool:
    raise ZeroDivisionError("a bug of the user's")


@edition.fails_on_first("the user's exception leaves the cascade, and the ledger with it")
@pytest.mark.parametrize("options", [{"verifier": broken}, {"signals": [broken]}])
def test_one_that_raises_loses_no_request_that_is_paid_for(
    upstream: Upstream, options: dict[str, Any]
) -> None:
    with made(upstream, **options) as cascade:
        try:
            result: Any = cascade.invoke(QUESTION)
        except CascadeError as error:
            result = error
            assert "ZeroDivisionError" in str(error) or "a bug of the user's" in str(error)
        else:
            assert result.answer == "Canberra it is"
            assert "a bug of the user's" in result.decision.reason
    assert ("draft", "ok") in edition.calls_of(result)


@edition.fails_on_first("another type than a decision ends in an AttributeError")
def test_a_policy_that_returns_something_else_is_told_so(upstream: Upstream) -> None:
    class Wrong(Policy):
        def decide(self, situation: Situation) -> Decision:
            return "accept"  # type: ignore[return-value]

    with made(upstream, policy=Wrong()) as cascade, pytest.raises(CascadeError) as raised:
        cascade.invoke(QUESTION)
    assert "Decision" in str(raised.value)
    assert ("draft", "ok") in edition.calls_of(raised.value)
