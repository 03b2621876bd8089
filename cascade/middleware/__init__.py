"""Middleware: optional features around the kernel, one file for each.

    Cascade(small, large, middleware=[Cache(SqliteCache("answers.db")), Retries(attempts=2)])

Names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily
from cascade.middleware.base import Advance, Ask, CascadeMiddleware, Decide, Slot

if TYPE_CHECKING:
    from cascade.middleware.abort import Abort
    from cascade.middleware.audits import Audits
    from cascade.middleware.cache import Cache
    from cascade.middleware.deadline import Deadline
    from cascade.middleware.drift import Drift
    from cascade.middleware.examples import Examples
    from cascade.middleware.fallback import Fallback
    from cascade.middleware.local_only import LocalOnly
    from cascade.middleware.resilience import Breaker, Retries
    from cascade.middleware.shadow import Shadow
    from cascade.middleware.sticky import Sticky
    from cascade.middleware.tool_risks import ToolRisks

__getattr__ = lazily(
    __name__,
    {
        "abort": "Abort",
        "audits": "Audits",
        "cache": "Cache",
        "deadline": "Deadline",
        "drift": "Drift",
        "examples": "Examples",
        "fallback": "Fallback",
        "local_only": "LocalOnly",
        "resilience": "Breaker Retries",
        "shadow": "Shadow",
        "sticky": "Sticky",
        "tool_risks": "ToolRisks",
    },
)

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
