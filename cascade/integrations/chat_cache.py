"""LangChain's model cache in front of a cascade.

A hit is an entry of the ledger, and only answers that the cascade stands for are kept: a draft that
was rejected and returned because the large model could not be had is asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import uuid4

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.outputs import ChatGeneration, Generation

from cascade.agents.entries import cache_entry
from cascade.agents.steps import is_for_once
from cascade.api import Cascade
from cascade.ledger import Recorder
from cascade.ledger.tags import NO_TAGS, current_tags, tagged
from cascade.state import LedgerEntry

Given = BaseCache | bool | None
"""What a chat model takes as its `cache`: None means LangChain's global one, if there is any."""


class AnswerCache(BaseCache):
    """Stands before the cache of a chat model that is a cascade.

    Args:
        given: that cache, as LangChain takes it.
        recorder: gets the hits.
        tags: of their entries.
    """

    def __init__(self, given: Given, recorder: Recorder, tags: Mapping[str, str] = NO_TAGS) -> None:
        self.given = given
        self._recorder = recorder
        self._tags = tags

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """The answer that is kept; its ledger entry is with the recorder."""
        cache = self._cache()
        return None if cache is None else self._hit(cache.lookup(prompt, llm_string))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """`lookup` without holding up the event loop."""
        cache = self._cache()
        return None if cache is None else self._hit(await cache.alookup(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep an answer that the cascade stands for."""
        cache = self._cache()
        if cache is not None and _stands(return_val):
            cache.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """`update` without holding up the event loop."""
        cache = self._cache()
        if cache is not None and _stands(return_val):
            await cache.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        """Empty the cache behind this one."""
        cache = self._cache()
        if cache is not None:
            cache.clear(**kwargs)

    def _cache(self) -> BaseCache | None:
        if isinstance(self.given, BaseCache):
            return self.given
        cache = get_llm_cache()
        if cache is None and self.given:
            raise ValueError("cache=True, and there is none: call set_llm_cache(…) first.")
        return cache

    def _hit(self, found: RETURN_VAL_TYPE | None) -> RETURN_VAL_TYPE | None:
        if not isinstance(found, list):
            return None
        with tagged(**{**self._tags, **current_tags()}):
            entry = self._recorder.record(_entry(_metadata(found)))
        self._recorder.take(entry.run_id)  # there is no state of a graph that it could be in
        return found


def answer_cache(given: Given, cascade: Cascade) -> AnswerCache | bool:
    """The cache of a chat model that is this cascade; False where it wants none."""
    if given is False:
        return False
    recorder = cascade._oversight.recorder  # noqa: SLF001 - of the same house
    before = given.given if isinstance(given, AnswerCache) else given
    return AnswerCache(before, recorder, cascade.options["tags"] or NO_TAGS)


def _stands(answers: Any) -> bool:
    """Whether these are answers and no stopgap."""
    metadata = _metadata(answers)
    return not (metadata.get("degraded") or metadata.get("abstained") or is_for_once(metadata))


def _metadata(answers: Any) -> dict[str, Any]:
    first: Generation = answers[0]
    return first.message.response_metadata if isinstance(first, ChatGeneration) else {}


def _entry(answered: dict[str, Any]) -> LedgerEntry:
    """The entry of a hit, with what the metadata of the answer says of its run."""
    cost = answered.get("cost_usd")
    cost_usd = None if cost is None else Decimal(str(cost))
    return cache_entry(uuid4().hex, answered.get("tier"), answered.get("run_id"), cost_usd)
