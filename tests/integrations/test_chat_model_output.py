"""Tools and structured output: what is asked for, and what becomes of a draft that breaks it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import ToolCall
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from cascade import Cascade
from cascade.confidence.p_true import QUESTION
from cascade.errors import ConfigurationError
from cascade.integrations.chat_model import CascadeChatModel
from cascade.models import Request
from cascade.models.ollama import OllamaModel
from cascade.policies import ThresholdPolicy
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return len(city)


def area(city: str) -> int:
    """How large a city is."""
    return len(city)


class City(BaseModel):
    """A city."""

    name: str = Field(description="its name")
    people: int


class CityDict(TypedDict):
    """A city."""

    name: Annotated[str, ..., "its name"]
    people: int


SCHEMAS = [City, CityDict, City.model_json_schema()]
RIGHT, WRONG = {"name": "Canberra", "people": 460_000}, {"name": "Canberra", "people": "many"}


def calls(name: str, args: dict[str, Any]) -> Completion:
    call = ToolCall(name=name, args=args, id="call_1", type="tool_call")
    return reply("", tool_calls=[call])


def sure(answer: Completion) -> Callable[[Request], Completion]:
    """A model that is sure of itself, by log-probs and when it is asked."""

    def answers(request: Request) -> Completion:
        asked = request.messages[-1].text.startswith(QUESTION)
        return reply("True", probability=0.99) if asked else answer

    return answers


def chat(draft: Completion, large: Completion | str = "no") -> CascadeChatModel:
    small = ScriptedModel(sure(draft), returns_logprobs=True)
    return Cascade(small, ScriptedModel([large])).as_chat_model()


def last_request(model: CascadeChatModel, tier: int = 0) -> Request:
    asked: Any = model.cascade.tiers[tier].model
    request: Request = asked.requests[0]
    return request


# --- tools


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        ("any", "required"),
        (True, "required"),
        ("required", "required"),
        ("auto", "auto"),
        (False, "auto"),
        ("population", "population"),
        ({"type": "function", "function": {"name": "area"}}, "area"),
        ({"type": "tool", "name": "area"}, "area"),
        ({"type": "any"}, "required"),
        (None, None),
    ],
)
def test_every_way_to_choose_a_tool_is_understood(choice: Any, read: str | None) -> None:
    model = chat(calls("area" if read == "area" else "population", {"city": "Canberra"}))
    message = model.bind_tools([population, area], tool_choice=choice).invoke("?")
    assert message.response_metadata["tier"] == "small"
    request = last_request(model)
    assert request.tool_choice == read
    assert [given["function"]["name"] for given in request.tools] == ["population", "area"]


def test_no_tool_may_be_called_where_none_is_the_choice() -> None:
    model = chat(calls("population", {"city": "Canberra"}), "460,000")
    message = model.bind_tools([population], tool_choice="none").invoke("?")
    assert (message.text, message.response_metadata["tier"]) == ("460,000", "large")


@pytest.mark.parametrize(
    ("tools", "choice", "complaint"),
    [
        ([population], "area", "tools there are: population"),
        ([], "any", "there are no tools"),
        ([population], 7, "tool_choice=7"),
        ([{"type": "web_search"}], None, "one provider's own"),
        ([object()], None, "a tool cannot be read"),
    ],
)
def test_tools_that_cannot_be_used_are_refused_at_once(
    tools: Any, choice: Any, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        chat(reply("x")).bind_tools(tools, tool_choice=choice)


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (reply("Let me think", probability=0.99), "does not call a tool, though it has to"),
        (calls("population", {"town": "Canberra"}), "does not match its schema"),
        (calls("populations", {"city": "Canberra"}), "calls a tool that does not exist"),
    ],
)
def test_a_draft_that_misuses_its_tools_is_escalated(draft: Completion, why: str) -> None:
    model = chat(draft, calls("population", {"city": "Canberra"}))
    message = model.bind_tools([population], tool_choice="any").invoke("?")
    assert message.response_metadata["tier"] == "large"
    assert why in message.response_metadata["reason"]
    assert message.tool_calls[0]["args"] == {"city": "Canberra"}


def test_a_draft_has_to_call_the_very_tool_that_was_chosen() -> None:
    model = chat(calls("population", {"city": "a"}), calls("area", {"city": "a"}))
    message = model.bind_tools([population, area], tool_choice="area").invoke("?")
    assert "it has to call area" in message.response_metadata["reason"]
    assert message.tool_calls[0]["name"] == "area"


def test_a_tool_call_is_no_proof_of_its_own_and_gets_a_check() -> None:
    """Peers give any tool call the score 1.0."""
    model = chat(calls("population", {"city": "Canberra"}))
    message = model.bind_tools([population]).invoke("?")
    assert message.response_metadata["confidence"] == pytest.approx(0.99)
    assert message.response_metadata["tiers"]["small"]["calls"] == 2


def test_a_tool_call_streams_in_one_chunk() -> None:
    model = chat(calls("population", {"city": "Zürich"}))
    chunks: list[Any] = list(model.bind_tools([population]).stream("?"))
    assert [chunk.tool_calls for chunk in chunks if chunk.tool_calls] == [
        [{"name": "population", "args": {"city": "Zürich"}, "id": "call_1", "type": "tool_call"}]
    ]


def test_strict_goes_into_the_description_of_the_tool() -> None:
    model = chat(calls("population", {"city": "Canberra"}))
    model.bind_tools([population], strict=True).invoke("?")
    (given,) = last_request(model).tools
    assert given["function"]["strict"] is True


def test_a_model_that_cannot_be_forced_is_offered_the_one_tool_and_checked() -> None:
    """Ollama has no tool choice: with any other than `auto` it would refuse the whole call."""
    small = ScriptedModel(sure(reply("It is large", probability=0.99)), returns_logprobs=True)
    small.forces_tools = OllamaModel.forces_tools
    large = ScriptedModel([calls("area", {"city": "a"})])
    model = Cascade(small, large).as_chat_model()
    message = model.bind_tools([population, area], tool_choice="area").invoke("?")
    request = small.requests[0]
    assert request.tool_choice is None
    assert [given["function"]["name"] for given in request.tools] == ["area"]
    assert message.response_metadata["tier"] == "large"
    assert large.requests[0].tool_choice == "area"


# --- structured output


@pytest.mark.parametrize("schema", SCHEMAS, ids=["pydantic", "typeddict", "json schema"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("streams", [False, True])
def test_a_structured_output_is_read(schema: Any, method: Any, *, streams: bool) -> None:
    called = method == "function_calling"
    answer = calls("City", RIGHT) if called else reply(json.dumps(RIGHT), probability=0.99)
    if schema is CityDict and called:
        answer = calls("CityDict", RIGHT)
    model = chat(answer)
    reader = model.with_structured_output(schema, method=method)
    read = list(reader.stream("?"))[-1] if streams else reader.invoke("?")
    assert read == (City(**RIGHT) if schema is City else RIGHT)
    assert (last_request(model).schema is None) is called


def test_a_schema_may_go_without_a_title() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert chat(reply('{"name": "a"}', probability=0.99)).with_structured_output(schema).invoke(
        "?"
    ) == {"name": "a"}


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_draft_that_breaks_the_schema_is_escalated(method: Any) -> None:
    called = method == "function_calling"
    draft = calls("City", WRONG) if called else reply(json.dumps(WRONG), probability=0.99)
    large = calls("City", RIGHT) if called else reply(json.dumps(RIGHT))
    reader = chat(draft, large).with_structured_output(City, method=method, include_raw=True)
    read: Any = reader.invoke("?")
    assert read["parsed"] == City(**RIGHT)
    assert read["raw"].response_metadata["tier"] == "large"
    assert read["parsing_error"] is None


def test_what_the_large_model_breaks_is_an_error_or_is_returned_as_one() -> None:
    model = chat(reply("no"), reply("{nothing"))
    with pytest.raises(OutputParserException):
        model.with_structured_output(City).invoke("?")
    read: Any = model.with_structured_output(City, include_raw=True).invoke("?")
    assert read["parsed"] is None
    assert isinstance(read["parsing_error"], OutputParserException)
    assert read["raw"].text == "{nothing"


def test_a_json_schema_answer_keeps_the_free_signal() -> None:
    model = chat(reply(json.dumps(RIGHT), probability=0.9))
    raw: Any = model.with_structured_output(City, include_raw=True).invoke("?")
    assert raw["raw"].response_metadata["tiers"]["small"]["calls"] == 1
    assert raw["raw"].response_metadata["confidence"] == pytest.approx(0.9)


def test_strict_makes_the_schema_one_that_openai_takes() -> None:
    model = chat(reply(json.dumps(RIGHT), probability=0.99))
    model.with_structured_output(City, strict=True).invoke("?")
    schema = last_request(model).schema
    assert schema is not None
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"schema": 3}, "no schema of an answer"),
        ({"schema": City, "method": "magic"}, "method='magic'"),
        ({"schema": City, "retries": 3}, "has no retries"),
    ],
)
def test_outputs_that_cannot_be_asked_for_are_refused(given: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        chat(reply("x")).with_structured_output(**given)


@pytest.mark.parametrize(
    ("given", "schema"),
    [
        (City, City.model_json_schema()),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "text"}, None),
        ({"type": "object"}, {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}},
            {"type": "object", "title": "any"},
        ),
    ],
)
def test_a_response_format_may_come_in_every_usual_form(given: Any, schema: Any) -> None:
    model = chat(reply(json.dumps(RIGHT), probability=0.99))
    model.bind(response_format=given).invoke("?")
    assert last_request(model).schema == schema


# --- log-probs


def test_log_probs_come_with_the_answer_of_whichever_tier_gave_it() -> None:
    small = ScriptedModel([reply("a b", probability=0.9)], returns_logprobs=True)
    large = ScriptedModel([reply("c", probability=0.5)], returns_logprobs=True, name="large")
    for threshold, words in ((0.5, ["a", "b"]), (1.0, ["c"])):
        cascade = Cascade(small, large, policy=ThresholdPolicy(threshold))
        message = cascade.as_chat_model().invoke("?", logprobs=True)
        content = message.response_metadata["logprobs"]["content"]
        assert [token["token"].strip() for token in content] == words


def test_without_being_asked_for_log_probs_are_no_part_of_the_message() -> None:
    small = ScriptedModel([reply("a b", probability=0.9)], returns_logprobs=True)
    message = Cascade(small, ScriptedModel("c", name="large")).as_chat_model().invoke("?")
    assert "logprobs" not in message.response_metadata


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"logprobs": "yes"}, "logprobs='yes': give true or false"),
        ({"logprobs": True, "top_logprobs": 21}, "a number from 0 to 20"),
        ({"top_logprobs": 2}, "needs logprobs=True"),
    ],
)
def test_log_probs_that_cannot_be_asked_for_are_refused(settings: Any, words: str) -> None:
    model = Cascade(ScriptedModel("a"), ScriptedModel("b", name="large")).as_chat_model()
    with pytest.raises(ConfigurationError, match=words):
        model.invoke("?", **settings)


@pytest.mark.parametrize("stop", [1.5, [None], {"a": 1}])
def test_what_is_no_text_cannot_end_an_answer(stop: Any) -> None:
    model = Cascade(ScriptedModel("a"), ScriptedModel("b", name="large")).as_chat_model()
    with pytest.raises(ConfigurationError, match="give a text, or a list of texts"):
        model.bind(stop=stop).invoke("?")
