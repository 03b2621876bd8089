"""A person decides about the draft while the large model is down."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from cascade.errors import ModelUnavailableError, PersonNeededError
from cascade.ledger.runs import runs_of
from cascade.result import CascadeResult, read_result
from cascade.state import CHECKPOINT_TYPES
from cascade.testing import reply
from tests.resilience.fallbacks import QUESTION, House, down

CONFIG: Any = {"configurable": {"thread_id": "t"}}


def graph_of(house: House) -> Any:
    serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    return house.cascade.build_graph().compile(checkpointer=InMemorySaver(serde=serde))


async def ask(house: House, *replies: Any) -> CascadeResult:
    """Through a graph with a checkpointer, with these answers of the person."""
    graph = graph_of(house)
    state = await graph.ainvoke(QUESTION, CONFIG)
    for said in replies:
        assert "__interrupt__" in state
        state = await graph.ainvoke(Command(resume=said), CONFIG)
    assert "__interrupt__" not in state
    return read_result(state, "small", None)


async def test_a_person_is_shown_the_draft_and_why() -> None:
    state = await graph_of(House(("ask", "draft"))).ainvoke(QUESTION, CONFIG)
    shown = state["__interrupt__"][0].value
    assert (shown["draft"], shown["confidence"]) == ("Sydney", pytest.approx(0.3))
    assert "but large failed: large is down" in shown["reason"]


async def test_a_draft_that_a_person_accepts_is_degraded_and_earns_no_baseline() -> None:
    house = House(("ask",))
    result = await ask(house, "accept")
    assert (result.answer, result.tier, result.degraded) == ("Sydney", "small", True)
    assert result.ledger.saved_usd == Decimal("-0.000011")
    (run,) = runs_of((entry, {}) for entry in result.ledger).values()
    assert run.outcome == "degraded"


async def test_a_person_may_answer_in_place_of_the_draft() -> None:
    result = await ask(House(("ask",)), {"answer": "Canberra"})
    assert (result.answer, result.tier, result.degraded) == ("Canberra", "person", True)


async def test_a_person_may_have_the_large_model_asked_again() -> None:
    house = House(("ask",), [down()])
    result = await ask(house, "escalate")
    assert (result.answer, result.degraded) == ("the large answer", False)
    assert len(house.small.requests) == 1


async def test_a_person_is_asked_once_and_then_comes_the_next_step() -> None:
    result = await ask(House(("ask", "draft")), "escalate")
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert "a person was asked already" in result.decision.reason


async def test_a_person_who_was_asked_in_vain_gets_the_error() -> None:
    with pytest.raises(ModelUnavailableError):
        await ask(House(("ask", "fail")), "escalate")


async def test_a_draft_that_breaks_its_schema_is_shown_to_nobody() -> None:
    draft, schema = reply("no json", probability=0.9), {"type": "object"}
    with pytest.raises(ModelUnavailableError):
        await ask(House(("ask", "draft"), draft=draft, response_format=schema))


async def test_where_nobody_can_be_asked_the_next_step_is_taken_and_the_reason_says_so() -> None:
    result = await House(("ask", "draft")).ask()
    assert (result.answer, result.degraded) == ("Sydney", True)
    assert "no person can be asked, as there is no checkpointer" in result.decision.reason


async def test_where_nobody_can_be_asked_and_nothing_follows_the_error_says_what_is_missing() -> (
    None
):
    with pytest.raises(PersonNeededError, match="the fallback, which needs a checkpointer"):
        await House(("ask", "fail")).ask()


def graph_around(house: House) -> Any:
    """A graph of the user's, whose one node asks the cascade as a chat model."""
    model = house.cascade.as_chat_model()

    async def node(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    return graph


async def test_a_chat_model_in_a_graph_asks_through_the_interrupt_of_that_graph() -> None:
    house = House(("ask", "draft"))
    graph = graph_around(house)
    state = await graph.ainvoke({"messages": [HumanMessage("?")]}, CONFIG)
    assert state["__interrupt__"][0].value["draft"] == "Sydney"
    state = await graph.ainvoke(Command(resume="accept"), CONFIG)
    assert state["messages"][-1].text == "Sydney"
    assert state["messages"][-1].response_metadata["degraded"]
    assert len(house.small.requests) == 1


async def test_a_chat_model_that_is_told_to_escalate_does_not_ask_for_ever() -> None:
    house = House(("ask", "draft"))
    graph = graph_around(house)
    await graph.ainvoke({"messages": [HumanMessage("?")]}, CONFIG)
    state = await graph.ainvoke(Command(resume="escalate"), CONFIG)
    assert state["messages"][-1].text == "Sydney"
    assert len(house.large.requests) == 2


async def test_a_run_that_failed_asks_the_large_model_first_when_it_is_resumed() -> None:
    house = House(("fail",), [down()])
    graph = graph_of(house)
    with pytest.raises(ModelUnavailableError):
        await graph.ainvoke(QUESTION, CONFIG)
    state = await graph.ainvoke(None, CONFIG)
    assert state["messages"][-1].text == "the large answer"
    assert len(house.small.requests) == 1
