"""Where ledger entries are kept: SQLite by default, PostgreSQL for several machines.

store = open_store("sqlite:///ledger.db")
cascade = Cascade(small=..., large=..., ledger=store)

Entries are written by a thread of the store's own, in batches. A third kind of database is a
`Backend`, checked by `cascade.testing.ledger_conformance`.
"""

from cascade.ledger.store.base import (
    Attempt,
    Backend,
    Batch,
    Claim,
    Dropped,
    Selection,
    Stored,
    StoredTexts,
    UnavailableError,
    Withdrawn,
)
from cascade.ledger.store.memory import MemoryBackend
from cascade.ledger.store.opening import open_store
from cascade.ledger.store.redaction import Redact, mask_secrets
from cascade.ledger.store.store import Store

__all__ = [
    "Attempt",
    "Backend",
    "Batch",
    "Claim",
    "Dropped",
    "MemoryBackend",
    "Redact",
    "Selection",
    "Store",
    "Stored",
    "StoredTexts",
    "UnavailableError",
    "Withdrawn",
    "mask_secrets",
    "open_store",
]
