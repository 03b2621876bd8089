"""LangGraph's `CachePolicy` on a node that is a cascade."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.base import BaseCache
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.sqlite import SqliteCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy

from cascade import Cascade, CascadeState, Decision, MemoryLedger, Price, Tier
from cascade.errors import ConfigurationError, ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.integrations.graph_cache import GraphCache
from cascade.ledger import LedgerView, tagged
from cascade.policies import ThresholdPolicy
from cascade.state import CHECKPOINT_TYPES, append_entries
from cascade.testing import ScriptedModel, reply

DOWN = ModelUnavailableError("down", model="m", billed=False)
ONCE = DEFAULT_RETRY._replace(max_attempts=1)
SERDE = JsonPlusSerializer(allowed_msgpack_modules=CHECKPOINT_TYPES)


class House:
    """A cascade as the node of a graph, with LangGraph's cache before it."""

    def __init__(
        self,
        probability: float = 0.97,
        *,
        state: Any = MessagesState,
        store: BaseCache[Any] | None = None,
        saver: Any = None,
        **options: Any,
    ) -> None:
        self.small = ScriptedModel(
            lambda request: reply(f"small: {request.messages[-1].text}", probability=probability),
            returns_logprobs=True,
            name="small",
        )
        self.large = ScriptedModel(lambda request: reply(f"large: {request.messages[-1].text}"))
        self.ledger = MemoryLedger()
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=10, output=10)),
            ledger=self.ledger,
            retry_policy=ONCE,
            **options,
        )
        self.counted: list[int] = []
        self.cache = GraphCache(store or InMemoryCache(serde=SERDE), self.cascade)
        builder = StateGraph(state)
        builder.add_node("count", self.count, cache_policy=CachePolicy(key_func=lambda _: "one"))
        builder.add_node("cascade", self.cascade.graph, cache_policy=self.cache.policy())
        builder.add_edge(START, "count")
        builder.add_edge("count", "cascade")
        self.graph: Any = builder.compile(cache=self.cache, checkpointer=saver)

    def count(self, state: Any) -> Any:
        del state
        self.counted.append(1)
        return {"messages": []}

    @property
    def nodes(self) -> list[str]:
        return [entry.node for entry in self.ledger.entries]


def asking(text: str = "?") -> Any:
    return {"messages": [("human", text)]}


