"""Cache: the answer of an earlier run to the same question, under the same set-up."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache as once
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from pydantic import BaseModel, TypeAdapter, ValidationError

from cascade._numbers import to_count
from cascade.errors import ConfigurationError
from cascade.middleware.base import PATIENCE_S, CascadeMiddleware, Slot
from cascade.policies.base import Situation
from cascade.run import Answer, CascadeRuntime, Kernel, Run
from cascade.state import Assessment, Completion, Decision

if TYPE_CHECKING:
    from langgraph.cache.base import BaseCache, FullKey

logger = logging.getLogger("cascade")

NAMESPACE = ("cascade", "answers")
"""Place of answers in a cache: `cache.clear([NAMESPACE])` forgets them, and nothing else."""

_NOT_DECIDING = frozenset({"tags", "deadline", "timeout_s", "local_only", "of"})
"""Settings on which an answer that is kept does not depend."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer in a cache."""

    run_id: str
    completion: Completion
    decision: Decision
    source: str


class Cache(CascadeMiddleware):
    """Cache of answers, for the same conversation with the same settings.

    What an answer depends on besides is a part of its key: tiers, policy, signals, calibration,
    verifier, router, and middleware that changes calls or decisions. Functions count by their code
    and the plain values that they hold on to. Not kept are answers that hold for one run alone
    (degraded, `Decision.once`, a person's), none at all, and those of another cache; a kept draft
    is given only while the stack would still accept it.

    Args:
        cache: `InMemoryCache`, `SqliteCache` or `RedisCache` of LangGraph, or your own.
        ttl_s: seconds for which an answer is kept; None for good.
        local: whether it may keep conversations that must stay on this machine. None: only where it
            is the memory of this process.

    Raises:
        ConfigurationError: it is no cache of LangGraph's, or the time no whole number above 0.
    """

    slot = Slot.ANSWERS

    def __init__(
        self,
        cache: BaseCache[Any],
        ttl_s: int | None = None,
        *,
        local: bool | None = None,
        name: str = "cache",
    ) -> None:
        from langgraph.cache.base import BaseCache  # noqa: PLC0415 - LangGraph takes a second
        from langgraph.cache.memory import InMemoryCache  # noqa: PLC0415

        if not isinstance(cache, BaseCache):
            raise ConfigurationError(
                f"Cache({cache!r}): give langgraph.cache.memory.InMemoryCache() or another "
                "langgraph.cache.base.BaseCache."
            )
        self.name = name
        self.ttl_s = None if ttl_s is None else to_count("Cache.ttl_s", ttl_s)
        self.local = isinstance(cache, InMemoryCache) if local is None else local
        self._cache = cache
        self._identities: WeakKeyDictionary[Kernel, str] = WeakKeyDictionary()

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """The answer of an earlier run, if there is one."""
        if not self._may_hold(run):
            return None
        kernel, key = runtime.kernel, self._key(run, runtime.kernel)
        kept = await self._get(key)
        if kept is None or not _stands(kept, run, kernel):
            return None
        reason = f"{kept.decision.reason}; the answer of run {kept.run_id} from the cache"
        decision = kept.decision.model_copy(update={"reason": reason})
        return Answer(replace(kept.completion, cached=True), decision, kept.source)

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Keep an answer that may be given again."""
        decision, completion, kernel = answer.decision, answer.completion, runtime.kernel
        if not self._may_hold(run) or decision is None or completion is None:
            return
        from_model = answer.source in [tier.name for tier in kernel.tiers]
        whole = completion.finish_reason != "stopped" and not completion.cached
        empty = not (completion.text.strip() or completion.tool_calls)
        if not (from_model and whole) or answer.degraded or decision.once or empty:
            return
        if run.settings.get("top_logprobs") is None:
            completion = replace(completion, logprobs=None, call_logprobs=None)
        # What came from a cache is audited no more.
        decision = decision.model_copy(update={"audit_rate": None})
        kept = Kept(run.id, completion, decision, answer.source)
        value = (_adapter().dump_python(kept, mode="json"), self.ttl_s)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._cache.aset({self._key(run, kernel): value})
        except Exception as error:  # noqa: BLE001 - the answer is paid for, and must arrive
            logger.warning("the cache did not take an answer: %r", error)

    def _may_hold(self, run: Run) -> bool:
        return run.kind == "answer" and (self.local or not run.settings.get("local_only"))

    async def _get(self, key: FullKey) -> Kept | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await self._cache.aget([key])
            return _adapter().validate_python(found[key]) if key in found else None
        except ValidationError as error:
            logger.warning("an answer in the cache cannot be read: %d errors", error.error_count())
        except Exception as error:  # noqa: BLE001 - without a cache the question can be asked
            logger.warning("the cache cannot be read: %r", error)
        return None

    def _key(self, run: Run, kernel: Kernel) -> FullKey:
        if kernel not in self._identities:
            self._identities[kernel] = identity(kernel)
        settings = {k: v for k, v in run.settings.items() if k not in _NOT_DECIDING}
        said = [_said(message) for message in run.messages]
        text = json.dumps([self._identities[kernel], settings, said], sort_keys=True, default=str)
        return NAMESPACE, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@once
def _adapter() -> TypeAdapter[Kept]:
    return TypeAdapter(Kept)


def _stands(kept: Kept, run: Run, kernel: Kernel) -> bool:
    """True if the stack would decide about a kept answer as it did: it may be stricter now."""
    decided = kept.decision
    seen = Assessment(
        signals=decided.signals or {}, confidence=decided.confidence, calibrated=decided.calibrated
    )
    called, last = kept.completion.called, kept.source == kernel.tiers[-1].name
    situation = Situation(seen, called=called, last=last)
    return kernel.decide(run, situation, lambda _: decided).action == decided.action


def _said(message: BaseMessage) -> list[Any]:
    """The part of a message that a model sees: no ids, no metadata."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    answers = message.tool_call_id if isinstance(message, ToolMessage) else None
    return [message.type, message.content, message.name, calls, answers]


