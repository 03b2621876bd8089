"""The ways of a question through the agents, under both drivers."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from cascade import Decision, Situation, Tier, Verdict
from cascade.confidence import Estimate, Probe, Signal
from cascade.driving import Driver
from cascade.errors import AuthenticationError, ConfigurationError, ModelUnavailableError
from cascade.kernel import Kernel
from cascade.middleware import CascadeMiddleware, Fallback, Retries, ToolRisks
from cascade.run import Answer
from cascade.state import Completion
from cascade.testing import reply
from tests.kernel.drivers import PRICE, cascade_of, scripted

DOWN = ModelUnavailableError("503 from the server", model="scripted:l")


class Observing:
    """A policy that takes one more signal where it can."""

    def decide(self, situation: Situation) -> Decision:
        if situation.next_signal is not None:
            return Decision(action="observe", reason="one more")
        return Decision(action="accept", reason="enough")


class Free(Signal):
    """A signal that costs nothing."""

    name = "free"

    def read(self, asked: Any, replies: Any) -> dict[str, float]:
        return {self.name: 0.5}

    def score(self, features: Any) -> float:
        return 0.5


class Paid(Free):
    """A signal that asks the drafting model once."""

    name, calls = "paid", 1

    def probes(self, asked: Any, replies: Any) -> Any:
        return () if replies else [Probe(tuple(asked.messages))]


class Asking:
    """A policy that asks a person."""

    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="a person has to see this")


async def test_a_sure_draft_is_the_answer_and_earns_the_baseline(driver: Any) -> None:
    outcome = await driver(cascade_of()).ask()
    assert outcome.result.answer == "Sydney perhaps"
    assert outcome.nodes == ["draft", "self_check", "verify"]
    assert outcome.shown == outcome.result.answer
    assert outcome.result.ledger.saved_usd is not None
    assert outcome.result.ledger.saved_usd > 0


async def test_an_unsure_draft_goes_to_the_large_model(driver: Any) -> None:
    outcome = await driver(cascade_of(scripted(sure=0.2))).ask()
    assert outcome.result.tier == "large"
    assert outcome.result.escalated
    assert outcome.nodes == ["draft", "self_check", "verify", "expert"]
    assert outcome.shown == "Canberra it is"
    assert outcome.result.ledger.saved_usd == -sum(
        (e.cost_usd or Decimal(0)) for e in outcome.run.entries if e.node == "draft"
    )


async def test_a_router_sends_a_question_straight_to_a_tier(driver: Any) -> None:
    outcome = await driver(cascade_of(router=lambda messages: "large")).ask()
    assert outcome.nodes == ["router", "expert"]
    assert "router named large" in outcome.result.decision.reason


async def test_a_router_that_names_no_tier_is_told_the_names() -> None:
    cascade = cascade_of(router=lambda messages: "huge")
    with pytest.raises(ConfigurationError, match="'huge'; there are: small, large") as raised:
        await cascade.ainvoke("?")
    assert raised.value.ledger is not None


async def test_middle_tiers_draft_in_their_turn(driver: Any) -> None:
    middle = Tier(scripted("Melbourne", name="m"), name="middle", price=PRICE["small"])
    cascade = cascade_of()
    tiers = [
        Tier(scripted(sure=0.1), name="small", price=PRICE["small"]),
        middle,
        Tier(scripted("Canberra", sure=None, name="l"), name="large", price=PRICE["large"]),
    ]
    cascade = type(cascade)(tiers=tiers)
    outcome = await driver(cascade).ask()
    assert outcome.result.tier == "middle"
    assert outcome.result.escalated
    assert [e.tier for e in outcome.run.entries if e.node == "draft"] == ["small", "middle"]


async def test_a_tier_that_is_down_hands_the_question_on(driver: Any) -> None:
    small = scripted([DOWN])
    outcome = await driver(cascade_of(small, middleware=[Retries(attempts=1)])).ask()
    assert outcome.result.tier == "large"
    assert "small failed" in outcome.result.decision.reason
    assert [e.outcome for e in outcome.run.entries if e.node == "draft"] == ["failed"]


async def test_a_wrong_key_is_raised_and_not_hidden_by_the_large_model() -> None:
    refused = AuthenticationError("401: wrong key", model="scripted:s")
    with pytest.raises(AuthenticationError) as raised:
        await cascade_of(scripted([refused])).ainvoke("?")
    assert [e.node for e in raised.value.ledger] == ["draft"]


async def test_without_the_large_model_the_draft_is_the_degraded_answer(driver: Any) -> None:
    cascade = cascade_of(scripted(sure=0.2), scripted([DOWN]))
    outcome = await driver(cascade).ask()
    assert outcome.result.degraded
    assert outcome.result.tier == "small"
    assert outcome.result.decision.action == "accept"
    assert outcome.result.decision.once
    assert outcome.shown == outcome.result.answer == "Sydney perhaps"
    assert len([e for e in outcome.run.entries if e.node == "expert"]) == 3  # attempts


async def test_a_draft_that_is_ruled_out_is_no_degraded_answer() -> None:
    cascade = cascade_of(scripted("no JSON"), scripted([DOWN]), response_format={"type": "object"})
    with pytest.raises(ModelUnavailableError) as raised:
        await cascade.ainvoke("?")
    assert raised.value.ledger.cost_usd


async def test_another_large_model_answers_in_its_place(driver: Any) -> None:
    other = Tier(scripted("Canberra, says another", name="o"), price=PRICE["large"])
    cascade = cascade_of(
        scripted(sure=0.2), scripted([DOWN]), middleware=[Fallback(other), Retries(2, base_s=0)]
    )
    outcome = await driver(cascade).ask()
    assert outcome.result.tier == "fallback"
    assert outcome.result.degraded
    assert outcome.result.escalated
    asked = [e.tier for e in outcome.run.entries if e.model]
    assert asked == ["small", "large", "large", "fallback"]
    assert outcome.run.entries[-1].basis == "estimated"


async def test_one_more_signal_is_taken_when_the_policy_wants_it(driver: Any) -> None:
    cascade = cascade_of(signals=[Free(), Paid()], policy=Observing())
    parts = replace(cascade.kernel.parts, calibrators={"small": _Calibrator()})
    cascade.kernel = Kernel(parts)
    cascade._driver = Driver(cascade.kernel)
    outcome = await driver(cascade).ask()
    assert outcome.nodes.count("self_check") == 2
    assert outcome.nodes.count("verify") == 2
    assert outcome.run.assessment.taken == ("free", "paid")


async def test_a_person_may_accept_a_draft(driver: Any) -> None:
    driven = driver(cascade_of(policy=Asking()))
    paused = await driven.ask()
    assert paused.run.step == "person"
    assert paused.shown == ""
    assert paused.result is None
    outcome = await driven.resume("accept")
    assert outcome.result.answer == "Sydney perhaps" == outcome.shown
    assert outcome.nodes.count("draft") == 1
    assert "person" in outcome.nodes
    assert outcome.run.entries[-1].baseline_usd


async def test_a_person_may_escalate_reject_or_answer(driver: Any) -> None:
    for said, tier, answer in (
        ("escalate", "large", "Canberra it is"),
        ("reject", "small", ""),
        ({"answer": "Canberra!"}, "person", "Canberra!"),
    ):
        driven = driver(cascade_of(policy=Asking()))
        await driven.ask()
        outcome = await driven.resume(said)
        assert (outcome.result.tier, outcome.result.answer) == (tier, answer)


async def test_an_irreversible_call_of_the_large_model_waits_for_a_person(driver: Any) -> None:
    call = {"name": "delete", "args": {"x": 1}, "id": "1", "type": "tool_call"}
    tools = [{"type": "function", "function": {"name": "delete", "parameters": {}}}]
    large = scripted([reply("", tool_calls=[call])], name="l")
    risks = ToolRisks({"delete": "irreversible"}, irreversible="ask")
    driven = driver(cascade_of(scripted(sure=0.1), large, middleware=[risks], tools=tools))
    paused = await driven.ask()
    assert paused.run.step == "person"
    assert paused.shown == ""
    outcome = await driven.resume("accept")
    assert outcome.result.message.tool_calls[0]["name"] == "delete"
    assert len(large.requests) == 1


async def test_a_refused_irreversible_draft_never_comes_back_as_degraded() -> None:
    call = {"name": "delete", "args": {}, "id": "1", "type": "tool_call"}
    tools = [{"type": "function", "function": {"name": "delete", "parameters": {}}}]
    small = scripted([reply("", tool_calls=[call], call_probability=0.9)])
    risks = ToolRisks({"delete": "irreversible"})
    cascade = cascade_of(small, scripted([DOWN]), middleware=[risks], tools=tools)
    with pytest.raises(ModelUnavailableError):
        await cascade.ainvoke("?")


async def test_a_middleware_may_answer_and_the_hit_is_booked(driver: Any) -> None:
    class Known(CascadeMiddleware):
        async def before_run(self, run: Any, runtime: Any) -> Answer:
            return Answer(Completion("known", "m", tier="small"), None, "small")

    small = scripted()
    outcome = await driver(cascade_of(small, middleware=[Known()])).ask()
    assert outcome.result.answer == outcome.shown == "known"
    assert outcome.result.cached
    assert not small.requests
    assert outcome.nodes == ["known"]
    assert outcome.result.ledger.saved_usd == 0


@pytest.mark.parametrize(
    ("verifier", "tier"),
    [
        (lambda question, answer: False, "large"),
        (lambda question, answer: 0.95, "small"),
        (lambda question, answer: Verdict(accept=False, reason="no"), "large"),
        (lambda question, answer, runtime: runtime.kernel is not None, "small"),
        (lambda question, answer, run: run.draft.text == answer, "small"),
    ],
)
async def test_a_verifier_of_the_users_decides(driver: Any, verifier: Any, tier: str) -> None:
    outcome = await driver(cascade_of(scripted(sure=0.3), verifier=verifier)).ask()
    wanted = "large" if tier == "large" else "small"
    assert outcome.result.tier == wanted


async def test_a_verifier_that_raises_escalates_with_the_reason(driver: Any) -> None:
    def verifier(question: str, answer: str) -> bool:
        raise KeyError("oh")

    outcome = await driver(cascade_of(verifier=verifier)).ask()
    assert outcome.result.tier == "large"
    assert "the verifier raised KeyError" in outcome.result.decision.reason
    assert outcome.result.ledger.cost_usd is None  # what the verifier has spent is unknown


async def test_a_signal_that_raises_escalates_with_the_reason(driver: Any) -> None:
    def signal(question: str, answer: str) -> float:
        raise RuntimeError("no tests there")

    outcome = await driver(cascade_of(signals=[signal])).ask()
    assert outcome.result.tier == "large"
    assert "the signal signal raised RuntimeError" in outcome.result.decision.reason


async def test_a_policy_that_returns_no_decision_is_told_so() -> None:
    class Wrong:
        def decide(self, situation: Situation) -> Any:
            return "accept"

    with pytest.raises(ConfigurationError, match="the policy returned 'accept'") as raised:
        await cascade_of(policy=Wrong()).ainvoke("?")
    assert raised.value.ledger.cost_usd


async def test_a_verdict_without_meaning_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the verifier returned 'yes'"):
        await cascade_of(verifier=lambda q, a: "yes").ainvoke("?")


async def test_settings_travel_with_the_question(driver: Any) -> None:
    small = scripted()
    driven = driver(cascade_of(small))
    await driven.ask(max_tokens=7, stop=["END"])
    await driven.ask()
    assert [r.max_tokens for r in small.requests] == [7, None]
    assert small.requests[0].stop == ("END",)


async def test_a_second_turn_on_a_thread_is_a_new_run() -> None:
    from langgraph.checkpoint.memory import InMemorySaver  # noqa: PLC0415

    small = scripted([reply("one", probability=0.9), reply("two", probability=0.9)])
    cascade = cascade_of(small)
    graph = cascade.build_graph().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    first = await graph.ainvoke({"messages": [HumanMessage("1")], "settings": {"seed": 3}}, config)
    second = await graph.ainvoke({"messages": [HumanMessage("2")]}, config)
    assert [m.text for m in second["messages"]] == ["1", "one", "2", "two"]
    assert first["run"]["id"] != second["run"]["id"]
    assert small.requests[0].seed == 3
    assert small.requests[1].seed is None
    assert isinstance(second["messages"][-1], AIMessage)


class _Calibrator:
    calibrated = True
    signals = ("free", "paid")

    def mismatch(self, messages: Any) -> None:
        return None

    def estimate(self, features: Any, taken: Any) -> Any:
        return Estimate(0.6)

    def outlook(self, confidence: float, taken: Any) -> tuple[float, ...]:
        return (0.2, 0.9)
