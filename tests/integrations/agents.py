"""A small world for agents: a tool with facts, and two models that know how to use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.messages import ToolCall
from langchain_core.tools import tool

from cascade.confidence.p_true import QUESTION
from cascade.models import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

PEOPLE = {"Canberra": 460_000, "Sydney": 5_300_000}
ASKED = {"messages": [("human", "How many people live in Canberra?")]}


@tool
def population(city: str) -> int:
    """How many people live in a city.

    Args:
        city: its name.
    """
    return PEOPLE[city]


def calls(**args: Any) -> Completion:
    """A step that calls the tool."""
    return reply("", tool_calls=[ToolCall(name="population", args=args, id="1", type="tool_call")])


def steps(
    first: Completion, then: Completion, *, sure: float = 0.95
) -> Callable[[Request], Completion]:
    """A model of an agent: the step before the tool's answer, and the step after it.

    `sure` is what it says when it is asked whether its own step is correct.
    """

    def answer(request: Request) -> Completion:
        if request.messages[-1].text.startswith(QUESTION):
            return reply("True", probability=sure)
        return then if request.messages[-1].type == "tool" else first

    return answer


def little(then: str = "There are five.", probability: float = 0.3) -> ScriptedModel:
    """Calls the right tool, and is not sure of what to make of its answer."""
    answers = steps(calls(city="Canberra"), reply(then, probability=probability))
    return ScriptedModel(answers, name="little", returns_logprobs=True)


def big() -> ScriptedModel:
    """Right in both steps."""
    answers = steps(calls(city="Canberra"), reply("460,000 people live in Canberra."))
    return ScriptedModel(answers, name="big")
