"""Free signals first, paid ones only when the policy asks, and an end to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from cascade import Cascade, Price, Tier
from cascade.agents import Verdict
from cascade.confidence import Estimate
from cascade.confidence.signals import Asked, Probe, Signal
from cascade.errors import (
    CalibrationMismatchError,
    ConfigurationError,
    ContextLengthError,
    DeadlineError,
    ModelUnavailableError,
    RateLimitError,
)
from cascade.graph import DEFAULT_RETRY, build_graph
from cascade.ledger import MemoryLedger, Recorder
from cascade.policies import (
    DeadlinePolicy,
    DollarBudget,
    DollarBudgetPolicy,
    Policy,
    Situation,
    ThresholdPolicy,
)
from cascade.result import CascadeResult, read_result
from cascade.state import Completion, Decision
from cascade.testing import ScriptedModel, reply
from cascade.tiers import OpenTier, open_tiers


class Free(Signal):
    name = "free"

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        return {"free": 0.6}


class Paid(Signal):
    """Asks the model once for a number."""

    calls = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        return () if replies else (Probe((asked.messages[-1],)),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        return {self.name: float(replies[0].text)}


SIGNALS = (Free(), Paid("first"), Paid("second"))


@dataclass
class Scripted:
    """A calibrator that knows the confidence by how many signals were taken."""

    confidences: tuple[float, ...] = (0.6, 0.7, 0.9)
    leads_to: tuple[float, ...] = (0.5, 0.9)
    wrong_kind: str | None = None
    p_large: float | None = 0.97
    asked: list[tuple[str, ...]] = field(default_factory=list)
    signals: tuple[str, ...] = ("free", "first", "second")

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        return self.wrong_kind

    def estimate(self, features: Mapping[str, float], taken: Sequence[str]) -> Estimate | None:
        self.asked.append(tuple(taken))
        confidence = self.confidences[len(taken) - 1]
        return Estimate(confidence, (confidence - 0.1, confidence + 0.1), self.p_large)

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        return self.leads_to


class Seen:
    """A policy that remembers what it saw and says what it is told."""

    def __init__(self, *says: Decision | str, then: Policy | None = None) -> None:
        self.situations: list[Situation] = []
        self._says = list(says)
        self._then = then or ThresholdPolicy()

    def decide(self, situation: Situation) -> Decision:
        self.situations.append(situation)
        if not self._says:
            return self._then.decide(situation)
        said = self._says.pop(0)
        return Decision(action=said, reason="told so") if isinstance(said, str) else said  # type: ignore[arg-type]


def drafting(**options: Any) -> ScriptedModel:
    """Drafts `0.5`; asked again, it says the same, which the paid signals read."""
    return ScriptedModel(["0.5"], name="s", **options)


PRICE = Price(input=1, output=1)


def two(small: ScriptedModel | None = None) -> tuple[OpenTier, ...]:
    small_tier = Tier(small or drafting(), price=PRICE)
    large = Tier(ScriptedModel(["right"], name="l"), price=Price(input=100, output=100))
    return open_tiers([small_tier, large], ("small", "large"))


async def run(
    calibrator: Scripted | None,
    policy: Policy | None = None,
    tiers: tuple[OpenTier, ...] | None = None,
    **options: Any,
) -> CascadeResult:
    tiers = tiers or two()
    graph = build_graph(
        tiers,
        policy or ThresholdPolicy(),
        signals=options.pop("signals", SIGNALS),
        calibrators={tiers[0].name: calibrator} if calibrator else {},
        recorder=Recorder(options.pop("ledger", None)),
        retry_policy=options.pop("retry_policy", DEFAULT_RETRY._replace(max_attempts=1)),
        **options,
    ).compile()
    state: Any = await graph.ainvoke({"messages": [("human", "?")]})
    return read_result(state, tiers[0].name, None)


def nodes(result: CascadeResult) -> list[str]:
    return [entry.node for entry in result.ledger]


async def test_free_signals_alone_where_no_other_can_change_the_decision() -> None:
    calibrator = Scripted(leads_to=(0.1, 0.5))
    result = await run(calibrator)
    assert calibrator.asked == [("free",)]
    assert nodes(result) == ["draft", "self_check", "verify", "expert"]
    assert (result.confidence, result.calibrated) == (0.6, True)
    assert result.decision.reason == "confidence 0.600 < 0.800"


async def test_paid_signals_one_by_one_while_they_may_change_it() -> None:
    calibrator = Scripted()
    result = await run(calibrator)
    assert calibrator.asked == [
        ("free",),
        ("free", "first"),
        ("free", "first", "second"),
    ]
    assert nodes(result) == ["draft", *["self_check", "verify"] * 3]
    assert (result.answer, result.tier, result.confidence) == ("0.5", "small", 0.9)
    checks = [entry.cost_usd for entry in result.ledger if entry.node == "self_check"]
    assert checks == [0, Decimal("0.000011"), Decimal("0.000011")]
    assert result.ledger.cost_usd == Decimal("0.000033")


async def test_the_second_paid_signal_is_spared_when_the_first_has_settled_it() -> None:
    class Settled(Scripted):
        def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
            return (0.5, 0.9) if len(taken) == 1 else (0.9, 0.95)

    result = await run(Settled(confidences=(0.6, 0.9)))
    assert nodes(result).count("self_check") == 2
    assert result.tier == "small"


async def test_what_a_calibration_knows_travels_into_the_situation() -> None:
    policy = Seen(then=ThresholdPolicy(0.5))
    await run(Scripted(), policy)
    (situation,) = policy.situations
    assessment = situation.assessment
    assert assessment.p_large == 0.97
    assert assessment.interval == pytest.approx((0.5, 0.7))
    assert (assessment.calibrated, assessment.taken) == (True, ("free",))
    assert [(tier.tier, tier.p_correct) for tier in situation.above] == [("large", 0.97)]
    assert situation.next_signal is not None
    assert situation.next_signal.name == "first"
    assert situation.next_signal.cost_usd == Decimal("0.000011")


async def test_a_policy_that_always_wants_more_is_stopped_when_nothing_is_left() -> None:
    small = drafting()
    with pytest.raises(ConfigurationError, match="none is left"):
        await run(Scripted(), Seen(*["observe"] * 9), two(small))
    assert len(small.requests) == 3  # the draft and each paid signal once


async def test_a_signal_that_fails_is_not_asked_for_again() -> None:
    answers = ["0.5", ContextLengthError("too long", model="s"), "0.5"]
    small = ScriptedModel(answers, name="s")
    with pytest.raises(ConfigurationError, match="none is left"):
        await run(Scripted(), Seen(*["observe"] * 9), two(small))
    assert len(small.requests) == 3


async def test_a_paid_signal_that_fails_leaves_no_confidence_and_escalates() -> None:
    small = ScriptedModel(["0.5", ContextLengthError("too long", model="s")], name="s")
    result = await run(Scripted(), tiers=two(small))
    assert result.tier == "large"
    assert "the self-check failed: too long" in result.decision.reason


async def test_without_a_calibrator_all_signals_are_taken_at_once() -> None:
    result = await run(None)
    assert nodes(result)[:4] == ["draft", "self_check", "self_check", "verify"]
    assert result.calibrated is False


async def test_a_draft_that_is_ruled_out_costs_no_paid_signal() -> None:
    small = ScriptedModel([""], name="s")
    result = await run(Scripted(), tiers=two(small))
    assert result.tier == "large"
    assert len(small.requests) == 1


async def test_a_conversation_of_another_kind_is_escalated_with_the_reason() -> None:
    policy = Seen()
    result = await run(Scripted(wrong_kind="another system message"), policy)
    assert (result.tier, result.calibrated, result.confidence) == ("large", False, None)
    assert "another system message" in result.decision.reason
    assert policy.situations[0].next_signal is None


@pytest.mark.parametrize(
    ("verdict", "tier", "calibrated"),
    [
        (True, "small", True),
        (False, "large", True),
        (0.9, "small", False),
        (0.2, "large", False),
        (Verdict(confidence=0.9, calibrated=True), "small", True),
    ],
)
async def test_a_verifier_of_the_users_beside_a_calibrator_is_asked_once(
    verdict: Any, tier: str, calibrated: bool
) -> None:
    calls: list[str] = []

    def judge(question: str, answer: str) -> Any:
        calls.append(answer)
        return verdict

    policy = Seen()
    result = await run(Scripted(), policy, judge=judge)
    assert (result.tier, result.calibrated) == (tier, calibrated)
    assert calls == ["0.5"]
    assert all(situation.next_signal is None for situation in policy.situations)


async def test_only_the_tier_that_has_a_calibrator_is_calibrated() -> None:
    medium = ScriptedModel(["0.9"], name="m")
    tiers = open_tiers(
        [
            Tier(drafting(), price=PRICE),
            Tier(medium, price=PRICE),
            Tier(ScriptedModel(["right"], name="l"), price=PRICE),
        ],
        ("small", "medium", "large"),
    )
    policy = Seen("escalate", "accept")
    result = await run(Scripted(), policy, tiers)
    assert result.tier == "medium"
    first, second = policy.situations
    assert (first.assessment.calibrated, second.assessment.calibrated) == (True, False)
    assert [(t.tier, t.p_correct) for t in first.above] == [("medium", None), ("large", 0.97)]
    assert second.next_signal is None
    assert second.assessment.p_large is None


async def test_a_tier_can_be_skipped_and_a_wrong_name_is_refused() -> None:
    def tiers() -> tuple[OpenTier, ...]:
        return open_tiers([drafting(), ScriptedModel("m", name="m"), ScriptedModel("l", name="l")])

    last = Decision(action="escalate", reason="hard", tier="scripted:l")
    result = await run(None, Seen(last), tiers())
    assert (result.answer, nodes(result)[-1]) == ("l", "expert")
    for name in ("scripted:s", "nobody"):
        wrong = Decision(action="escalate", reason="hard", tier=name)
        with pytest.raises(ConfigurationError, match=f"'{name}'.*scripted:m, scripted:l"):
            await run(None, Seen(wrong), tiers())


# Deadlines


async def test_the_time_left_reaches_the_policy_and_bounds_every_call() -> None:
    small, policy = drafting(), Seen(then=ThresholdPolicy(0.0))
    await run(Scripted(), policy, two(small), deadline_s=30)
    left = policy.situations[0].time_left_s
    assert left is not None
    assert 20 < left < 30
    assert all(20 < (request.timeout_s or 0) <= 30 for request in small.requests)


async def test_without_a_deadline_no_time_is_told() -> None:
    policy = Seen(then=ThresholdPolicy(0.0))
    await run(None, policy)
    assert policy.situations[0].time_left_s is None


async def test_a_passed_deadline_is_not_retried_and_costs_nothing_more() -> None:
    store, small = MemoryLedger(), drafting(delay_s=5)
    with pytest.raises(DeadlineError, match=r"deadline of 0\.05 s has passed"):
        await run(None, tiers=two(small), deadline_s=0.05, ledger=store, retry_policy=DEFAULT_RETRY)
    assert len(small.requests) == 1
    assert [(entry.node, entry.outcome) for entry in store.entries] == [("draft", "failed")]


async def test_when_the_check_comes_too_late_the_draft_is_judged_without_it() -> None:
    class Slow(ScriptedModel):
        async def _complete(self, request: Any) -> Completion:
            completion = await super()._complete(request)
            await asyncio.sleep(5 * (len(self.requests) > 1))
            return completion

    small = Slow(["0.5"], name="s")
    policy = DeadlinePolicy(ThresholdPolicy())
    result = await run(None, policy, two(small), deadline_s=0.3, retry_policy=DEFAULT_RETRY)
    assert (result.answer, result.tier) == ("0.5", "small")
    assert "s are left" in result.decision.reason


async def test_a_first_draft_is_better_than_a_second_that_comes_too_late() -> None:
    tiers = open_tiers(
        [
            drafting(),
            ScriptedModel("m", name="m", delay_s=5),
            ScriptedModel("l", name="l"),
        ]
    )
    result = await run(None, tiers=tiers, deadline_s=0.3)
    assert (result.answer, result.tier, result.degraded) == ("0.5", "scripted:s", True)


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (RateLimitError("slow down", model="s", retry_after=30), "before its 30 s are over"),
        (ModelUnavailableError("down", model="s"), "has passed"),
    ],
)
async def test_no_failure_is_tried_again_when_it_is_too_late(
    error: Exception, complaint: str
) -> None:
    class Failing(ScriptedModel):
        async def _complete(self, request: Any) -> Completion:
            if isinstance(error, ModelUnavailableError):
                await asyncio.sleep(0.04)
                self.requests.append(request)
                await asyncio.sleep(0)
                left = request.timeout_s - 0.04
                time.sleep(max(0.0, left))  # noqa: ASYNC251 - past the deadline, not timed out
            raise error

    with pytest.raises(DeadlineError, match=complaint):
        await run(None, tiers=two(Failing("x")), deadline_s=0.1, retry_policy=DEFAULT_RETRY)


# The cascade as a user holds it


class Digest(ScriptedModel):
    digest_is: str | Exception = "b" * 64

    async def digest(self) -> str | None:
        if isinstance(self.digest_is, Exception):
            raise self.digest_is
        return self.digest_is


def calibrated_cascade(small: Digest) -> Cascade:
    """A cascade whose calibration was made for weights that begin with `a`."""
    cascade = Cascade(small, ScriptedModel(["right"], name="l"))

    class Made:
        def check(self, made_for: Any, *_: Any) -> None:
            if made_for.digest not in (None, "a" * 64):
                raise CalibrationMismatchError("the weights have changed")

    cascade.calibration = Made()  # type: ignore[assignment]
    return cascade


async def test_other_weights_are_refused_before_the_first_question() -> None:
    small = Digest(["x"], logprobs=0.9)
    with pytest.raises(CalibrationMismatchError):
        await calibrated_cascade(small).ainvoke("?")
    assert small.requests == []


async def test_weights_are_looked_at_once() -> None:
    small = Digest(["x"], logprobs=0.9)
    small.digest_is = "a" * 64
    cascade = calibrated_cascade(small)
    await cascade.ainvoke("?")
    small.digest_is = "b" * 64
    assert (await cascade.ainvoke("?")).answer == "x"


async def test_weights_that_cannot_be_looked_at_now_are_looked_at_later() -> None:
    """The server of the small model is down: the large one answers, as without calibration."""
    small = Digest([ContextLengthError("no", model="s"), "x"], logprobs=0.9)
    small.digest_is = ModelUnavailableError("down", model="s")
    cascade = calibrated_cascade(small)
    assert (await cascade.ainvoke("?")).answer == "right"
    small.digest_is = "b" * 64
    with pytest.raises(CalibrationMismatchError):
        await cascade.ainvoke("?")


async def test_a_dollar_budget_learns_what_every_request_cost() -> None:
    class Counting(DollarBudget):
        def __init__(self) -> None:
            super().__init__(DollarBudgetPolicy(budget_usd=0.001))
            self.learned: list[Decimal] = []

        def paid(self, cost_usd: Decimal) -> None:
            self.learned.append(cost_usd)
            super().paid(cost_usd)

    policy = Counting()
    small, large = two(ScriptedModel([reply("x", probability=0.5)], name="s"))
    cascade = Cascade(small.settings, large.settings, policy=policy)
    results = await asyncio.gather(*(cascade.ainvoke(str(i)) for i in range(64)))
    spent = sum((result.ledger.known_cost_usd for result in results), Decimal(0))
    assert len(policy.learned) == 64
    assert sum(policy.learned) == spent
    assert any(result.escalated for result in results)


async def test_a_dollar_budget_makes_escalation_dearer_until_it_stops() -> None:
    policy = DollarBudget(DollarBudgetPolicy(budget_usd=0.0001))
    small, large = two(ScriptedModel([reply("x", probability=0.5)], name="s"))
    cascade = Cascade(small.settings, large.settings, policy=policy)
    escalated = [(await cascade.ainvoke("?")).escalated for _ in range(200)]
    assert escalated[0]
    assert not all(escalated)
    assert policy.policy.shadow_price > 0
