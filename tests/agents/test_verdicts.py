"""What a verifier of the user's may say, and how it is written down."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cascade import Cascade, Price, Tier
from cascade.agents import Verdict
from cascade.result import CascadeResult
from cascade.testing import ScriptedModel, reply


async def judged(verdict: Verdict) -> CascadeResult:
    cascade = Cascade(
        Tier(ScriptedModel([reply("Sydney", probability=0.3)]), price=Price(input=1, output=1)),
        Tier(ScriptedModel(["Canberra"]), price=Price(input=100, output=100)),
        verifier=lambda _question, _answer: verdict,
    )
    return await cascade.ainvoke("Capital of Australia?")


@pytest.mark.parametrize(
    ("verdict", "tier", "reason"),
    [
        (Verdict(accept=True), "small", "your verifier accepted the draft"),
        (Verdict(accept=False), "large", "your verifier rejected the draft"),
        (Verdict(accept=False, reason="not a capital"), "large", "not a capital"),
        (Verdict(confidence=0.9), "small", "uncalibrated score 0.900 ≥ 0.800"),
        (Verdict(confidence=0.9, calibrated=True), "small", "confidence 0.900 ≥ 0.800"),
    ],
)
async def test_a_verdict_decides_and_gives_its_reason(
    verdict: Verdict, tier: str, reason: str
) -> None:
    result = await judged(verdict)
    assert result.tier == tier
    assert result.decision.reason == reason
    assert result.calibrated == result.decision.calibrated == verdict.calibrated


async def test_the_confidence_of_a_verdict_is_that_of_the_result_also_when_it_decides() -> None:
    result = await judged(Verdict(accept=True, confidence=0.7, calibrated=True))
    assert result.confidence == result.decision.confidence == 0.7
    assert result.calibrated


async def test_a_bare_verdict_leaves_the_score_of_the_signals() -> None:
    result = await judged(Verdict(accept=True))
    assert result.confidence == pytest.approx(0.3)


async def test_what_a_verdict_costs_counts_against_the_saving() -> None:
    result = await judged(Verdict(accept=True, cost_usd=Decimal("0.0001")))
    verify = result.ledger.by_node()["verify"]
    assert verify.cost_usd == Decimal("0.0001")
    # 11 tokens · $100/1M is what the large model would have cost
    assert verify.saved_usd == Decimal("0.0011") - Decimal("0.0001")


async def test_a_verdict_of_unknown_cost_leaves_the_saving_unknown_but_not_the_baseline() -> None:
    ledger = (await judged(Verdict(accept=True, cost_usd=None))).ledger
    assert ledger.cost_usd is None
    assert ledger.saved_usd is None
    assert ledger.baseline_usd == Decimal("0.0011")
    assert ledger.baseline_basis == "estimated"


@pytest.mark.parametrize("cost", ["-1", "NaN", "Infinity"])
def test_a_verdict_cannot_cost_what_is_no_amount(cost: str) -> None:
    with pytest.raises(ValueError, match="cost_usd"):
        Verdict(accept=True, cost_usd=Decimal(cost))


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_verdict_cannot_be_surer_than_sure(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        Verdict(accept=True, confidence=confidence)
