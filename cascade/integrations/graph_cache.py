"""LangGraph's node cache, where a node of the graph is a cascade.

LangGraph skips a node that is in its cache and writes again what the node wrote. Of a cascade that
would be its earlier run, with what that had cost, and the whole conversation in which it was asked;
and a draft that was returned because the large model could not be had would be kept for good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.types import CachePolicy

from cascade.agents.border import LOCAL_ONLY
from cascade.agents.entries import cache_entry
from cascade.agents.recall import key_of
from cascade.agents.steps import STEP, is_for_once
from cascade.api import Cascade
from cascade.caching import identity
from cascade.errors import ConfigurationError
from cascade.ledger import LedgerView
from cascade.ledger.tags import NO_TAGS, current_tags, tagged
from cascade.observing import CACHED
from cascade.state import LedgerEntry, Run

MADE_BY = "made_by"
"""Channel that is added to what is kept: the run that made the answer, and what it had cost."""

Writes = Sequence[tuple[str, Any]]


class GraphCache(BaseCache[Any]):
    """Stands before the cache of a graph in which a node is a cascade's graph.

        cache = GraphCache(InMemoryCache(), cascade)
        builder.add_node("cascade", cascade.graph, cache_policy=cache.policy(ttl=3600))
        graph = builder.compile(cache=cache)

    Of that node only answers are kept, and no stopgap; a hit adds the answer to the conversation
    and an entry that costs nothing to the ledger. Other nodes' writes pass unchanged.

    Args:
        store: the cache behind it.
        cascade: whose graph the node is.
        nodes: names of the nodes.

    Raises:
        ConfigurationError: the store is no cache of LangGraph's, or the cascade has a rule for what
            must not leave this machine, which LangGraph's caches do not ask.
    """

    def __init__(
        self, store: BaseCache[Any], cascade: Cascade, nodes: Collection[str] = ("cascade",)
    ) -> None:
        if not isinstance(store, BaseCache):
            raise ConfigurationError(
                f"GraphCache({store!r}): give a cache of LangGraph's, such as InMemoryCache()."
            )
        super().__init__(serde=store.serde)
        self._store = store
        self._nodes = frozenset(nodes)
        given = cascade.options
        if given["private"] is not None or given["local_only"]:
            raise ConfigurationError(
                "GraphCache: LangGraph looks into its cache before the cascade can say that a "
                "question has to stay on this machine. Give the cascade a cache of its own, "
                "Cascade(cache=…), which asks first."
            )
        self._identity = identity(
            given, cascade.tiers, cascade.policy, cascade.task, cascade.signals, cascade.calibration
        )
        self._recorder = cascade._oversight.recorder  # noqa: SLF001 - of the same house
        self._tags: Mapping[str, str] = given["tags"] or NO_TAGS

    def policy(self, ttl: int | None = None) -> CachePolicy[Any]:
        """The policy for a node: two questions are one if their conversations say the same.

        Args:
            ttl: seconds for which an answer is kept; None for good.
        """
        return CachePolicy(key_func=self._key, ttl=ttl)

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """What is kept; the ledger entries of hits are with the recorder."""
        return self._served(self._store.get(keys))

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """`get` without holding up the event loop."""
        return self._served(await self._store.aget(keys))

    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """Keep answers that the cascade stands for."""
        kept = self._kept(pairs)
        if kept:
            self._store.set(kept)

    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        """`set` without holding up the event loop."""
        kept = self._kept(pairs)
        if kept:
            await self._store.aset(kept)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Empty the cache behind this one."""
        self._store.clear(namespaces)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """`clear` without holding up the event loop."""
        await self._store.aclear(namespaces)

    def _key(self, state: Any) -> str:
        messages = state["messages"] if isinstance(state, Mapping) else state.messages
        return key_of(self._identity, messages)

    def _is_ours(self, key: FullKey) -> bool:
        return key[0][-1] in self._nodes

    def _kept(
        self, pairs: Mapping[FullKey, tuple[Any, int | None]]
    ) -> dict[FullKey, tuple[Any, int | None]]:
        kept = {}
        for key, (writes, ttl) in pairs.items():
            found = _keepable(writes) if self._is_ours(key) else writes
            if found is not None:
                kept[key] = (found, ttl)
        return kept

    def _served(self, found: Mapping[FullKey, Any]) -> dict[FullKey, Any]:
        served = {}
        for key, writes in found.items():
            if not self._is_ours(key):
                served[key] = writes
            elif any(channel == MADE_BY for channel, _ in writes):  # else it is not of this class
                served[key] = self._hit(writes)
        return served

    def _hit(self, writes: Writes) -> list[tuple[str, Any]]:
        values = dict(writes)
        run_id, cost = values.pop(MADE_BY)
        tier = values["messages"][0].response_metadata.get("tier")
        with tagged(**{**self._tags, **current_tags()}):
            entry = self._recorder.record(
                cache_entry(uuid4().hex, tier, run_id, None if cost is None else Decimal(cost))
            )
        self._recorder.take(entry.run_id)  # it goes into the state below, where there is a ledger
        served: list[tuple[str, Any]] = []
        for channel, value in writes:
            if channel == "ledger":
                served.append((channel, [entry]))
            elif isinstance(value, Run):
                served.append((channel, replace(value, id=entry.run_id)))
            elif channel != MADE_BY:
                served.append((channel, value))
        return served


def _keepable(writes: Writes) -> list[tuple[str, Any]] | None:
    """The writes of a cascade with nothing but its answer; None where that must not be kept."""
    values = dict(writes)
    messages: list[BaseMessage] = values.get("messages") or []
    answer = messages[-1] if messages else None
    if not isinstance(answer, AIMessage) or not (answer.tool_calls or str(answer.text).strip()):
        return None
    told = answer.response_metadata
    step = told.get(STEP) or {}
    if step.get("degraded") or values.get("degraded") or told.get("tier") == "person":
        return None
    if CACHED in told or LOCAL_ONLY in told or is_for_once(told):
        return None
    run: Run | None = values.get("run")
    entries: list[LedgerEntry] = values.get("ledger") or []
    cost = LedgerView(e for e in entries if run is not None and e.run_id == run.id).cost_usd
    made_by = (run.id, str(cost)) if run is not None and cost is not None else (None, None)
    metadata = {key: value for key, value in told.items() if key != STEP}
    copy = answer.model_copy(update={"id": None, "response_metadata": metadata})
    kept: list[tuple[str, Any]] = [(MADE_BY, made_by)]
    for channel, value in writes:
        if channel == "messages":
            kept.append((channel, [copy]))
        else:
            kept.append((channel, [] if channel == "ledger" else value))
    return kept
