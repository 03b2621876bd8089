"""Which answers a cascade keeps in its cache, where, and what becomes of a cache that fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from cached_house import DOWN, House, Says, Spy
from langchain_core.caches import InMemoryCache as ModelCache
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.sqlite import SqliteCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Command

from cascade import Caching, Cascade
from cascade.agents import recall
from cascade.agents.recall import NAMESPACE
from cascade.errors import ConfigurationError
from cascade.state import CHECKPOINT_TYPES
from cascade.testing import ScriptedModel, reply

# --- what is never kept


async def test_a_rejected_draft_is_never_served() -> None:
    """The large model is down: its stopgap must not outlive the outage."""
    house = House(0.3)
    answers, house.large._answers = house.large._answers, [DOWN]
    stopgap = await house.cascade.ainvoke("?")
    assert (stopgap.answer, stopgap.degraded) == ("small: ?", True)
    house.large._answers = answers
    for cached in (False, True):
        result = await house.cascade.ainvoke("?")
        assert (result.answer, result.degraded, result.cached) == ("large: ?", False, cached)


def test_no_answer_is_not_kept() -> None:
    house = House(policy=Says("abstain"))
    for _ in range(2):
        result = house.cascade.invoke("?")
        assert (result.abstained, result.cached) == (True, False)
    assert len(house.small.requests) == 2


def test_where_the_last_word_was_the_models_it_is_no_answer_either() -> None:
    house = House(policy=Says("abstain"))
    asked: Any = [("human", "?"), ("ai", "Let me see:")]
    assert [house.cascade.invoke(asked).cached for _ in range(2)] == [False, False]


@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_what_is_answered_in_shadow_is_neither_kept_nor_served(mode: Any) -> None:
    store = InMemoryCache()
    with House(cache=store, mode=mode, canary_share=0.0).cascade as shadow:
        shadow.invoke("?")
    live = House(cache=store)
    assert not live.cascade.invoke("?").cached
    assert live.cascade.invoke("?").cached
    with House(cache=store, mode=mode, canary_share=0.0).cascade as shadow:
        result = shadow.invoke("?")
    assert (result.cached, result.answer) == (False, "large: ?")


def test_an_empty_answer_is_not_kept() -> None:
    cascade = Cascade(tiers=[ScriptedModel([reply(""), reply("x")])], cache=InMemoryCache())
    assert [cascade.invoke("?").answer for _ in range(3)] == ["", "x", "x"]


@pytest.mark.parametrize("word", ["accept", "escalate", {"answer": "mine"}])
async def test_what_a_person_said_about_one_question_is_not_kept(word: Any) -> None:
    house = House(policy=Says("ask"))
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))
    graph = house.cascade.build_graph().compile(checkpointer=saver)
    for name in ("one", "two"):
        thread: Any = {"configurable": {"thread_id": name}}
        state = await graph.ainvoke({"messages": [("human", "?")]}, thread)
        assert "__interrupt__" in state
        await graph.ainvoke(Command(resume=word), thread)
    assert "cache" not in {entry.node for entry in house.ledger.entries}


def test_a_hit_is_not_kept_as_a_new_answer() -> None:
    """Else its time to live would begin anew with each question."""
    store = Spy()
    house = House(cache=store)
    for _ in range(3):
        house.cascade.invoke("?")
    assert len(store.written) == 1


# --- questions that have to stay on this machine


@pytest.mark.parametrize(
    ("make", "cached"),
    [
        (InMemoryCache, True),
        (Spy, False),
        (lambda: Caching(Spy(), local=True), True),
        (lambda: Caching(InMemoryCache(), local=False), False),
    ],
    ids=["memory", "elsewhere", "said to be here", "said to be elsewhere"],
)
def test_private_answers_are_kept_where_they_may_be(make: Any, cached: bool) -> None:
    cache = make()
    house = House(cache=cache, private=lambda messages: "secret" in messages[-1].text)
    results = [house.cascade.invoke("a secret") for _ in range(2)]
    assert [result.cached for result in results] == [False, cached]
    spy = cache.store if isinstance(cache, Caching) else cache
    if isinstance(spy, Spy) and not cached:
        assert (spy.written, spy.read) == ([], [])
    open_results = [house.cascade.invoke("no such thing") for _ in range(2)]
    assert [result.cached for result in open_results] == [False, True]


def test_an_answer_of_a_private_run_does_not_make_an_open_conversation_private() -> None:
    house = House()
    stays: Any = {"configurable": {"local_only": True}}
    assert house.cascade.invoke("?", stays).message.response_metadata["local_only"] == "answer"
    served = house.cascade.invoke("?")
    assert served.cached
    assert "local_only" not in served.message.response_metadata
    assert house.cascade.invoke("?", stays).message.response_metadata["local_only"] == "answer"


def test_a_cascade_that_is_local_only_has_its_cache() -> None:
    house = House(local_only=True, large_is_local=False)
    assert [house.cascade.invoke("?").cached for _ in range(2)] == [False, True]
    doubtful = House(0.3, local_only=True, large_is_local=False)
    assert [doubtful.cascade.invoke("?").degraded for _ in range(2)] == [True, True]
    assert len(doubtful.small.requests) == 2


# --- alarms


def test_after_an_alarm_drafts_accepted_before_it_are_not_served() -> None:
    house = House(drift="warn")
    house.cascade.invoke("?")
    guard: Any = house.cascade.drift
    assert house.cascade.invoke("?").cached
    guard._guard.caution = "tighten"
    assert not house.cascade.invoke("?").cached
    guard._guard.caution = "normal"
    assert house.cascade.invoke("?").cached


def test_after_an_alarm_the_large_models_answers_are_served() -> None:
    house = House(0.3, drift="warn")
    house.cascade.invoke("?")
    guard: Any = house.cascade.drift
    guard._guard.caution = "large_only"
    assert house.cascade.invoke("?").cached


# --- the cache itself


@pytest.mark.parametrize(("failing", "word"), [("read", "be read"), ("write", "did not take")])
def test_a_cache_that_fails_costs_a_call_and_no_answer(
    failing: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(cache=Spy(failing))
    answers = [house.cascade.invoke("?").answer for _ in range(2)]
    assert answers == ["small: ?"] * 2
    assert word in caplog.text
    assert "no cache there" in caplog.text


def test_nobody_waits_long_for_a_cache_that_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recall, "PATIENCE_S", 0.01)
    assert House(cache=Spy("hang")).cascade.invoke("?").answer == "small: ?"
    assert "be read: TimeoutError" in caplog.text
    assert "did not take an answer: TimeoutError" in caplog.text


HUMAN = {"type": "human", "data": {"content": "?", "type": "human"}}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "text",
        lambda _: {"message": "of another program"},
        lambda kept: {**kept, "message": {}},
        lambda kept: {**kept, "message": "text"},
        lambda kept: {**kept, "message": {"type": "ai", "data": {"content": 1}}},
        lambda kept: {**kept, "message": HUMAN},
        lambda kept: {**kept, "tier": None},
    ],
)
def test_an_answer_that_cannot_be_read_is_asked_for_again(
    change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = Spy()
    house = House(cache=store)
    house.cascade.invoke("?")
    store.held = {key: change(kept) for key, kept in store.held.items()}
    assert not house.cascade.invoke("?").cached
    assert "cannot be read" in caplog.text
    assert house.cascade.invoke("?").cached


def test_an_answer_is_kept_for_the_time_that_was_said() -> None:
    store = Spy()
    House(cache=Caching(store, ttl_s=60)).cascade.invoke("?")
    (((namespace, _), (_, ttl)),) = store.written
    assert (namespace, ttl) == (NAMESPACE, 60)


def test_an_answer_whose_time_is_over_is_asked_for_again() -> None:
    store = InMemoryCache[Any]()
    house = House(cache=Caching(store, ttl_s=60))
    house.cascade.invoke("?")
    assert house.cascade.invoke("?").cached
    held = store._cache[NAMESPACE]
    store._cache[NAMESPACE] = {k: (kind, value, 1.0) for k, (kind, value, _) in held.items()}
    assert not house.cascade.invoke("?").cached


def test_the_answers_can_be_forgotten_alone() -> None:
    store = InMemoryCache[Any]()
    house = House(cache=store)
    store.set({(("others",), "key"): ("theirs", None)})
    house.cascade.invoke("?")
    store.clear([NAMESPACE])
    assert not house.cascade.invoke("?").cached
    assert store.get([(("others",), "key")])


@pytest.mark.parametrize(
    "given", [ModelCache(), True, "redis://localhost", {}], ids=lambda given: type(given).__name__
)
def test_what_is_no_cache_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="no cache of LangGraph's"):
        House(cache=given)


@pytest.mark.parametrize("ttl", [0, -1, 1.5, "60", True])
def test_a_time_that_is_none_is_refused(ttl: Any) -> None:
    with pytest.raises(ConfigurationError, match="ttl_s"):
        Caching(InMemoryCache(), ttl_s=ttl)


def test_a_restarted_program_finds_its_answers_in_a_file(tmp_path: Path) -> None:
    """The identity of a set-up is the same in every process, whatever the hash seed."""
    program = textwrap.dedent("""
        import sys
        from langgraph.cache.sqlite import SqliteCache
        from cascade import Cascade, Tier
        from cascade.testing import ScriptedModel, reply

        def judge(question, answer):
            return True

        small = ScriptedModel([reply("Canberra", probability=0.97)], returns_logprobs=True)
        cascade = Cascade(
            Tier(small, temperature=0),
            ScriptedModel("x"),
            verifier=judge,
            cache=SqliteCache(path=sys.argv[1]),
        )
        result = cascade.invoke("?")
        print(result.answer, result.cached, len(small.requests))
    """)
    said = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "cache.db")],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        said.append(done.stdout.strip())
    assert said == ["Canberra False 1", "Canberra True 0"]


async def test_of_two_at_the_same_time_both_may_be_paid_and_both_are_booked() -> None:
    """Nobody waits for somebody else's answer; afterwards there is one to be had."""
    house = House()
    results = await asyncio.gather(*(house.cascade.ainvoke("?") for _ in range(4)))
    assert {result.answer for result in results} == {"small: ?"}
    drafts = [entry for entry in house.ledger.entries if entry.node == "draft"]
    hits = [entry for entry in house.ledger.entries if entry.node == "cache"]
    assert (len(drafts), len(hits)) == (
        len(house.small.requests),
        sum(result.cached for result in results),
    )
    assert len(drafts) + len(hits) == 4
    assert (await house.cascade.ainvoke("?")).cached


async def test_many_at_once_share_a_file(tmp_path: Path) -> None:
    store = SqliteCache[Any](path=str(tmp_path / "cache.db"))
    house = House(cache=store)
    questions = [f"question {i % 5}" for i in range(20)]
    await house.cascade.abatch(questions)
    calls = house.calls
    results: Any = await house.cascade.abatch(questions)
    assert house.calls == calls
    assert [result.answer for result in results] == [f"small: {asked}" for asked in questions]
