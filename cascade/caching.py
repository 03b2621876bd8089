"""A cascade's cache of answers: what tells one set-up from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, CodeType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cascade.agents import Task
from cascade.agents.recall import Caching, Recall
from cascade.confidence.signals import Signal
from cascade.ledger import Recorder
from cascade.policies import Policy
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

__all__ = ["identity", "to_recall"]

FORMAT = 1
"""Of the answers in a cache; another one finds none of them."""

NOT_DECIDING = frozenset(
    {
        # Said by the parts of the identity that are made of them.
        *("small", "large", "tiers", "policy", "signals", "calibrator", "tools", "response_format"),
        # They watch, keep or name, and change no answer.
        *("audit_rate", "ledger", "tags", "drift", "observers", "lessons", "memory", "cache"),
        *("resilience", "retry_policy", "name"),
        # What answers instead of the large model is marked as degraded, and what is decided
        # without a signal that was left out as good for once: neither is ever kept.
        *("fallback", "shedding"),
        # Runs in shadow do not come here, and what stays on this machine is checked each time.
        *("mode", "canary_share", "local_only", "private"),
    }
)
"""Options of `Cascade` on which its answers do not depend, or not by themselves."""


def to_recall(
    options: Mapping[str, Any],
    *,
    tiers: Sequence[OpenTier],
    policy: Policy,
    task: Task,
    signals: Sequence[Signal],
    calibration: Calibration | None,
    recorder: Recorder,
    careful: Callable[[], bool],
) -> Recall | None:
    """What knows earlier answers of a cascade that is set up like this; None without a cache.

    Raises:
        ConfigurationError: what was given as a cache is none.
    """
    given = options["cache"]
    if given is None:
        return None
    caching = given if isinstance(given, Caching) else Caching(given)
    who = identity(options, tiers, policy, task, signals, calibration)
    return Recall(caching, who, len(tiers) - 1, recorder, careful)


def identity(
    options: Mapping[str, Any],
    tiers: Sequence[OpenTier],
    policy: Policy,
    task: Task,
    signals: Sequence[Signal],
    calibration: Calibration | None,
) -> str:
    """What an answer depends on besides the conversation, the same in every process.

    Functions count by their name, their code and the plain values that they hold on to; objects
    that are no records by their name.
    """
    asked = [
        (
            tier.name,
            tier.model.name,
            tier.settings.base_url,
            tier.settings.max_tokens,
            tier.settings.temperature,
            tier.settings.options,
        )
        for tier in tiers
    ]
    taken = [[signal.name, signal.wording] if signal.wording else signal.name for signal in signals]
    said = {name: value for name, value in options.items() if name not in NOT_DECIDING}
    parts = [FORMAT, asked, task, taken, calibration, policy, said]
    text = json.dumps(_content(parts), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _content(value: Any) -> Any:
    """A value as JSON: of records the fields, of functions the code, of other objects the name."""
    if _is_plain(value):
        return value
    if isinstance(value, BaseModel):
        return [type(value).__qualname__, value.model_dump_json()]
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: _content(getattr(value, field.name)) for field in fields(value)}
        return [type(value).__qualname__, held]
    if isinstance(value, Mapping):
        return {str(key): _content(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_content(each) for each in value]
    return _named(value)


def _named(value: Any) -> Any:
    if isinstance(value, partial):
        return ["partial", *map(_content, (value.func, value.args, value.keywords))]
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    code = getattr(value, "__code__", None)
    return [name, *_code(code), *_held(value)] if isinstance(code, CodeType) else name


def _code(code: CodeType) -> list[Any]:
    """What a function does: two lambdas of one module have the same name."""
    return [code.co_code.hex(), list(code.co_names), [_constant(each) for each in code.co_consts]]


def _constant(value: object) -> Any:
    if isinstance(value, CodeType):
        return _code(value)
    if isinstance(value, tuple | frozenset):
        return sorted(repr(_constant(each)) for each in value)
    return value if _is_plain(value) else type(value).__name__


def _held(function: Any) -> list[Any]:
    """The plain values that a function was made with, and the object whose method it is."""
    cells = getattr(function, "__closure__", None) or ()
    given = [*(function.__defaults__ or ()), *(cell.cell_contents for cell in cells if _set(cell))]
    owner = getattr(function, "__self__", None)
    return [[_constant(each) for each in given], None if owner is None else _content(owner)]


def _set(cell: CellType) -> bool:
    return cell != CellType()


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
