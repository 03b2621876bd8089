"""What went wrong in a sketch of the kernel, each with the promise that it must not again."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from cascade import Cascade, CascadeMiddleware, LedgerEntry, LedgerStore, MemoryLedger, Tier
from cascade.errors import (
    ConfigurationError,
    ExtensionError,
    InputError,
    ModelUnavailableError,
    PersonNeededError,
)
from cascade.ledger.store import open_store
from cascade.middleware import Breaker, Deadline, Examples, Retries, Sticky, ToolRisks
from cascade.run import Run
from cascade.testing import reply
from tests.kernel.drivers import Graph, cascade_of, scripted
from tests.kernel.test_paths import DOWN, Asking

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("v", default="unset")


async def test_entries_of_failed_attempts_are_in_the_next_state(driver: Any) -> None:
    small = scripted([DOWN, reply("Sydney", probability=0.95)])
    outcome = await driver(cascade_of(small, middleware=[Retries(2, base_s=0)])).ask()
    assert [e.outcome for e in outcome.run.entries if e.node == "draft"] == ["failed", "ok"]


async def test_before_run_sees_one_run_however_often_its_node_is_tried() -> None:
    from langgraph.types import RetryPolicy  # noqa: PLC0415

    seen: list[str] = []

    class Fails(CascadeMiddleware):
        async def before_run(self, run: Any, runtime: Any) -> None:
            seen.append(run.id)
            if len(seen) < 3:
                raise ModelUnavailableError("not yet", model="m")

    graph = cascade_of(middleware=[Fails()]).build_graph()
    graph.nodes["draft"].retry_policy = RetryPolicy(
        initial_interval=0.001, jitter=False, max_attempts=3, retry_on=ModelUnavailableError
    )
    compiled = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await compiled.ainvoke({"messages": [HumanMessage("?")]}, config)
    assert len(seen) == 3
    assert len(set(seen)) == 1


async def test_the_baseline_does_not_count_examples_of_a_middleware() -> None:
    shown = [HumanMessage("Another question, as long as this one."), HumanMessage("Its answer.")]
    plain = await cascade_of().ainvoke("?" * 40)
    with_examples = await cascade_of(middleware=[Examples(lambda m: shown)]).ainvoke("?" * 40)
    baseline = plain.ledger.baseline_usd
    assert baseline is not None
    assert with_examples.ledger.baseline_usd is not None
    assert with_examples.ledger.baseline_usd < baseline


async def test_a_repeated_attempt_withdraws_what_the_first_has_shown(driver: Any) -> None:
    class Twice(CascadeMiddleware):
        async def wrap_model_call(self, call: Any, handler: Any) -> Any:
            await handler(call)
            return await handler(call)

    outcome = await driver(cascade_of(scripted(sure=0.1), middleware=[Twice()])).ask()
    assert outcome.shown == "Canberra it is"
    assert [e.node for e in outcome.run.entries].count("expert") == 2


async def test_masked_words_are_shown_unmasked(driver: Any) -> None:
    class Masking(CascadeMiddleware):
        async def wrap_model_call(self, call: Any, handler: Any) -> Any:
            from dataclasses import replace  # noqa: PLC0415

            completion = await handler(call)
            return replace(completion, text=completion.text.replace("Canberra", "Anna"))

    outcome = await driver(cascade_of(scripted(sure=0.1), middleware=[Masking()])).ask()
    assert outcome.shown == "Anna it is" == outcome.result.answer


async def test_a_persons_time_does_not_use_up_the_deadline(driver: Any) -> None:
    cascade = cascade_of(policy=Asking(), middleware=[Deadline(30)])
    driven = driver(cascade)
    paused = await driven.ask()
    kept = paused.run.to_json()
    assert kept["paused_at"] is not None
    run = Run.from_json(kept, paused.run.messages)
    run.begun_at -= 3600
    assert run.paused_at is not None
    run.paused_at -= 3600
    result = await cascade.aresume(run, "escalate")
    assert result.tier == "large"


async def test_a_run_is_small_json_once_its_features_are_taken() -> None:
    words = " ".join(["word"] * 500)
    outcome = await Graph(cascade_of(scripted(words))).ask()
    assert len(json.dumps(outcome.run.to_json())) < 10_000
    assert outcome.run.draft.logprobs is None


async def test_cancelled_while_an_attempt_is_begun_nothing_stays_begun() -> None:
    class Slow(LedgerStore):
        def __init__(self) -> None:
            self.begun: dict[str, LedgerEntry] = {}
            self.entries: list[LedgerEntry] = []
            self.entered = asyncio.Event()
            self.free = asyncio.Event()

        def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = {}) -> None:
            self.entries += entries

        async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = {}) -> None:
            self.entered.set()
            await self.free.wait()
            self.begun[entry.id] = entry

        def withdraw(self, entry_id: str) -> None:
            del self.begun[entry_id]

    store, small = Slow(), scripted()
    asking = asyncio.ensure_future(cascade_of(small, ledger=store).ainvoke("?"))
    await store.entered.wait()
    asking.cancel()
    await asyncio.sleep(0)
    store.free.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not store.begun
    assert not small.requests


async def test_a_variable_that_a_signal_sets_is_seen_by_nothing_after_it(driver: Any) -> None:
    seen: list[str] = []

    def signal(question: str, answer: str) -> float:
        VARIABLE.set("by a signal")
        return 0.9

    def verifier(question: str, answer: str) -> float:
        seen.append(VARIABLE.get())
        return 0.9

    await driver(cascade_of(signals=[signal], verifier=verifier)).ask()
    assert seen == ["unset"]
    assert VARIABLE.get() == "unset"


async def test_the_users_code_finds_the_configuration_of_the_call() -> None:
    from langgraph.config import get_config  # noqa: PLC0415

    seen: list[Any] = []

    def verifier(question: str, answer: str) -> bool:
        seen.append(get_config()["configurable"]["user"])
        return True

    cascade = cascade_of(verifier=verifier)
    config: Any = {"configurable": {"user": "eva"}}
    await cascade.ainvoke("?", config)
    await cascade.graph.ainvoke({"messages": [HumanMessage("?")]}, config)
    assert seen == ["eva", "eva"]


async def test_a_graph_around_ours_shares_its_context_and_store() -> None:
    from dataclasses import dataclass  # noqa: PLC0415

    from langgraph.graph import START, MessagesState, StateGraph  # noqa: PLC0415
    from langgraph.store.memory import InMemoryStore  # noqa: PLC0415

    @dataclass
    class Context:
        user: str

    seen: list[Any] = []

    def verifier(question: str, answer: str, runtime: Any) -> bool:
        seen.append((runtime.context.user, runtime.store is not None))
        return True

    cascade = cascade_of(verifier=verifier)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [(await cascade.ainvoke(state["messages"])).message]}

    for inner in (cascade.graph, node):
        outer = StateGraph(MessagesState, context_schema=Context)
        outer.add_node("cascade", inner)
        outer.add_edge(START, "cascade")
        app = outer.compile(store=InMemoryStore())
        await app.ainvoke({"messages": [HumanMessage("?")]}, context=Context("eva"))
    assert seen == [("eva", True)] * 2


async def test_nested_questions_of_a_checkpointed_node_never_swap_answers() -> None:
    """LangGraph keeps nested runs by the position of their call."""
    from langgraph.graph import START, MessagesState, StateGraph  # noqa: PLC0415
    from langgraph.types import Command, interrupt  # noqa: PLC0415

    def echo(request: Any) -> Any:
        return reply(f"about {request.messages[-1].text}", probability=0.9)

    cascade = cascade_of(scripted(echo, returns_logprobs=True))
    answers: list[list[str]] = []

    async def node(state: MessagesState) -> dict[str, Any]:
        questions = ["one", "two"] if not answers else ["two", "three"]
        got = await asyncio.gather(*(cascade.ainvoke(q) for q in questions))
        answers.append([result.answer for result in got])
        interrupt("go on?")
        return {}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    app = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await app.ainvoke({"messages": [HumanMessage("?")]}, config)
    await app.ainvoke(Command(resume="yes"), config)
    assert answers == [["about one", "about two"], ["about two", "about three"]]


async def test_callbacks_see_each_call_and_change_nothing(driver: Any) -> None:
    from langchain_core.callbacks import AsyncCallbackHandler  # noqa: PLC0415

    class Seeing(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.names: list[str] = []

        async def on_chat_model_start(self, serialized: Any, messages: Any, **more: Any) -> None:
            self.names.append(more["metadata"]["cascade_node"])

    handler = Seeing()
    cascade = cascade_of(scripted(sure=0.2))
    result = await cascade.ainvoke("?", {"callbacks": [handler]})
    assert handler.names == ["draft", "expert"]
    assert result.tier == "large"
    assert [e.node for e in result.ledger] == ["draft", "self_check", "verify", "expert"]
    events = [e async for e in cascade.astream("?", {"callbacks": [handler]})]
    assert events[-1].answer == "Canberra it is"


async def test_rejected_drafts_never_reach_the_messages_stream_of_a_graph() -> None:
    from langgraph.graph import START, MessagesState, StateGraph  # noqa: PLC0415

    cascade = cascade_of(scripted(sure=0.2))
    outer = StateGraph(MessagesState)
    outer.add_node("cascade", cascade.graph)
    outer.add_edge(START, "cascade")
    stream = outer.compile().astream(
        {"messages": [HumanMessage("?")]}, stream_mode="messages", subgraphs=True
    )
    shown = [str(piece[-1][0].content) async for piece in stream]
    assert not any("Sydney" in text for text in shown)
    assert any("Canberra" in text for text in shown)


async def test_a_person_is_asked_where_nothing_keeps_the_run() -> None:
    cascade = cascade_of(policy=Asking())
    with pytest.raises(PersonNeededError) as raised:
        await cascade.ainvoke("?")
    kept = json.loads(json.dumps(raised.value.run.to_json()))
    run = Run.from_json(kept, [HumanMessage("?")])
    result = await cascade.aresume(run, "accept")
    assert result.answer == "Sydney perhaps"
    with pytest.raises(InputError, match="resumed with 'perhaps'"):
        await cascade.aresume(Run.from_json(kept, [HumanMessage("?")]), "perhaps")


def test_invoke_and_ainvoke_mix_over_loops_and_threads() -> None:
    cascade = cascade_of()

    async def mixed() -> None:
        await cascade.ainvoke("?")
        cascade.invoke("?")
        await cascade.ainvoke("?")
        cascade.close()
        await cascade.ainvoke("?")

    asyncio.run(mixed())
    asyncio.run(mixed())
    threads = [threading.Thread(target=cascade.invoke, args=("?",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_cascade_that_is_dropped_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cascade_of().invoke("?")
        gc.collect()
    assert capfd.readouterr() == ("", "")


def test_a_batch_of_one_text_is_refused() -> None:
    small = scripted()
    with pytest.raises(ConfigurationError, match="give a list of questions"):
        cascade_of(small).batch("hello")
    assert not small.requests


async def test_the_first_failure_of_a_batch_stops_the_others_and_books_them() -> None:
    store = MemoryLedger()
    small = scripted([ValueError("a bug")], delay_s=0.001)
    with pytest.raises(Exception, match="ValueError"):
        await cascade_of(small, ledger=store).abatch(["1", "2", "3"])
    assert len(small.requests) == len([e for e in store.entries if e.model])


async def test_a_stream_that_is_left_early_ends_its_calls() -> None:
    store = MemoryLedger()
    large = scripted("a b c d e f", sure=None, name="l")
    cascade = cascade_of(scripted(sure=0.1), large, ledger=store)
    async for event in cascade.astream("?"):
        if type(event).__name__ == "Token":
            break
    await asyncio.sleep(0.05)
    assert [e.outcome for e in store.entries if e.node == "expert"] == ["cancelled"]


def test_graph_input_without_messages_names_the_mistake() -> None:
    with pytest.raises(InputError, match="messages"):
        cascade_of().graph.invoke({"question": "?"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibrator": {}}, "calibrator={}"),
        ({"verifier": "yes"}, "verifier='yes'"),
        ({"threshold": 0.5, "price_of_error": 1}, "threshold and price_of_error"),
        ({"threshold": "high"}, "threshold='high': give a number"),
        ({"deadline": -1}, "deadline=-1"),
        ({"middleware": ["cache"]}, "middleware='cache'"),
        ({"audit_rate": 0.1}, "audits need ledger"),
        ({"deadline": 1, "middleware": [Deadline(2)]}, "both given"),
        ({"name": ""}, "name=''"),
        ({"tools": [{"type": "web_search"}]}, "one provider's own"),
        ({"response_format": "yes"}, "response_format='yes'"),
        ({"ledger": "here"}, "ledger='here' is no store"),
    ],
)
def test_options_without_meaning_are_named(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        cascade_of(**options)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temprature": 1}, "temprature=1"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"deadline": 0}, "deadline=0"),
        ({"deadline": float("nan")}, "deadline=nan: give a number"),
        ({"tools": 1}, "tools=1: give a list"),
    ],
)
async def test_settings_without_meaning_are_named(settings: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await cascade_of().ainvoke("?", **settings)


def test_numbers_that_are_none_are_named_before_anything_is_asked() -> None:
    with pytest.raises(ConfigurationError, match=r"Tier\(max_tokens=nan"):
        Tier("ollama:a", max_tokens=float("nan"))  # type: ignore[arg-type]
    for bad in (Breaker, Deadline, Sticky, ToolRisks):
        with pytest.raises(ConfigurationError, match="'x'"):
            bad("x")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Breaker\(rate=1.5\): give a number above 0"):
        Breaker(rate=1.5)
    with pytest.raises(ConfigurationError, match="tiers=None: give a list"):
        Cascade(tiers=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="config='x'"):
        cascade_of().invoke("?", "x")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_concurrency='3'"):
        cascade_of().batch(["?"], max_concurrency="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="None is no address"):
        open_store(None)  # type: ignore[arg-type]


def test_a_store_whose_append_is_async_would_lose_every_entry() -> None:
    class Later(LedgerStore):
        async def append(self, entries: Any, tags: Any = None) -> None:
            raise AssertionError

    with pytest.raises(ConfigurationError, match="append of Later is async"):
        cascade_of(ledger=Later())


def test_repr_says_the_chain() -> None:
    assert repr(cascade_of()).startswith("Cascade(small (scripted:s) → large (scripted:l)")
    assert isinstance(cascade_of(), Cascade)


async def test_an_observer_that_raises_is_an_error_with_what_was_spent(driver: Any) -> None:
    class Broken(CascadeMiddleware):
        async def wrap_step(self, run: Any, runtime: Any, handler: Any) -> None:
            await handler(run, runtime)
            if run.step == "verify":
                raise KeyError("no such gauge")

    with pytest.raises(ExtensionError, match="KeyError in code that the cascade calls") as raised:
        await driver(cascade_of(middleware=[Broken()])).ask()
    assert [entry.node for entry in raised.value.ledger.entries] == ["draft", "self_check"]


@pytest.mark.filterwarnings("error")
async def test_a_policy_that_is_async_is_told_so_and_never_awaited() -> None:
    class Later:
        async def decide(self, situation: Any) -> Any:
            raise AssertionError

    with pytest.raises(ConfigurationError, match="the policy returned <coroutine"):
        await cascade_of(policy=Later()).ainvoke("?")
    gc.collect()
