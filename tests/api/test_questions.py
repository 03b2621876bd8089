"""What may be asked, and what is wrong with the rest."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from cascade import Cascade
from cascade.errors import ConfigurationError, InputError
from cascade.questions import to_messages, to_task
from cascade.testing import ScriptedModel


class City(BaseModel):
    city: str


@pytest.mark.parametrize(
    "question",
    [
        "Hello?",
        [HumanMessage("Hello?")],
        [("human", "Hello?")],
        [{"role": "user", "content": "Hello?"}],
        ["Hello?"],
        (HumanMessage("Hello?"),),
        {"messages": [HumanMessage("Hello?")]},
        {"messages": [HumanMessage("Hello?")], "other": 1},
    ],
)
def test_a_question_may_have_several_forms(question: Any) -> None:
    (message,) = to_messages(question)
    assert (message.type, message.content) == ("human", "Hello?")


def test_a_conversation_keeps_its_order_and_its_ids() -> None:
    conversation = [
        SystemMessage("s"),
        HumanMessage("h", id="7"),
        AIMessage("a"),
        HumanMessage("?"),
    ]
    read = to_messages(conversation)
    assert [m.content for m in read] == ["s", "h", "a", "?"]
    assert read[1] is conversation[1]


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ([], "empty"),
        ([HumanMessage(" ")], "empty"),
        ({"messages": []}, "empty"),
        ({"question": "x"}, "needs the key 'messages'"),
        ({"messages": "x"}, "of type str"),
        (b"bytes", "decode it"),
        (bytearray(b"bytes"), "decode it"),
        (None, "NoneType"),
        (3, "of type int"),
        ([3], "cannot be read"),
        ([{"role": "nobody", "content": "x"}], "cannot be read"),
        ([{"role": "tool", "content": "x"}], "cannot be read"),
        ("caf\udce9", "not UTF-8"),
        ([("human", "caf\udce9")], "not UTF-8"),
    ],
)
def test_a_question_that_cannot_be_answered_is_a_clear_error(question: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        to_messages(question)


async def test_a_bad_question_asks_no_model() -> None:
    model = ScriptedModel("x")
    cascade = Cascade(tiers=[model])
    with pytest.raises(InputError):
        await cascade.ainvoke("")
    with pytest.raises(InputError):
        async for _ in cascade.astream(""):
            pass
    assert model.requests == []


def test_the_last_message_may_be_of_another_kind() -> None:
    assert to_messages([HumanMessage("?"), AIMessage("")])[-1].type == "ai"


def test_tools_and_schema_are_read_once() -> None:
    @tool
    def weather(city: str) -> str:
        """The weather in a city."""
        return city

    task = to_task([weather], City)
    assert task.tools[0]["function"]["name"] == "weather"
    assert task.schema == City.model_json_schema()


@pytest.mark.parametrize(
    ("tools", "response_format", "complaint"),
    [
        ((), "json", "give a pydantic model class"),
        ((), City(city="x"), "give a pydantic model class"),
        ((), {"type": "nothing"}, "response_format has no valid JSON schema"),
        ([object()], None, "a tool cannot be read"),
        (
            [
                {
                    "type": "function",
                    "function": {"name": "f", "description": "", "parameters": {"type": "no"}},
                }
            ],
            None,
            "the tool f has no valid JSON schema",
        ),
    ],
)
def test_a_tool_or_schema_that_cannot_be_read_is_a_clear_error(
    tools: Any, response_format: Any, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        to_task(tools, response_format)
