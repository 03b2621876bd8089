"""Middleware: optional features around the kernel, one file for each; loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.middleware.abort import Abort as Abort
    from cascade.middleware.audits import Audits as Audits
    from cascade.middleware.audits import Shadow as Shadow
    from cascade.middleware.base import Advance as Advance
    from cascade.middleware.base import Ask as Ask
    from cascade.middleware.base import CascadeMiddleware as CascadeMiddleware
    from cascade.middleware.base import Decide as Decide
    from cascade.middleware.base import Slot as Slot
    from cascade.middleware.cache import Cache as Cache
    from cascade.middleware.drift import Drift as Drift
    from cascade.middleware.examples import Examples as Examples
    from cascade.middleware.local_only import LocalOnly as LocalOnly
    from cascade.middleware.resilience import Breaker as Breaker
    from cascade.middleware.resilience import Deadline as Deadline
    from cascade.middleware.resilience import Fallback as Fallback
    from cascade.middleware.resilience import Retries as Retries
    from cascade.middleware.sticky import Sticky as Sticky
    from cascade.middleware.tool_risks import ToolRisks as ToolRisks

__getattr__ = lazily(
    __name__,
    {
        "abort": "Abort",
        "audits": "Audits Shadow",
        "base": "Advance Ask CascadeMiddleware Decide Slot",
        "cache": "Cache",
        "drift": "Drift",
        "examples": "Examples",
        "local_only": "LocalOnly",
        "resilience": "Breaker Deadline Fallback Retries",
        "sticky": "Sticky",
        "tool_risks": "ToolRisks",
    },
)
