"""LLM cascades: a small model drafts, a check follows, a large model answers what is doubtful.

Names load on first use: importing the package reads no environment and opens no connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily
from cascade._version import __version__ as __version__

if TYPE_CHECKING:
    from cascade.agents.verifier import Verdict as Verdict
    from cascade.api import Cascade as Cascade
    from cascade.errors import CascadeError as CascadeError
    from cascade.errors import ConfigurationError as ConfigurationError
    from cascade.errors import InputError as InputError
    from cascade.errors import LedgerError as LedgerError
    from cascade.errors import ModelError as ModelError
    from cascade.events import Decided as Decided
    from cascade.events import Provisional as Provisional
    from cascade.events import Retracted as Retracted
    from cascade.events import Token as Token
    from cascade.graph import build_graph as build_graph
    from cascade.ledger.base import LedgerStore as LedgerStore
    from cascade.ledger.base import MemoryLedger as MemoryLedger
    from cascade.ledger.base import tagged as tagged
    from cascade.ledger.entries import LedgerEntry as LedgerEntry
    from cascade.ledger.entries import LedgerView as LedgerView
    from cascade.ledger.prices import Price as Price
    from cascade.middleware.base import CascadeMiddleware as CascadeMiddleware
    from cascade.policies import EconomicPolicy as EconomicPolicy
    from cascade.policies import Policy as Policy
    from cascade.policies import Situation as Situation
    from cascade.policies import ThresholdPolicy as ThresholdPolicy
    from cascade.result import CascadeResult as CascadeResult
    from cascade.run import Run as Run
    from cascade.state import Decision as Decision
    from cascade.tiers import Tier as Tier

__getattr__ = lazily(
    __name__,
    {
        "agents.verifier": "Verdict",
        "api": "Cascade",
        "errors": "CascadeError ConfigurationError InputError LedgerError ModelError",
        "events": "Decided Provisional Retracted Token",
        "graph": "build_graph",
        "ledger.base": "LedgerStore MemoryLedger tagged",
        "ledger.entries": "LedgerEntry LedgerView",
        "ledger.prices": "Price",
        "middleware.base": "CascadeMiddleware",
        "policies": "EconomicPolicy Policy Situation ThresholdPolicy",
        "result": "CascadeResult",
        "run": "Run",
        "state": "Decision",
        "tiers": "Tier",
    },
)
