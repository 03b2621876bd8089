"""A walk over the nodes is the run that LangGraph would have made of them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs
from langgraph.cache.memory import InMemoryCache
from langgraph.config import get_config, get_stream_writer
from langgraph.errors import GraphRecursionError, NodeCancelledError
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from cascade import Cascade, Price, Tier
from cascade.errors import (
    AuthenticationError,
    CascadeError,
    ModelUnavailableError,
    PersonNeededError,
    RateLimitError,
)
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import MemoryLedger
from cascade.observing import CACHED
from cascade.policies import Situation
from cascade.result import CascadeResult
from cascade.state import Decision
from cascade.testing import ScriptedModel, reply
from cascade.walking import Walk, needs_loop

RETRY = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False, max_attempts=2)
OF_ITS_RUN = {"run_id", "at", "latency_ms", "attempt_id", "prompt_hash", "answer_hash"}


def failure(kind: str) -> Exception:
    if kind == "busy":
        return RateLimitError("busy", model="m", billed=False, retry_after=0.0)
    if kind == "down":
        return ModelUnavailableError("down", model="m", billed=False)
    return AuthenticationError("no such key", model="m", billed=False)


class Asks:
    def decide(self, situation: Situation) -> Decision:
        return Decision(action="ask", reason="ask", confidence=situation.assessment.confidence)


def tiers(script: list[dict[str, Any]]) -> list[Tier]:
    made = []
    for place, each in enumerate(script):
        answer = reply(f"It is city {place}.", probability=each["probability"])
        failures = [failure(kind) for kind in each["failures"]]
        model = ScriptedModel(
            [answer], name=f"m{place}", failures=failures, local=each["local"], logprobs=None
        )
        price = Price(input=10**place, output=4 * 10**place)
        made.append(Tier(model, name=f"t{place}", price=price))
    return made


def made(script: list[dict[str, Any]], options: dict[str, Any]) -> tuple[Cascade, MemoryLedger]:
    store, chosen = MemoryLedger(), dict(options)
    if chosen.pop("cached"):
        chosen["cache"] = InMemoryCache()
    if chosen.pop("judged"):
        chosen["verifier"] = lambda _, answer: "1" in answer
    if chosen.pop("asks"):
        chosen["policy"] = Asks()
    cascade = Cascade(tiers=tiers(script), ledger=store, retry_policy=RETRY, **chosen)
    return cascade, store


@contextmanager
def only_by(cascade: Cascade, kind: type) -> Iterator[None]:
    """Have every question go one of the two ways, and see that it does."""
    way = cascade.graph if kind is CompiledStateGraph else Walk(cascade.graph)
    cascade._way = lambda config: way  # type: ignore[method-assign]
    try:
        yield
    finally:
        del cascade._way  # type: ignore[method-assign]


def entries_of(entries: Any) -> list[Any]:
    return [entry.model_dump(exclude=OF_ITS_RUN) for entry in entries]


def told(event: Any) -> Any:
    if not isinstance(event, CascadeResult):
        return event
    message = event.message.model_copy(update={"id": None})
    metadata = dict(message.response_metadata)
    metadata.pop("step", None)
    if CACHED in metadata:
        metadata[CACHED] = "an earlier run"
    reason = event.decision.reason.partition("; the answer of run")[0]
    return (
        message.model_copy(update={"response_metadata": metadata}).model_dump(),
        (event.tier, event.escalated, event.confidence, event.calibrated, event.degraded),
        event.decision.model_copy(update={"reason": reason}),
        [
            {**entry, "note": entry["note"].partition("run ")[0]}
            for entry in entries_of(event.ledger)
        ],
    )


async def heard(cascade: Cascade, show: Any) -> list[Any]:
    """All that somebody who reads is told, in order, errors too."""
    found: list[Any] = []
    for question in ("Which city?", "Which city?", "And the other?"):
        try:
            config: Any = {"configurable": {"thread_id": question}}
            async with aclosing(cascade.astream(question, config, show=show)) as events:
                found.extend([told(event) async for event in events])
        except CascadeError as error:
            spent = entries_of(error.ledger or ())
            found.append((type(error), str(error), spent))
        await cascade.aclose()  # drafts beside the answer are made, in their order
    return found


async def all_of(
    script: list[dict[str, Any]], options: dict[str, Any], show: Any, kind: type
) -> tuple[list[Any], Counter[str]]:
    cascade, store = made(script, options)
    with only_by(cascade, kind):
        found = await heard(cascade, show)
    await cascade.aclose()
    for entry in store.entries:
        assert entry.run_id
    kept = [{**entry, "note": ""} for entry in entries_of(store.entries)]
    return found, Counter(map(repr, kept))


TIER = st.fixed_dictionaries(
    {
        "probability": st.sampled_from([0.3, 0.75, 0.95, None]),
        "failures": st.lists(st.sampled_from(["busy", "down", "key"]), max_size=3),
        "local": st.booleans(),
    }
)
OPTIONS = st.fixed_dictionaries(
    {
        "signals": st.sampled_from([(), ("logprobs",), ("p_true",), ("logprobs", "p_true")]),
        "cached": st.booleans(),
        "judged": st.booleans(),
        "asks": st.booleans(),
        "mode": st.sampled_from(["live", "shadow", "canary"]),
    },
    optional={
        "abort": st.just(True),
        "deadline": st.just(60.0),
        "router": st.sampled_from([lambda _: "t1", lambda _: None]),
        "private": st.sampled_from([lambda _: True, lambda _: False]),
        "latch": st.just(True),
        "reuse": st.just("correct"),
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    script=st.lists(TIER, min_size=2, max_size=3),
    options=OPTIONS,
    show=st.sampled_from(["verified", "optimistic", "final"]),
)
def test_whatever_happens_it_happens_alike_both_ways(
    script: list[dict[str, Any]], options: dict[str, Any], show: str
) -> None:
    try:
        made(script, options)
    except CascadeError:
        return  # a set-up that there is not; what is wrong with it is said elsewhere
    by_walk = asyncio.run(all_of(script, options, show, Walk))
    by_graph = asyncio.run(all_of(script, options, show, CompiledStateGraph))
    assert by_walk == by_graph


def pair(**options: Any) -> Cascade:
    small = ScriptedModel([reply("Sydney", probability=options.pop("probability", 0.95))])
    return Cascade(small, ScriptedModel("Canberra"), retry_policy=RETRY, **options)


@pytest.mark.parametrize("probability", [0.95, 0.3])
async def test_both_ways_end_in_the_same_state(probability: float) -> None:
    cascade, asked = pair(probability=probability), {"messages": [HumanMessage("?", id="q")]}
    walked = await Walk(cascade.graph).ainvoke(asked, None)
    looped: Any = await cascade.graph.ainvoke(asked)  # type: ignore[arg-type]
    assert walked.keys() == looped.keys()
    assert entries_of(walked["ledger"]) == entries_of(looped["ledger"])
    for key in ("assessment", "decision", "degraded"):
        assert walked[key] == looped[key]
    assert [m.text for m in walked["messages"]] == [m.text for m in looped["messages"]]
    assert UUID(walked["run"].id).version == UUID(looped["run"].id).version == 6
    assert all(message.id for message in walked["messages"])


@pytest.mark.parametrize(
    "config",
    [
        {"callbacks": [BaseCallbackHandler()]},
        {"recursion_limit": 40},
        {"configurable": {"checkpoint_id": "1"}},
        {"configurable": {"__pregel_task_id": "1"}},
    ],
)
def test_a_configuration_that_asks_for_more_is_for_langgraph(config: Any) -> None:
    assert needs_loop(config)
    assert pair()._way(config).__class__ is CompiledStateGraph


@pytest.mark.parametrize(
    "config", [None, {}, {"configurable": {"thread_id": "1"}, "metadata": {"a": 1}, "tags": ["t"]}]
)
def test_a_plain_configuration_is_walked(config: Any) -> None:
    assert isinstance(pair()._way(config), Walk)


def test_a_tracer_around_it_has_langgraph_run() -> None:
    with collect_runs():
        assert needs_loop(None)
    with get_usage_metadata_callback():
        assert needs_loop(None)
    assert not needs_loop(None)


def test_a_run_around_it_has_langgraph_run() -> None:
    assert RunnableLambda(lambda _: needs_loop(None)).invoke(0)


def test_another_graph_in_its_place_is_run() -> None:
    cascade = pair()
    cascade.graph = cascade.build_graph().compile(name="another")
    assert cascade._way(None) is cascade.graph


async def test_a_judge_finds_its_surroundings() -> None:
    seen: list[Any] = []

    def judge(question: str, answer: str) -> bool:
        runtime = get_runtime()
        get_stream_writer()("from the judge")
        seen.append(runtime.execution_info)
        return True

    events: list[Any] = [e async for e in pair(verifier=judge).astream("?", {"run_id": "r1"})]  # type: ignore[typeddict-item]
    assert "from the judge" in events
    (info,) = seen
    assert (info.node_attempt, info.run_id, info.checkpoint_id) == (1, "r1", events[-1].run_id)


async def test_a_reader_who_leaves_before_an_error_is_not_told_of_it() -> None:
    def judge(question: str, answer: str) -> bool:
        get_stream_writer()("before")
        raise ValueError("after")

    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))

    async def leave() -> None:
        async with aclosing(pair(verifier=judge).astream("?")) as events:
            assert await anext(events) == "before"

    await leave()
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_a_node_finds_an_empty_configuration_where_none_was_given() -> None:
    found: list[Any] = []

    def judge(question: str, answer: str) -> bool:
        found.append(get_config())
        return True

    for kind in (Walk, CompiledStateGraph):
        cascade = pair(verifier=judge)
        with only_by(cascade, kind):
            await cascade.ainvoke("?", {"metadata": {"a": 1}})
    walked, looped = found
    assert walked.keys() <= looped.keys()
    assert {"metadata", "callbacks", "configurable"} <= walked.keys()
    assert walked["metadata"]["a"] == looped["metadata"]["a"] == 1


async def test_a_person_that_is_needed_is_named_both_ways() -> None:
    cascade = pair(policy=Asks())
    with pytest.raises(PersonNeededError) as walked:
        await cascade.ainvoke("?")
    with only_by(cascade, CompiledStateGraph), pytest.raises(PersonNeededError) as looped:
        await cascade.ainvoke("?")
    (here,), (there,) = (e.value.state["__interrupt__"] for e in (walked, looped))  # type: ignore[typeddict-item]
    assert here.value == there.value
    assert walked.value.state.keys() == looped.value.state.keys()


async def test_a_judge_that_interrupts_is_no_answer() -> None:
    cascade = pair(verifier=lambda *_: interrupt("may I?"))
    with pytest.raises(PersonNeededError):
        await cascade.ainvoke("?")


async def test_a_cascade_that_judges_another_is_in_its_run() -> None:
    inner = pair()

    async def judge(question: str, answer: str) -> bool:
        assert isinstance(inner._way(None), CompiledStateGraph)
        return (await inner.ainvoke(question)).answer == "Sydney"

    assert (await pair(verifier=judge).ainvoke("?")).tier == "small"


async def test_a_node_that_raises_cancellation_has_failed() -> None:
    def judge(question: str, answer: str) -> bool:
        raise asyncio.CancelledError

    for kind in (Walk, CompiledStateGraph):
        cascade = pair(verifier=judge)
        with only_by(cascade, kind), pytest.raises(NodeCancelledError):
            await cascade.ainvoke("?")


async def test_cancelling_cancels_what_is_under_way() -> None:
    slow = ScriptedModel("never", delay_s=60)
    store = MemoryLedger()
    cascade = Cascade(slow, ScriptedModel("large"), ledger=store)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cascade.ainvoke("?")
    assert len(slow.requests) == 1
    assert [entry.outcome for entry in store.entries] == ["cancelled"]


async def test_a_reader_who_leaves_ends_the_run() -> None:
    store = MemoryLedger()
    large = ScriptedModel("a b c d", delay_s=0.0)
    cascade = Cascade(ScriptedModel([reply("x", probability=0.3)]), large, ledger=store)
    async with aclosing(cascade.astream("?")) as events:
        async for _ in events:
            break  # at the decision, before the large model is asked
    assert large.requests == []
    assert [entry.node for entry in store.entries] == ["draft", "self_check", "verify"]


async def test_a_walk_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.walking.DEFAULT_RECURSION_LIMIT", 2)
    with pytest.raises(GraphRecursionError, match="limit of 2"):
        await pair().ainvoke("?")


async def test_a_conversation_goes_on() -> None:
    result = await pair().ainvoke([HumanMessage("?"), AIMessage("!"), HumanMessage("And?")])
    assert result.answer == "Sydney"
