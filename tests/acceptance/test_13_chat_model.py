"""Row 13: the chat model: LangChain's suite, agents, tools, structured output, risks of tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, ToolMessage
from langchain_core.tools import tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from cascade import Cascade, MemoryLedger, Verdict
from cascade.events import Decided
from cascade.integrations.middleware import CascadeMiddleware
from cascade.middleware import ToolRisks
from tests.acceptance.obliging import obliging
from tests.acceptance.setups import calls_of, entries_of, pair
from tests.acceptance.upstream import Answer, Seen, Upstream

Q = "How many people live in Canberra?"
ASKED: Any = {"messages": [("human", Q)]}
THREAD: Any = {"configurable": {"thread_id": "t"}}


def pair_as_said(upstream: Upstream, *middleware: Any, **options: Any) -> Cascade:
    models = upstream.tier("small"), upstream.tier("large")
    return Cascade(*models, middleware=middleware, **options)


class TestStandard(ChatModelIntegrationTests):
    """LangChain's own suite, with a small model that doubts every second of its answers."""

    @pytest.fixture
    def model(self, upstream: Upstream) -> Iterator[Any]:
        upstream.says("small", obliging(unsure=True))
        upstream.says("large", obliging())
        with pair_as_said(upstream) as made:
            yield made.as_chat_model()

    @pytest.fixture
    def benchmark(self) -> Any:
        return lambda function: function()  # what it would time has to run, no more

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return type(Cascade(tiers=[FakeListChatModel(responses=["x"])]).as_chat_model())

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # a cascade asks its own models

    @pytest.mark.xfail(reason="it makes the class anew, whose arguments are nobody's promise")
    def test_stop_sequence(self, model: BaseChatModel) -> None:
        """`test_settings_of_a_call_reach_the_models` keeps the promise."""
        super().test_stop_sequence(model)


# --- answers


@pytest.mark.parametrize("p", [0.95, 0.3])
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
async def test_an_answer_says_who_gave_it_and_how_sure_the_cascade_was(
    upstream: Upstream, how: str, p: float
) -> None:
    model = pair(upstream, p).as_chat_model()
    message = model.invoke(Q) if how == "invoke" else await model.ainvoke(Q)
    tier = "small" if p > 0.8 else "large"
    said = message.response_metadata
    assert (message.text, said["tier"]) == (f"{tier}: {Q}", tier)
    assert (said["confidence"], said["calibrated"]) == (pytest.approx(p), False)
    assert said["action"] == ("accept" if p > 0.8 else "escalate")
    assert said["escalated"] is (p < 0.8)
    draft, answer = 3.4e-6, 77.5e-6  # what 6 tokens in and 7 out cost
    assert said["cost_usd"] == pytest.approx(draft if p > 0.8 else draft + answer)
    assert p > 0.8 or said["saved_usd"] == pytest.approx(-draft)
    assert (said["cost_basis"], said["unknown_usage"]) == ("measured", 0)
    assert json.dumps(said)
    n = len(upstream.seen)  # usage is the sum over all calls
    assert n == (1 if p > 0.8 else 2)
    used = message.usage_metadata or {}
    assert (used.get("input_tokens"), used.get("output_tokens")) == (6 * n, 7 * n)


@pytest.mark.parametrize("tiers", ["own", "langchain"])
@pytest.mark.parametrize("how", ["invoke", "stream"])
@pytest.mark.parametrize("p", [0.95, 0.3])
async def test_a_usage_callback_counts_each_token_once(
    upstream: Upstream, p: float, how: str, tiers: str
) -> None:
    made = pair(upstream, p)
    if tiers == "langchain":
        models = [upstream.chat(name) for name in ("small", "large")]
        made = Cascade(*models, verifier=lambda _q, _a: p > 0.8)
    with get_usage_metadata_callback() as counted:
        if how == "invoke":
            await made.as_chat_model().ainvoke(Q)
        else:
            [chunk async for chunk in made.as_chat_model().astream(Q)]
    total = sum(usage["total_tokens"] for usage in counted.usage_metadata.values())
    assert total == sum(sum(seen.usage or ()) for seen in upstream.seen)


