"""Row 20: synchronous, asynchronous, batches, threads, event loops, fork."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config, get_store
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.runtime import get_runtime
from langgraph.store.memory import InMemoryStore

from cascade import Cascade, Price
from cascade.errors import CascadeError, InputError
from cascade.ledger.store import open_store
from cascade.result import CascadeResult
from tests.acceptance.setups import PAIR, WAYS, ask, entries_of, pair, run, start, stored, total
from tests.acceptance.upstream import Answer, Held, Seen, Upstream

PRICE = Price(input=1, output=2)
ODD = 0.3
"""Probability of the tokens of drafts of odd questions."""


def numbered(upstream: Upstream, **options: Any) -> Cascade:
    """A cascade that escalates odd questions; each costs what its number says."""

    def small(seen: Seen) -> Answer:
        number = int(seen.last)
        p = ODD if number % 2 else 0.9
        return Answer(f"small {number}", p=p, tokens=(number + 1, 2), delay_s=number % 5 / 500)

    upstream.says("small", small)
    upstream.says("large", lambda seen: f"large {seen.last}")
    tiers = [upstream.tier(name, price=PRICE) for name in ("small", "large")]
    return Cascade(*tiers, **options)


def check(number: int, result: CascadeResult) -> None:
    """The result is that of its question, and so is each entry of its ledger."""
    tier = "large" if number % 2 else "small"
    assert (result.answer, result.tier) == (f"{tier} {number}", tier)
    entries = entries_of(result)
    assert {entry.run_id for entry in entries} == {result.run_id}
    assert entries[0].input_tokens == number + 1
    assert result.ledger.cost_usd == total(entries, "cost_usd")


# --- many at once


async def test_64_questions_at_once_are_not_mixed_up(upstream: Upstream, tmp_path: Any) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        made = numbered(upstream, ledger=ledger)
        results = await asyncio.gather(*(made.ainvoke(str(n)) for n in range(64)))
        for number, result in enumerate(results):
            check(number, result)
        kept = await stored(ledger)
    spent = [result.ledger.cost_usd for result in results]
    assert total(kept, "cost_usd") == sum(spent)
    assert {entry.run_id for entry in kept} == {result.run_id for result in results}
    assert len(upstream.seen) == 64 + 32


def test_threads_share_a_cascade(upstream: Upstream) -> None:
    made = numbered(upstream)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(made.invoke, map(str, range(32))))
    for number, result in enumerate(results):
        check(number, result)


@pytest.mark.parametrize("how", ["batch", "abatch"])
async def test_a_batch_keeps_the_order_of_its_questions_and_a_text_is_none(
    upstream: Upstream, how: str
) -> None:
    made = numbered(upstream)

    async def batch(questions: Any) -> list[CascadeResult]:
        if how == "abatch":
            return await made.abatch(questions)
        return await asyncio.to_thread(made.batch, questions)

    with pytest.raises(CascadeError, match="list"):
        await batch("hello")
    assert upstream.seen == []
    for number, result in enumerate(await batch([str(n) for n in range(20)])):
        check(number, result)


async def test_no_more_questions_of_a_batch_are_under_way_than_was_said(upstream: Upstream) -> None:
    held = Held()
    upstream.says("small", Answer("yes", held=held))
    made = Cascade(upstream.tier("small"), upstream.tier("large"))
    asking = asyncio.ensure_future(made.abatch(["?"] * 9, max_concurrency=3))
    await upstream.has_asked(3)
    assert len(upstream.seen) == 3
    held.release()
    assert len(await asking) == 9


async def test_errors_of_a_batch_stand_in_their_places_where_asked_for(upstream: Upstream) -> None:
    results = await numbered(upstream).abatch(["1", "", "2"], return_exceptions=True)
    assert [type(result) for result in results] == [CascadeResult, InputError, CascadeResult]


async def test_a_question_that_is_cancelled_leaves_nothing_running(upstream: Upstream) -> None:
    upstream.says("small", Answer("never", held=Held()))
    made = Cascade(upstream.tier("small"), upstream.tier("large"))
    before = asyncio.all_tasks()
    asking = asyncio.ensure_future(made.ainvoke("?"))
    seen = await upstream.has_asked(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await asyncio.to_thread(seen.left.wait, 300)
    assert asyncio.all_tasks() == before


# --- synchronous and asynchronous, loops


async def test_every_way_to_ask_gives_the_same_also_inside_of_a_running_loop(
    upstream: Upstream,
) -> None:
    made = numbered(upstream)
    for number in (2, 3):
        question = str(number)
        check(number, await made.ainvoke(question))
        check(number, made.invoke(question))
        check(number, await asyncio.to_thread(made.invoke, question))
        check(number, [event async for event in made.astream(question)][-1])
        check(number, (await asyncio.to_thread(lambda q=question: list(made.stream(q))))[-1])
        state = await made.graph.ainvoke({"messages": [("human", question)]})
        assert state["messages"][-1].text.endswith(question)


@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_one_event_loop_may_follow_another(upstream: Upstream, provider: str) -> None:
    tiers = [upstream.tier(name, provider=provider) for name in ("small", "large")]
    made = Cascade(*tiers)
    for number in range(3):
        assert asyncio.run(made.ainvoke(f"{number}")).answer == f"small: {number}"


def test_several_event_loops_may_ask_at_the_same_time(upstream: Upstream) -> None:
    made = numbered(upstream)

    async def some(first: int) -> list[CascadeResult]:
        return await asyncio.gather(*(made.ainvoke(str(n)) for n in range(first, first + 8)))

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(asyncio.run, some(8 * n)) for n in range(4)]
        for n, future in enumerate(asked):
            for offset, result in enumerate(future.result(300)):
                check(8 * n + offset, result)


MIXED = """
from langchain_openai import ChatOpenAI

