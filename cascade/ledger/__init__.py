"""The ledger: what each node spent and saved, with the basis of each figure."""

from cascade.ledger.amounts import Amounts, Total
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
from cascade.ledger.recorder import (
    AuditStore,
    LedgerStore,
    MemoryLedger,
    Recorder,
    charging,
    collect,
    collecting,
)
from cascade.ledger.tags import tagged
from cascade.ledger.texts import KeptTexts, Pending, Texts, texts_of
from cascade.ledger.verdicts import Feedback, LessonKeeper
from cascade.ledger.view import LedgerView, NodeTotal, weakest

__all__ = [
    "Amounts",
    "AuditStore",
    "DatedPrice",
    "Dollars",
    "Feedback",
    "KeptTexts",
    "LedgerStore",
    "LedgerView",
    "LessonKeeper",
    "ListPrice",
    "MemoryLedger",
    "NoPrice",
    "NodeTotal",
    "Pending",
    "Price",
    "Prices",
    "Pricing",
    "Recorder",
    "Texts",
    "Total",
    "charging",
    "collect",
    "collecting",
    "find_pricing",
    "load_prices",
    "tagged",
    "texts_of",
    "weakest",
]
