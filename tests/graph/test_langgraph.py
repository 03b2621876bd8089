"""The cascade as a part of other people's LangGraph applications."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde import jsonplus
from langgraph.graph import END, START, MessagesState, StateGraph

from cascade import Cascade, Tier
from cascade.errors import AuthenticationError, ModelUnavailableError
from cascade.events import Decided
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import MemoryLedger
from cascade.result import CascadeResult, read_result
from cascade.state import (
    CHECKPOINT_TYPES,
    Assessment,
    Completion,
    Decision,
    Draft,
    LedgerEntry,
    Run,
    TokenLogprob,
    Usage,
)
from cascade.testing import ScriptedModel, reply

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
DOWN = ModelUnavailableError("down", model="m", billed=False)


def thread(name: str = "t") -> Any:
    return {"configurable": {"thread_id": name}}


def asking(text: str = "Capital of Australia?") -> Any:
    return {"messages": [HumanMessage(text)]}


class House:
    """A two-tier cascade whose models and store can be looked at."""

    def __init__(self, probability: float = 0.3, **options: Any) -> None:
        self.store = MemoryLedger()
        self.small = ScriptedModel(
            lambda r: reply(f"small: {r.messages[-1].text}", probability=probability),
            returns_logprobs=True,
        )
        self.large = ScriptedModel(lambda r: reply(f"large: {r.messages[-1].text}"))
        self.cascade = Cascade(
            self.small,
            self.large,
            ledger=self.store,
            retry_policy=FAST,
            resilience=None,  # every attempt reaches its model
            **options,
        )

    @property
    def calls(self) -> int:
        return len(self.small.requests) + len(self.large.requests)


def read(state: Any) -> CascadeResult:
    return read_result(state, "small", None)


# --- as a node and as a subgraph -----------------------------------------------------------------


def parent_with_subgraph(house: House, saver: InMemorySaver | None) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("before", lambda _: {"messages": []})
    builder.add_node("cascade", house.cascade.graph)
    builder.add_node("after", lambda _: {"messages": [AIMessage("done")]})
    builder.add_edge(START, "before")
    builder.add_edge("before", "cascade")
    builder.add_edge("cascade", "after")
    builder.add_edge("after", END)
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("saver", [None, "memory"])
async def test_the_graph_is_a_subgraph_of_a_messages_graph(saver: str | None) -> None:
    house = House()
    graph = parent_with_subgraph(house, InMemorySaver() if saver else None)
    state = await graph.ainvoke(asking(), thread())
    assert [m.content for m in state["messages"]] == [
        "Capital of Australia?",
        "large: Capital of Australia?",
        "done",
    ]
    assert set(state) == {"messages"}
    assert len(house.store.entries) == 4


@pytest.mark.parametrize("saver", [None, "memory"])
def test_the_graph_is_a_subgraph_of_a_synchronous_messages_graph(saver: str | None) -> None:
    house = House(probability=0.9)
    graph = parent_with_subgraph(house, InMemorySaver() if saver else None)
    state = graph.invoke(asking(), thread())
    assert state["messages"][1].content == "small: Capital of Australia?"


async def test_two_turns_through_a_subgraph_are_two_runs() -> None:
    house = House()
    graph = parent_with_subgraph(house, InMemorySaver())
    await graph.ainvoke(asking("one"), thread())
    state = await graph.ainvoke(asking("two"), thread())
    assert [m.content for m in state["messages"]][1::3] == ["large: one", "large: two"]
    runs = [e.run_id for e in house.store.entries]
    assert len(set(runs)) == 2
    assert runs == sorted(runs, key=runs.index)


async def test_a_subgraph_that_keeps_its_own_memory_begins_a_new_run_each_time() -> None:
    house = House()
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", house.cascade.build_graph().compile(checkpointer=True))
    builder.add_edge(START, "cascade")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    await graph.ainvoke(asking("one"), thread())
    state = await graph.ainvoke(asking("two"), thread())
    assert state["messages"][-1].content == "large: two"
    assert [e.node for e in house.store.entries] == ["draft", "self_check", "verify", "expert"] * 2
    assert len({e.run_id for e in house.store.entries}) == 2


@pytest.mark.parametrize("saver", [None, "memory"])
async def test_the_cascade_may_be_called_in_a_node_several_times(saver: str | None) -> None:
    house = House()

    async def node(state: MessagesState) -> Any:
        one = await house.cascade.ainvoke(state["messages"])
        two = await house.cascade.ainvoke("another")
        assert one.run_id != two.run_id
        assert len(one.ledger) == len(two.ledger) == 4
        return {"messages": [one.message, two.message]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph: Any = builder.compile(checkpointer=InMemorySaver() if saver else None)
    state = await graph.ainvoke(asking(), thread())
    contents = [m.content for m in state["messages"]]
    assert contents[1:] == ["large: Capital of Australia?", "large: another"]


@pytest.mark.parametrize("saver", [None, "memory"])
def test_the_cascade_may_be_called_in_a_synchronous_node(saver: str | None) -> None:
    house = House()

    def node(state: MessagesState) -> Any:
        result = house.cascade.invoke(state["messages"])
        graph_state = house.cascade.graph.invoke(asking("another"))
        return {"messages": [result.message, graph_state["messages"][-1]]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph: Any = builder.compile(checkpointer=InMemorySaver() if saver else None)
    state = graph.invoke(asking(), thread())
    contents = [m.content for m in state["messages"]]
    assert contents[1:] == ["large: Capital of Australia?", "large: another"]


async def test_the_graph_is_a_node_function() -> None:
    house = House()
    builder = StateGraph(MessagesState)

    async def node(state: MessagesState) -> Any:
        answered = await house.cascade.graph.ainvoke({"messages": state["messages"]})
        return {"messages": answered["messages"][-1:]}

    builder.add_node("node", node)
    builder.add_edge(START, "node")
    state = await builder.compile().ainvoke(asking())
    assert state["messages"][-1].content == "large: Capital of Australia?"


def test_the_graph_runs_synchronously() -> None:
    house = House()
    result = read(house.cascade.graph.invoke(asking()))
    assert result.answer == "large: Capital of Australia?"
    assert len(result.ledger) == 4


def test_a_synchronous_stream_of_the_graph_carries_the_custom_events() -> None:
    events = list(House(0.9).cascade.graph.stream(asking(), stream_mode="custom"))
    assert [type(event).__name__ for event in events] == ["Decided"] + ["Token"] * 4


def test_a_synchronous_graph_retries_and_degrades() -> None:
    house = House()
    house.large = ScriptedModel(["x"], failures=[DOWN] * 3)
    cascade = Cascade(house.small, house.large, retry_policy=FAST)
    result = read(cascade.graph.invoke(asking()))
    assert result.degraded
    assert len(house.large.requests) == 3


def test_the_graph_can_be_drawn() -> None:
    picture = House(router=lambda _: None).cascade.graph.get_graph().draw_mermaid()
    for node in ("route", "draft", "self_check", "verify", "expert", "ask"):
        assert node in picture


# --- threads with memory -------------------------------------------------------------------------


async def test_two_turns_of_one_thread_are_two_runs_with_their_own_ledgers() -> None:
    house = House()
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    one = read(await graph.ainvoke(asking("one"), thread()))
    two = read(await graph.ainvoke(asking("two"), thread()))
    assert one.run_id != two.run_id
    assert (one.answer, two.answer) == ("large: one", "large: two")
    # The second turn begins with the small model again.
    assert [e.node for e in two.ledger] == ["draft", "self_check", "verify", "expert"]
    assert {e.run_id for e in two.ledger} == {two.run_id}
    assert len(house.small.requests[1].messages) == 3


async def test_a_turn_whose_draft_fails_shows_nothing_of_the_turn_before() -> None:
    house = House()
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    await graph.ainvoke(asking("one"), thread())
    house.small._answers = [DOWN]
    two = read(await graph.ainvoke(asking("two"), thread()))
    assert two.tier == "large"
    assert two.confidence is None


async def test_a_turn_whose_models_all_fail_does_not_answer_with_an_old_draft() -> None:
    house = House()
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    await graph.ainvoke(asking("one"), thread())
    house.small._answers = house.large._answers = [DOWN]
    with pytest.raises(ModelUnavailableError):
        await graph.ainvoke(asking("two"), thread())


async def test_a_turn_after_one_that_failed_is_a_new_run() -> None:
    house = House()
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    answers = house.large._answers
    house.large._answers = house.small._answers = [DOWN]
    with pytest.raises(ModelUnavailableError):
        await graph.ainvoke(asking("one"), thread())
    house.large._answers = answers
    two = read(await graph.ainvoke(asking("two"), thread()))
    assert two.answer == "large: two"
    assert {e.run_id for e in two.ledger} == {two.run_id}
    assert [(e.node, e.outcome) for e in two.ledger] == [
        *[("draft", "failed")] * 3,
        ("outage", "ok"),
        ("expert", "ok"),
    ]


# --- crash and resume ----------------------------------------------------------------------------


class PowerCutError(Exception):
    """The process ends between two nodes, as far as the graph can see."""


@pytest.mark.parametrize("stop_after", ["draft", "self_check", "verify"])
async def test_a_run_that_is_stopped_between_nodes_goes_on_without_paying_again(
    stop_after: str,
) -> None:
    house = House()
    saver = InMemorySaver()
    builder = house.cascade.build_graph()
    stopping: Any = builder.compile(checkpointer=saver, interrupt_after=[stop_after])
    await stopping.ainvoke(asking(), thread())
    paid = house.calls
    going: Any = builder.compile(checkpointer=saver)
    result = read(await going.ainvoke(None, thread()))
    assert result.answer == "large: Capital of Australia?"
    assert (paid, house.calls) == (1, 2)
    assert list(result.ledger) == house.store.entries


async def test_a_run_whose_verifier_crashed_goes_on_without_paying_again() -> None:
    crashing = [True]

    def verifier(_question: str, _answer: str) -> bool:
        if crashing:
            crashing.pop()
            raise PowerCutError
        return True

    house = House(verifier=verifier)
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    with pytest.raises(PowerCutError):
        await graph.ainvoke(asking(), thread())
    result = read(await graph.ainvoke(None, thread()))
    assert result.tier == "small"
    assert house.calls == 1
    assert [e.node for e in result.ledger] == ["draft", "self_check", "verify"]


async def test_another_process_can_go_on_with_a_run() -> None:
    """The second cascade knows nothing but the checkpoint."""
    first, second = House(), House()
    saver = InMemorySaver()
    stopping: Any = first.cascade.build_graph().compile(
        checkpointer=saver, interrupt_after=["verify"]
    )
    await stopping.ainvoke(asking(), thread())
    going: Any = second.cascade.build_graph().compile(checkpointer=saver)
    result = read(await going.ainvoke(None, thread()))
    assert (len(first.small.requests), len(second.small.requests)) == (1, 0)
    assert len(result.ledger) == 4
    assert result.confidence == pytest.approx(0.3)


async def test_a_finished_run_is_not_answered_again() -> None:
    house = House()
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    await graph.ainvoke(asking(), thread())
    await graph.ainvoke(None, thread())
    assert house.calls == 2


# --- checkpoints ---------------------------------------------------------------------------------

LISTS = str.maketrans("[]", "()", ",")
"""A checkpoint makes lists of tuples; nothing here depends on which of them it is."""

TOKEN = TokenLogprob("a", -0.1, (("a", -0.1), ("b", -2.0)))
RECORDS = [
    Run("r", "q", 1),
    Draft("small", Completion("a", "m", Usage(input_tokens=1), (TOKEN,), finish_reason="stop")),
    Assessment({"logprob_mean": -0.1}, 0.9, missing="x"),
    Decision(action="accept", reason="r", expected_cost_accept_usd="0.10"),  # type: ignore[arg-type]
    LedgerEntry(run_id="r", node="draft", cost_usd="0.000000000000001"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_records_come_out_of_a_checkpoint_as_they_went_in(record: object) -> None:
    serializer = jsonplus.JsonPlusSerializer(allowed_msgpack_modules=True)
    again = serializer.loads_typed(serializer.dumps_typed(record))
    assert type(again) is type(record)
    assert repr(again).translate(LISTS) == repr(record).translate(LISTS)


async def test_a_checkpointer_that_was_told_the_types_gives_no_warnings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jsonplus._warned_unregistered_types.clear()
    house = House()
    serializer = jsonplus.JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver(serde=serializer))
    with caplog.at_level(logging.WARNING):
        await graph.ainvoke(asking("one"), thread())
        await graph.ainvoke(asking("two"), thread())
    assert caplog.messages == []


STRICT = """
import asyncio
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from cascade import Cascade
from cascade.state import Draft, LedgerEntry, TokenLogprob
from cascade.testing import ScriptedModel, reply