async def test_settings_of_a_call_reach_the_models(upstream: Upstream) -> None:
    await pair(upstream, 0.3).as_chat_model().ainvoke(Q, temperature=0.25, stop=["\n\n"])
    for seen in upstream.seen:
        assert seen.body["temperature"] == 0.25
        assert seen.body["stop"] == ["\n\n"]


# --- tools and agents


@tool
def population(city: str) -> int:
    """How many people live in a city."""
    return 460_000


def steps(call: Any, then: Answer) -> Any:
    """A model of an agent: it calls a tool, and answers once it has been told."""

    def say(seen: Seen) -> Answer:
        if seen.is_check:
            return Answer("True", p=0.95)
        told = any(message["role"] == "tool" for message in seen.body["messages"])
        return then if told else Answer("", calls=(call,))

    return say


CALL = ("population", {"city": "Canberra"})
UNSURE = Answer("There are five.", p=0.3)


def in_agent(upstream: Upstream, then: Answer = UNSURE) -> Cascade:
    """A small model that calls the right tool and is not sure of what to make of its result."""
    upstream.says("small", steps(CALL, then))
    upstream.says("large", steps(CALL, Answer("460,000 people.")))
    return pair_as_said(upstream)


def tiers(state: Any) -> list[str]:
    messages = (m for m in state["messages"] if isinstance(m, AIMessage))
    return [message.response_metadata["tier"] for message in messages]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "astream"])
async def test_one_step_of_an_agent_is_drafted_and_the_next_escalated(
    upstream: Upstream, how: str
) -> None:
    agent: Any = create_agent(in_agent(upstream).as_chat_model(), [population])
    if how == "astream":
        modes = ["messages", "custom", "updates"]
        events = [event async for event in agent.astream(ASKED, stream_mode=modes)]
        assert "five" not in str(events)  # no rejected draft is shown
        shown = "".join(e[0].text for mode, e in events if mode == "messages")
        assert shown == "460000" + "460,000 people."
        decided = [e.decision for mode, e in events if mode == "custom" and type(e) is Decided]
        assert [decision.action for decision in decided] == ["accept", "escalate"]
        return
    asked = asyncio.to_thread(agent.invoke, ASKED) if how == "invoke" else agent.ainvoke(ASKED)
    state = await asked
    assert tiers(state) == ["small", "large"]
    assert state["messages"][-1].text == "460,000 people."
    (told,) = (m for m in state["messages"] if isinstance(m, ToolMessage))
    assert told.content == "460000"


async def test_a_thread_of_the_agent_goes_on_and_pays_no_step_twice(upstream: Upstream) -> None:
    model = in_agent(upstream, Answer("460,000 it is", p=0.95)).as_chat_model()
    agent: Any = create_agent(
        model, [population], checkpointer=InMemorySaver(), interrupt_before=["tools"]
    )
    await agent.ainvoke(ASKED, THREAD)
    asked = len(upstream.seen)
    state = await agent.ainvoke(None, THREAD)
    assert state["messages"][-1].text == "460,000 it is"
    assert len(upstream.seen) == asked + 1


