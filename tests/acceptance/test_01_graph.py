"""Row 1: a graph of agents on LangGraph, at home in the graphs, threads and streams of others."""

from __future__ import annotations

import asyncio
import operator
import signal
import sqlite3
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from cascade import Cascade, Decision, MemoryLedger, Situation
from cascade.events import Decided
from tests.acceptance.setups import PAIR, booked, calls_of, entries_of, pair, start
from tests.acceptance.upstream import Answer, Held, Upstream

THREAD: Any = {"configurable": {"thread_id": "t"}}
Q = "Capital of Australia?"
AGENTS = ("router", "draft", "self_check", "verify", "person", "expert")


def asking(text: str = Q) -> Any:
    return {"messages": [("human", text)]}


def texts(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


def around(graph: Any, saver: Any) -> Any:
    """A graph of somebody else's with the cascade as one of its nodes."""
    after = ("after", lambda _: {"messages": [AIMessage("done")]})
    builder = StateGraph(MessagesState).add_sequence([("cascade", graph), after])
    return builder.add_edge(START, "cascade").compile(checkpointer=saver)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteSaver]:
    with sqlite3.connect(tmp_path / "threads.db", check_same_thread=False) as connection:
        yield SqliteSaver(connection)


# --- a part of other graphs


def test_the_agents_are_the_nodes_of_the_graph(upstream: Upstream) -> None:
    drawn = pair(upstream, router=lambda _: None).graph.get_graph()
    assert set(AGENTS) <= set(drawn.nodes)
    assert "draft" in drawn.draw_mermaid()


def test_each_turn_of_a_thread_is_a_run_of_its_own(upstream: Upstream, sqlite: SqliteSaver) -> None:
    store = MemoryLedger()
    graph = around(pair(upstream, 0.3, ledger=store).graph, sqlite)
    graph.invoke(asking("one"), THREAD)
    said = ["one", "large: one", "done", "two", "large: two", "done"]
    assert texts(graph.invoke(asking("two"), THREAD)) == said
    assert texts(graph.get_state(THREAD).values) == said
    assert calls_of(store) == [("draft", "ok"), ("expert", "ok")] * 2
    assert len({entry.run_id for entry in entries_of(store)}) == 2
    assert upstream.asked("small")[1].texts == ["one", "large: one", "done", "two"]


async def test_20_questions_that_are_sent_to_it_at_once_get_their_own_answers(
    upstream: Upstream,
) -> None:
    class State(TypedDict):
        messages: Annotated[list[AnyMessage], lambda old, new: [*old, *new]]

    builder = StateGraph(State)
    builder.add_node("cascade", pair(upstream).graph)
    sends = [Send("cascade", asking(f"question {n}")) for n in range(20)]
    builder.add_conditional_edges(START, lambda _: sends, ["cascade"])
    state = await builder.compile(checkpointer=InMemorySaver()).ainvoke({"messages": []}, THREAD)
    answers = [text for text in texts(state) if text.startswith("small: ")]
    assert answers == [f"small: question {n}" for n in range(20)]


# --- streams of graphs

MODES = ["values", "updates", "messages", "custom", "debug", "tasks", "checkpoints"]


@pytest.mark.parametrize("mode", MODES)
async def test_each_stream_mode_works_alone(upstream: Upstream, mode: Any) -> None:
    graph = pair(upstream, 0.3).build_graph().compile(checkpointer=InMemorySaver())
    assert [event async for event in graph.astream(asking(), THREAD, stream_mode=mode)]


@pytest.mark.parametrize("p", [0.95, 0.3])
@pytest.mark.parametrize("how", ["sync", "async"])
async def test_every_stream_mode_works_and_shows_the_answer_alone(
    upstream: Upstream, how: str, p: float
) -> None:
    tier = "small" if p > 0.8 else "large"
    graph = around(pair(upstream, p).graph, InMemorySaver())
    if how == "sync":
        given = await asyncio.to_thread(
            lambda: list(graph.stream(asking(), THREAD, stream_mode=MODES, subgraphs=True))
        )
    else:
        stream = graph.astream(asking(), THREAD, stream_mode=MODES, subgraphs=True)
        given = [event async for event in stream]
    seen = {mode: [event for _, m, event in given if m == mode] for mode in MODES}
    assert all(seen.values()), {mode: len(events) for mode, events in seen.items()}
    assert texts(seen["values"][-1]) == [Q, f"{tier}: {Q}", "done"]
    steps = [step for event in seen["updates"] for step in event]
    assert [each for each in steps if each in ("cascade", "after")] == ["cascade", "after"]
    decided = [event.decision.action for event in seen["custom"] if isinstance(event, Decided)]
    assert decided == ["accept" if tier == "small" else "escalate"]
    shown = [message.text for message, _ in seen["messages"] if message.type != "human"]
    assert "small" not in "".join(shown) or tier == "small"
    assert "".join(shown).replace("done", "") == f"{tier}: {Q}"