small = ScriptedModel([reply("a b", probability=0.3)])
cascade = Cascade(small, ScriptedModel(["c"]))
config = {"configurable": {"thread_id": "t"}}
ask = lambda text: {"messages": [("human", text)]}

async def main():
    saver = InMemorySaver()
    stop = cascade.build_graph().compile(checkpointer=saver, interrupt_after=["draft"])
    await stop.ainvoke(ask("one"), config)
    graph = cascade.build_graph().compile(checkpointer=saver)
    state = await graph.ainvoke(None, config)
    assert isinstance(state["draft"], Draft), state["draft"]
    assert isinstance(state["draft"].completion.logprobs[0], TokenLogprob)
    assert all(isinstance(entry, LedgerEntry) for entry in state["ledger"]), state["ledger"]
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", cascade.graph)
    builder.add_edge(START, "cascade")
    parent = builder.compile(checkpointer=InMemorySaver(), interrupt_after=[])
    for text in ("one", "two"):
        state = await parent.ainvoke(ask(text), config)
    assert state["messages"][-1].content == "c"

asyncio.run(main())
print("fine")
"""


def test_checkpoints_work_in_the_engines_strict_mode() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(STRICT)],
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "fine", "")


async def test_tiers_can_be_drawn_through_a_parent_that_streams_its_subgraphs() -> None:
    """Events of the cascade arrive in the stream of the graph around it."""
    graph = parent_with_subgraph(House(0.9), None)
    events = [
        event async for _, event in graph.astream(asking(), stream_mode="custom", subgraphs=True)
    ]
    assert isinstance(events[0], Decided)


def test_a_tier_is_needed() -> None:
    with pytest.raises(ValueError, match="two tiers are called"):
        Cascade(tiers=[Tier(ScriptedModel("a"), name="x"), Tier(ScriptedModel("b"), name="x")])


# --- going on after a failure --------------------------------------------------------------------


async def test_a_run_that_failed_can_be_resumed_once_the_large_model_is_back() -> None:
    """What was paid before the outage is not paid again, and the answer comes in the end."""
    house = House()
    house.small._answers = lambda _: reply("", probability=0.5)
    answers, house.large._answers = house.large._answers, [DOWN]
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    with pytest.raises(ModelUnavailableError):
        await graph.ainvoke(asking(), thread())
    house.large._answers = answers
    result = read(await graph.ainvoke(None, thread()))
    assert result.answer == "large: Capital of Australia?"
    assert len(house.small.requests) == 1
    assert list(result.ledger) == house.store.entries
    assert [e.outcome for e in result.ledger if e.node == "expert"] == ["failed"] * 3 + ["ok"]


async def test_a_run_whose_small_model_was_set_up_wrongly_can_be_resumed_when_it_is_mended() -> (
    None
):
    house = House()
    answers, house.small._answers = house.small._answers, [AuthenticationError("key", model="m")]
    graph: Any = house.cascade.build_graph().compile(checkpointer=InMemorySaver())
    with pytest.raises(AuthenticationError):
        await graph.ainvoke(asking(), thread())
    house.small._answers = answers
    result = read(await graph.ainvoke(None, thread()))
    assert result.tier == "large"
    assert [(e.node, e.outcome) for e in result.ledger][:2] == [
        ("draft", "failed"),
        ("draft", "ok"),
    ]