@pytest.mark.parametrize("show", ["invoke", "ainvoke", "stream"])
async def test_a_cascade_stands_in_the_middleware_of_an_agent_with_a_model_of_its_own(
    upstream: Upstream, show: str
) -> None:
    upstream.says("small", "There are five.", p=0.3)
    own = upstream.chat("own")
    middleware = CascadeMiddleware(upstream.tier("small"))
    agent: Any = create_agent(own, [], middleware=[middleware])
    if show != "stream":
        state = agent.invoke(ASKED) if show == "invoke" else await agent.ainvoke(ASKED)
        assert (tiers(state), state["messages"][-1].text) == (["large"], f"own: {Q}")
    else:
        stream = agent.astream(ASKED, stream_mode="messages")
        parts = [m.text async for m, _ in stream if isinstance(m, AIMessageChunk)]
        assert "".join(parts) == f"own: {Q}"
    assert upstream.models() == ["small", "own"]
    await middleware.aclose()


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (Answer("Let me think", p=0.99), "does not call a tool"),
        (Answer("", calls=(("population", {"town": "Canberra"}),)), "does not match its schema"),
        (Answer("", calls=(("populations", {"city": "a"}),)), "a tool that does not exist"),
    ],
    ids=["no call", "wrong arguments", "no such tool"],
)
async def test_a_draft_that_misuses_its_tools_is_escalated(
    upstream: Upstream, draft: Answer, why: str
) -> None:
    upstream.says("small", draft)
    upstream.says("large", Answer("", calls=(CALL,)))
    model = pair_as_said(upstream).as_chat_model().bind_tools([population], tool_choice="any")
    message = await model.ainvoke(Q)
    assert message.response_metadata["tier"] == "large"
    assert why in message.response_metadata["reason"]
    assert message.tool_calls[0]["args"] == {"city": "Canberra"}


# --- structured output


class City(BaseModel):
    """A city."""

    name: str = Field(description="its name")
    people: int


class CityDict(TypedDict):
    """A city."""

    name: Annotated[str, ..., "its name"]
    people: int


@dataclass
class CityData:
    """A city."""

    name: str
    people: int


RIGHT, WRONG = {"name": "Canberra", "people": 460_000}, {"name": "Canberra", "people": "many"}
SCHEMAS = {
    "pydantic": City,
    "JSON schema": City.model_json_schema(),
    "TypedDict": CityDict,
    "data": CityData,
}
METHODS = ["json_schema", "function_calling", "json_mode"]


def says(upstream: Upstream, model: str, facts: Any, method: str, schema: Any = City) -> None:
    name = getattr(schema, "__name__", "City")
    if method == "function_calling":
        upstream.says(model, lambda s: "True" if s.is_check else Answer("", calls=((name, facts),)))
    else:
        upstream.says(model, json.dumps(facts), p=0.99)


