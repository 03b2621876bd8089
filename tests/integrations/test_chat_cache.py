"""LangChain's model cache before a cascade and before one of its tiers."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.cache.memory import InMemoryCache as GraphCache
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy
from pydantic import PrivateAttr

from cascade import Cascade, MemoryLedger, Price, Tier
from cascade.errors import ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.integrations.chat_cache import AnswerCache
from cascade.ledger import tagged
from cascade.ledger.runs import runs_of
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.policies import ThresholdPolicy
from cascade.report import make_report
from cascade.testing import ScriptedModel, reply

DOWN = ModelUnavailableError("down", model="m", billed=False)
ONCE = DEFAULT_RETRY._replace(max_attempts=1)


class House:
    """A cascade with prices, whose calls can be counted."""

    def __init__(self, probability: float = 0.97, **options: Any) -> None:
        self.small = ScriptedModel(
            lambda _: reply("Sydney", probability=probability, input_tokens=10),
            name="small",
            returns_logprobs=True,
        )
        self.large = ScriptedModel(["Canberra"], name="large")
        self.ledger = MemoryLedger()
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=10, output=10)),
            ledger=self.ledger,
            retry_policy=ONCE,
            **options,
        )

    @property
    def calls(self) -> int:
        return len(self.small.requests) + len(self.large.requests)


@pytest.fixture
def everywhere() -> Iterator[BaseCache]:
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


@pytest.mark.parametrize("probability", [0.97, 0.3], ids=["accepted", "escalated"])
async def test_a_hit_is_an_entry_that_cost_nothing_and_says_what_it_spared(
    probability: float,
) -> None:
    house = House(probability)
    model = house.cascade.as_chat_model(cache=InMemoryCache())
    first = await model.ainvoke("?")
    paid, calls = list(house.ledger.entries), house.calls
    again = await model.ainvoke("?")
    assert (again.text, house.calls) == (first.text, calls)
    (hit,) = house.ledger.entries[len(paid) :]
    cost = sum((entry.cost_usd or Decimal(0) for entry in paid), Decimal(0))
    assert cost > 0
    assert (hit.node, hit.model, hit.tier) == ("cache", None, first.response_metadata["tier"])
    assert hit.cost_usd == hit.saved_usd == hit.baseline_usd == 0
    assert first.response_metadata["run_id"] in hit.note
    assert f"had cost ${cost:f}" in hit.note
    assert hit.run_id not in {entry.run_id for entry in paid}
    assert house.cascade._oversight.recorder._pending == {}


def test_the_cache_of_the_whole_app_is_seen_too(everywhere: BaseCache) -> None:
    del everywhere
    house = House(tags={"app": "support"})
    model = house.cascade.as_chat_model()
    with tagged(user="42"):
        texts = [model.invoke("?").text for _ in range(3)]
    assert texts == ["Sydney"] * 3
    assert [entry.node for entry in house.ledger.entries][-2:] == ["cache", "cache"]


def test_a_model_that_wants_no_cache_uses_none(everywhere: BaseCache) -> None:
    del everywhere
    house = House()
    model = house.cascade.as_chat_model(cache=False)
    for _ in range(2):
        model.invoke("?")
    assert "cache" not in {entry.node for entry in house.ledger.entries}


def test_a_cache_that_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match="set_llm_cache"):
        House().cascade.as_chat_model(cache=True).invoke("?")


async def test_a_rejected_draft_is_returned_once_and_never_kept() -> None:
    """The large model is down: its stopgap must not outlive the outage."""
    house = House(0.3)
    model = house.cascade.as_chat_model(cache=InMemoryCache())
    answers, house.large._answers = house.large._answers, [DOWN]
    stopgap = await model.ainvoke("?")
    assert (stopgap.text, stopgap.response_metadata["degraded"]) == ("Sydney", True)
    house.large._answers = answers
    assert (await model.ainvoke("?")).text == "Canberra"
    calls = house.calls
    assert (await model.ainvoke("?")).text == "Canberra"
    assert house.calls == calls


@pytest.mark.parametrize(
    "other",
    [
        lambda model: model.bind(temperature=0.5),
        lambda model: model.bind(stop=["x"]),
        lambda model: model.bind_tools([{"name": "f", "description": "d", "parameters": {}}]),
        lambda model: model.model_copy(update={"max_tokens": 5}),
        lambda model: House().cascade.as_chat_model(cache=model.cache),
    ],
    ids=["temperature", "stop", "tools", "max_tokens", "another cascade"],
)
def test_an_answer_of_other_settings_tools_or_models_is_not_served(other: Any) -> None:
    house = House()
    model = house.cascade.as_chat_model(cache=InMemoryCache())
    model.invoke("?")
    other(model).invoke("?")
    assert "cache" not in {entry.node for entry in house.ledger.entries}


def test_clearing_it_clears_the_cache_behind_it() -> None:
    house = House()
    model = house.cascade.as_chat_model(cache=InMemoryCache())
    model.invoke("?")
    assert isinstance(model.cache, AnswerCache)
    model.cache.clear()
    calls = house.calls
    model.invoke("?")
    assert house.calls > calls


async def test_hits_are_runs_of_their_own_kind_in_a_file(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        cascade = Cascade(
            ScriptedModel([reply("Sydney", probability=0.97)]),
            ScriptedModel("x"),
            ledger=ledger,
            tags={"app": "support"},
        )
        model = cascade.as_chat_model(cache=InMemoryCache())
        for _ in range(3):
            await model.ainvoke("?")
        stored = [(item.entry, item.tags) async for item in ledger.stored()]
        report = await make_report(ledger)
    assert all(tags == {"app": "support"} for _, tags in stored)
    assert [run.outcome for run in runs_of(stored).values()] == ["accepted", "cached", "cached"]
    assert (report.requests, report.outcomes) == (3, {"accepted": 1, "cached": 2})
    assert "1 accepted, 2 cached" in report.text()


# --- before a tier


class Counted(BaseChatModel):
    """A stranger's chat model that says how often it was really asked."""

    _count: list[int] = PrivateAttr(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "counted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"name": self.name}

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self._count.append(1)
        usage = UsageMetadata(input_tokens=100, output_tokens=10, total_tokens=110)
        message = AIMessage(f"{self.name}: {messages[-1].text}", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


def tiers_behind(cache: BaseCache, **options: Any) -> tuple[Cascade, Counted, Counted]:
    small, large = (Counted(name=name, cache=cache) for name in ("small", "large"))
    cascade = Cascade(
        Tier(small, price=Price(input=1, output=1)),
        Tier(large, price=Price(input=10, output=10)),
        ledger=MemoryLedger(),
        **options,
    )
    return cascade, small, large


@pytest.mark.parametrize("good", [True, False], ids=["accepted", "escalated"])
def test_a_hit_before_a_tier_is_no_call_that_is_paid_for(
    good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that saves: the large model alone, behind such a cache, would have had it too."""
    monkeypatch.setattr(guard, "forbidden", False)
    cascade, small, large = tiers_behind(
        InMemoryCache(), verifier=lambda _q, _a: good, signals=["text"]
    )
    first, again = cascade.invoke("?"), cascade.invoke("?")
    assert (len(small._count), len(large._count)) == (1, 0 if good else 1)
    assert again.answer == first.answer == ("small: ?" if good else "large: ?")
    assert first.ledger.cost_usd
    assert again.ledger.cost_usd == again.ledger.saved_usd == 0
    assert [entry.node for entry in again.ledger] == [entry.node for entry in first.ledger]
    hits = [entry for entry in again.ledger if entry.model]
    assert {entry.note for entry in hits} == {"taken from the cache of its chat model"}
    assert {entry.input_tokens for entry in hits} == {0}


def test_a_draft_from_a_cache_is_not_audited_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit would measure what the large model costs, which a hit has not spared."""
    monkeypatch.setattr(guard, "forbidden", False)
    cascade, _, _ = tiers_behind(
        InMemoryCache(), verifier=lambda _q, _a: True, signals=["text"], audit_rate=1.0
    )
    first, again = cascade.invoke("?"), cascade.invoke("?")
    cascade.close()
    entries: Any = cascade.options["ledger"].entries
    assert {entry.run_id for entry in entries if entry.node == "audit"} == {first.run_id}
    assert sum(entry.saved_usd for entry in entries if entry.run_id == again.run_id) == 0


def test_a_draft_from_a_cache_is_weighed_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asking the large model would cost does not depend on where the draft came from."""
    monkeypatch.setattr(guard, "forbidden", False)
    seen: list[Any] = []

    class Noting(ThresholdPolicy):
        def decide(self, situation: Any) -> Any:
            seen.append(situation.escalation_cost_usd)
            return super().decide(situation)

    cascade, _, _ = tiers_behind(InMemoryCache(), signals=["text"], policy=Noting())
    cascade.invoke("?")
    cascade.invoke("?")
    assert seen[0] == seen[1] > 0


def test_samples_are_never_taken_from_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five times the same cached answer would look like five that agree."""
    monkeypatch.setattr(guard, "forbidden", False)
    cascade, small, _ = tiers_behind(InMemoryCache(), signals=["self_consistency"])
    result = cascade.invoke("?")
    samples = [entry for entry in result.ledger if entry.node == "self_check"]
    assert len(samples) > 1
    assert len(small._count) == 1 + len(samples)


# --- of LangGraph


def node_of(model: Any) -> Any:
    """A graph of the user's, with LangGraph's cache on the node that asks the model."""

    async def ask(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    policy = CachePolicy(key_func=lambda state: str(state["messages"][-1].text))
    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask, cache_policy=policy)
    builder.add_edge(START, "ask")
    return builder.compile(cache=GraphCache())


async def test_langgraphs_cache_on_a_users_node_never_reaches_the_cascade() -> None:
    house = House()
    graph = node_of(house.cascade.as_chat_model())
    texts = []
    for _ in range(2):
        state = await graph.ainvoke({"messages": [("human", "?")]})
        texts.append(state["messages"][-1].text)
    assert texts == ["Sydney"] * 2
    assert [entry.node for entry in house.ledger.entries] == ["draft", "self_check", "verify"]


async def test_langgraphs_cache_keeps_a_stopgap_and_the_models_own_does_not() -> None:
    """Why the documents advise against it."""
    house = House(0.3)
    graph, model = (
        node_of(house.cascade.as_chat_model()),
        house.cascade.as_chat_model(cache=InMemoryCache()),
    )
    answers, house.large._answers = house.large._answers, [DOWN]
    await graph.ainvoke({"messages": [("human", "?")]})
    await model.ainvoke("?")
    house.large._answers = answers
    state = await graph.ainvoke({"messages": [("human", "?")]})
    assert (state["messages"][-1].text, (await model.ainvoke("?")).text) == ("Sydney", "Canberra")