# --- interrupts


class AskPerson:
    """A policy that leaves every draft to a person."""

    def decide(self, situation: Situation) -> Decision:
        score = situation.assessment.confidence
        return Decision(action="ask", reason="better ask", confidence=score)


@pytest.mark.parametrize(
    ("said", "answer", "tier"),
    [
        ("accept", f"small: {Q}", "small"),
        ("escalate", f"large: {Q}", "large"),
        ({"answer": "Canberra"}, "Canberra", "person"),
    ],
)
def test_a_person_decides_after_an_interrupt_and_nothing_is_paid_twice(
    upstream: Upstream, sqlite: SqliteSaver, said: Any, answer: str, tier: str
) -> None:
    store = MemoryLedger()
    graph = around(pair(upstream, 0.5, policy=AskPerson(), ledger=store).graph, sqlite)
    (asked,) = graph.invoke(asking(), THREAD)["__interrupt__"]
    assert (asked.value["draft"], asked.value["reason"]) == (f"small: {Q}", "better ask")
    state = graph.invoke(Command(resume=said), THREAD)
    assert texts(state) == [Q, answer, "done"]
    assert state["messages"][1].response_metadata["tier"] == tier
    assert upstream.models() == ["small", *(["large"] if tier == "large" else [])]
    nodes = ["draft", "verify", "person", *(["expert"] if tier == "large" else [])]
    assert [entry.node for entry in entries_of(store) if entry.node != "self_check"] == nodes


async def test_another_process_can_resume_a_run(upstream: Upstream, tmp_path: Path) -> None:
    for given in (asking(), Command(resume="escalate")):
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
            cascade = pair(upstream, 0.5, policy=AskPerson())  # a new one, as a new process has
            state = await cascade.build_graph().compile(checkpointer=saver).ainvoke(given, THREAD)
    assert texts(state) == [Q, f"large: {Q}"]
    assert upstream.models() == ["small", "large"]


@pytest.mark.parametrize("node", ["draft", "self_check", "verify"])
async def test_a_run_that_stops_after_any_node_goes_on_without_paying_again(
    upstream: Upstream, node: str
) -> None:
    saver, cascade = InMemorySaver(), pair(upstream, 0.3)
    stops = cascade.build_graph().compile(checkpointer=saver, interrupt_after=[node])
    await stops.ainvoke(asking(), THREAD)
    assert upstream.models() == ["small"]
    state = await cascade.build_graph().compile(checkpointer=saver).ainvoke(None, THREAD)
    assert texts(state)[-1] == f"large: {Q}"
    assert upstream.models() == ["small", "large"]


async def test_a_state_that_is_changed_in_the_midst_of_a_run_says_where_it_goes_on(
    upstream: Upstream,
) -> None:
    saver, cascade = InMemorySaver(), pair(upstream, 0.3)
    graph = cascade.build_graph().compile(checkpointer=saver, interrupt_before=["verify"])
    await graph.ainvoke(asking(), THREAD)
    waits = (await graph.aget_state(THREAD)).next
    await graph.aupdate_state(THREAD, Command(update={"settings": None}, goto=waits))
    state = await graph.ainvoke(None, THREAD)
    assert texts(state)[-1] == f"large: {Q}"


# --- kills


ASKS = """
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

url, folder, question = sys.argv[1:]
cascade = pair(url, ledger=open_store(f"sqlite:///{folder}/ledger.db"))
builder = StateGraph(MessagesState).add_node("cascade", cascade.graph).add_edge(START, "cascade")
with SqliteSaver.from_conn_string(f"{folder}/threads.db") as saver:
    graph = builder.compile(checkpointer=saver)
    given = {"messages": [("human", question)]} if question else None
    thread = {"configurable": {"thread_id": "t"}}
    print(graph.invoke(given, thread, durability="sync")["messages"][-1].text)
cascade.close()
"""


