"""What time or a person decided about one run is no answer for the next who asks."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.caches import InMemoryCache as ModelCache
from langchain_core.messages import HumanMessage, ToolCall
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from cascade import Cascade, ToolRisks
from cascade.integrations.graph_cache import GraphCache
from cascade.policies import Situation
from cascade.state import CHECKPOINT_TYPES, Completion, Decision
from cascade.testing import ScriptedModel, reply

ASKED: Any = {"messages": [HumanMessage("What?")]}
PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
ERASE = {"type": "function", "function": {"name": "erase", "parameters": PATH}}


def erasing() -> Completion:
    call = ToolCall(name="erase", args={"path": "a.txt"}, id="1", type="tool_call")
    return reply("", tool_calls=[call], call_probability=0.99)


class Asks:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="?", confidence=situation.assessment.confidence)


def hurried(**options: Any) -> Cascade:
    """A cascade whose large model is slow today: its doubtful drafts are accepted."""
    small = ScriptedModel([reply("a doubtful draft", probability=0.3)])
    cascade = Cascade(small, ScriptedModel("large"), deadline=1, **options)
    cascade._deadline.saw("large", 5)
    return cascade


def node_of(cascade: Cascade) -> Any:
    """A graph with the cascade as a node that LangGraph caches."""
    cache = GraphCache(InMemoryCache(), cascade)
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", cascade.graph, cache_policy=cache.policy())
    builder.add_edge(START, "cascade")
    serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    return builder.compile(cache=cache, checkpointer=InMemorySaver(serde=serde))


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def test_a_draft_accepted_for_want_of_time_is_asked_for_again() -> None:
    cascade = hurried(cache=InMemoryCache())
    first = cascade.invoke("What?")
    assert (first.answer, first.decision.once) == ("a doubtful draft", True)
    cascade._deadline._seen_s.clear()  # the large model is as quick as ever again
    again = cascade.invoke("What?")
    assert (again.answer, again.cached) == ("large", False)
    assert cascade.invoke("What?").cached


def test_nor_does_langchains_model_cache_keep_it() -> None:
    cascade = hurried()
    model = cascade.as_chat_model(cache=ModelCache())
    assert model.invoke("What?").text == "a doubtful draft"
    cascade._deadline._seen_s.clear()
    assert model.invoke("What?").text == "large"


def test_nor_does_langgraphs() -> None:
    cascade = hurried()
    graph = node_of(cascade)
    assert graph.invoke(ASKED, thread("1"))["messages"][-1].text == "a doubtful draft"
    cascade._deadline._seen_s.clear()
    assert graph.invoke(ASKED, thread("2"))["messages"][-1].text == "large"


def test_a_person_approves_of_each_irreversible_call() -> None:
    risks = ToolRisks({"erase": "irreversible"}, irreversible="ask")
    small, large = ScriptedModel([erasing()]), ScriptedModel([erasing()])
    graph = node_of(Cascade(small, large, tools=[ERASE], tool_risks=risks))
    for name in ("1", "2"):
        assert graph.invoke(ASKED, thread(name))["__interrupt__"]
        state = graph.invoke(Command(resume="accept"), thread(name))
        assert state["messages"][-1].tool_calls[0]["name"] == "erase"
    assert len(large.requests) == 2


@pytest.mark.parametrize("said", ["accept", {"answer": "the person's own"}])
def test_what_a_person_said_of_one_draft_is_said_of_no_other(said: Any) -> None:
    small = ScriptedModel([reply("a draft", probability=0.3)])
    graph = node_of(Cascade(small, ScriptedModel("large"), policy=Asks()))
    for name in ("1", "2"):
        assert graph.invoke(ASKED, thread(name))["__interrupt__"]
        graph.invoke(Command(resume=said), thread(name))


def test_nor_does_a_chat_model_keep_it() -> None:
    small = ScriptedModel([reply("a draft", probability=0.3)])
    cascade = Cascade(small, ScriptedModel("large"), policy=Asks())
    model = cascade.as_chat_model(cache=ModelCache())

    def ask(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=InMemorySaver())
    for name in ("1", "2"):
        assert graph.invoke(ASKED, thread(name))["__interrupt__"]
        state = graph.invoke(Command(resume="accept"), thread(name))
        assert state["messages"][-1].text == "a draft"
