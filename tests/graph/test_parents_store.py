"""A cascade inside a graph has the checkpointer and the store of that graph."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.memory import InMemoryStore

from cascade import Cascade
from cascade.state import CHECKPOINT_TYPES
from cascade.testing import ScriptedModel, reply

THREAD: Any = {"configurable": {"thread_id": "t"}}
ASKED: Any = {"messages": [("human", "?")]}


def trusts(question: str, answer: str) -> bool:
    """A verifier that knows from the store which answers were right before."""
    del question
    return get_store().get(("right",), answer) is not None


def parent(cascade: Cascade, saver: InMemorySaver, store: InMemoryStore) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", cascade.graph)
    builder.add_edge(START, "cascade")
    return builder.compile(checkpointer=saver, store=store)


@pytest.mark.parametrize("known", [True, False])
async def test_a_part_of_the_cascade_finds_the_store_of_the_graph_around_it(
    known: bool,
) -> None:
    store = InMemoryStore()
    if known:
        store.put(("right",), "Canberra", {})
    small = ScriptedModel([reply("Canberra", probability=0.1)])
    cascade = Cascade(small, ScriptedModel(["the large one"]), verifier=trusts)
    state = await parent(cascade, InMemorySaver(), store).ainvoke(ASKED, THREAD)
    assert state["messages"][-1].text == ("Canberra" if known else "the large one")


async def test_the_parents_checkpointer_keeps_what_was_paid_when_the_large_model_is_down() -> None:
    """The run goes on inside the subgraph: the draft is not paid for a second time."""
    small = ScriptedModel([reply("", probability=0.9)])  # an empty draft cannot stand in
    large = ScriptedModel([ValueError("no model at all"), "the large one"])
    cascade = Cascade(small, large)
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))
    graph = parent(cascade, saver, InMemoryStore())
    with pytest.raises(ValueError, match="no model"):
        await graph.ainvoke(ASKED, THREAD)
    state = await graph.ainvoke(None, THREAD)
    assert state["messages"][-1].text == "the large one"
    assert (len(small.requests), len(large.requests)) == (1, 2)
