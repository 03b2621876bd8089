"""Cache: the answer of an earlier run to the same question, under the same set-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel, TypeAdapter

from cascade._numbers import to_count
from cascade.errors import ConfigurationError
from cascade.middleware.background import patience
from cascade.middleware.base import CascadeMiddleware, Slot
from cascade.policies.base import Situation
from cascade.run import Answer, CascadeRuntime, Kernel, Run
from cascade.state import Assessment

if TYPE_CHECKING:
    from langgraph.cache.base import BaseCache, FullKey

NAMESPACE = ("cascade", "answers")
"""Place of answers in a cache: `cache.clear([NAMESPACE])` forgets them, and nothing else."""

_NOT_DECIDING = frozenset({"tags", "deadline", "timeout_s", "local_only", "of"})
"""Settings on which an answer that is kept does not depend."""

_SEEN = {"type", "content", "name", "tool_calls", "tool_call_id"}
"""Parts of a message that a model sees."""

_ANSWER = TypeAdapter(Answer)


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
        self, cache: BaseCache[Any], ttl_s: int | None = None, *, local: bool | None = None
    ) -> None:
        from langgraph.cache.base import BaseCache  # noqa: PLC0415 - LangGraph takes a second
        from langgraph.cache.memory import InMemoryCache  # noqa: PLC0415

        if not isinstance(cache, BaseCache):
            raise ConfigurationError(
                f"Cache({cache!r}): give langgraph.cache.memory.InMemoryCache() or another "
                "langgraph.cache.base.BaseCache."
            )
        self.ttl_s = None if ttl_s is None else to_count("Cache.ttl_s", ttl_s)
        self.local = isinstance(cache, InMemoryCache) if local is None else local
        self._cache = cache
        self._identities: WeakKeyDictionary[Kernel, str] = WeakKeyDictionary()

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """The answer of an earlier run, if there is one."""
        kept, kernel = Answer(None, None, ""), runtime.kernel
        if self._may_hold(run):
            key = self._key(run, kernel)
            async with patience("the cache"):
                if found := await self._cache.aget([key]):
                    kept = _ANSWER.validate_python(found[key])
        decided, completion = kept.decision, kept.completion
        if decided is None or completion is None:
            return None
        # The stack may be stricter now.
        seen = Assessment(decided.signals or {}, decided.confidence, decided.calibrated)
        last = kept.source == kernel.tiers[-1].name
        situation = Situation(seen, called=completion.called, last=last)
        again = kernel.decide(run, situation, lambda _: decided)
        return kept if again.action == decided.action else None

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
        reason = f"{decision.reason}; the answer of run {run.id} from the cache"
        # What came from a cache is audited no more.
        decision = decision.model_copy(update={"reason": reason, "audit_rate": None})
        kept = Answer(replace(completion, cached=True), decision, answer.source)
        value = (_ANSWER.dump_python(kept, mode="json"), self.ttl_s)
        async with patience("to keep an answer, the cache"):
            await self._cache.aset({self._key(run, kernel): value})

    def _may_hold(self, run: Run) -> bool:
        return run.kind == "answer" and (self.local or not run.settings.get("local_only"))

    def _key(self, run: Run, kernel: Kernel) -> FullKey:
        if kernel not in self._identities:
            self._identities[kernel] = identity(kernel)
        settings = {k: v for k, v in run.settings.items() if k not in _NOT_DECIDING}
        said = [message.model_dump(include=_SEEN) for message in run.messages]
        return NAMESPACE, _hash([self._identities[kernel], settings, said])


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def identity(kernel: Kernel) -> str:
    """Identity of all that answers depend on besides the question, the same in every process."""
    parts = kernel.parts
    asked = [
        [tier.name, tier.model.name, tier.max_tokens, own.base_url, own.options, own.temperature]
        for tier in kernel.tiers
        for own in [tier.settings]
    ]
    signals = [(signal.name, signal.wording) for signal in parts.signals]
    hooks = ("wrap_model_call", "wrap_decision")
    changing = [
        (type(one).__qualname__, {k: v for k, v in vars(one).items() if not k.startswith("_")})
        for one in sorted(parts.middleware, key=lambda one: str(one.name))
        if any(getattr(type(one), each) is not getattr(CascadeMiddleware, each) for each in hooks)
    ]
    held = [asked, signals, parts.policy, parts.calibrators, parts.judge, parts.route, changing]
    return _hash(_content(held))


def _content(value: Any) -> Any:
    """A value as JSON: of records the fields, of functions what they do and hold. Two lambdas of
    one module have the same name, and other code."""
    held: Any
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): _content(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            unordered = isinstance(value, set | frozenset)
            return [_content(each) for each in (sorted(value, key=repr) if unordered else value)]
        case BaseModel():
            held = value.model_dump_json()
        case CodeType():
            held = [value.co_code, value.co_names, value.co_consts]
        case bytes() | complex():
            held = repr(value)
        case partial():
            held = [value.func, value.args, value.keywords]
        case MethodType():
            held = [value.__func__, value.__self__]
        case FunctionType():
            cells = [c.cell_contents for c in value.__closure__ or () if c != CellType()]
            plain = [_plain(each) for each in (*(value.__defaults__ or ()), *cells)]
            held = [value.__module__, value.__qualname__, value.__code__, plain]
        case _ if hasattr(value, "__qualname__"):
            held = [value.__module__, value.__qualname__]
        case _ if is_dataclass(value):
            held = {each.name: getattr(value, each.name) for each in fields(value)}
        case _:
            named = getattr(value, "__dict__", {}).items()
            held = {name: _plain(each) for name, each in named if not name.startswith("_")}
    return [type(value).__module__, type(value).__qualname__, _content(held)]


def _plain(value: Any) -> Any:
    """A plain value, or its type: what a function holds may lead back to it."""
    return value if isinstance(value, bool | int | float | str) else type(value).__name__
