"""A small model drafts, its confidence is checked, a large model answers what is doubtful.

    from cascade import Cascade

    cascade = Cascade(small="ollama:qwen2.5:3b", large="openai:gpt-5.1")
    result = cascade.invoke("What is the capital of Australia?")
    print(result.answer, result.tier, result.confidence)
    print(result.ledger.table())

Names load on first use: importing the package reads no environment and opens no connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily
from cascade._version import __version__

if TYPE_CHECKING:
    from cascade.agents.verifier import Verdict
    from cascade.api import Cascade
    from cascade.errors import (
        CascadeError,
        ConfigurationError,
        InputError,
        LedgerError,
        ModelError,
    )
    from cascade.events import Decided, Provisional, Retracted, Token
    from cascade.graph import build_graph
    from cascade.ledger.base import LedgerStore, MemoryLedger, tagged
    from cascade.ledger.prices import Price
    from cascade.ledger.view import LedgerView
    from cascade.middleware.base import CascadeMiddleware
    from cascade.policies import EconomicPolicy, Policy, Situation, ThresholdPolicy
    from cascade.result import CascadeResult
    from cascade.run import Run
    from cascade.state import Decision, LedgerEntry
    from cascade.tiers import Tier

__getattr__ = lazily(
    __name__,
    {
        "agents.verifier": "Verdict",
        "api": "Cascade",
        "errors": "CascadeError ConfigurationError InputError LedgerError ModelError",
        "events": "Decided Provisional Retracted Token",
        "graph": "build_graph",
        "ledger.base": "LedgerStore MemoryLedger tagged",
        "ledger.prices": "Price",
        "ledger.view": "LedgerView",
        "middleware.base": "CascadeMiddleware",
        "policies": "EconomicPolicy Policy Situation ThresholdPolicy",
        "result": "CascadeResult",
        "run": "Run",
        "state": "Decision LedgerEntry",
        "tiers": "Tier",
    },
)

__all__ = [
    "Cascade",
    "CascadeError",
    "CascadeMiddleware",
    "CascadeResult",
    "ConfigurationError",
    "Decided",
    "Decision",
    "EconomicPolicy",
    "InputError",
    "LedgerEntry",
    "LedgerError",
    "LedgerStore",
    "LedgerView",
    "MemoryLedger",
    "ModelError",
    "Policy",
    "Price",
    "Provisional",
    "Retracted",
    "Run",
    "Situation",
    "ThresholdPolicy",
    "Tier",
    "Token",
    "Verdict",
    "__version__",
    "build_graph",
    "tagged",
]


def __dir__() -> list[str]:
    return list(__all__)
