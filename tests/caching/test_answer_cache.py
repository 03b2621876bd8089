"""A cascade's own cache of answers: LangGraph's caches at the door of the graph."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cached_house import House
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from cascade import Cascade, CascadeResult, Tier, Token
from cascade.agents.showing import DETAILS
from cascade.caching import identity
from cascade.ledger.runs import runs_of
from cascade.ledger.store import open_store
from cascade.observing import Observer
from cascade.policies import ThresholdPolicy
from cascade.report import make_report
from cascade.state import CHECKPOINT_TYPES, Certificate
from cascade.testing import ScriptedModel, reply

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
