"""A small model drafts, its confidence is checked, a large model answers what is doubtful.

    from cascade import Cascade

    cascade = Cascade(small="ollama:qwen2.5:3b", large="openai:gpt-5.1")
    result = cascade.invoke("What is the capital of Australia?")
    print(result.answer, result.tier, result.confidence)
    print(result.ledger.table())

Names load on first use: importing the package reads no environment and opens no connection.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from cascade._version import __version__

if TYPE_CHECKING:
    from cascade.agents.fallback import Queue
    from cascade.agents.latch import Latch
    from cascade.agents.recall import Caching
    from cascade.agents.shedding import Shedding
    from cascade.agents.verifier import Verdict
    from cascade.api import Cascade
    from cascade.errors import (
        CascadeError,
        ConfigurationError,
        InputError,
        LedgerError,
        ModelError,
    )
    from cascade.events import Decided, Retracted, Token
    from cascade.graph import build_graph
    from cascade.ledger.prices import Price
    from cascade.ledger.recorder import LedgerStore, MemoryLedger
    from cascade.ledger.view import LedgerView
    from cascade.oversight.audits import Audits
    from cascade.policies.base import Policy, Situation
    from cascade.policies.economic import EconomicPolicy
    from cascade.policies.risk import ToolRisks
    from cascade.policies.threshold import ThresholdPolicy
    from cascade.result import CascadeResult
    from cascade.state import CascadeState, Decision, LedgerEntry
    from cascade.tiers import Tier

_HOMES = {
    "Audits": "cascade.oversight.audits",
    "Caching": "cascade.agents.recall",
    "Cascade": "cascade.api",
    "CascadeError": "cascade.errors",
    "CascadeResult": "cascade.result",
    "CascadeState": "cascade.state",
    "ConfigurationError": "cascade.errors",
    "Decided": "cascade.events",
    "Decision": "cascade.state",
    "EconomicPolicy": "cascade.policies.economic",
    "InputError": "cascade.errors",
    "Latch": "cascade.agents.latch",
    "LedgerEntry": "cascade.state",
    "LedgerError": "cascade.errors",
    "LedgerStore": "cascade.ledger.recorder",
    "LedgerView": "cascade.ledger.view",
    "MemoryLedger": "cascade.ledger.recorder",
    "ModelError": "cascade.errors",
    "Policy": "cascade.policies.base",
    "Price": "cascade.ledger.prices",
    "Queue": "cascade.agents.fallback",
    "Retracted": "cascade.events",
    "Shedding": "cascade.agents.shedding",
    "Situation": "cascade.policies.base",
    "ThresholdPolicy": "cascade.policies.threshold",
    "Tier": "cascade.tiers",
    "ToolRisks": "cascade.policies.risk",
    "Token": "cascade.events",
    "Verdict": "cascade.agents.verifier",
    "build_graph": "cascade.graph",
}

__all__ = [
    "Audits",
    "Caching",
    "Cascade",
    "CascadeError",
    "CascadeResult",
    "CascadeState",
    "ConfigurationError",
    "Decided",
    "Decision",
    "EconomicPolicy",
    "InputError",
    "Latch",
    "LedgerEntry",
    "LedgerError",
    "LedgerStore",
    "LedgerView",
    "MemoryLedger",
    "ModelError",
    "Policy",
    "Price",
    "Queue",
    "Retracted",
    "Shedding",
    "Situation",
    "ThresholdPolicy",
    "Tier",
    "Token",
    "ToolRisks",
    "Verdict",
    "__version__",
    "build_graph",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cascade' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
