"""The ledger: what each node spent and saved, with the basis of each figure.

Names load on first use: the store needs SQLAlchemy, which takes 0.2 s.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.ledger.base import Amounts, LedgerStore, MemoryLedger, Selection, tagged
    from cascade.ledger.feedback import Feedback
    from cascade.ledger.prices import Price, load_prices
    from cascade.ledger.shared import Budgets
    from cascade.ledger.store import SqlLedger, open_store
    from cascade.ledger.view import LedgerView

_MODULES = ("base", "prices", "view", "feedback", "shared", "store")

__all__ = [
    "Amounts",
    "Budgets",
    "Feedback",
    "LedgerStore",
    "LedgerView",
    "MemoryLedger",
    "Price",
    "Selection",
    "SqlLedger",
    "load_prices",
    "open_store",
    "tagged",
]


def __getattr__(name: str) -> object:
    for module in _MODULES if name in __all__ else ():
        found = import_module(f"cascade.ledger.{module}")
        if hasattr(found, name):
            return getattr(found, name)
    raise AttributeError(f"module 'cascade.ledger' has no attribute {name!r}")
