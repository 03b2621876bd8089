"""Middleware: optional features around the kernel, one file for each.

    Cascade(small, large, middleware=[Cache(SqliteCache("answers.db")), Retries(attempts=2)])

Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cascade.middleware.base import Advance, Ask, CascadeMiddleware, Decide, Slot

if TYPE_CHECKING:
    from cascade.middleware.abort import Abort
    from cascade.middleware.audits import Audits
    from cascade.middleware.breaker import Breaker
    from cascade.middleware.cache import Cache
    from cascade.middleware.deadline import Deadline
    from cascade.middleware.drift import Drift
    from cascade.middleware.examples import Examples
    from cascade.middleware.fallback import Fallback
    from cascade.middleware.local_only import LocalOnly
    from cascade.middleware.retries import Retries
    from cascade.middleware.shadow import Shadow
    from cascade.middleware.sticky import Sticky
    from cascade.middleware.tool_risks import ToolRisks

_HOMES = {
    "Abort": "abort",
    "Audits": "audits",
    "Breaker": "breaker",
    "Cache": "cache",
    "Deadline": "deadline",
    "Drift": "drift",
    "Examples": "examples",
    "Fallback": "fallback",
    "LocalOnly": "local_only",
    "Retries": "retries",
    "Shadow": "shadow",
    "Sticky": "sticky",
    "ToolRisks": "tool_risks",
}

__all__ = [
    "Abort",
    "Advance",
    "Ask",
    "Audits",
    "Breaker",
    "Cache",
    "CascadeMiddleware",
    "Deadline",
    "Decide",
    "Drift",
    "Examples",
    "Fallback",
    "LocalOnly",
    "Retries",
    "Shadow",
    "Slot",
    "Sticky",
    "ToolRisks",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cascade.middleware' has no attribute {name!r}")
    value = getattr(import_module(f"cascade.middleware.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
