"""The ledger: what each node spent and saved, with the basis of each figure.

Names load on first use: the store needs SQLAlchemy, which takes 0.2 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.ledger.base import MemoryLedger as MemoryLedger
    from cascade.ledger.base import Selection as Selection
    from cascade.ledger.base import tagged as tagged
    from cascade.ledger.prices import load_prices as load_prices
    from cascade.ledger.store import open_store as open_store

__getattr__ = lazily(
    __name__,
    {"base": "MemoryLedger Selection tagged", "prices": "load_prices", "store": "open_store"},
)
