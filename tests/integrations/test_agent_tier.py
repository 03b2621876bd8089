"""Agents as tiers: booking of what happens inside, and who goes on from what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import aiosqlite
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.decisions import Noul
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.context import collect_runs
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import SecretStr

from cascade import Cascade, MemoryLedger, Price, Tier, errors
from cascade.integrations.agent_tier import AgentTier, AgentVerifier
from cascade.integrations.langchain import CascadeDecisionModel
from cascade.middleware import Fallback, Retries, Shadow
from cascade.models.base import Request, guard
from cascade.run import CascadeRuntime, Run
from cascade.testing import ScriptedModel
from tests.acceptance.traced import Traced

Q = "How many people live in Canberra?"
PRICES = {"fake:cheap": Price(input=1, output=2), "fake:dear": Price(input=10, output=20)}
CALL: Any = {"name": "population", "args": {"city": "Canberra"}, "id": "1"}


class FakeChat(BaseChatModel):
    """A chat model with a script: messages, texts, or failures."""

    script: list[Any]
    model: str = "cheap"
    seen: list[list[BaseMessage]] = []  # noqa: RUF012 - pydantic copies it

    @property
    def _llm_type(self) -> str:
        return "fake"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(ls_provider="fake", ls_model_name=self.model)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.seen.append(messages)
        said = self.script[min(len(self.seen), len(self.script)) - 1]
        if isinstance(said, BaseException):
            raise said
        message = AIMessage(said) if isinstance(said, str) else said.model_copy()
        usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        message.usage_metadata = usage if message.usage_metadata is None else None
        return ChatResult(generations=[ChatGeneration(message=message)])


class AuthenticationFailedError(Exception):
    """As SDKs say it; a dataclass has no hash."""

    status_code, __hash__ = 401, None  # type: ignore[assignment]


@tool
def population(city: str) -> str:
    """How many people live in a city."""
    return "460,000"


@tool("population", extras={"risk": "write"})
def writing(city: str) -> str:
    """How many people live in a city; it is written down."""
    return "460,000"


def chat(*script: Any, model: str = "cheap") -> FakeChat:
    return FakeChat(script=list(script), model=model, seen=[])


CALLS = AIMessage("", tool_calls=[CALL])


def looks_up(answer: Any = "460,000 people.", model: str = "cheap", **options: Any) -> Any:
    """An agent that calls its tool, and answers."""
    options = {"tools": [population], **options}
    return create_agent(chat(CALLS, answer, model=model), **options)


def pair(small: Any, large: Any = None, **options: Any) -> Cascade:
    given = {"signals": ["trajectory"], "verifier": lambda _q, a: "460" in a, **options}
    return Cascade(small, large or ScriptedModel("About 460,000."), **given)


def agent(made: Any = None, **options: Any) -> AgentTier:
    return AgentTier(made or looks_up(), **{"prices": PRICES, **options})


def drafts_of(result: Any) -> int:
    return sum(entry.node == "draft" for entry in result.ledger)


# --- what is booked


@tool("population", response_format="content_and_artifact")
def with_artifact(city: str) -> tuple[str, object]:
    """How many people live in a city."""
    return "460,000", object()


async def test_the_draft_is_the_whole_run(driver: Any) -> None:
    result, run = await driver(pair(agent(looks_up(tools=[with_artifact]))))
    assert result == "460,000 people."
    kinds = [type(message) for message in run.draft.trajectory]
    assert kinds == [AIMessage, ToolMessage, AIMessage]
    assert (run.draft.usage.input_tokens, run.draft.usage.output_tokens) == (20, 10)
    assert run.signals["trajectory_steps"] == 2


@pytest.fixture(params=["loop", "graph"])
def driver(request: pytest.FixtureRequest) -> Any:
    async def loop(cascade: Cascade) -> tuple[str, Run]:
        run = cascade.kernel.begin([HumanMessage(Q)])
        return (await cascade.adrive(run, CascadeRuntime(cascade.kernel))).answer, run

    async def graph(cascade: Cascade) -> tuple[str, Run]:
        state = await cascade.graph.ainvoke({"messages": [HumanMessage(Q)]})
        return cascade.read(state).answer, Run.from_json(state["run"], state["messages"])

    return {"loop": loop, "graph": graph}[request.param]


def in_a_node(state: MessagesState) -> Any:
    return {"messages": [chat("460").invoke(state["messages"])]}


@entrypoint()
def by_function(state: Any) -> Any:
    return in_a_node(state)


SYNCHRONOUS = StateGraph(MessagesState).add_node(in_a_node).add_edge(START, "in_a_node").compile()
RUNNABLES: list[Any] = [
    SYNCHRONOUS,
    by_function,
    chat("460"),
    RunnableLambda(lambda messages: chat("460").invoke(messages)),
]


@pytest.mark.parametrize("made", RUNNABLES)
async def test_any_runnable_of_messages_is_an_agent(made: Any) -> None:
    result = await pair(agent(made)).ainvoke(Q)
    assert (result.answer, result.ledger.cost_usd) == ("460", Decimal("0.00002"))


@pytest.mark.parametrize(
    "made", [looks_up("460").with_retry(), looks_up("460") | (lambda state: state["messages"])]
)
async def test_a_graph_with_something_around_it_is_given_its_state(made: Any) -> None:
    result = await pair(agent(made)).ainvoke(Q)
    assert (result.tier, result.answer, drafts_of(result)) == ("small", "460", 2)


async def test_a_model_that_completes_texts_is_booked_beside_others() -> None:
    async def plans(messages: list[BaseMessage]) -> Any:
        await FakeListLLM(responses=["a plan"]).ainvoke("Plan this.")
        return await chat("460").ainvoke(messages)

    drafts = [e for e in (await pair(agent(plans)).ainvoke(Q)).ledger if e.node == "draft"]
    assert [entry.cost_usd for entry in drafts] == [None, Decimal("0.00002")]


@pytest.mark.parametrize("known", [True, False])
async def test_calls_that_nothing_reports_are_one_entry_and_unknown_is_not_free(
    known: bool,
) -> None:
    usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}

    async def work(messages: list[BaseMessage]) -> Any:
        return AIMessage("460", usage_metadata=usage) if known else "460"

    small = Tier(AgentTier(work, name="mine"), price=Price(input=1, output=2))
    result = await pair(small).ainvoke(Q)
    (entry,) = (e for e in result.ledger if e.node == "draft")
    assert (entry.model, entry.cost_usd) == ("agent:mine", Decimal("0.00002") if known else None)


async def test_a_price_of_the_tier_holds_for_all_calls_and_foresees_the_baseline() -> None:
    table = Tier(agent(prices={}), price=PRICES)
    assert (await pair(table).ainvoke(Q)).ledger.cost_usd == Decimal("0.00004")
    dear = Tier(agent(looks_up(model="dear")), price=Price(input=100, output=100))
    result = await pair(agent(), dear).ainvoke(Q)
    assert result.ledger.saved_usd is not None
    escalated = await pair(agent(looks_up("no")), dear).ainvoke(Q)
    experts = [e for e in escalated.ledger if e.node == "expert"]
    assert [e.cost_usd for e in experts] == [Decimal("0.0015")] * 2
    assert {e.saved_usd for e in experts} == {Decimal(0)}


async def test_tracers_see_the_calls_and_counters_of_the_graph_around_do_not() -> None:
    with collect_runs() as tracing, get_usage_metadata_callback() as counted:
        await pair(agent()).ainvoke(Q, {"callbacks": [tracing]})
    names = [run.name for root in tracing.traced_runs for run in below(root)]
    assert (names.count("FakeChat"), counted.usage_metadata) == (2, {})


def below(run: Any) -> list[Any]:
    return [run, *(each for child in run.child_runs for each in below(child))]


async def test_metrics_count_each_call() -> None:
    traced = Traced()
    await pair(agent(), middleware=[traced.observer]).ainvoke(Q)
    data: Any = traced.reader.get_metrics_data()
    (metrics,) = [each.metrics for each in data.resource_metrics[0].scope_metrics]
    (calls,) = [m.data.data_points for m in metrics if m.name.endswith("operation.duration")]
    assert [(p.count, p.attributes["gen_ai.request.model"]) for p in calls] == [(2, "cheap")]


async def test_a_rejected_run_is_not_shown_in_the_stream_around_it() -> None:
    cascade = pair(agent(looks_up("five")), agent(looks_up("460")), name="it")
    around = StateGraph(MessagesState).add_node("it", cascade.graph).add_edge(START, "it")
    asked: Any = {"messages": [HumanMessage(Q)]}
    stream = around.compile().astream(asked, stream_mode="messages", subgraphs=True)
    texts = [part[1][0].text async for part in stream]
    assert "five" not in texts
    assert texts[-1] == "460"


# --- failures


async def test_a_run_out_of_time_is_a_timeout() -> None:
    async def waits(messages: Any) -> Any:
        await chat("460").ainvoke(messages)
        await asyncio.Event().wait()

    small = Tier(agent(waits), timeout_s=0.05)
    result = await pair(small, middleware=[Retries(1)]).ainvoke(Q)
    assert "gave no answer within 0.05 s" in result.decision.reason
    assert drafts_of(result) == 1
    with pytest.raises(errors.ModelTimeoutError):
        await Cascade(tiers=[small], middleware=[Retries(1)]).ainvoke(Q)


async def test_a_call_that_cannot_be_written_down_is_not_sent() -> None:
    class Full(MemoryLedger):
        async def begin(self, entry: Any, tags: Any = None) -> None:
            raise errors.LedgerError("disk full")

    model = chat("460")
    with pytest.raises(errors.LedgerError, match="disk full"):
        await pair(agent(create_agent(model)), ledger=Full()).ainvoke(Q)
    assert model.seen == []


async def test_a_step_is_written_down_before_the_next_one_begins() -> None:
    class Slow(InMemorySaver):
        async def aput(self, *given: Any) -> Any:
            await asyncio.sleep(0.05)
            return await super().aput(*given)

    saver, kept = Slow(), list[Any]()

    @tool("population")
    def counts(city: str) -> str:
        """Number of people in a city."""
        kept.extend(each.checkpoint["channel_values"]["messages"][-1] for each in saver.list(None))
        return "460"

    await pair(agent(create_agent(chat(CALLS, "460"), [counts], checkpointer=saver))).ainvoke(Q)
    assert any(message.type == "ai" and message.tool_calls for message in kept)


class AtHome(AsyncSqliteSaver):
    async def aput(self, *given: Any) -> Any:
        assert asyncio.get_running_loop() is self.loop
        return await super().aput(*given)


async def test_a_checkpointer_may_be_that_of_the_app_around_it() -> None:
    async with aiosqlite.connect(":memory:") as connection:
        made = create_agent(chat(CALLS, "460"), [population], checkpointer=AtHome(connection))
        assert (await pair(agent(made)).ainvoke(Q)).tier == "small"


async def test_a_run_that_had_ended_when_the_process_died_is_not_paid_for_again() -> None:
    made = create_agent(chat(CALLS, "460"), [population], checkpointer=InMemorySaver())
    cascade = pair(agent(made), ledger=(store := MemoryLedger()))
    run = cascade.kernel.begin([HumanMessage(Q)])
    for each in (Run(run.id, "", messages=run.messages), run):
        assert (await cascade.adrive(each, CascadeRuntime(cascade.kernel))).answer == "460"
    assert sum(entry.node == "draft" for entry in store.entries) == 2


async def test_steps_that_are_used_up_are_no_answer() -> None:
    endless = create_agent(chat(CALLS), [population]).with_config(recursion_limit=4)
    result = await pair(agent(endless)).ainvoke(Q)
    assert (result.tier, drafts_of(result)) == ("large", 2)
    assert "used up its steps" in result.decision.reason
    alone = Cascade(tiers=[agent(endless)], middleware=[Retries(1)])
    with pytest.raises(errors.MalformedResponseError, match="used up its steps"):
        await alone.ainvoke(Q)


async def test_real_requests_may_be_forbidden() -> None:
    assert guard.forbidden
    with pytest.raises(errors.RealRequestForbiddenError):
        await pair(agent(ChatOpenAI(model="gpt", api_key=SecretStr("k")))).ainvoke(Q)


async def test_what_an_agent_cannot_do_in_a_tier_is_said() -> None:
    async def silent(messages: Any) -> list[Any]:
        return []

    def asks(state: MessagesState) -> Any:
        return interrupt("may I?")

    builder = StateGraph(MessagesState).add_node(asks).add_edge(START, "asks")
    waits = builder.compile(checkpointer=InMemorySaver())
    for made, said in ((silent, "no message"), (waits, "waits for a person")):
        with pytest.raises(errors.CascadeError, match=said):
            await Cascade(tiers=[agent(made)], middleware=[Retries(1)]).ainvoke(Q)
    with pytest.raises(errors.UnsupportedContentError, match="tools of its own"):
        await Cascade(tiers=[agent()]).ainvoke(Q, tools=[population])
    with pytest.raises(errors.UnsupportedContentError, match="asked through a cascade"):
        await agent()._complete(Request((HumanMessage(Q),)))
    for given, fresh in (("agent", False), (pair(agent()), False), (waits, True)):
        with pytest.raises(errors.ConfigurationError, match="give a compiled graph"):
            AgentTier(given, fresh=fresh)
    wrong: dict[str, Any] = {"takes_over": "over", "irreversible": "pay", "prices": {"fake:x": 3}}
    for option, value in wrong.items():
        with pytest.raises(errors.ConfigurationError, match=f"{option}=.*(over|a list|a Price)"):
            agent(**{option: value})


async def test_settings_that_an_agent_would_not_follow_are_refused() -> None:
    given: dict[str, Any] = {"temperature": 0.5, "seed": 3, "stop": ["."]}
    for option, value in given.items():
        said = f"not follow {option}=.*agent's models"
        with pytest.raises(errors.UnsupportedContentError, match=said):
            await Cascade(tiers=[agent()]).ainvoke(Q, **{option: value})
    for tiers in ({}, {"middleware": [Fallback(Tier(agent(), temperature=0))]}):
        first = Tier(agent(), temperature=None if tiers else 0)
        with pytest.raises(errors.ConfigurationError, match="not follow temperature=0"):
            pair(first, **tiers)


@pytest.mark.parametrize(("limit", "reason"), [(4, "length"), (5, "stop"), (None, "stop")])
async def test_an_answer_of_more_tokens_than_were_allowed_is_cut_off(
    limit: int | None, reason: str
) -> None:
    result = await Cascade(tiers=[Tier(agent(), max_tokens=limit)]).ainvoke(Q)
    assert result.message.response_metadata["finish_reason"] == reason
    assert (await Cascade(tiers=[agent()]).ainvoke(Q, max_tokens=limit)).answer == result.answer


@pytest.mark.parametrize(
    "said", [{"messages": [("ai", "460")]}, [{"role": "ai", "content": "460"}]]
)
async def test_messages_may_be_written_as_langchain_takes_them(said: Any) -> None:
    async def work(messages: Any) -> Any:
        return said

    assert (await pair(agent(work)).ainvoke(Q)).tier == "small"


@pytest.mark.parametrize("said", [None, 42, {"answer": "460"}, []])
async def test_what_is_no_message_is_told_as_it_is(said: Any) -> None:
    async def work(messages: Any) -> Any:
        return said

    reason = (await pair(agent(work)).ainvoke(Q)).decision.reason
    assert "returned no message of its own, but" in reason
    assert "address" not in reason


# --- escalation


@pytest.mark.parametrize("takes_over", ["restart", "hand_over", "repair"])
async def test_the_next_agent_sees_what_it_is_to_see(takes_over: Any, driver: Any) -> None:
    model = chat("460,000", model="dear")
    large = agent(create_agent(model), takes_over=takes_over)
    answer, run = await driver(pair(agent(looks_up("five")), large))
    assert (answer, run.source) == ("460,000", "large")
    (entry,) = (e for e in run.entries if e.node == "expert")
    assert entry.basis == ("measured" if takes_over == "restart" else "estimated")
    kinds = [message.type for message in model.seen[0]]
    text = str(model.seen[0][-1].text)
    if takes_over == "restart":
        assert kinds == ["human"]
    elif takes_over == "hand_over":
        assert kinds == ["human", "human"]
        assert 'population({"city": "Canberra"}) → 460,000\nfive' in text
        assert "not verified" in text
    else:
        assert kinds == ["human", "ai", "tool", "ai", "human"]
        assert "Check it" in text


async def test_what_a_failed_agent_has_done_is_handed_over() -> None:
    model = chat("460,000", model="dear")
    small = agent(create_agent(chat(CALLS, ConnectionError("reset")), [writing]))
    large = agent(create_agent(model), takes_over="repair")
    result = await pair(small, large).ainvoke(Q)
    assert result.answer == "460,000"
    assert [e.outcome for e in result.ledger if e.node == "draft"] == ["ok", "failed"]
    assert [m.type for m in model.seen[0]] == ["human", "ai", "tool", "human"]


@pytest.mark.parametrize("kind", [AuthenticationFailedError, TimeoutError])
async def test_a_tool_that_fails_as_a_server_does_is_no_failure_of_the_model(kind: Any) -> None:
    @tool("population")
    def refused(city: str) -> str:
        """How many people live in a city."""
        raise kind("wrong key")

    result = await pair(agent(create_agent(chat(CALLS), [refused]))).ainvoke(Q)
    assert f"failed with {kind.__name__}: wrong key" in result.decision.reason


async def test_where_those_after_it_fail_too_the_first_draft_stands_in() -> None:
    broken = [create_agent(chat(CALLS, ConnectionError("reset")), [writing]) for _ in range(2)]
    later = [Tier(agent(made, takes_over="repair"), name=f"t{n}") for n, made in enumerate(broken)]
    tiers: list[Any] = [Tier(ScriptedModel("five"), name="first"), *later]
    cascade = Cascade(tiers=tiers, verifier=lambda _q, _a: False)
    result = await cascade.ainvoke(Q)
    assert (result.answer, result.tier, result.degraded) == ("five", "first", True)


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
async def test_what_an_agent_without_callbacks_has_spent_in_vain_is_unknown(outcome: str) -> None:
    async def fails(messages: Any) -> Any:
        if outcome == "cancelled":
            asking.get_loop().call_soon_threadsafe(asking.cancel)
            await asyncio.Event().wait()
        raise KeyError

    store = MemoryLedger()
    cascade = pair(agent(fails), middleware=[Retries(1)], ledger=store)
    asking = asyncio.create_task(cascade.ainvoke(Q))
    await asyncio.wait([asking])
    assert asking.cancelled() == (outcome == "cancelled")
    drafts = [(e.outcome, e.cost_usd) for e in store.entries if e.node == "draft"]
    assert drafts == [(outcome, None)]


def writes(answer: str = "460", **options: Any) -> AgentTier:
    return agent(looks_up(answer, tools=[writing]), **options)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({}, "large"),
    ({"large": agent()}, "large"),
    ({"large": agent(takes_over="repair"), "signals": [], "verifier": None}, "p_true"),
    ({"large": agent(takes_over="repair"), "signals": ["verbalised"]}, "verbalised"),
    ({"middleware": [Shadow()]}, "large and shadow"),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES)
def test_an_agent_whose_tools_write_is_never_run_again(options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"{said} would run the task again"):
        pair(writes(), **options)


@pytest.mark.parametrize("writer", [writes(takes_over="hand_over"), None])
def test_nor_begun_again_by_what_stands_in_for_the_last_tier(writer: AgentTier | None) -> None:
    """Neither what a tier has written nor what another stand-in has, which is asked before it."""
    inner = [] if writer else [Fallback(writes(takes_over="repair"))]
    for one in inner:
        one.name = "inner"
    with pytest.raises(errors.ConfigurationError, match="fallback would run the task again"):
        pair(agent(), writer, middleware=[*inner, Fallback(agent())])
    pair(agent(), writer, middleware=[*inner, Fallback(agent(takes_over="repair"))])


def test_nor_for_a_decision_model() -> None:
    judge = CascadeDecisionModel(cascade=pair(writes(), agent(takes_over="repair")))
    with pytest.raises(errors.ModelError, match="is not run again for 'draft'"):
        judge.invoke({"state": Q, "questions": {"q": Noul(instructions="?")}})


async def test_nor_for_audits_by_a_tier_beyond_the_next_and_for_retries() -> None:
    with pytest.raises(errors.ConfigurationError, match="audits would run the task"):
        pair(agent(), writes(), ledger=MemoryLedger(), audit_rate=1.0)
    tiers = [Tier(writes(), name="a"), Tier(agent(takes_over="repair"), name="b"), agent()]
    with pytest.raises(errors.ConfigurationError, match="agent:agent would run the task again"):
        Cascade(tiers=tiers, signals=["trajectory"])
    model = chat(ConnectionError("reset"))
    failing = agent(create_agent(model), writes=True)
    with pytest.raises(errors.CascadeError):
        await Cascade(tiers=[failing], middleware=[Retries(3, base_s=0)]).ainvoke(Q)
    assert len(model.seen) == 1


@pytest.mark.parametrize(
    ("said", "tier", "reason"),
    [
        ("True", "small", "1.000"),
        ("False", "large", "0.000"),
        ("Perhaps", "large", "gave no probability: 'Perhaps'"),
        (ConnectionError("reset"), "large", "could not be asked"),
    ],
)
async def test_an_agent_that_reads_the_run_is_the_verifier(
    said: Any, tier: str, reason: str
) -> None:
    model = chat(CALLS, said)
    judge = AgentVerifier(create_agent(model, [population]), prices=PRICES)
    result = await pair(agent(), verifier=judge, middleware=[Retries(1)]).ainvoke(Q)
    assert (result.tier, reason in result.decision.reason) == (tier, True)
    shown = str(model.seen[0][1].text)
    assert 'population({"city": "Canberra"}) → 460,000\n460,000 people.' in shown
    asked = [e.cost_usd for e in result.ledger if e.node == "verify" and e.model]
    assert asked[0] == Decimal("0.00002")
    assert len(asked) == 2


async def test_a_mistake_in_the_set_up_of_the_verifier_is_raised() -> None:
    judge = AgentVerifier(create_agent(chat(AuthenticationFailedError("wrong key")), [population]))
    with pytest.raises(errors.AuthenticationError):
        await pair(agent(), verifier=judge).ainvoke(Q)


async def test_each_attempt_of_a_fresh_agent_has_its_own() -> None:
    made: list[str] = []

    @asynccontextmanager
    async def folder() -> AsyncIterator[Any]:
        made.append("begun")
        yield looks_up("five", tools=[writing])
        made.append("gone")

    large = agent(lambda: looks_up(tools=[writing]), fresh=True)
    assert (await pair(agent(folder, fresh=True), large).ainvoke(Q)).tier == "large"
    assert made == ["begun", "gone"]


# --- irreversible tools

RAN: list[str] = []


@tool("delete", extras={"risk": "irreversible"})
def delete(path: str) -> str:
    """Delete a file."""
    RAN.append(path)
    return "deleted"


hidden = delete.model_copy(update={"extras": None, "metadata": {"risk": "irreversible"}})

DELETE: Any = {"name": "delete", "args": {"path": "a"}, "id": "2"}
DELETES = AIMessage("", tool_calls=[DELETE])


async def in_a_function(messages: Any) -> Any:
    said = await chat(DELETES).ainvoke(messages)
    return [said, await hidden.ainvoke(said.tool_calls[0])]


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize(
    "made",
    [
        lambda: create_agent(chat(CALLS, DELETES, "done"), [population, delete]),
        lambda: create_agent(chat(DELETES, "x", "460"), [hidden], checkpointer=InMemorySaver()),
        lambda: in_a_function,
    ],
)
async def test_an_irreversible_call_is_the_draft_and_is_not_carried_out(
    made: Any, accepts: bool
) -> None:
    RAN.clear()
    tiers = [agent(made, fresh=True), agent(looks_up(), takes_over="hand_over")]
    result = await Cascade(*tiers, verifier=lambda _q, _a: accepts).ainvoke(Q)
    assert RAN == []
    assert result.tier == ("small" if accepts else "large")
    called = [(call["name"], call["args"]) for call in result.message.tool_calls]
    assert called == ([("delete", {"path": "a"})] if accepts else [])


async def test_nor_one_that_no_model_has_asked_for() -> None:
    RAN.clear()

    async def tidies(messages: Any) -> Any:
        return await hidden.ainvoke({"path": "a"})

    result = await pair(agent(tidies), agent(takes_over="repair")).ainvoke(Q)
    assert (RAN, result.tier) == ([], "large")


def deleting() -> Any:
    return create_agent(chat(DELETES, "x"), [delete])


def in_closure() -> Any:
    async def supervise(messages: Any) -> Any:
        return await made.ainvoke({"messages": messages})

    made = deleting()
    return supervise


def as_tool_of_another() -> Any:
    made = deleting()

    @tool
    async def expert(task: str) -> str:
        """Ask another agent."""
        said = await made.ainvoke({"messages": [("human", task)]})
        return str(said["messages"][-1].text)

    ask: Any = {"name": "expert", "args": {"task": "delete"}, "id": "3"}
    return create_agent(chat(AIMessage("", tool_calls=[ask]), "x"), [expert])


class Team:
    def __init__(self) -> None:
        self.made = deleting()

    async def __call__(self, messages: Any) -> Any:
        return await self.made.ainvoke({"messages": messages})


WRAPPED: dict[str, Callable[[], Any]] = {
    "node": lambda: (
        StateGraph(MessagesState).add_node("a", deleting()).add_edge(START, "a").compile()
    ),
    "retries": lambda: deleting().with_retry(),
    "fallbacks": lambda: deleting().with_fallbacks([deleting()]),
    "chain": lambda: RunnableLambda(lambda messages: {"messages": messages}) | deleting(),
    "closure": in_closure,
    "tool": as_tool_of_another,
    "object": Team,
}


@pytest.mark.parametrize("how", WRAPPED)
async def test_risks_of_tools_are_found_wherever_the_agent_keeps_them(how: str) -> None:
    RAN.clear()
    small = agent(WRAPPED[how]())
    assert small.writes
    result = await pair(small, agent(takes_over="hand_over"), verifier=lambda _q, _a: True).ainvoke(
        Q
    )
    assert (RAN, result.message.tool_calls[0]["name"]) == ([], "delete")


async def test_nor_is_that_of_the_last_tier(driver: Any) -> None:
    RAN.clear()
    large = agent(create_agent(chat(DELETES, "x"), [delete]), takes_over="hand_over")
    _, run = await driver(pair(agent(looks_up("no")), large))
    assert (RAN, run.source, run.draft.called) == ([], "large", ("delete",))


async def test_tools_are_irreversible_also_by_name() -> None:
    made = create_agent(chat(CALLS, "x"), [population])
    small = agent(made, irreversible=["population"])
    assert small.writes
    result = await pair(small, agent(takes_over="repair"), verifier=lambda _q, _a: True).ainvoke(Q)
    assert result.message.tool_calls[0]["name"] == "population"


def test_log_probs_of_the_answer_and_of_calls_are_signals() -> None:
    def told(message: AIMessage, *tokens: str) -> AIMessage:
        content = [{"token": token, "logprob": -0.5} for token in tokens]
        return message.model_copy(update={"response_metadata": {"logprobs": {"content": content}}})

    raw = ['{"name": "', "population", '", "arguments": {"city": "', "Canberra", '"}}']
    script = told(CALLS, *raw), told(AIMessage("460"), "460")
    small = agent(create_agent(chat(*script), [population]))
    result = pair(small, signals=["logprobs", "trajectory"]).invoke(Q)
    assert result.decision.signals is not None
    assert result.decision.signals["logprob_mean"] == -0.5
    assert result.decision.signals["trajectory_call_logprob"] == -0.5
