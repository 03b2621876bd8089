"""Row 17: a cache of answers, over any cache of LangGraph's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.sqlite import SqliteCache

from cascade import Cascade, CascadeResult, MemoryLedger
from cascade.middleware import Cache
from tests.acceptance.setups import CHEAP, WAYS, ask, entries_of, pair, tries
from tests.acceptance.upstream import Upstream, failure

QUESTION = "What is the capital of Australia?"


def nodes(result: Any) -> list[str]:
    assert isinstance(result, CascadeResult)
    return [entry.node for entry in entries_of(result)]


@pytest.mark.parametrize(("p", "tier"), [(0.95, "small"), (0.3, "large")])
def test_a_question_that_was_answered_is_answered_without_a_model_for_nothing(
    upstream: Upstream, p: float, tier: str
) -> None:
    with pair(upstream, p, Cache(InMemoryCache())) as cascade:
        first = cascade.invoke(QUESTION)
        asked = len(upstream.seen)
        second = cascade.invoke({"messages": [{"role": "user", "content": QUESTION}]})
    assert (second.answer, second.tier, nodes(second)) == (first.answer, tier, ["cache"])
    assert (second.ledger.cost_usd, second.ledger.saved_usd) == (0, 0)
    assert second.run_id != first.run_id
    assert len(upstream.seen) == asked


@pytest.mark.parametrize(
    "another",
    [
        "What is the capital of Austria?",
        [("system", "Be short."), ("human", QUESTION)],
        [("human", "Hi"), ("ai", "Hello"), ("human", QUESTION)],
    ],
)
def test_another_question_is_asked(upstream: Upstream, another: Any) -> None:
    with pair(upstream, 0.95, Cache(InMemoryCache())) as cascade:
        cascade.invoke(QUESTION)
        cascade.invoke(another)
    assert len(upstream.seen) == 2


@pytest.mark.parametrize(
    "other", [{"threshold": 0.99}, {"signals": ["p_true"]}, {"model": "another"}, {"heat": 1.0}]
)
def test_no_cascade_gets_the_answer_of_another_that_is_set_up_differently(
    upstream: Upstream, other: dict[str, Any]
) -> None:
    cache: InMemoryCache[Any] = InMemoryCache()
    pair(upstream, 0.95, Cache(cache)).invoke(QUESTION)
    name, heat = other.pop("model", "small"), other.pop("heat", None)
    small = upstream.tier(name, price=CHEAP, temperature=heat)
    cascade = Cascade(small, upstream.tier("large"), middleware=[Cache(cache)], **other)
    assert "cache" not in nodes(cascade.invoke(QUESTION))


def test_a_stopgap_is_not_kept(upstream: Upstream) -> None:
    with pair(upstream, 0.3, Cache(InMemoryCache()), tries(1)) as cascade:
        upstream.next("large", failure(503))
        assert cascade.invoke(QUESTION).degraded
        assert cascade.invoke(QUESTION).answer == f"large: {QUESTION}"


def test_a_cache_on_a_disk_outlives_the_cascade(upstream: Upstream, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        cache = Cache(SqliteCache(path=str(tmp_path / "answers.db")))
        with pair(upstream, 0.95, cache) as cascade:
            found.append(nodes(cascade.invoke(QUESTION)))
    assert found == [["draft", "self_check", "verify"], ["cache"]]


class Broken(InMemoryCache[Any]):
    """A cache whose server is away."""

    async def aget(self, keys: Any) -> Any:
        raise ConnectionError

    async def aset(self, pairs: Any) -> None:
        raise ConnectionError

    get = aget
    set = aset


def test_a_cache_that_fails_costs_a_call_and_no_answer(upstream: Upstream) -> None:
    with pair(upstream, 0.95, Cache(Broken())) as cascade:
        assert {cascade.invoke(QUESTION).answer for _ in range(2)} == {f"small: {QUESTION}"}
    assert len(upstream.seen) == 2


async def test_each_way_of_asking_hits_it_and_no_hit_is_audited(upstream: Upstream) -> None:
    cache, ledger = Cache(InMemoryCache()), MemoryLedger()
    async with pair(upstream, 0.95, cache, audit_rate=1.0, ledger=ledger) as cascade:
        for how in WAYS:
            assert await ask(cascade, how, QUESTION) == f"small: {QUESTION}"
            assert nodes(await cascade.ainvoke(QUESTION)) == ["cache"]
    assert sorted(upstream.models()) == ["large", "small"]  # the draft, and its audit
