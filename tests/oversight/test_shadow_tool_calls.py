"""Drafts that call marked tools, in shadow: nothing is run, and everything is learned from."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import ToolCall
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from cascade import ToolRisks
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply
from tests.oversight.shadowing import entries, start

DELETE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "delete",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}


def calling(path: str, probability: float | None = None) -> Completion:
    call = ToolCall(name="delete", args={"path": path}, id="1", type="tool_call")
    return reply("", tool_calls=[call], call_probability=probability)


def shadow(**risks: Any) -> Any:
    return start(
        drafter=ScriptedModel([calling("a", 0.95)]),
        expert=ScriptedModel([calling("b")]),
        tools=[DELETE],
        tool_risks=ToolRisks({"delete": "irreversible"}, **risks),
    )


def test_an_irreversible_draft_that_would_not_be_accepted_keeps_its_signals() -> None:
    """Calibrations are made of them: without such drafts none would know irreversible calls."""
    cascade = shadow()
    result = cascade.invoke("?")
    assert result.message.tool_calls[0]["args"] == {"path": "b"}
    *_, entry = entries(cascade, "shadow")
    assert entry.action == "escalate"
    assert "delete is irreversible" in entry.note
    assert entry.signals is not None
    assert "logprob_mean" in entry.signals


async def test_nobody_is_asked_about_a_trial() -> None:
    """The large model's answer waits for a person; what would have been drafted does not."""
    cascade = shadow(irreversible="ask")
    graph: Any = cascade.build_graph().compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    state = await graph.ainvoke({"messages": [("human", "?")]}, thread)
    assert state["__interrupt__"][0].value["calls"] == [{"name": "delete", "args": {"path": "b"}}]
    *_, entry = entries(cascade, "shadow")
    assert entry.action == "escalate"
    state = await graph.ainvoke(Command(resume="accept"), thread)
    assert state["messages"][-1].tool_calls
