"""The chat model as the model of a LangChain agent: steps, streams, checkpoints, formats."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, ToolCall
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from cascade import Cascade
from cascade.events import Decided
from cascade.ledger import MemoryLedger
from cascade.ledger.store import open_store
from cascade.testing import ScriptedModel, reply
from tests.integrations.agents import ASKED, big, calls, little, population, steps


def agent_of(cascade: Cascade, **options: Any) -> Any:
    return create_agent(cascade.as_chat_model(), [population], **options)


def thread(name: str = "t") -> Any:
    return {"configurable": {"thread_id": name}}


def answers(state: Any) -> list[AIMessage]:
    return [message for message in state["messages"] if isinstance(message, AIMessage)]


async def test_one_step_is_drafted_and_the_next_one_escalated() -> None:
    for ask in ("invoke", "ainvoke"):
        small, large, store = little(), big(), MemoryLedger()
        agent = agent_of(Cascade(small, large, ledger=store))
        state = agent.invoke(ASKED) if ask == "invoke" else await agent.ainvoke(ASKED)
        tiers = [message.response_metadata["tier"] for message in answers(state)]
        assert tiers == ["small", "large"]
        assert state["messages"][-1].text == "460,000 people live in Canberra."
        assert len(large.requests) == 1
        runs = [message.response_metadata["run_id"] for message in answers(state)]
        assert list(dict.fromkeys(entry.run_id for entry in store.entries)) == runs


@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_stream_of_the_agent_never_shows_a_rejected_draft(how: str) -> None:
    agent = agent_of(Cascade(little(), big()))
    modes = ["messages", "custom", "updates"]
    if how == "stream":
        events = list(agent.stream(ASKED, stream_mode=modes))
    else:
        events = [event async for event in agent.astream(ASKED, stream_mode=modes)]
    assert "five" not in str(events)
    shown = [event[0].text for mode, event in events if mode == "messages"]
    assert shown == ["", "460000", "460,000", " people", " live", " in", " Canberra.", ""]
    decided = [event for mode, event in events if mode == "custom"]
    assert all(isinstance(event, Decided) for event in decided)
    assert [event.decision.action for event in decided] == ["accept", "escalate"]
    assert [list(event) for mode, event in events if mode == "updates"] == [
        ["model"],
        ["tools"],
        ["model"],
    ]


async def test_checkpoints_of_the_agent_hold_messages_only_and_go_on(tmp_path: Path) -> None:
    saver = InMemorySaver()
    agent = agent_of(Cascade(little("460,000 it is", 0.9), big()), checkpointer=saver)
    await agent.ainvoke(ASKED, thread())
    state = await agent.ainvoke({"messages": [("human", "Are you sure?")]}, thread())
    assert len(state["messages"]) == 8
    namespaces = {config.config["configurable"]["checkpoint_ns"] for config in saver.list(None)}
    assert namespaces == {""}


def test_a_thread_in_a_file_is_taken_up_by_another_process(tmp_path: Path) -> None:
    for asked in (1, 2):
        with sqlite3.connect(tmp_path / "threads.db", check_same_thread=False) as connection:
            agent = agent_of(
                Cascade(little("460,000 it is", 0.9), big()),
                checkpointer=SqliteSaver(connection),
            )
            state = agent.invoke(ASKED, thread())
            assert len(answers(state)) == 2 * asked


async def test_an_agent_that_waits_for_a_person_pays_no_step_twice() -> None:
    """The step before the interrupt is in the agent's checkpoint, and is not asked for again."""
    small, large = little("460,000 it is", 0.9), big()
    agent = agent_of(
        Cascade(small, large), checkpointer=InMemorySaver(), interrupt_before=["tools"]
    )
    await agent.ainvoke(ASKED, thread())
    asked = len(small.requests)
    state = await agent.ainvoke(Command(resume=True), thread())
    assert answers(state)[-1].text == "460,000 it is"
    assert len(small.requests) == asked + 1


class Answer(BaseModel):
    """An answer."""

    people: int


@pytest.mark.parametrize("strategy", [Answer, ToolStrategy(Answer), ProviderStrategy(Answer)])
async def test_an_agent_gives_a_structured_answer_although_the_draft_breaks_it(
    strategy: Any,
) -> None:
    provider = isinstance(strategy, ProviderStrategy)

    def formatted(people: Any) -> Any:
        if provider:
            return reply(f'{{"people": {people}}}', probability=0.95)
        call = ToolCall(name="Answer", args={"people": people}, id="2", type="tool_call")
        return reply("", tool_calls=[call])

    first = calls(city="Canberra")
    small = ScriptedModel(
        steps(first, formatted('"many"' if provider else "many")), returns_logprobs=True
    )
    large = ScriptedModel(steps(first, formatted(460_000)))
    agent: Any = create_agent(
        Cascade(small, large).as_chat_model(), [population], response_format=strategy
    )
    state = await agent.ainvoke(ASKED)
    assert state["structured_response"] == Answer(people=460_000)
    assert [message.response_metadata["tier"] for message in answers(state)] == ["small", "large"]


async def test_ledger_entries_have_the_name_of_their_agent(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        for name in ("geographer", "historian"):
            agent = agent_of(Cascade(little(), big(), ledger=store), name=name)
            await agent.ainvoke(ASKED, {"metadata": {"ledger_tags": {"user": "42"}}})
        tags = [stored.tags async for stored in store.stored()]
    assert {tag["agent"] for tag in tags} == {"geographer", "historian"}
    assert {tag["user"] for tag in tags} == {"42"}


async def test_the_model_of_a_node_streams_in_the_graph_around_it() -> None:
    model = Cascade(
        ScriptedModel([reply("It is Sydney", probability=0.3)]), ScriptedModel(["It is Canberra"])
    ).as_chat_model()

    async def node(state: MessagesState) -> MessagesState:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph: Any = builder.compile()
    stream = graph.astream({"messages": [("human", "?")]}, stream_mode="messages")
    shown = [message.text async for message, _ in stream]
    assert shown == ["It", " is", " Canberra", ""]
