"""Whether options are of the kind that they have to be, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.types import RetryPolicy

from cascade.agents.remembering import Remembers
from cascade.errors import ConfigurationError
from cascade.ledger.verdicts import LessonKeeper
from cascade.observing import Observer
from cascade.policies import Policy
from cascade.resilience import Doors, Resilience
from cascade.resilience.settings import is_number


def _decides(value: object) -> bool:
    return isinstance(value, Policy) and not isinstance(value, type)


def _are_several(value: object) -> bool:
    """One alone is told by `Observers` what to do."""
    return isinstance(value, Sequence | Observer) and not isinstance(value, str)


def _is_share(value: object) -> bool:
    return isinstance(value, bool | int | float)


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "price_of_error": (is_number, "dollars, such as 0.05"),
    "max_harm": (is_number, "a share of requests, such as 0.05"),
    "escalation_budget": (is_number, "a share of requests, such as 0.2"),
    "deadline": (is_number, "seconds, such as 2.5"),
    "abort": (_is_share, "True, False, or a share of drafts, such as 0.01"),
    "policy": (_decides, "an object with decide(situation), such as ThresholdPolicy(0.9)"),
    "verifier": (callable, "a function (question, answer) → bool | float | Verdict"),
    "router": (callable, "a function from messages to the name of a tier, or None"),
    "observers": (_are_several, "a list of observers, such as [Telemetry()]"),
    "lessons": (
        lambda value: isinstance(value, LessonKeeper),
        "cascade.teaching.Lessons(open_lessons('sqlite:///lessons.db'))",
    ),
    "memory": (
        lambda value: isinstance(value, Remembers),
        "cascade.teaching.memory.Memory(open_lessons('sqlite:///lessons.db'))",
    ),
    "resilience": (
        lambda value: isinstance(value, Resilience | Doors),
        "cascade.resilience.Resilience(…), Doors(…) or None",
    ),
    "retry_policy": (lambda value: isinstance(value, RetryPolicy), "langgraph.types.RetryPolicy()"),
    "name": (lambda value: isinstance(value, str) and bool(value.strip()), "a text"),
}

_OF_A_MEMORY = {
    "lessons": "what becomes an example is kept by cascade.teaching.Lessons(store).",
    "audit_rate": "of accepted drafts nobody else knows whether examples did harm; give 0.1.",
}
"""Options without which a memory learns nothing, or nothing that can be trusted."""

_NEVER_NONE = frozenset({"abort", "observers", "name"})


def check_kinds(options: Mapping[str, Any]) -> None:
    """Refuse an option that is something else than it has to be.

    Args:
        options: of `Cascade`, or some of them.

    Raises:
        ConfigurationError: with the first that is wrong.
    """
    for name, (fits, wanted) in _KINDS.items():
        value = options.get(name)
        absent = name not in options or (value is None and name not in _NEVER_NONE)
        if not absent and not fits(value):
            raise ConfigurationError(f"{name}={value!r}: give {wanted}.")
    if options.get("memory") is not None:
        for name, why in _OF_A_MEMORY.items():
            if options[name] is None:
                raise ConfigurationError(f"memory=… needs {name}=…: {why}")
