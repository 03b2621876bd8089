"""Answers that were given before: the same question is not asked of a model again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Annotated, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)
from langgraph.cache.base import BaseCache, FullKey
from langgraph.cache.memory import InMemoryCache
from langgraph.types import Command
from pydantic import BeforeValidator, PlainSerializer, ValidationError

from cascade.agents.base import AgentRuntime, finished
from cascade.agents.border import LOCAL_ONLY, mark
from cascade.agents.entries import cache_entry
from cascade.agents.showing import shows_answers, wants_details, words
from cascade.agents.steps import STEP
from cascade.errors import ConfigurationError
from cascade.events import Token
from cascade.ledger import LedgerView, Recorder
from cascade.ledger.runs import CACHE
from cascade.observing import CACHED
from cascade.state import Assessment, Decision, Record, Run, TokenLogprob

logger = logging.getLogger("cascade")

NAMESPACE = ("cascade", "answers")
"""Where answers are in a cache: `store.clear([NAMESPACE])` forgets them, and nothing else."""


PATIENCE_S = 2.0
"""A cache that takes longer than this has failed: nobody may wait for it in vain."""

_OF_ITS_RUN = frozenset({LOCAL_ONLY, STEP, "logprobs", "thinking"})
"""Keys of an answer's `response_metadata` that say how it came about, or only to who asked."""


@dataclass(frozen=True, slots=True)
class Caching:
    """A cache of answers.

    Args:
        store: a cache of LangGraph's: `InMemoryCache`, `SqliteCache`, `RedisCache` or your own.
        ttl_s: seconds for which an answer is kept; None for good.
        local: whether answers to questions that have to stay on this machine may be kept there.
            None: only where it is the memory of this process.

    Raises:
        ConfigurationError: the store is none of LangGraph's, or the time not a whole number
            above 0.
    """

    store: BaseCache[Any]
    ttl_s: int | None = None
    local: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.store, BaseCache):
            raise ConfigurationError(
                f"cache={self.store!r} is no cache of LangGraph's: give "
                "langgraph.cache.memory.InMemoryCache() or another langgraph.cache.base.BaseCache. "
                "LangChain's model caches go to as_chat_model(cache=…)."
            )
        seconds = self.ttl_s
        if seconds is not None and (type(seconds) is not int or seconds < 1):
            raise ConfigurationError(
                f"Caching(ttl_s={seconds!r}): a whole number of seconds above 0."
            )

    @property
    def keeps_private(self) -> bool:
        """Whether it may hold answers that have to stay on this machine."""
        return isinstance(self.store, InMemoryCache) if self.local is None else self.local


@dataclass(frozen=True, slots=True)
class Details:
    """What an answer has besides its text."""

    logprobs: tuple[TokenLogprob, ...] | None
    thinking: str | None


def _written(message: AIMessage) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(message_to_dict(message), default=str))
    return written


def _read(written: AIMessage | dict[str, Any]) -> BaseMessage:
    if isinstance(written, AIMessage):
        return written
    try:
        return messages_from_dict([written])[0]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no message: {error!r}") from error


