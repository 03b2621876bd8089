"""The ledger: what each node spent and saved, with the basis of each figure.

Names load on first use: the store needs SQLAlchemy, which takes 0.2 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.ledger.base import Amounts, LedgerStore, MemoryLedger, Selection, tagged
    from cascade.ledger.feedback import Feedback
    from cascade.ledger.prices import Price, load_prices
    from cascade.ledger.shared import Budgets
    from cascade.ledger.store import SqlLedger, open_store
    from cascade.ledger.view import LedgerView

__getattr__ = lazily(
    __name__,
    {
        "base": "Amounts LedgerStore MemoryLedger Selection tagged",
        "feedback": "Feedback",
        "prices": "Price load_prices",
        "shared": "Budgets",
        "store": "SqlLedger open_store",
        "view": "LedgerView",
    },
)

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