async def test_a_run_that_is_killed_in_the_large_call_pays_its_draft_once(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.echoes("small", 0.3)
    upstream.next("large", Answer("never", held=Held()))
    killed = start(PAIR + ASKS, upstream.openai_url, tmp_path, Q)
    await upstream.has_asked(1, "large")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    resumed = start(PAIR + ASKS, upstream.openai_url, tmp_path, "")
    printed, complaints = await asyncio.to_thread(resumed.communicate, timeout=300)
    assert printed.strip() == f"large: {Q}", complaints[-2000:]
    assert upstream.models() == ["small", "large", "large"]
    entries, begun = await booked(f"sqlite:///{tmp_path}/ledger.db")
    assert calls_of(entries) == [("draft", "ok"), ("expert", "ok")]
    assert [node for _, node in begun] == ["expert"]
    assert {run for run, _ in begun} == {entry.run_id for entry in entries}


# --- an own node


def test_the_builder_is_fresh_and_typed_each_time(upstream: Upstream) -> None:
    cascade = pair(upstream)
    builder = cascade.build_graph()
    assert isinstance(builder, StateGraph)
    assert "StateGraph" in str(signature(Cascade.build_graph).return_annotation)
    before = set(cascade.build_graph().nodes)
    builder.add_node("mine", lambda _: {})
    assert set(cascade.build_graph().nodes) == before
    assert "mine" not in cascade.graph.get_graph().nodes


async def test_an_own_node_stands_between_the_verifier_and_the_end(upstream: Upstream) -> None:
    seen = []

    def mine(state: Any) -> Any:
        seen.append(texts(state)[-1])
        return {"messages": [AIMessage("checked")]}

    builder = pair(upstream).build_graph()
    builder.add_node("mine", mine)
    builder.add_edge("verify", "mine")
    builder.add_edge("mine", END)
    graph = builder.compile()
    assert texts(await graph.ainvoke(asking())) == [Q, f"small: {Q}", "checked"]
    assert seen == [f"small: {Q}"]


# --- calls inside of nodes: no question ever gets another's answer


class Notes(TypedDict):
    answers: Annotated[list[str], operator.add]


def one_node(node: Any) -> Any:
    builder = StateGraph(Notes).add_node("node", node).add_edge(START, "node")
    return builder.compile(checkpointer=InMemorySaver())


async def answers_of(node: Any) -> list[str]:
    """What a node gives that is interrupted and resumed."""
    graph = one_node(node)
    await graph.ainvoke({"answers": []}, THREAD)
    answers: list[str] = (await graph.ainvoke(Command(resume="yes"), THREAD))["answers"]
    return answers


async def test_calls_before_an_interrupt_are_not_paid_again_after_it(upstream: Upstream) -> None:
    cascade = pair(upstream)

    async def node(_: Notes) -> Any:
        answer = (await cascade.ainvoke("one")).answer
        return {"answers": [answer, interrupt("may I?")]}

    assert await answers_of(node) == ["small: one", "yes"]
    assert len(upstream.seen) == 1


async def test_gathered_calls_keep_their_answers_when_their_order_changes(
    upstream: Upstream,
) -> None:
    cascade, order = pair(upstream), iter([("one", "two"), ("two", "one")])

    async def node(_: Notes) -> Any:
        first, _second = next(order)
        begun = asyncio.Event()

        async def ask(question: str) -> str:
            if question != first:
                await begun.wait()
            asking = asyncio.ensure_future(cascade.ainvoke(question))
            await asyncio.sleep(0)  # it has begun, and has its place
            begun.set()
            return (await asking).answer

        answers = await asyncio.gather(ask("one"), ask("two"))
        interrupt("may I?")
        return {"answers": answers}

    assert await answers_of(node) == ["small: one", "small: two"]


async def test_after_an_error_the_second_question_does_not_get_the_firsts_answer(
    upstream: Upstream,
) -> None:
    cascade = pair(upstream)
    todo = ["one", "two"]

    async def node(_: Notes) -> Any:
        answers = []
        while todo:
            answers.append((await cascade.ainvoke(todo[0])).answer)
            if todo.pop(0) == "one":
                raise OSError("the disk is full")
        return {"answers": answers}

    graph = one_node(node)
    with pytest.raises(OSError, match="disk"):
        await graph.ainvoke({"answers": []}, THREAD)
    state = await graph.ainvoke(None, THREAD)
    assert state["answers"] == ["small: two"]


async def test_a_cascade_never_returns_the_answer_of_another_cascade(upstream: Upstream) -> None:
    tiers = {
        name: Cascade(upstream.tier(f"{name}-small"), upstream.tier(f"{name}-large"))
        for name in ("legal", "medical")
    }
    todo = ["legal", "medical"]

    async def node(_: Notes) -> Any:
        answer = (await tiers[todo[0]].ainvoke("Is it safe?")).answer
        if todo.pop(0) == "legal":
            interrupt("may I?")
        return {"answers": [answer]}

    assert await answers_of(node) == ["medical-small: Is it safe?"]
