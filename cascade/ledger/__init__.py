"""The ledger: what each node spent and saved, with the basis of each figure."""

from cascade.ledger.prices import Dollars, ListPrice, NoPrice, Price, Pricing, find_pricing
from cascade.ledger.recorder import LedgerStore, MemoryLedger, Recorder, collect, collecting
from cascade.ledger.tags import tagged
from cascade.ledger.view import LedgerView, NodeTotal, weakest

__all__ = [
    "Dollars",
    "LedgerStore",
    "LedgerView",
    "ListPrice",
    "MemoryLedger",
    "NoPrice",
    "NodeTotal",
    "Price",
    "Pricing",
    "Recorder",
    "collect",
    "collecting",
    "find_pricing",
    "tagged",
    "weakest",
]
