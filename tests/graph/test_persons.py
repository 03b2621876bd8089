"""A policy that asks a person: the graph waits, is resumed, and pays for nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError, InputError, ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import LedgerView, MemoryLedger
from cascade.policies import Situation
from cascade.result import CascadeResult, read_result
from cascade.state import Decision
from cascade.testing import ScriptedModel, reply

CONFIG: Any = {"configurable": {"thread_id": "t"}}
ASK: Any = {"messages": [HumanMessage("Capital of Australia?")]}


class AskPerson:
    def decide(self, situation: Situation) -> Decision:
        return Decision(
            action="ask", reason="better ask", confidence=situation.assessment.confidence
        )


class House:
    """A cascade of priced scripted models whose policy asks a person."""

    def __init__(self, failures: Sequence[Exception] = (), middle: bool = False) -> None:
        self.store = MemoryLedger()
        self.small = ScriptedModel([reply("Sydney", probability=0.5)])
        self.middle = ScriptedModel([reply("Melbourne", probability=0.5)])
        self.large = ScriptedModel(["Canberra"], failures=failures)
        tiers = [
            Tier(self.small, name="small", price=Price(input=1, output=1)),
            Tier(self.middle, name="middle", price=Price(input=10, output=10)),
            Tier(self.large, name="large", price=Price(input=100, output=100)),
        ]
        self.cascade = Cascade(
            tiers=tiers if middle else [tiers[0], tiers[2]],
            policy=AskPerson(),
            ledger=self.store,
            retry_policy=DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False),
        )
        self.graph: Any = self.cascade.build_graph().compile(checkpointer=InMemorySaver())

    async def answer(self, *resumes: Any) -> CascadeResult:
        await self.graph.ainvoke(ASK, CONFIG)
        for resume in resumes:
            state = await self.graph.ainvoke(Command(resume=resume), CONFIG)
        return read_result(state, "small", None)


async def test_the_person_is_shown_the_question_the_draft_and_the_reason() -> None:
    house = House()
    state = await house.graph.ainvoke(ASK, CONFIG)
    (interrupt,) = state["__interrupt__"]
    assert interrupt.value == {
        "question": "Capital of Australia?",
        "draft": "Sydney",
        "confidence": pytest.approx(0.5),
        "reason": "better ask",
    }
    assert {"accept", "escalate"} <= set(interrupt.response_schema["anyOf"][0]["enum"])
    assert not house.large.requests


async def test_a_person_who_accepts_makes_the_draft_the_answer_and_earns_its_saving() -> None:
    house = House()
    result = await house.answer("accept")
    assert (result.answer, result.tier, result.escalated) == ("Sydney", "small", False)
    assert result.decision.action == "accept"
    assert result.decision.reason == "a person said accept"
    # 11 tokens: $0.0011 of the large model spared, $0.000011 spent on the draft
    assert result.ledger.saved_usd == Decimal("0.0011") - Decimal("0.000011")
    assert result.ledger.by_node()["ask"].saved_basis == "estimated"


async def test_a_person_who_escalates_sends_the_question_to_the_large_model() -> None:
    house = House()
    result = await house.answer("escalate")
    assert (result.answer, result.tier, result.escalated) == ("Canberra", "large", True)
    assert result.decision.action == "escalate"
    assert result.ledger.saved_usd == Decimal("-0.000011")


async def test_a_person_may_answer_themselves_and_no_saving_is_claimed_for_it() -> None:
    house = House()
    result = await house.answer({"answer": "Canberra, of course"})
    assert (result.answer, result.tier) == ("Canberra, of course", "person")
    assert not result.escalated
    assert result.ledger.saved_usd == Decimal("-0.000011")
    assert not house.large.requests


async def test_a_persons_escalation_while_the_large_model_is_down_is_degraded_and_escalated() -> (
    None
):
    house = House(failures=[ModelUnavailableError("down", model="l")] * 3)
    result = await house.answer("escalate")
    assert (result.answer, result.degraded, result.escalated) == ("Sydney", True, True)


async def test_a_person_is_asked_about_each_draft_that_is_escalated() -> None:
    house = House(middle=True)
    result = await house.answer("escalate", "accept")
    assert (result.answer, result.tier, result.escalated) == ("Melbourne", "middle", True)


@pytest.mark.parametrize("resume", ["accept", "escalate", {"answer": "Canberra"}])
async def test_nothing_is_paid_twice(resume: Any) -> None:
    house = House()
    result = await house.answer(resume)
    assert len(house.small.requests) == 1
    assert len(house.large.requests) <= 1
    assert [e.node for e in result.ledger] == [e.node for e in house.store.entries]
    assert len({e.run_id for e in house.store.entries}) == 1
    assert sorted(result.ledger, key=lambda e: e.at) == house.store.entries


@pytest.mark.parametrize("bad", ["yes", True, 3, {"answer": 3}, {"text": "x"}, ["accept"]])
async def test_a_bad_value_is_a_clear_error_and_the_graph_can_be_resumed_again(bad: Any) -> None:
    house = House()
    with pytest.raises(InputError, match="resume with 'accept', 'escalate' or"):
        await house.answer(bad)
    state = await house.graph.ainvoke(Command(resume="accept"), CONFIG)
    assert state["messages"][-1].content == "Sydney"
    assert len(house.small.requests) == 1
    view = LedgerView(house.store.entries)
    assert [e.node for e in view] == ["draft", "self_check", "verify", "ask"]


async def test_without_a_checkpointer_the_error_says_what_is_needed_and_what_was_spent() -> None:
    with pytest.raises(ConfigurationError, match="needs a checkpointer") as caught:
        await House().cascade.ainvoke("Capital of Australia?")
    assert caught.value.ledger is not None
    assert [e.node for e in caught.value.ledger] == ["draft", "self_check", "verify"]


async def test_without_a_checkpointer_a_stream_gives_the_same_error() -> None:
    with pytest.raises(ConfigurationError, match="needs a checkpointer"):
        async for _ in House().cascade.astream("Capital of Australia?"):
            pass


def test_a_person_can_be_asked_synchronously() -> None:
    house = House()
    house.graph.invoke(ASK, CONFIG)
    state = house.graph.invoke(Command(resume="accept"), CONFIG)
    assert state["messages"][-1].content == "Sydney"
    assert len(house.small.requests) == 1
