"""Every way through the graph."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError
from cascade.policies import Situation, ThresholdPolicy
from cascade.result import CascadeResult
from cascade.state import Decision
from cascade.testing import ScriptedModel, reply

SURE, UNSURE = 0.95, 0.3


def model(text: str, probability: float | None = None, **options: Any) -> ScriptedModel:
    return ScriptedModel([reply(text, probability=probability)], **options)


def nodes(result: CascadeResult) -> list[str]:
    return [entry.node for entry in result.ledger]


class Says:
    """A policy that always says the same."""

    def __init__(self, action: str) -> None:
        self.action = action

    def decide(self, situation: Situation) -> Decision:
        return Decision(
            action=self.action,  # type: ignore[arg-type]
            reason=f"it always says {self.action}",
            confidence=situation.assessment.confidence,
        )


async def test_a_sure_draft_is_the_answer_and_nothing_else_is_asked() -> None:
    small, large = model("Canberra", SURE), model("never")
    result = await Cascade(small, large).ainvoke("Capital of Australia?")
    assert (result.answer, result.tier, result.escalated) == ("Canberra", "small", False)
    assert result.confidence == pytest.approx(SURE)
    assert (result.calibrated, result.degraded, result.abstained) == (False, False, False)
    assert result.decision.action == "accept"
    assert result.message.usage_metadata is not None
    assert result.message.usage_metadata["total_tokens"] == 11
    assert result.message.response_metadata["tier"] == "small"
    assert nodes(result) == ["draft", "self_check", "verify"]
    assert (len(small.requests), len(large.requests)) == (1, 0)


async def test_a_doubtful_draft_is_escalated() -> None:
    small, large = model("Sydney", UNSURE), model("Canberra")
    result = await Cascade(small, large).ainvoke("Capital of Australia?")
    assert (result.answer, result.tier, result.escalated) == ("Canberra", "large", True)
    assert result.confidence == pytest.approx(UNSURE)
    assert result.decision.action == "escalate"
    assert "0.300 < 0.800" in result.decision.reason
    assert nodes(result) == ["draft", "self_check", "verify", "expert"]
    assert (len(small.requests), len(large.requests)) == (1, 1)


async def test_a_fluent_wrong_answer_is_escalated_and_a_short_right_one_accepted() -> None:
    """Token probabilities count, not length and fluency; the closest peer does the reverse."""
    fluent = "The capital of Australia is, as everybody knows, the beautiful city of Sydney."
    small = ScriptedModel(
        {"Australia?": reply(fluent, probability=0.6), "7 * 8?": reply("56", probability=0.97)}
    )
    cascade = Cascade(small, model("Canberra"))
    assert (await cascade.ainvoke("Australia?")).tier == "large"
    assert (await cascade.ainvoke("7 * 8?")).tier == "small"


@pytest.mark.parametrize(
    ("small", "medium", "tier", "path"),
    [
        (SURE, SURE, "s", ["draft", "self_check", "verify"]),
        (UNSURE, SURE, "m", ["draft", "self_check", "verify"] * 2),
        (UNSURE, UNSURE, "l", ["draft", "self_check", "verify"] * 2 + ["expert"]),
    ],
)
async def test_three_tiers_are_asked_one_after_the_other(
    small: float, medium: float, tier: str, path: list[str]
) -> None:
    tiers = [
        Tier(model("1", small), name="s"),
        Tier(model("2", medium), name="m"),
        Tier(model("3"), name="l"),
    ]
    result = await Cascade(tiers=tiers).ainvoke("How many?")
    assert result.tier == tier
    assert result.escalated == (tier != "s")
    assert nodes(result) == path
    drafts = [entry.tier for entry in result.ledger if entry.node == "draft"]
    assert drafts == ["s", "m"][: len(drafts)]


async def test_the_middle_tier_is_judged_on_its_own_draft() -> None:
    tiers = [
        Tier(model("1", 0.1), name="s"),
        Tier(model("2", 0.9), name="m"),
        Tier(model("3"), name="l"),
    ]
    result = await Cascade(tiers=tiers).ainvoke("How many?")
    assert result.confidence == pytest.approx(0.9)
    assert result.answer == "2"


async def test_a_dozen_tiers_are_no_more_than_the_engine_can_walk() -> None:
    tiers = [Tier(model(str(i), UNSURE), name=f"t{i}") for i in range(12)]
    result = await Cascade(tiers=tiers).ainvoke("How many?")
    assert (result.tier, result.answer) == ("t11", "11")


async def test_one_tier_answers_without_a_check_and_is_no_escalation() -> None:
    result = await Cascade(tiers=[Tier(model("42"), name="only")]).ainvoke("?")
    assert (result.answer, result.tier, result.escalated) == ("42", "only", False)
    assert result.confidence is None
    assert nodes(result) == ["expert"]
    assert result.decision.reason == "there is only one tier"


async def test_an_abstention_gives_no_answer_and_says_so() -> None:
    small, large = model("Sydney", UNSURE), model("never")
    result = await Cascade(small, large, policy=Says("abstain")).ainvoke("?")
    assert result.abstained
    assert (result.answer, result.message.content, result.parsed) == ("", "", None)
    assert not result.escalated
    assert nodes(result) == ["draft", "self_check", "verify"]
    assert not large.requests


# --- routing ------------------------------------------------------------------------------------


def three(route: Any, draft: float = SURE) -> Cascade:
    tiers = [
        Tier(model("1", draft), name="s"),
        Tier(model("2", draft), name="m"),
        Tier(model("3"), name="l"),
    ]
    return Cascade(tiers=tiers, router=route)


@pytest.mark.parametrize(
    ("named", "tier", "path"),
    [
        (None, "s", ["route", "draft", "self_check", "verify"]),
        ("s", "s", ["route", "draft", "self_check", "verify"]),
        ("m", "m", ["route", "draft", "self_check", "verify"]),
        ("l", "l", ["route", "expert"]),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_router_names_the_tier_that_answers_first(
    named: str | None, tier: str, path: list[str], asynchronous: bool
) -> None:
    async def later(_: Sequence[BaseMessage]) -> str | None:
        return named

    result = await three(later if asynchronous else lambda _: named).ainvoke("?")
    assert result.tier == tier
    assert nodes(result) == path
    assert result.escalated == (tier != "s")


async def test_the_router_sees_the_conversation() -> None:
    seen: list[str] = []

    def route(messages: Sequence[BaseMessage]) -> None:
        seen.extend(str(message.text) for message in messages)

    await three(route).ainvoke([("system", "Be short."), ("human", "Hello?")])
    assert seen == ["Be short.", "Hello?"]


async def test_a_routed_draft_can_still_be_escalated() -> None:
    result = await three(lambda _: "m", draft=UNSURE).ainvoke("?")
    assert result.tier == "l"
    assert nodes(result) == ["route", "draft", "self_check", "verify", "expert"]


async def test_the_reason_of_a_direct_route_names_the_tier() -> None:
    result = await three(lambda _: "l").ainvoke("?")
    assert result.decision.reason == "the router sent it straight to l"
    assert result.confidence is None


async def test_an_unknown_tier_of_the_router_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match=r"the tier 'xl'; there are: s, m, l"):
        await three(lambda _: "xl").ainvoke("?")


# --- the self-check -----------------------------------------------------------------------------


async def test_a_tier_without_log_probabilities_is_asked_once_about_its_own_answer() -> None:
    small = ScriptedModel(["Canberra", "True"])
    result = await Cascade(small, model("never")).ainvoke("Capital of Australia?")
    assert result.tier == "small"
    assert result.confidence == 1.0
    assert len(small.requests) == 2
    check = small.requests[1]
    assert [m.type for m in check.messages] == ["human", "ai", "human"]
    assert check.messages[1].text.split("\n")[1] == "Canberra"
    assert (check.temperature, check.tools, check.schema) == (0.0, (), None)
    costs = {entry.node: entry.input_tokens for entry in result.ledger}
    assert costs["self_check"] == 10


@pytest.mark.parametrize(("word", "tier"), [("True", "small"), ("False", "large"), ("Hm", "large")])
async def test_the_word_of_the_self_check_decides(word: str, tier: str) -> None:
    result = await Cascade(ScriptedModel(["Sydney", word]), model("Canberra")).ainvoke("?")
    assert result.tier == tier


async def test_a_self_check_that_says_neither_is_missing_and_not_a_guess() -> None:
    result = await Cascade(ScriptedModel(["Sydney", "Hm"]), model("Canberra")).ainvoke("?")
    assert result.confidence is None
    assert result.decision.reason == "no confidence: p_true did not come back"


async def test_missing_log_probabilities_escalate_and_the_reason_says_so() -> None:
    small = ScriptedModel(["Canberra"], returns_logprobs=True)
    result = await Cascade(small, model("Canberra")).ainvoke("?")
    assert result.tier == "large"
    assert result.confidence is None
    assert result.decision.reason == "no confidence: logprobs did not come back"
    assert len(small.requests) == 1


async def test_both_signals_are_taken_when_asked_for_and_the_lower_one_counts() -> None:
    top = [("True", 0.6), ("False", 0.4)]
    small = ScriptedModel(
        [reply("Canberra", probability=SURE), reply("True", probability=0.6, top=top)]
    )
    result = await Cascade(small, model("Canberra"), signals=["logprobs", "p_true"]).ainvoke("?")
    assert result.confidence == pytest.approx(0.6)
    assert result.tier == "large"


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_an_empty_draft_is_escalated_without_paying_for_a_check(text: str) -> None:
    small = ScriptedModel([text])
    result = await Cascade(small, model("Canberra")).ainvoke("?")
    assert result.tier == "large"
    assert result.decision.reason == "the answer is empty"
    assert len(small.requests) == 1


# --- a verifier of the user's --------------------------------------------------------------------


def judged(verifier: Any, **options: Any) -> Cascade:
    return Cascade(model("Sydney", UNSURE), model("Canberra"), verifier=verifier, **options)


@pytest.mark.parametrize(
    ("verdict", "tier"),
    [(True, "small"), (False, "large"), (0.9, "small"), (0.5, "large"), (1, "small")],
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_users_verifier_decides(verdict: Any, tier: str, asynchronous: bool) -> None:
    async def later(_question: str, _answer: str) -> Any:
        return verdict

    result = await judged(later if asynchronous else lambda _q, _a: verdict).ainvoke("?")
    assert result.tier == tier


async def test_the_users_verifier_sees_the_question_and_the_draft() -> None:
    seen = []

    def verifier(question: str, answer: str) -> bool:
        seen.append((question, answer))
        return True

    await judged(verifier).ainvoke("Capital of Australia?")
    assert seen == [("Capital of Australia?", "Sydney")]


async def test_a_confidence_of_the_verifier_replaces_the_signals() -> None:
    result = await judged(lambda _q, _a: 0.9).ainvoke("?")
    assert result.confidence == result.decision.confidence == 0.9


async def test_an_invalid_draft_is_not_shown_to_the_verifier() -> None:
    asked: list[str] = []
    cascade = Cascade(
        ScriptedModel([""]), model("Canberra"), verifier=lambda _q, a: bool(asked.append(a)) or True
    )
    assert (await cascade.ainvoke("?")).tier == "large"
    assert asked == []


@pytest.mark.parametrize("verdict", ["yes", None, 1.5, -0.1, float("nan"), [True]])
async def test_a_verdict_that_is_none_of_these_is_a_clear_error(verdict: Any) -> None:
    with pytest.raises(ConfigurationError, match="the verifier returned") as caught:
        await judged(lambda _q, _a: verdict).ainvoke("?")
    assert caught.value.ledger is not None
    assert [entry.node for entry in caught.value.ledger] == ["draft", "self_check"]


async def test_an_error_of_the_users_verifier_reaches_the_user_as_it_is() -> None:
    def verifier(_question: str, _answer: str) -> bool:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        await judged(verifier).ainvoke("?")


async def test_a_verifier_that_is_sure_without_a_self_check_is_enough() -> None:
    """A tier that returns no log-probabilities after all is judged by the user's verifier."""
    small = ScriptedModel(["Canberra"], returns_logprobs=True)
    result = await Cascade(small, model("never"), verifier=lambda _q, _a: 0.95).ainvoke("?")
    assert (result.tier, result.confidence) == ("small", 0.95)


async def test_a_policy_can_ask_the_price_of_the_next_tier_only() -> None:
    """From small to medium, what medium costs is weighed, not what large costs."""
    tiers = [
        Tier(model("1", 0.9), name="s"),
        Tier(model("2", 0.9), name="m", price=Price(input=100, output=100)),
        Tier(model("3"), name="l", price=Price(input=10_000, output=10_000)),
    ]
    result = await Cascade(tiers=tiers, price_of_error=0.01).ainvoke("?")
    # 11 tokens · $100/1M = $0.0011 against an expected error of $0.001: accept
    assert result.tier == "s"
    assert result.decision.expected_cost_escalate_usd == Decimal("0.0011")


async def test_a_threshold_of_zero_accepts_all_valid_drafts() -> None:
    result = await Cascade(model("x", 0.01), model("y"), policy=ThresholdPolicy(0)).ainvoke("?")
    assert result.tier == "small"
