"""What the reader of a stream has on the screen when a person was asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolCall
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command

from cascade import Cascade, ToolRisks
from cascade.events import Provisional, Retracted, Token
from cascade.policies import Situation
from cascade.state import CHECKPOINT_TYPES, Decision
from cascade.testing import ScriptedModel, reply

PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
ERASE = {"type": "function", "function": {"name": "erase", "parameters": PATH}}
ERASING = reply(
    "I erase it.",
    tool_calls=[ToolCall(name="erase", args={"path": "a"}, id="1", type="tool_call")],
    call_probability=0.99,
)
MINE: Any = {"answer": "the person's own"}


class Asks:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="?", confidence=situation.assessment.confidence)


def on_screen(events: Iterable[Any]) -> str:
    screen = ""
    for event in events:
        if isinstance(event, Token | Provisional):
            screen += event.text
        elif isinstance(event, Retracted):
            screen = ""
    return screen


def streams(cascade: Cascade, said: Any, tokens: Any) -> tuple[list[Any], list[Any]]:
    """The events before the person was asked, and those after the answer."""
    serde = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)
    graph: Any = cascade.build_graph().compile(checkpointer=InMemorySaver(serde=serde))
    config = {"configurable": {"thread_id": "t", "stream_tokens": tokens}}
    asked = {"messages": [HumanMessage("What?")]}
    before = list(graph.stream(asked, config, stream_mode="custom"))
    return before, list(graph.stream(Command(resume=said), config, stream_mode="custom"))


@pytest.mark.parametrize("tokens", [True, "optimistic", None])
@pytest.mark.parametrize(
    ("said", "answer"),
    [("accept", "a draft"), ("escalate", "the answer"), (MINE, "the person's own")],
)
def test_a_draft_is_on_the_screen_only_once_the_person_accepts_it(
    said: Any, answer: str, tokens: Any
) -> None:
    small = ScriptedModel("a draft", logprobs=0.5)
    before, after = streams(
        Cascade(small, ScriptedModel("the answer"), policy=Asks()), said, tokens
    )
    assert on_screen(before) == ""
    assert on_screen([*before, *after]) == answer


def test_who_wants_no_words_gets_none() -> None:
    small = ScriptedModel("a draft", logprobs=0.5)
    cascade = Cascade(small, ScriptedModel("the answer"), policy=Asks())
    before, after = streams(cascade, "accept", False)
    assert not any(isinstance(event, Token) for event in [*before, *after])


@pytest.mark.parametrize("tokens", [True, "optimistic", None])
@pytest.mark.parametrize(
    ("said", "answer"), [("accept", "I erase it."), ("reject", ""), (MINE, "the person's own")]
)
def test_the_words_of_a_call_are_taken_back_where_the_person_rejects_it(
    said: Any, answer: str, tokens: Any
) -> None:
    risks = ToolRisks({"erase": "irreversible"}, irreversible="ask")
    small, large = ScriptedModel([ERASING]), ScriptedModel([ERASING])
    cascade = Cascade(small, large, tools=[ERASE], tool_risks=risks)
    before, after = streams(cascade, said, tokens)
    assert on_screen([*before, *after]) == answer