def identity(kernel: Kernel) -> str:
    """Identity of all that answers depend on besides the question, the same in every process."""
    parts = kernel.parts
    asked = [
        (tier.name, tier.model.name, tier.settings.base_url, tier.settings.options)
        for tier in kernel.tiers
    ]
    limits = [(tier.max_tokens, tier.settings.temperature) for tier in kernel.tiers]
    signals = [(signal.name, signal.wording) for signal in parts.signals]
    changing = [
        (type(one).__qualname__, {k: v for k, v in vars(one).items() if not k.startswith("_")})
        for one in sorted(parts.middleware, key=lambda one: str(one.name))
        if _changes(one)
    ]
    held = [asked, limits, signals, parts.policy, parts.calibrators, parts.judge, parts.route]
    text = json.dumps(_content([*held, changing]), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _changes(one: CascadeMiddleware) -> bool:
    hooks = ("wrap_model_call", "wrap_decision")
    return any(getattr(type(one), hook) is not getattr(CascadeMiddleware, hook) for hook in hooks)


def _content(value: Any) -> Any:
    """A value as JSON: of records the fields, of functions what they do and hold. Two lambdas of
    one module have the same name, and other code."""
    found: Any
    match value:
        case None | bool() | int() | float() | str():
            found = value
        case BaseModel():
            found = [type(value).__qualname__, value.model_dump_json()]
        case Mapping():
            found = {str(key): _content(each) for key, each in value.items()}
        case list() | tuple():
            found = [_content(each) for each in value]
        case set() | frozenset():
            found = sorted(map(repr, value))
        case bytes() | complex():
            found = repr(value)
        case CodeType():
            found = _content([value.co_code, value.co_names, value.co_consts])
        case partial():
            found = _content([value.func, value.args, value.keywords])
        case MethodType():
            found = _content([value.__func__, value.__self__])
        case FunctionType():
            cells = [c.cell_contents for c in value.__closure__ or () if c != CellType()]
            held = [_plain(each) for each in (*(value.__defaults__ or ()), *cells)]
            found = [f"{value.__module__}.{value.__qualname__}", _content(value.__code__), held]
        case _ if is_dataclass(value) and not isinstance(value, type):
            named = {each.name: getattr(value, each.name) for each in fields(value)}
            found = [type(value).__qualname__, _content(named)]
        case _:
            found = _named(value)
    return found


def _named(value: Any) -> Any:
    """The name of a class or function; of another object its type and what is plain in it."""
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    held = {k: _plain(v) for k, v in getattr(value, "__dict__", {}).items() if k[0] != "_"}
    return [_named(type(value)), held]


def _plain(value: Any) -> Any:
    """A plain value, or its type: what a function holds may lead back to it."""
    return value if isinstance(value, bool | int | float | str) else type(value).__name__
