"""The ledger: what each node spent and saved, with the basis of each figure."""

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
from cascade.ledger.store import SqlLedger, open_store
from cascade.ledger.view import LedgerView, NodeTotal

__all__ = [
    "EVERYTHING",
    "Amounts",
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
    "NodeTotal",
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
