"""Row 4: the verifier as an agent of its own, and one of the user's in its place."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from cascade import Cascade, CascadeError, Decision, Policy, Situation, Verdict
from tests.acceptance.setups import calls_of, entries_of, pair
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
        (np.True_, "small"),
        (np.float32(0.1), "large"),
        (Decimal("0.9"), "small"),
        (Verdict(accept=True, reason="seen in the atlas"), "small"),
        (Verdict(accept=False, reason="not in the atlas"), "large"),
        (Verdict(confidence=0.9, calibrated=True), "small"),
        (Verdict(confidence=0.1), "large"),
    ],
)
def test_a_verifier_of_the_users_decides(upstream: Upstream, says: Any, tier: str) -> None:
    judge = Judge(says)
    result = pair(upstream, 0.5, verifier=judge).invoke(QUESTION)
    assert (result.tier, judge.heard) == (tier, [(QUESTION, f"small: {QUESTION}")])
    if isinstance(says, Verdict):
        assert says.reason in result.decision.reason
        assert result.calibrated == says.calibrated
        assert says.confidence in (None, result.confidence)


def test_a_verifiers_own_options_are_left_alone(upstream: Upstream) -> None:
    def near(question: str, answer: str, cutoff: float = 0.5) -> bool:
        return len(answer) * cutoff > 1

    def told(question: str, answer: str, runtime: Any = None, *, run: Any) -> bool:
        return runtime is not None and bool(run.draft.text == answer)

    for judge in (near, told):
        assert pair(upstream, 0.5, verifier=judge).invoke(QUESTION).tier == "small"


@pytest.mark.parametrize(("signals", "calls"), [([], 1), (["p_true"], 2)])
def test_where_a_verifier_decides_a_draft_is_checked_only_as_asked(
    upstream: Upstream, signals: list[str], calls: int
) -> None:
    options: dict[str, Any] = {"signals": signals, "verifier": lambda _q, _a: True}
    pair(upstream, None, **options).invoke(QUESTION)
    assert len(upstream.asked("small")) == calls


async def test_a_verifier_may_be_asynchronous_and_ask_a_cascade_of_its_own(
    upstream: Upstream,
) -> None:
    upstream.says("judge", "yes")
    other = Cascade(tiers=[upstream.tier("judge")])

    async def judge(question: str, answer: str) -> bool:
        return (await other.ainvoke(f"Is {answer!r} right for {question!r}?")).answer == "yes"

    assert (await pair(upstream, 0.5, verifier=judge).ainvoke(QUESTION)).tier == "small"
    assert f"'small: {QUESTION}'" in upstream.asked("judge")[0].last


@pytest.mark.parametrize("cost", [Decimal("0.01"), None])
def test_what_a_verdict_costs_counts_and_an_unknown_cost_stays_unknown(
    upstream: Upstream, cost: Decimal | None
) -> None:
    made = pair(upstream, verifier=Judge(Verdict(accept=False, cost_usd=cost)))
    result = made.invoke(QUESTION)
    (verify,) = [e for e in entries_of(result) if e.node == "verify"]
    assert (verify.cost_usd, verify.saved_usd) == (cost, None if cost is None else -cost)
    assert (result.ledger.cost_usd is None) == (cost is None)


def test_a_draft_that_facts_rule_out_is_not_shown_to_a_verifier(upstream: Upstream) -> None:
    judge = Judge(True)
    assert pair(upstream, says=(" ", "x"), verifier=judge).invoke(QUESTION).tier == "large"
    assert judge.heard == []


class Own(Policy):
    """A policy that gives what it was made with."""

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def decide(self, situation: Situation) -> Any:
        assert situation.assessment.confidence == pytest.approx(0.5)
        return self.gives() if callable(self.gives) else self.gives


async def later() -> Decision:
    raise AssertionError


def test_a_policy_of_the_users_decides(upstream: Upstream) -> None:
    policy = Own(Decision(action="accept", reason="whatever it is"))
    result = pair(upstream, 0.5, policy=policy).invoke(QUESTION)
    assert (result.tier, result.decision.reason) == ("small", "whatever it is")


def without_meaning(**figure: float) -> Any:
    return lambda: Decision(action="accept", reason="sure", **figure)


@pytest.mark.parametrize(
    ("gives", "named"),
    [
        ("accept", "'accept'.*Decision"),
        (later, "<coroutine.*Decision"),
        (without_meaning(threshold=float("nan")), r"Own\.decide.*threshold"),
        (without_meaning(confidence=2.0), r"Own\.decide.*confidence"),
    ],
)
def test_a_policy_that_returns_something_else_is_told_so(
    upstream: Upstream, gives: Any, named: str
) -> None:
    with pytest.raises(CascadeError, match=f"(?s){named}") as raised:
        pair(upstream, 0.5, policy=Own(gives)).invoke(QUESTION)
    assert ("draft", "ok") in calls_of(raised.value)
