"""What must not be stored is taken out before an entry reaches the queue."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from cascade.state import LedgerEntry

logger = logging.getLogger("cascade")

Redact = Callable[[LedgerEntry], LedgerEntry]
"""Takes out of an entry what must not be stored."""

SECRETS = re.compile(
    r"[\w.+-]+@[\w-]+\.[\w.-]+"  # e-mail addresses
    r"|\b(?:sk|pk|gsk|hf|xai|ghp)[-_][\w-]{8,}"  # keys by their usual prefixes
    r"|\bBearer\s+\S+"
    r"|\d[\d -]{7,}\d"  # telephone, card and account numbers
)


def mask_secrets(entry: LedgerEntry) -> LedgerEntry:
    """Put `[…]` for addresses, keys and long numbers in the note.

    The note is the only free text of an entry: it repeats the message of a failed call, and
    providers may quote the request in theirs.
    """
    return entry.model_copy(update={"note": SECRETS.sub("[…]", entry.note)})


def redacted(entry: LedgerEntry, redact: Redact | None) -> LedgerEntry:
    """The entry as it may be stored; without its note when the redaction fails."""
    if redact is None:
        return entry
    try:
        return redact(entry)
    except Exception:
        logger.exception("redaction failed: the entry is stored without its note")
        return entry.model_copy(update={"note": "[redaction failed]"})