class Kept(Record):
    """An answer as it is in a cache, in JSON.

    Attributes:
        run_id: of the run that made it.
        tier: index of the tier that answered.
        message: the answer, without an id; in LangChain's form where it is JSON.
        cost_usd: what the run cost, None where unknown.
        details: where its run wanted them.
    """

    run_id: str
    tier: int
    message: Annotated[AIMessage, BeforeValidator(_read), PlainSerializer(_written)]
    decision: Decision
    assessment: Assessment | None
    cost_usd: Decimal | None
    details: Details | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    """Finds the answer of an earlier run, and keeps answers that the cascade stands for.

    Args:
        caching: where, and for how long.
        identity: models, task, policy and whatever else an answer depends on besides the
            conversation.
        last: index of the last tier.
        recorder: of the ledger.
        careful: whether an alarm casts doubt on drafts that were accepted before it.
    """

    caching: Caching
    identity: str
    last: int
    recorder: Recorder
    careful: Callable[[], bool] = field(default=lambda: False)

    async def find(
        self, run: Run, messages: Sequence[BaseMessage], runtime: AgentRuntime
    ) -> Command[str] | None:
        """The end of a run whose question was answered before; None where it was not.

        Args:
            run: which has just begun.
            messages: the conversation, its last message being the question.
            runtime: to whose stream the answer is written.
        """
        if not self._may_hold(run):
            return None
        kept = await self._get(self._key(messages))
        if kept is None or (kept.tier != self.last and self.careful()):
            return None
        details = kept.details if wants_details() else None
        if wants_details() and details is None:
            return None
        message = kept.message.model_copy(deep=True)
        message.response_metadata |= {CACHED: kept.run_id, **mark(run)}
        if details is not None:
            told = {"logprobs": details.logprobs, "thinking": details.thinking}
            message.response_metadata |= told
        tier = message.response_metadata.get("tier")
        self.recorder.record(cache_entry(run.id, tier, kept.run_id, kept.cost_usd))
        if shows_answers():
            for word in words(str(message.text)):
                runtime.stream_writer(Token(word, str(tier)))
        reason = f"{kept.decision.reason}; the answer of run {kept.run_id} from the cache"
        update = {
            "run": finished(replace(run, tier=kept.tier)),
            "messages": [message],
            "draft": None,
            "assessment": kept.assessment,
            "decision": kept.decision.model_copy(update={"reason": reason}),
            "degraded": False,
            "ledger": self.recorder.take(run.id),
        }
        return Command(goto="__end__", update=update)

    async def keep(self, asked: Sequence[BaseMessage], ended: Mapping[str, Any]) -> None:
        """Keep the answer of a finished run, if the cascade stands for it.

        Args:
            asked: the conversation, its last message being the question.
            ended: the state in which the run ended.
        """
        run: Run = ended["run"]
        answer = ended["messages"][-1]
        if not stands(ended) or not self._may_hold(run):
            return
        told = answer.response_metadata
        metadata = {key: value for key, value in told.items() if key not in _OF_ITS_RUN}
        copy = answer.model_copy(update={"id": None, "response_metadata": metadata})
        kept = Kept(
            run_id=run.id,
            tier=run.tier,
            message=copy,
            decision=ended["decision"],
            assessment=ended.get("assessment"),
            cost_usd=LedgerView(e for e in ended["ledger"] if e.run_id == run.id).cost_usd,
            details=Details(told["logprobs"], told["thinking"]) if "logprobs" in told else None,
        )
        value = (kept.model_dump(mode="json"), self.caching.ttl_s)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.caching.store.aset({self._key(asked): value})
        except Exception as error:  # noqa: BLE001 - the answer is paid for, and must arrive
            logger.warning("the cache did not take an answer: %r", error)

    def _may_hold(self, run: Run) -> bool:
        return run.local_only is None or self.caching.keeps_private

    async def _get(self, key: FullKey) -> Kept | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await self.caching.store.aget([key])
            return Kept.model_validate(found[key]) if key in found else None
        except ValidationError as error:
            logger.warning("an answer in the cache cannot be read: %s", error)
        except Exception as error:  # noqa: BLE001 - without a cache the question can be asked
            logger.warning("the cache cannot be read: %r", error)
        return None

    def _key(self, messages: Sequence[BaseMessage]) -> FullKey:
        return NAMESPACE, key_of(self.identity, messages)


def key_of(identity: str, messages: Sequence[BaseMessage]) -> str:
    """The key of an answer: who was asked, and all that was said."""
    text = json.dumps([identity, [_said(m) for m in messages]], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def stands(ended: Mapping[str, Any]) -> bool:
    """Whether a run ended with an answer of a model that may be given again.

    Not: a stopgap, also for want of time, none at all, an empty one, a person's word about one
    case, what a shadow run measures, or what came from a cache.
    """
    answer, run = ended["messages"][-1], ended["run"]
    if not isinstance(answer, AIMessage) or ended.get("degraded") or run.shadow:
        return False
    if ended["decision"].action not in ("accept", "escalate") or ended["decision"].once:
        return False
    nodes = {entry.node for entry in ended["ledger"] if entry.run_id == run.id}
    return not nodes & {CACHE, "ask"} and bool(answer.tool_calls or str(answer.text).strip())


def _said(message: BaseMessage) -> list[Any]:
    """What a model gets to see of a message: no ids, no metadata."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    answers = message.tool_call_id if isinstance(message, ToolMessage) else None
    return [message.type, message.content, message.name, calls, answers]
