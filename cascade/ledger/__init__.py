"""The ledger: what each node spent and saved, with the basis of each figure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.ledger.base import (
        EVERYTHING,
        Amounts,
        Grouping,
        Job,
        LedgerStore,
        MemoryLedger,
        Selection,
        Total,
        UnavailableError,
        current_tags,
        tagged,
    )
    from cascade.ledger.feedback import Feedback
    from cascade.ledger.machine import BusyClock
    from cascade.ledger.prices import (
        DatedPrice,
        Dollars,
        ListPrice,
        NoPrice,
        Price,
        Prices,
        Pricing,
        find_pricing,
        load_prices,
    )
    from cascade.ledger.shared import Budgets
    from cascade.ledger.store import SqlLedger, open_store
    from cascade.ledger.view import LedgerView

_HOMES = {
    "base": (
        "EVERYTHING Amounts Grouping Job LedgerStore MemoryLedger Selection Total "
        "UnavailableError current_tags tagged"
    ),
    "feedback": "Feedback",
    "machine": "BusyClock",
    "prices": (
        "DatedPrice Dollars ListPrice NoPrice Price Prices Pricing find_pricing load_prices"
    ),
    "shared": "Budgets",
    "store": "SqlLedger open_store",
    "view": "LedgerView",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "EVERYTHING",
    "Amounts",
    "Budgets",
    "BusyClock",
    "DatedPrice",
    "Dollars",
    "Feedback",
    "Grouping",
    "Job",
    "LedgerStore",
    "LedgerView",
    "ListPrice",
    "MemoryLedger",
    "NoPrice",
    "Price",
    "Prices",
    "Pricing",
    "Selection",
    "SqlLedger",
    "Total",
    "UnavailableError",
    "current_tags",
    "find_pricing",
    "load_prices",
    "open_store",
    "tagged",
]


def __getattr__(name: str) -> object:
    # Names load on first use: the store needs SQLAlchemy, which takes 0.2 s.
    if name not in _MODULES:
        raise AttributeError(f"module 'cascade.ledger' has no attribute {name!r}")
    return getattr(import_module(f"cascade.ledger.{_MODULES[name]}"), name)