@pytest.mark.parametrize("draft", [RIGHT, WRONG], ids=["right", "wrong"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
async def test_structured_output_is_drafted_and_escalated_where_it_breaks_the_schema(
    upstream: Upstream, schema: Any, method: Any, draft: Any
) -> None:
    says(upstream, "small", draft, method, schema)
    says(upstream, "large", RIGHT, method, schema)
    model = pair_as_said(upstream).as_chat_model()
    asked = model.with_structured_output(schema, method=method, include_raw=True)
    read: Any = await asked.ainvoke(Q)
    tier = "small" if draft is RIGHT else "large"
    assert (read["raw"].response_metadata["tier"], read["parsing_error"]) == (tier, None)
    assert read["parsed"] == (schema(**RIGHT) if schema in (City, CityData) else RIGHT)
    assert ("large" in upstream.models()) == (tier == "large")


@pytest.mark.parametrize("strategy", [ToolStrategy(City), ProviderStrategy(City)])
async def test_an_agent_gives_a_structured_answer_although_the_draft_breaks_it(
    upstream: Upstream, strategy: Any
) -> None:
    method = "function_calling" if isinstance(strategy, ToolStrategy) else "json_schema"
    says(upstream, "small", WRONG, method)
    says(upstream, "large", RIGHT, method)
    agent: Any = create_agent(pair_as_said(upstream).as_chat_model(), [], response_format=strategy)
    assert (await agent.ainvoke(ASKED))["structured_response"] == City(**RIGHT)
    assert upstream.models() == ["small", "large"]


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("draft", [RIGHT, WRONG], ids=["right", "wrong"])
async def test_a_response_format_holds_for_every_question(
    upstream: Upstream, schema: Any, draft: Any
) -> None:
    upstream.says("small", json.dumps(draft), p=0.99)
    upstream.says("large", json.dumps(RIGHT))
    result = await pair_as_said(upstream, response_format=schema).ainvoke(Q)
    assert result.tier == ("small" if draft == RIGHT else "large")
    assert result.parsed == (schema(**RIGHT) if schema in (City, CityData) else RIGHT)
    assert json.loads(result.answer) == RIGHT
    sent = upstream.seen[0].body["response_format"]["json_schema"]["schema"]
    assert TypeAdapter(City).json_schema()["properties"].keys() == sent["properties"].keys()


# --- irreversible tools


DELETED: list[str] = []


@tool(extras={"risk": "irreversible"})
def delete_file(path: str) -> str:
    """Delete a file."""
    DELETED.append(path)
    return f"{path} is gone"


PLAIN = delete_file.model_copy(update={"extras": None})
RISK = ToolRisks({"delete_file": "irreversible"})


def deleting(upstream: Upstream, *middleware: Any, **options: Any) -> Cascade:
    """A small model that would delete the wrong file, as sure as can be."""
    DELETED.clear()
    gone = Answer("It is gone.", p=0.95)
    upstream.says("small", steps(("delete_file", {"path": "new.txt"}), gone))
    upstream.says("large", steps(("delete_file", {"path": "old.txt"}), gone))
    return pair_as_said(upstream, *middleware, **options)


@pytest.mark.parametrize(
    ("given", "middleware", "deleted"),
    [(delete_file, (), "old.txt"), (PLAIN, (RISK,), "old.txt"), (PLAIN, (), "new.txt")],
    ids=["marked by itself", "marked by name", "not marked"],
)
async def test_a_draft_does_not_call_an_irreversible_tool(
    upstream: Upstream, given: Any, middleware: Any, deleted: str
) -> None:
    agent: Any = create_agent(deleting(upstream, *middleware).as_chat_model(), [given])
    state = await agent.ainvoke(ASKED)
    assert [deleted] == DELETED
    first = next(m for m in state["messages"] if isinstance(m, AIMessage))
    marked = deleted == "old.txt"
    assert first.response_metadata["tier"] == ("large" if marked else "small")
    assert ("delete_file is irreversible" in first.response_metadata["reason"]) == marked
    assert "risk" not in str([seen.body for seen in upstream.seen])


@pytest.mark.parametrize(
    ("verdict", "tier"),
    [
        (Verdict(confidence=0.995, calibrated=True), "small"),
        (Verdict(confidence=0.995), "large"),
        (Verdict(confidence=0.98, calibrated=True), "large"),
        (Verdict(accept=True), "large"),
    ],
)
async def test_only_a_calibrated_confidence_lets_a_draft_call_it(
    upstream: Upstream, verdict: Verdict, tier: str
) -> None:
    made = deleting(upstream, RISK, tools=[PLAIN], verifier=lambda _q, _a: verdict)
    result = await made.ainvoke(Q)
    assert result.tier == tier
    assert result.message.tool_calls[0]["name"] == "delete_file"


@pytest.mark.parametrize("said", ["accept", {"answer": "Better not."}], ids=["accept", "answer"])
async def test_a_person_approves_of_what_the_large_model_calls(
    upstream: Upstream, said: Any
) -> None:
    store = MemoryLedger()
    risks = ToolRisks({"delete_file": "irreversible"}, irreversible="ask")
    made = deleting(upstream, risks, tools=[PLAIN], ledger=store)
    graph = made.build_graph().compile(checkpointer=InMemorySaver())
    paused = await graph.ainvoke(ASKED, THREAD)
    assert paused["__interrupt__"]
    assert not [m for m in paused["messages"] if getattr(m, "tool_calls", ())]
    state = await graph.ainvoke(Command(resume=said), THREAD)
    last = state["messages"][-1]
    if said == "accept":
        assert last.tool_calls[0]["args"] == {"path": "old.txt"}
    else:
        assert (last.text, last.tool_calls) == ("Better not.", [])
    assert [seen.model for seen in upstream.seen if not seen.is_check] == ["small", "large"]
    assert ("expert", "ok") in calls_of(store)
    assert len({entry.run_id for entry in entries_of(store)}) == 1