chats = [ChatOpenAI(model=n, base_url=sys.argv[1], api_key="k") for n in ("small", "large")]
cascade = Cascade(*chats, verifier=lambda question, answer: "2" not in question)

async def both(number):
    print(cascade.invoke(f"{number}").answer, (await cascade.ainvoke(f"{number}")).answer)

if sys.argv[2] == "mixed":
    asyncio.run(both(1))
    print(cascade.invoke("2").answer)
else:
    for number in (1, 2, 3):
        print(asyncio.run(cascade.ainvoke(f"{number}")).answer)
"""


@pytest.mark.parametrize(
    ("how", "printed"),
    [("mixed", "small: 1 small: 1\nlarge: 2"), ("in turn", "small: 1\nlarge: 2\nsmall: 3")],
)
def test_a_langchain_model_works_in_every_loop(upstream: Upstream, how: str, printed: str) -> None:
    for name in ("small", "large"):  # slow enough that each call waits for its answer
        upstream.says(name, lambda seen: Answer(f"{seen.model}: {seen.last}", delay_s=0.03))
    assert run(PAIR + MIXED, upstream.openai_url, how) == printed


FORKS = """
cascade = pair(sys.argv[1])
print(cascade.invoke("before").answer, flush=True)
child = os.fork()
if child == 0:
    print(cascade.invoke("child").answer, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
print(cascade.invoke("parent").answer, os.waitstatus_to_exitcode(status))
cascade.close()
"""


def test_a_forked_process_and_its_parent_both_ask(upstream: Upstream) -> None:
    printed = run(PAIR + FORKS, upstream.openai_url)
    assert printed.splitlines() == ["small: before", "small: child", "small: parent 0"]


# --- closing


CLOSES = """
kind, url, way = sys.argv[1:]
hangs = threading.Timer(120, lambda: (print("it hangs", flush=True), os._exit(3)))
hangs.daemon = True

def made():
    verifier = lambda question, answer: False
    if kind != "llamacpp":
        return pair(url, kind, verifier=verifier)
    large = Tier("openai:large", base_url=url, api_key="k")
    return Cascade(Tier("llamacpp:smollm2-135m", max_tokens=3), large, verifier=verifier)

async def cell():
    if way == "with":
        with made() as cascade:
            await cascade.ainvoke("Hello")
            hangs.start()
    else:
        cascade = made()
        await cascade.ainvoke("Hello")
        hangs.start()
        cascade.close()
    hangs.cancel()
    print("closed")

asyncio.run(cell())
"""
CLOSING = [("openai", "close"), ("openai", "with"), ("ollama", "close"), ("llamacpp", "close")]


@pytest.fixture(scope="module")
def closing() -> Iterator[dict[tuple[str, str], subprocess.Popen[str]]]:
    """All of them at the same time: those that hang take two minutes."""
    with Upstream() as upstream:
        urls = {"ollama": upstream.url}
        running = {
            (kind, way): start(PAIR + CLOSES, kind, urls.get(kind, upstream.openai_url), way)
            for kind, way in CLOSING
        }
        yield running


@pytest.mark.parametrize(("kind", "way"), CLOSING)
def test_a_cascade_can_be_closed_in_the_loop_that_has_awaited_it(
    closing: dict[tuple[str, str], subprocess.Popen[str]], kind: str, way: str
) -> None:
    out, complaints = closing[kind, way].communicate(timeout=300)
    assert out.strip() == "closed", complaints[-2000:]


DROPS = """
url, how = sys.argv[1:]

async def ask():
    cascade = pair(url)
    await cascade.ainvoke("Hello")
    del cascade
    gc.collect()
    await asyncio.sleep(0)

asyncio.run(ask()) if how == "ainvoke" else pair(url).invoke("Hello")
gc.collect()
print("end")
"""


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_a_cascade_that_is_dropped_unclosed_prints_nothing(upstream: Upstream, how: str) -> None:
    assert run(PAIR + DROPS, upstream.openai_url, how) == "end"


async def test_a_cascade_that_was_closed_can_be_used_again(upstream: Upstream) -> None:
    async with pair(upstream) as made:
        await made.ainvoke("one")
    assert (await made.ainvoke("two")).answer == "small: two"
    await made.aclose()


# --- what is around a call


WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.mark.parametrize("how", WAYS)
async def test_context_variables_of_the_caller_are_seen(upstream: Upstream, how: str) -> None:
    seen = []
    WHO.set("me")
    made = pair(upstream, verifier=lambda _q, _a: seen.append(WHO.get()) or True)
    await ask(made, how)
    assert seen == ["me"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("setter", ["signal", "verifier"])
async def test_a_context_variable_that_is_set_within_is_seen_by_none_without(
    upstream: Upstream, how: str, setter: str
) -> None:
    seen = []

    def signal(question: str, answer: str) -> float:
        if setter == "signal":
            WHO.set("the signal")
        return 0.9

    def verifier(question: str, answer: str) -> bool:
        seen.append(WHO.get())
        if setter == "verifier":
            WHO.set("the verifier")
        return False

    tiers = [upstream.tier(name, name=name) for name in ("small", "medium", "large")]
    await ask(Cascade(tiers=tiers, signals=[signal], verifier=verifier), how)
    assert seen == ["nobody", "nobody"]
    assert WHO.get() == "nobody"


@dataclass
class Around:
    user: str


@pytest.mark.parametrize("how", ["node", "ainvoke", "graph", "chat model"])
async def test_the_context_and_the_store_of_the_graph_around_it_are_seen(
    upstream: Upstream, how: str
) -> None:
    seen: list[Any] = []

    def verifier(question: str, answer: str) -> bool:
        found = get_store().get(("right",), "answer")
        seen.append((get_runtime(Around).context.user, found and found.value["text"]))
        return True

    made = pair(upstream, verifier=verifier)

    async def node(state: MessagesState) -> Any:
        assert await ask(made, how) == "small: ?"
        return {"messages": []}

    builder = StateGraph(MessagesState, context_schema=Around).add_edge(START, "node")
    builder.add_node("node", made.graph if how == "node" else node)
    store = InMemoryStore()
    store.put(("right",), "answer", {"text": "Canberra"})
    graph = builder.compile(store=store)
    await graph.ainvoke({"messages": [("human", "?")]}, context=Around("eva"))
    assert seen == [("eva", "Canberra")]


@pytest.mark.parametrize("how", ["graph", "invoke", "ainvoke", "stream"])
async def test_the_configuration_of_a_call_is_the_same_whichever_way(
    upstream: Upstream, how: str
) -> None:
    seen: list[Any] = []

    def verifier(question: str, answer: str) -> bool:
        config = get_config()
        metadata = {k: v for k, v in config["metadata"].items() if not k.startswith("langgraph_")}
        seen.append((metadata, config["configurable"]["thread_id"], config["tags"]))
        return True

    config = RunnableConfig(
        metadata={"user": "eva"}, configurable={"thread_id": "7"}, tags=["a-tag"]
    )
    await ask(pair(upstream, verifier=verifier), how, config=config)
    assert seen == [({"user": "eva", "thread_id": "7"}, "7", ["a-tag"])]
