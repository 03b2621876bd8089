"""The ledger: what each node spent and saved, with the basis of each figure.

Names load on first use: the store needs SQLAlchemy, which takes 0.2 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.ledger.base import Amounts as Amounts
    from cascade.ledger.base import LedgerStore as LedgerStore
    from cascade.ledger.base import MemoryLedger as MemoryLedger
    from cascade.ledger.base import Selection as Selection
    from cascade.ledger.base import tagged as tagged
    from cascade.ledger.feedback import Feedback as Feedback
    from cascade.ledger.prices import Price as Price
    from cascade.ledger.prices import load_prices as load_prices
    from cascade.ledger.shared import Budgets as Budgets
    from cascade.ledger.store import SqlLedger as SqlLedger
    from cascade.ledger.store import open_store as open_store
    from cascade.ledger.view import LedgerView as LedgerView

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
