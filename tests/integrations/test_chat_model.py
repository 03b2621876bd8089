"""The chat model: what a call brings along, what an answer says, and what is around both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run as Traced
from langgraph.config import get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import get_runtime
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from cascade import Cascade, MemoryLedger, Verdict, tagged
from cascade.errors import ConfigurationError, PersonNeededError, StreamInterruptedError
from cascade.events import Decided
from cascade.integrations.chat_model import CascadeChatModel, read_settings
from cascade.middleware import ToolRisks
from cascade.models.base import Chunk, Request
from cascade.testing import ScriptedModel, reply

Q = "What is the capital of Australia?"
Pair = Callable[..., Cascade]
SURE, UNSURE = reply("Canberra", probability=0.95), reply("Sydney I think", probability=0.3)


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return 460_000


@tool(extras={"risk": "irreversible"})
def delete(path: str) -> str:
    """Delete a file."""
    return path


POPULATION: Any = {"name": "population", "args": {"city": "Canberra"}, "id": "1"}


def requests(cascade: Cascade) -> list[Request]:
    return [request for tier in cascade.tiers for request in tier.model.requests]  # type: ignore[attr-defined]


# --- what an answer says


def test_an_answer_says_who_gave_it_and_what_it_took(pair: Pair) -> None:
    message = pair(UNSURE).as_chat_model().invoke(Q)
    said = message.response_metadata
    assert (message.text, said["tier"], said["escalated"]) == ("Canberra", "large", True)
    assert (said["action"], said["calibrated"]) == ("escalate", False)
    assert said["confidence"] == pytest.approx(0.3)
    assert said["cost_usd"] == pytest.approx(28e-6)
    assert said["saved_usd"] == pytest.approx(-16e-6)
    assert (said["cost_basis"], said["unknown_usage"]) == ("measured", 0)
    assert json.dumps(said)
    assert message.usage_metadata == {"input_tokens": 20, "output_tokens": 4, "total_tokens": 24}


def test_unknown_usage_is_counted_and_not_invented(pair: Pair) -> None:
    silent = reply("Canberra", probability=0.95, input_tokens=None)
    message = pair(silent).as_chat_model().invoke(Q)
    assert message.usage_metadata is None
    assert message.response_metadata["unknown_usage"] == 1
    assert message.response_metadata["cost_usd"] is None


def test_details_of_usage_are_summed_where_a_provider_reports_them(pair: Pair) -> None:
    usage = SURE.usage.model_copy(
        update={"cached_tokens": 4, "cache_write_tokens": 2, "reasoning_tokens": 1}
    )
    message = pair(replace(SURE, usage=usage)).as_chat_model().invoke(Q)
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_token_details"] == {"cache_read": 4, "cache_creation": 2}
    assert message.usage_metadata["output_token_details"] == {"reasoning": 1}


def test_log_probs_come_in_the_form_of_openai_where_they_are_wanted(pair: Pair) -> None:
    model = pair(SURE).as_chat_model()
    assert "logprobs" not in model.invoke(Q).response_metadata
    (token,) = model.invoke(Q, logprobs=True).response_metadata["logprobs"]["content"]
    assert (token["token"], token["bytes"], token["top_logprobs"]) == (
        "Canberra",
        [*b"Canberra"],
        [],
    )


# --- streams


async def test_a_stream_begins_after_the_decision_and_ends_with_the_metadata(pair: Pair) -> None:
    chunks = [chunk async for chunk in pair(UNSURE, "It is Canberra").as_chat_model().astream(Q)]
    assert "".join(chunk.text for chunk in chunks) == "It is Canberra"
    assert len(chunks) > 3
    assert chunks[-1].response_metadata["tier"] == "large"


async def test_tool_calls_are_streamed(pair: Pair) -> None:
    model = pair(reply("", tool_calls=[POPULATION], call_probability=0.95)).as_chat_model()
    whole: Any = None
    async for chunk in model.bind_tools([population]).astream(Q):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["args"] == {"city": "Canberra"}


class Breaking(ScriptedModel):
    """Its streams break after the first word."""

    async def _stream(self, request: Request) -> Any:
        yield Chunk("It ")
        raise StreamInterruptedError("broken", model=self.name, billed=None)


async def test_what_was_shown_cannot_be_taken_back(pair: Pair) -> None:
    model = pair(UNSURE, Breaking("It is Canberra")).as_chat_model()
    with pytest.raises(StreamInterruptedError, match="disable_streaming=True"):
        [chunk async for chunk in model.astream(Q)]


class Slow(ScriptedModel):
    """A model that writes its second word when it is let."""

    async def _stream(self, request: Request) -> Any:
        yield Chunk("It ")
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True


async def test_a_reader_that_leaves_ends_the_call(pair: Pair) -> None:
    large = Slow("It is")
    stream: Any = pair(UNSURE, large).as_chat_model().astream(Q)
    async for _ in stream:
        break
    await stream.aclose()
    assert large.left


# --- what a call brings along


def test_settings_of_a_call_come_before_those_of_the_model(pair: Pair) -> None:
    cascade = pair(SURE)
    model = cascade.as_chat_model(temperature=0.1, max_tokens=7, stop=["."], timeout=9)
    model.invoke(Q)
    model.invoke(Q, temperature=0.5, stop="\n", seed=3, think=True)
    first, second = requests(cascade)
    assert (first.temperature, first.max_tokens, first.stop, first.timeout_s) == (0.1, 7, (".",), 9)
    assert (second.temperature, second.stop, second.seed) == (0.5, ("\n",), 3)
    assert dict(second.extra) == {"think": True}


def test_tags_and_the_agents_name_are_in_the_ledger(pair: Pair) -> None:
    store = MemoryLedger()
    model = pair(SURE, ledger=store).as_chat_model()
    with tagged(user="42"):
        model.invoke(Q, {"metadata": {"lc_agent_name": "clerk"}})
    tags = [store.tags[entry.id] for entry in store.entries]
    assert tags == [{"agent": "clerk", "user": "42"}] * len(tags)


CHOICES = [
    ("any", "required"),
    (True, "required"),
    (False, "auto"),
    ("none", "none"),
    ("population", "population"),
    ({"type": "function", "function": {"name": "population"}}, "population"),
    ({"type": "function", "name": "population"}, "population"),
    ({"type": "auto"}, "auto"),
]


@pytest.mark.parametrize(("choice", "read"), CHOICES)
def test_a_choice_of_tools_is_read(choice: Any, read: str) -> None:
    assert read_settings({"tools": [population], "tool_choice": choice})["tool_choice"] == read


FORMATS = [
    ({"type": "text"}, None),
    ({"type": "json_object"}, {"type": "object"}),
    (
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        {"title": "n", "type": "object"},
    ),
    ({"type": "object", "title": "t"}, {"type": "object", "title": "t"}),
]


@pytest.mark.parametrize(("form", "schema"), FORMATS)
def test_a_response_format_is_read(form: Any, schema: Any) -> None:
    assert read_settings({"response_format": form})["schema"] == schema


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": "gpt-5"}, "asks its own models"),
    ({"tool_choice": "any"}, "tools there are: none"),
    ({"tools": [population], "tool_choice": "pop"}, "population"),
    ({"response_format": {"type": "json_schema"}}, "give {'type'"),
    ({"logprobs": 3}, "logprobs=3"),
    ({"logprobs": False, "top_logprobs": 2}, "give True"),
    ({"temperature": "hot"}, "temperature='hot'"),
    ({"tags": {"a": 1}}, r"tags\['a'\]=1"),
    ({"tools": b""}, "tools=b''"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_a_setting_that_cannot_be_read_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        read_settings(given)


def test_log_probs_may_be_declined() -> None:
    assert read_settings({"logprobs": False}) == {}


def test_no_tools_means_none_also_where_the_cascade_has_some(pair: Pair) -> None:
    cascade = pair(SURE, tools=[population])
    cascade.as_chat_model().bind_tools([]).invoke(Q)
    assert requests(cascade)[0].tools == ()


def test_strict_tools_are_sent_as_such(pair: Pair) -> None:
    cascade = pair(SURE)
    cascade.as_chat_model().bind_tools([population], strict=True).invoke(Q)
    (sent,) = requests(cascade)[0].tools
    assert sent["function"]["strict"] is True


def test_marks_of_tools_travel_with_them(pair: Pair) -> None:
    call: Any = {"name": "delete", "args": {"path": "a"}, "id": "1"}
    draft = reply("", tool_calls=[call], call_probability=0.97)
    cascade = pair(draft, reply("", tool_calls=[call]))
    message = cascade.as_chat_model().bind_tools([delete]).invoke(Q)
    assert "delete is irreversible" in message.response_metadata["reason"]
    assert "metadata" not in requests(cascade)[0].tools[0]


def test_a_person_cannot_be_asked(pair: Pair) -> None:
    call: Any = {"name": "delete", "args": {"path": "a"}, "id": "1"}
    asks = ToolRisks(irreversible="ask")
    cascade = pair(reply("", tool_calls=[call]), reply("", tool_calls=[call]), middleware=[asks])
    with pytest.raises(PersonNeededError, match=r"cascade\.graph") as raised:
        cascade.as_chat_model().bind_tools([delete]).invoke(Q)
    assert raised.value.run.step == "person"


def test_langchains_cache_is_refused(pair: Pair) -> None:
    with pytest.raises(ValidationError, match=r"Cache\(…\)"):
        pair(SURE).as_chat_model(cache=True)
    assert pair(SURE).as_chat_model(cache=None).cache is False


def test_an_unknown_setting_of_the_model_is_refused(pair: Pair) -> None:
    with pytest.raises(ValidationError, match="temprature"):
        pair(SURE).as_chat_model(temprature=1)


# --- structured output


class City(BaseModel):
    """A city."""

    name: str
    people: int


class CityDict(TypedDict):
    """A city."""

    name: str
    people: int


@dataclass
class CityData:
    """A city."""

    name: str
    people: int


RIGHT, BAD = '{"name": "Canberra", "people": 3}', '{"name": "Canberra", "people": "many"}'
SCHEMAS: list[Any] = [City, CityDict, CityData, City.model_json_schema(), {"type": "object"}]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_structured_answer_is_read(pair: Pair, schema: Any, method: Any) -> None:
    name = getattr(
        schema, "__name__", schema.get("title", "answer") if type(schema) is dict else ""
    )
    call: Any = {"name": name, "args": json.loads(RIGHT), "id": "1"}
    draft = reply(RIGHT, probability=0.97)
    if method == "function_calling":
        draft = reply("", tool_calls=[call], call_probability=0.97)
    model = pair(draft).as_chat_model()
    read = model.with_structured_output(schema, method=method).invoke(Q)
    expected: Any = json.loads(RIGHT)
    assert read == (schema(**expected) if schema in (City, CityData) else expected)


def test_what_cannot_be_read_is_an_error_or_stands_beside_the_message(pair: Pair) -> None:
    model = pair(reply(BAD, probability=0.97), BAD).as_chat_model()
    with pytest.raises(OutputParserException, match="CityData"):
        model.with_structured_output(CityData).invoke(Q)
    read = model.with_structured_output(CityData, include_raw=True).invoke(Q)
    assert read["parsed"] is None
    assert isinstance(read["parsing_error"], OutputParserException)


def test_an_unknown_method_and_no_schema_are_refused(pair: Pair) -> None:
    model: Any = pair(SURE).as_chat_model()
    with pytest.raises(ConfigurationError, match="method='magic'"):
        model.with_structured_output(City, method="magic")
    with pytest.raises(ConfigurationError, match="no schema of an answer"):
        model.with_structured_output({"a": 1})


# --- what is around a call


class Counting(BaseCallbackHandler):
    def __init__(self) -> None:
        self.calls = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.calls += 1


class Tracing(BaseTracer):
    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Traced] = []

    def _persist_run(self, run: Traced) -> None:
        self.roots.append(run)


WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def test_a_verifier_sees_the_context_and_the_store_of_the_graph_around(pair: Pair) -> None:
    seen: list[Any] = []

    def verifier(question: str, answer: str) -> Verdict:
        found = get_store().get(("right",), "answer")
        seen.append((get_runtime().context, found and found.value["text"], WHO.get()))
        return Verdict(accept=True)

    model = pair(UNSURE, verifier=verifier).as_chat_model()

    async def node(state: MessagesState) -> Any:
        WHO.set("the node")
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState, context_schema=dict)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    store = InMemoryStore()
    store.put(("right",), "answer", {"text": "Canberra"})
    graph = builder.compile(store=store)
    asked: Any = {"messages": [HumanMessage(Q)]}
    parts = graph.astream(asked, context={"user": "eva"}, stream_mode=["custom", "messages"])
    events = [part async for part in parts]
    assert seen == [({"user": "eva"}, "Canberra", "the node")]
    assert [type(e) for mode, e in events if mode == "custom"] == [Decided]
    shown = "".join(e[0].text for mode, e in events if mode == "messages")  # type: ignore[union-attr]
    assert shown == "Sydney I think"


def test_it_says_what_it_is(pair: Pair) -> None:
    model = pair(SURE).as_chat_model(stop=["."])
    assert isinstance(model, CascadeChatModel)
    tracing = Tracing()
    model.invoke(Q, {"callbacks": [tracing]})
    metadata = tracing.roots[0].extra["metadata"]
    assert metadata["ls_provider"] == "cascade"
    assert metadata["ls_model_name"] == "scripted:small → scripted:large"
    assert "Cascade(small" in str(tracing.roots[0].extra["invocation_params"])
    assert model._llm_type == "cascade"
