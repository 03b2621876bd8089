"""Row 17: a cache of answers, over any cache of LangGraph's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.sqlite import SqliteCache

from cascade import Cascade, CascadeResult, MemoryLedger, Price, Token
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Upstream, failure

PRICE = Price(input=1, output=1)
QUESTION = "What is the capital of Australia?"


def pair(upstream: Upstream, cache: Any, p: float = 0.95, **options: Any) -> Cascade:
    upstream.says("small", Answer("Canberra", p=p))
    upstream.says("large", "It is Canberra")
    small, large = (upstream.tier(name, price=PRICE) for name in ("small", "large"))
    return edition.cascade(small, large, cache=cache, **options)


def nodes(result: CascadeResult) -> list[str]:
    return [entry.node for entry in edition.entries_of(result)]


@pytest.mark.parametrize(("p", "tier"), [(0.95, "small"), (0.3, "large")])
def test_a_question_that_was_answered_is_answered_without_a_model(
    upstream: Upstream, p: float, tier: str
) -> None:
    with pair(upstream, InMemoryCache(), p) as cascade:
        first, second = cascade.invoke(QUESTION), cascade.invoke(QUESTION)
    assert (second.answer, second.tier) == (first.answer, tier)
    assert second.run_id != first.run_id
    assert nodes(second) == ["cache"]
    assert len(upstream.seen) == (1 if tier == "small" else 2)


def test_a_hit_is_a_run_that_costs_and_saves_nothing(upstream: Upstream) -> None:
    with pair(upstream, InMemoryCache()) as cascade:
        cascade.invoke(QUESTION)
        ledger = cascade.invoke(QUESTION).ledger
    assert (ledger.cost_usd, ledger.saved_usd) == (0, 0)


@pytest.mark.parametrize(
    "another",
    [
        "What is the capital of Austria?",
        [("system", "Be short."), ("human", QUESTION)],
        [("human", "Hi"), ("ai", "Hello"), ("human", QUESTION)],
    ],
)
def test_another_question_is_asked(upstream: Upstream, another: Any) -> None:
    with pair(upstream, InMemoryCache()) as cascade:
        cascade.invoke(QUESTION)
        cascade.invoke(another)
    assert len(upstream.seen) == 2


def test_the_same_messages_with_other_ids_are_the_same_question(upstream: Upstream) -> None:
    with pair(upstream, InMemoryCache()) as cascade:
        cascade.invoke({"messages": [{"role": "user", "content": QUESTION}]})
        assert nodes(cascade.invoke(QUESTION)) == ["cache"]


@pytest.mark.parametrize(
    "other",
    [
        {"threshold": 0.99},
        {"signals": ["p_true"]},
        {"tiers": ("another", "large")},
        {"tiers": ("small", "large"), "temperature": 1.0},
    ],
)
def test_no_cascade_gets_the_answer_of_another_that_is_set_up_differently(
    upstream: Upstream, other: dict[str, Any]
) -> None:
    cache = InMemoryCache()
    with pair(upstream, cache) as cascade:
        cascade.invoke(QUESTION)
    if "tiers" in other:
        names, heat = other.pop("tiers"), other.pop("temperature", None)
        tiers = [upstream.tier(name, price=PRICE, temperature=heat) for name in names]
        made = edition.cascade(*tiers, cache=cache)
    else:
        made = pair(upstream, cache, **other)
    asked = len(upstream.seen)
    with made:
        assert "cache" not in nodes(made.invoke(QUESTION))
    assert len(upstream.seen) > asked


def test_a_stopgap_is_not_kept(upstream: Upstream) -> None:
    with pair(upstream, InMemoryCache(), 0.3, retries=1) as cascade:
        upstream.next("large", failure(503))
        assert cascade.invoke(QUESTION).degraded
        assert cascade.invoke(QUESTION).answer == "It is Canberra"


def test_a_failed_run_is_not_kept(upstream: Upstream) -> None:
    upstream.next("only", failure(400))
    tiers = [upstream.tier("only")]
    with edition.cascade(tiers=tiers, cache=InMemoryCache(), retries=1) as cascade:
        with pytest.raises(Exception, match="only"):
            cascade.invoke(QUESTION)
        assert cascade.invoke(QUESTION).answer == f"only: {QUESTION}"


def test_an_answer_is_kept_for_a_time(upstream: Upstream) -> None:
    with pair(upstream, InMemoryCache(), cache_ttl_s=1) as cascade:
        cascade.invoke(QUESTION)
        end = time.monotonic() + 30
        while len(upstream.seen) == 1:
            assert time.monotonic() < end
            time.sleep(0.1)
            cascade.invoke(QUESTION)


def test_a_cache_on_a_disk_outlives_the_cascade(upstream: Upstream, tmp_path: Path) -> None:
    path = str(tmp_path / "answers.db")
    for found in (["draft", "self_check", "verify"], ["cache"]):
        with pair(upstream, SqliteCache(path=path)) as cascade:
            assert nodes(cascade.invoke(QUESTION)) == found


class Broken(BaseCache[Any]):
    """A cache whose server is away."""

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        raise ConnectionError

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        raise ConnectionError

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        raise ConnectionError

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        raise ConnectionError

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        raise ConnectionError

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        raise ConnectionError


def test_a_cache_that_fails_costs_a_call_and_no_answer(upstream: Upstream) -> None:
    with pair(upstream, Broken()) as cascade:
        assert [cascade.invoke(QUESTION).answer for _ in range(2)] == ["Canberra", "Canberra"]
    assert len(upstream.seen) == 2


# --- whichever way it is asked


def test_a_hit_is_streamed(upstream: Upstream) -> None:
    with pair(upstream, InMemoryCache()) as cascade:
        cascade.invoke(QUESTION)
        events = list(cascade.stream(QUESTION))
    assert "".join(e.text for e in events if isinstance(e, Token)) == "Canberra"
    assert nodes(events[-1]) == ["cache"]  # type: ignore[arg-type]


def test_a_batch_and_the_chat_model_hit_it_too(upstream: Upstream) -> None:
    with pair(upstream, InMemoryCache()) as cascade:
        cascade.invoke(QUESTION)
        assert nodes(cascade.batch([QUESTION])[0]) == ["cache"]
        assert cascade.as_chat_model().invoke(QUESTION).text == "Canberra"
    assert len(upstream.seen) == 1


async def test_the_graph_hits_it_too(upstream: Upstream) -> None:
    async with pair(upstream, InMemoryCache()) as cascade:
        await cascade.ainvoke(QUESTION)
        state = await cascade.graph.ainvoke({"messages": [("human", QUESTION)]})
    assert state["messages"][-1].text == "Canberra"
    assert len(upstream.seen) == 1


def test_a_hit_is_not_audited(upstream: Upstream) -> None:
    options: dict[str, Any] = {"audit_rate": 1.0, "ledger": MemoryLedger()}
    with pair(upstream, InMemoryCache(), **options) as cascade:
        for _ in range(3):
            cascade.invoke(QUESTION)
    assert len(upstream.asked("large")) == 1
