"""The ledger: what each node spent and saved, with the basis of each figure."""

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
from cascade.ledger.recorder import LedgerStore, MemoryLedger, Recorder, collect, collecting
from cascade.ledger.tags import tagged
from cascade.ledger.view import LedgerView, NodeTotal, weakest

__all__ = [
    "DatedPrice",
    "Dollars",
    "LedgerStore",
    "LedgerView",
    "ListPrice",
    "MemoryLedger",
    "NoPrice",
    "NodeTotal",
    "Price",
    "Prices",
    "Pricing",
    "Recorder",
    "collect",
    "collecting",
    "find_pricing",
    "load_prices",
    "tagged",
    "weakest",
]
