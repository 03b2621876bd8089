"""A cascade's own cache of answers: LangGraph's caches at the door of the graph."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache as ModelCache
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.base import BaseCache
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.sqlite import SqliteCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from cascade import Caching, Cascade, CascadeResult, Decision, MemoryLedger, Price, Tier, Token
from cascade.agents import recall
from cascade.agents.recall import NAMESPACE
from cascade.agents.showing import DETAILS
from cascade.caching import identity
from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.ledger.runs import runs_of
from cascade.ledger.store import open_store
from cascade.observing import Observer
from cascade.policies import ThresholdPolicy
from cascade.report import make_report
from cascade.state import CHECKPOINT_TYPES, Certificate
from cascade.testing import ScriptedModel, reply

DOWN = ModelUnavailableError("down", model="m", billed=False)
ONCE = DEFAULT_RETRY._replace(max_attempts=1)


class House:
    """A cascade with prices and a cache, whose calls can be counted."""

    def __init__(self, probability: float = 0.97, **options: Any) -> None:
        self.small = ScriptedModel(
            lambda request: reply(
                f"small: {request.messages[-1].text}", probability=probability, input_tokens=10
            ),
            name="small",
            returns_logprobs=True,
        )
        self.large = ScriptedModel(
            lambda request: reply(f"large: {request.messages[-1].text}"),
            name="large",
            local=options.pop("large_is_local", True),
        )
        self.ledger = MemoryLedger()
        options = {"cache": InMemoryCache(), "ledger": self.ledger, **options}
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=10, output=10)),
            retry_policy=ONCE,
            **options,
        )

    @property
    def calls(self) -> int:
        return len(self.small.requests) + len(self.large.requests)


class Spy(BaseCache[Any]):
    """A cache of a stranger's that says what it was asked, and can fail."""

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.held: dict[Any, Any] = {}
        self.written: list[Any] = []
        self.read: list[Any] = []
        self.failing = failing

    async def aget(self, keys: Sequence[Any]) -> dict[Any, Any]:
        self.read += keys
        if self.failing == "hang":
            await asyncio.Event().wait()
        if self.failing == "read":
            raise ConnectionError("no cache there")
        return {key: self.held[key] for key in keys if key in self.held}

    async def aset(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        if self.failing == "hang":
            await asyncio.Event().wait()
        if self.failing == "write":
            raise ConnectionError("no cache there")
        self.written += pairs.items()
        self.held |= {key: value for key, (value, _) in pairs.items()}

    def get(self, keys: Sequence[Any]) -> dict[Any, Any]:
        raise AssertionError(f"asked synchronously for {keys}")

    def set(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        raise AssertionError(f"asked synchronously to keep {pairs}")

    def clear(self, namespaces: Sequence[Any] | None = None) -> None:
        del namespaces
        self.held.clear()

    async def aclear(self, namespaces: Sequence[Any] | None = None) -> None:
        self.clear(namespaces)


# --- a hit


@pytest.mark.parametrize("probability", [0.97, 0.3], ids=["accepted", "escalated"])
async def test_of_two_equal_questions_one_is_paid(probability: float) -> None:
    house = House(probability)
    first = await house.cascade.ainvoke("?")
    paid, calls = list(house.ledger.entries), house.calls
    again = await house.cascade.ainvoke("?")
    assert (again.answer, again.tier, again.escalated) == (
        first.answer,
        first.tier,
        first.escalated,
    )
    assert (again.confidence, again.calibrated) == (first.confidence, first.calibrated)
    assert (first.cached, again.cached, house.calls) == (False, True, calls)
    (hit,) = again.ledger
    assert house.ledger.entries == [*paid, hit]
    assert (hit.node, hit.model, hit.tier) == ("cache", None, first.tier)
    assert hit.cost_usd == hit.saved_usd == hit.baseline_usd == 0
    assert first.run_id in hit.note
    assert f"had cost ${first.ledger.cost_usd:f}" in hit.note
    assert first.run_id in again.decision.reason
    assert again.run_id != first.run_id
    assert house.cascade._oversight.recorder._pending == {}


def test_a_hit_is_the_same_when_asked_synchronously_or_in_a_batch() -> None:
    house = House()
    house.cascade.invoke("?")
    assert house.cascade.invoke("?").cached
    results = list(house.cascade.batch(["?", "another", "?"]))
    assert [getattr(result, "cached", None) for result in results] == [True, False, True]
    assert len(house.small.requests) == 2


@pytest.mark.parametrize("show", ["verified", "optimistic"])
async def test_a_hit_streams_its_text(show: Any) -> None:
    house = House()
    await house.cascade.ainvoke("one two")
    events = [event async for event in house.cascade.astream("one two", show=show)]
    *tokens, result = events
    assert [token.text for token in tokens if isinstance(token, Token)] == [
        "small:",
        " one",
        " two",
    ]
    assert isinstance(result, CascadeResult)
    assert result.cached


async def test_a_hit_streams_nothing_to_who_wants_the_result_alone() -> None:
    house = House()
    await house.cascade.ainvoke("?")
    events = [event async for event in house.cascade.astream("?", show="final")]
    assert [type(event) for event in events] == [CascadeResult]


def test_an_answer_with_a_schema_is_read_again() -> None:
    class City(BaseModel):
        name: str

    small = ScriptedModel([reply('{"name": "Bonn"}', probability=0.99)], returns_logprobs=True)
    cascade = Cascade(small, ScriptedModel("x"), response_format=City, cache=InMemoryCache())
    cascade.invoke("?")
    again = cascade.invoke("?")
    assert (again.parsed, again.cached) == (City(name="Bonn"), True)


def test_tool_calls_come_from_the_cache_too() -> None:
    call: Any = {"name": "f", "args": {"x": 1}, "id": "1", "type": "tool_call"}
    large = ScriptedModel([reply("", tool_calls=(call,))])
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    cascade = Cascade(tiers=[large], tools=[tool], cache=InMemoryCache())
    cascade.invoke("?")
    again = cascade.invoke("?")
    assert (again.message.tool_calls, again.cached) == ([call], True)


def test_a_chat_model_of_the_cascade_has_its_cache() -> None:
    house = House()
    model = house.cascade.as_chat_model()
    model.invoke("?")
    message = model.invoke("?")
    assert (message.text, message.response_metadata["cost_usd"]) == ("small: ?", 0)
    assert len(house.small.requests) == 1


# --- what makes two questions one


CONVERSATION: Any = [("system", "Be brief."), ("human", "one"), ("ai", "1"), ("human", "two")]


def test_ids_and_metadata_of_messages_make_no_difference() -> None:
    house = House()
    house.cascade.invoke([HumanMessage("?", id="a")])
    asked = HumanMessage("?", id="b", response_metadata={"seen": 1}, additional_kwargs={"x": 1})
    assert house.cascade.invoke([asked]).cached


@pytest.mark.parametrize(
    "other",
    [
        CONVERSATION[1:],
        [("system", "Be long."), *CONVERSATION[1:]],
        [*CONVERSATION[:2], ("ai", "one"), CONVERSATION[3]],
        [*CONVERSATION[:3], ("human", "Two")],
        [*CONVERSATION[:3], HumanMessage("two", name="bob")],
    ],
)
def test_another_conversation_is_another_question(other: Any) -> None:
    house = House()
    house.cascade.invoke(CONVERSATION)
    assert not house.cascade.invoke(other).cached
    assert house.cascade.invoke(CONVERSATION).cached


class Strict(ThresholdPolicy):
    """Another policy with the same threshold."""


def judge(question: str, answer: str) -> bool:
    del question, answer
    return True


@pytest.mark.parametrize(
    "options",
    [
        {"policy": ThresholdPolicy(0.7)},
        {"policy": Strict()},
        {"verifier": judge},
        {"router": lambda _: None},
        {"tools": [{"name": "f", "description": "d", "parameters": {}}]},
        {"deadline": 60.0},
        {"signals": ["logprobs", "text"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_cascade_that_decides_otherwise_does_not_find_the_answer(options: Any) -> None:
    store = InMemoryCache()
    House(cache=store).cascade.invoke("?")
    assert House(cache=store).cascade.invoke("?").cached
    assert not House(cache=store, **options).cascade.invoke("?").cached


def test_another_calibration_makes_another_identity() -> None:
    cascade = House().cascade

    def named(threshold: float | None) -> str:
        made: Any = None
        if threshold is not None:
            made = Certificate(
                threshold=threshold, max_harm=0.1, delta=0.1, n=9, errors=0, coverage=1, bound=0.1
            )
        return identity(
            cascade.options, cascade.tiers, cascade.policy, cascade.task, cascade.signals, made
        )

    assert len({named(None), named(0.5), named(0.6)}) == 3
    assert named(0.5) == named(0.5)


def test_a_variant_with_another_policy_does_not_find_the_answer() -> None:
    house = House()
    house.cascade.invoke("?")
    assert not house.cascade.with_policy(policy=ThresholdPolicy(0.1)).invoke("?").cached


@pytest.mark.parametrize("setting", [{"max_tokens": 7}, {"temperature": 0.5}, {"name": "tiny"}])
def test_a_tier_with_other_settings_does_not_find_the_answer(setting: Any) -> None:
    store = InMemoryCache()

    def cascade(**settings: Any) -> Cascade:
        small = ScriptedModel([reply("x", probability=0.99)], returns_logprobs=True)
        return Cascade(Tier(small, **settings), ScriptedModel("y"), cache=store)

    cascade().invoke("?")
    assert cascade().invoke("?").cached
    assert not cascade(**setting).invoke("?").cached


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


class Says:
    """A policy that always says the same."""

    def __init__(self, action: Any) -> None:
        self._action = action

    def decide(self, situation: Any) -> Decision:
        del situation
        return Decision(action=self._action, reason="says so")


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


# --- in conversations, in graphs, in reports


async def test_in_a_conversation_a_hit_is_a_turn_like_any_other() -> None:
    house = House()
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES))
    graph = house.cascade.build_graph().compile(checkpointer=saver)
    asked = [{"messages": [("human", text)]} for text in ("one", "two")]
    for name in ("a", "b"):
        thread: Any = {"configurable": {"thread_id": name}}
        for question in asked:
            state = await graph.ainvoke(question, thread)
        said = [message.text for message in state["messages"]]
        assert said == ["one", "small: one", "two", "small: two"]
        assert len({message.id for message in state["messages"]}) == 4
    assert [entry.node for entry in state["ledger"]] == ["cache", "cache"]
    assert len({entry.run_id for entry in state["ledger"]}) == 2
    assert len(house.small.requests) == 2


async def test_as_a_node_of_another_graph_it_answers_from_its_cache() -> None:
    house = House()
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", house.cascade.graph)
    builder.add_edge(START, "cascade")
    graph: Any = builder.compile()
    for _ in range(2):
        state = await graph.ainvoke({"messages": [("human", "?")]})
        assert [message.text for message in state["messages"]] == ["?", "small: ?"]
    assert [entry.node for entry in house.ledger.entries][-1] == "cache"
    assert len(house.small.requests) == 1


async def test_a_hit_in_a_file_is_a_run_of_its_own_kind_in_the_report(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        house = House(ledger=ledger, tags={"app": "support"})
        for _ in range(3):
            await house.cascade.ainvoke("?")
        stored = [(item.entry, item.tags) async for item in ledger.stored()]
        report = await make_report(ledger)
    assert all(tags == {"app": "support"} for _, tags in stored)
    assert [run.outcome for run in runs_of(stored).values()] == ["accepted", "cached", "cached"]
    assert (report.requests, report.outcomes) == (3, {"accepted": 1, "cached": 2})


def test_a_hit_is_not_audited() -> None:
    house = House(audit_rate=1.0)
    with house.cascade as cascade:
        first, again = cascade.invoke("?"), cascade.invoke("?")
    audited = {entry.run_id for entry in house.ledger.entries if entry.node == "audit"}
    assert audited == {first.run_id}
    assert sum((e.saved_usd or Decimal(0) for e in again.ledger), Decimal(0)) == 0


def test_observers_are_told_that_a_run_was_answered_from_the_cache() -> None:
    class Watching(Observer):
        def __init__(self) -> None:
            self.outcomes: list[Any] = []

        def run_ended(self, run: Any) -> None:
            self.outcomes.append(run.outcome)

    watching = Watching()
    house = House(0.3, observers=[watching])
    for _ in range(2):
        house.cascade.invoke("?")
    assert watching.outcomes == ["escalated", "cached"]


def test_the_drawing_of_the_graph_shows_the_short_way() -> None:
    def ends(cascade: Cascade) -> set[str]:
        edges = cascade.graph.get_graph().edges
        return {edge.source for edge in edges if edge.target == "__end__"}

    assert ends(House().cascade) - ends(House(cache=None).cascade) == {"draft", "route"}


def test_with_a_router_a_known_answer_is_served_before_anything_is_drafted() -> None:
    house = House(router=lambda _: "large")
    assert [house.cascade.invoke("?").cached for _ in range(2)] == [False, True]
    assert house.calls == 1


def test_the_message_says_that_it_came_from_the_cache() -> None:
    house = House()
    first = house.cascade.invoke("?")
    message = house.cascade.invoke("?").message
    assert isinstance(message, AIMessage)
    assert message.response_metadata["cached"] == first.run_id
    assert "cached" not in first.message.response_metadata


def test_who_wants_log_probs_gets_them_from_the_cache_too() -> None:
    """Where they were not kept, the question is asked once more."""
    house = House()
    detailed: Any = {"configurable": {DETAILS: True}}
    house.cascade.invoke("?")
    first = house.cascade.invoke("?", detailed)
    again = house.cascade.invoke("?", detailed)
    assert (first.cached, again.cached) == (False, True)
    logprobs = again.message.response_metadata["logprobs"]
    assert logprobs
    assert logprobs == first.message.response_metadata["logprobs"]
    plain = house.cascade.invoke("?")
    assert plain.cached
    assert "logprobs" not in plain.message.response_metadata


def test_a_hit_says_nothing_of_the_step_that_was_asked() -> None:
    """Nobody was asked now: a latch must not count it, nor a provider's cache be taken for warm."""
    house = House(0.3)
    assert "step" in house.cascade.invoke("?").message.response_metadata
    assert "step" not in house.cascade.invoke("?").message.response_metadata


def test_a_chat_model_streams_a_hit() -> None:
    house = House()
    model = house.cascade.as_chat_model()
    for _ in range(2):
        chunks = [chunk.text for chunk in model.stream("one two")]
        assert chunks[:3] == ["small:", " one", " two"]
    assert len(house.small.requests) == 1
