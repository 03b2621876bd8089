"""A step of an agent that repeats the call of the step before it goes to the next tier."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage

from cascade import Cascade
from cascade.confidence import repetition
from cascade.testing import ScriptedModel, reply


def call(name: str = "weather", **args: Any) -> ToolCall:
    return ToolCall(name=name, args=args, id=f"{name}{args}", type="tool_call")


def step(*calls: ToolCall) -> list[BaseMessage]:
    """A step and the results of its calls."""
    results = [ToolMessage("sunny", tool_call_id=str(made["id"])) for made in calls]
    return [AIMessage("", tool_calls=list(calls)), *results]


ROME, PARIS = call(city="Rome"), call(city="Paris")
ASKED = HumanMessage("How is the weather in Rome?")


@pytest.mark.parametrize("made", [[ROME], [ROME, PARIS]], ids=["the only one", "one of two"])
def test_a_call_whose_result_is_there_is_a_repetition(made: list[ToolCall]) -> None:
    found = repetition([ASKED, *step(*made)], reply("", tool_calls=[ROME]))
    assert found == "the answer repeats the call of the step before it: weather"


@pytest.mark.parametrize(
    ("messages", "calls"),
    [
        pytest.param([ASKED], [ROME], id="the first step"),
        pytest.param([ASKED, *step(ROME)], [], id="an answer"),
        pytest.param([ASKED, *step(ROME)], [PARIS], id="other arguments"),
        pytest.param([ASKED, *step(ROME)], [call("clock", city="Rome")], id="another tool"),
        pytest.param([ASKED, *step(ROME)], [ROME, PARIS], id="more than before"),
        pytest.param([ASKED, *step(ROME), *step(PARIS)], [ROME], id="two steps ago"),
        pytest.param([ASKED, *step(ROME), HumanMessage("And now?")], [ROME], id="asked again"),
        pytest.param([ASKED, *step(ROME)[:1]], [ROME], id="no result yet"),
        pytest.param([], [ROME], id="nothing said"),
    ],
)
def test_everything_else_is_none(messages: list[BaseMessage], calls: list[ToolCall]) -> None:
    assert repetition(messages, reply("", tool_calls=calls)) is None


def test_a_draft_that_is_sure_of_a_repeated_call_is_escalated() -> None:
    tool = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    small = ScriptedModel([reply("", tool_calls=[ROME], call_probability=0.99)])
    cascade = Cascade(
        small, ScriptedModel(["Sunny."]), tools=[{"type": "function", "function": tool}]
    )
    first = cascade.invoke([ASKED])
    assert (first.tier, first.escalated) == ("small", False)
    second = cascade.invoke([ASKED, *step(ROME)])
    assert (second.answer, second.tier) == ("Sunny.", "large")
    assert "repeats the call" in second.decision.reason