def texts(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


@pytest.mark.parametrize("state", [MessagesState, CascadeState])
@pytest.mark.parametrize("probability", [0.97, 0.3], ids=["accepted", "escalated"])
async def test_a_hit_adds_the_answer_and_an_entry_that_costs_nothing(
    state: Any, probability: float
) -> None:
    house = House(probability, state=state)
    first = await house.graph.ainvoke(asking())
    paid = list(house.ledger.entries)
    again = await house.graph.ainvoke(asking())
    assert texts(again) == texts(first)
    assert again["messages"][-1].id != first["messages"][-1].id
    (hit,) = house.ledger.entries[len(paid) :]
    assert (hit.node, hit.cost_usd, hit.saved_usd, hit.baseline_usd) == ("cache", 0, 0, 0)
    assert hit.tier == first["messages"][-1].response_metadata["tier"]
    assert len(house.small.requests) == 1
    if state is CascadeState:
        cost = LedgerView(paid).cost_usd
        assert cost is not None
        assert f"the answer of run {paid[0].run_id} from the cache" in hit.note
        assert f"had cost ${cost:f}" in hit.note
        assert again["ledger"] == [hit]
        assert (again["run"].id, again["run"].question_id) == (hit.run_id, "")
    assert house.cascade._oversight.recorder._pending == {}


def test_synchronously_too() -> None:
    house = House()
    for _ in range(2):
        assert texts(house.graph.invoke(asking())) == ["?", "small: ?"]
    assert house.nodes == ["draft", "self_check", "verify", "cache"]


async def test_other_nodes_are_cached_as_ever() -> None:
    house = House()
    for text in ("one", "two"):
        await house.graph.ainvoke(asking(text))
    assert len(house.counted) == 1
    assert len(house.small.requests) == 2


async def test_a_rejected_draft_is_never_served() -> None:
    house = House(0.3)
    answers, house.large._answers = house.large._answers, [DOWN]
    assert texts(await house.graph.ainvoke(asking())) == ["?", "small: ?"]
    house.large._answers = answers
    for _ in range(2):
        assert texts(await house.graph.ainvoke(asking())) == ["?", "large: ?"]
    assert house.nodes[-1] == "cache"


async def test_no_answer_is_not_kept() -> None:
    class Abstains:
        def decide(self, situation: Any) -> Decision:
            del situation
            return Decision(action="abstain", reason="says so")

    house = House(policy=Abstains())
    for _ in range(2):
        assert texts(await house.graph.ainvoke(asking())) == ["?"]
    assert "cache" not in house.nodes


async def test_an_answer_that_had_to_stay_here_is_not_kept() -> None:
    house = House()
    stays: Any = {"configurable": {"local_only": True}}
    for _ in range(2):
        await house.graph.ainvoke(asking(), stays)
    assert "cache" not in house.nodes


async def test_what_the_cascades_own_cache_served_is_not_kept_again() -> None:
    house = House(cache=InMemoryCache())
    await house.cascade.ainvoke("?")
    for _ in range(2):
        await house.graph.ainvoke(asking())
    assert house.nodes[-2:] == ["cache", "cache"]


@pytest.mark.parametrize("options", [{"local_only": True}, {"private": lambda _: False}])
def test_a_cascade_with_a_rule_for_what_is_private_is_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Cascade\(cache="):
        House(**options)


def test_what_is_no_cache_is_refused() -> None:
    given: Any = "redis://localhost"
    with pytest.raises(ConfigurationError, match="give a cache of LangGraph's"):
        GraphCache(given, House().cascade)


async def test_in_a_conversation_each_turn_is_its_own_question() -> None:
    house = House(saver=InMemorySaver(serde=SERDE), state=CascadeState)
    for name in ("a", "b"):
        thread: Any = {"configurable": {"thread_id": name}}
        for text in ("one", "two", "one"):
            state = await house.graph.ainvoke(asking(text), thread)
        assert texts(state) == ["one", "small: one", "two", "small: two", "one", "small: one"]
    assert len(house.small.requests) == 3
    assert [entry.node for entry in state["ledger"]] == ["cache"] * 3
    assert sum((entry.cost_usd or Decimal(0) for entry in state["ledger"]), Decimal(0)) == 0


async def test_a_restarted_program_finds_its_answers_unless_it_decides_otherwise(
    tmp_path: Path,
) -> None:
    def house(**options: Any) -> House:
        store = SqliteCache[Any](path=str(tmp_path / "cache.db"), serde=SERDE)
        return House(store=store, **options)

    await house().graph.ainvoke(asking())
    again, other = house(), house(policy=ThresholdPolicy(0.5))
    await again.graph.ainvoke(asking())
    await other.graph.ainvoke(asking())
    assert (again.nodes, len(other.small.requests)) == (["cache"], 1)


async def test_hits_have_the_tags_of_their_time() -> None:
    seen: list[Any] = []

    class Tagged(MemoryLedger):
        def append(self, entries: Any) -> None:
            from cascade.ledger.tags import current_tags  # noqa: PLC0415

            seen.append(dict(current_tags()))
            super().append(entries)

    house = House(tags={"app": "support"})
    house.cascade._oversight.recorder.store = Tagged()
    await house.graph.ainvoke(asking())
    with tagged(user="42"):
        await house.graph.ainvoke(asking())
    assert seen[-1] == {"app": "support", "user": "42"}


@pytest.mark.parametrize("synchronous", [True, False])
async def test_it_can_be_cleared(synchronous: bool) -> None:
    house = House()
    await house.graph.ainvoke(asking())
    if synchronous:
        house.graph.clear_cache()
    else:
        await house.graph.aclear_cache()
    await house.graph.ainvoke(asking())
    assert len(house.small.requests) == 2


async def test_what_was_kept_without_the_guard_is_not_served() -> None:
    house = House()
    plain = house.cache._store
    builder = StateGraph(MessagesState)
    builder.add_node("cascade", house.cascade.graph, cache_policy=house.cache.policy())
    builder.add_edge(START, "cascade")
    await builder.compile(cache=plain).ainvoke(asking())
    assert texts(await house.graph.ainvoke(asking())) == ["?", "small: ?"]
    assert len(house.small.requests) == 2


# --- LangGraph's cache as it is


async def test_without_the_guard_money_is_in_the_state_once() -> None:
    """LangGraph writes a cached node's entries again; the state has each of them once."""
    house = House()
    builder = StateGraph(CascadeState)
    builder.add_node("cascade", house.cascade.graph, cache_policy=CachePolicy())
    builder.add_edge(START, "cascade")
    saver = InMemorySaver(serde=SERDE)
    graph: Any = builder.compile(cache=InMemoryCache(serde=SERDE), checkpointer=saver)
    asked = {"messages": [HumanMessage("?", id="1")]}
    first = await graph.ainvoke(asked, {"configurable": {"thread_id": "a"}})
    again = await graph.ainvoke(asked, {"configurable": {"thread_id": "b"}})
    assert len(house.small.requests) == 1
    assert again["ledger"] == first["ledger"] == house.ledger.entries


def test_a_ledger_takes_each_entry_once() -> None:
    house = House()
    house.cascade.invoke("one")
    house.cascade.invoke("two")
    one, two = house.ledger.entries[:3], house.ledger.entries[3:]
    assert append_entries([], one) == one
    assert append_entries(one, two) == one + two
    assert append_entries(one + two, one) == one + two
    assert append_entries(one, one + two) == one + two
    other = one[0].model_copy(update={"tier": "another"})
    assert append_entries(one, [other]) == [*one, other]


def test_an_empty_answer_is_not_kept() -> None:
    house = House()
    house.small._answers = [reply("", tool_calls=())]
    house.large._answers = [reply("")]
    for _ in range(2):
        state = house.graph.invoke(asking())
    assert isinstance(state["messages"][-1], AIMessage)
    assert "cache" not in house.nodes
