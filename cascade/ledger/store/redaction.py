"""What must not be stored is taken out before it reaches the queue."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

from cascade.ledger.texts import Pending, Texts
from cascade.state import LedgerEntry

logger = logging.getLogger("cascade")

Redact = Callable[[str], str]
"""Takes out of a text what must not be stored: of a note, a prompt, an answer."""

SECRETS = re.compile(
    # e-mail addresses, looked for at the beginnings of words alone: else the time that a long
    # word takes grows with the square of its length
    r"(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]+"
    r"|\b(?:sk|pk|gsk|hf|xai|ghp)[-_][\w-]{8,}"  # keys by their usual prefixes
    r"|\bBearer\s+\S+"
    # telephone, card and account numbers, but no dates and no parts of 1
    r"|(?<!\d)(?<!\b0\.)(?!\d{4}-\d\d-\d\d(?![\d-]))\d[\d -]{7,}\d"
)


def mask_secrets(text: str) -> str:
    """Put `[…]` for addresses, keys and long numbers."""
    return SECRETS.sub("[…]", text)


def redacted(entry: LedgerEntry, redact: Redact | None) -> LedgerEntry:
    """The entry as it may be stored; without its note when the redaction fails.

    The note is the only free text of an entry: it repeats the message of a failed call, and
    providers may quote the request in theirs.
    """
    if redact is None or not entry.note:
        return entry
    try:
        note = redact(entry.note)
    except Exception:
        logger.exception("redaction failed: an entry is stored without its note")
        note = "[redaction failed]"
    return entry.model_copy(update={"note": note})


def redacted_texts(texts: Texts, redact: Redact | None) -> Texts | None:
    """The texts as they may be stored; None when the redaction fails."""
    if redact is None:
        return texts
    try:
        prompt = json.dumps(
            redacted_strings(json.loads(texts.prompt), redact),
            ensure_ascii=False,
            separators=(",", ":"),
        )
        return Texts(prompt, None if texts.answer is None else redact(texts.answer))
    except Exception:
        logger.exception("redaction failed: the texts of a call are not stored")
        return None


def may_be_kept(pending: Pending, redact: Redact | None) -> bool:
    """Whether redaction would leave a pending audit as it is.

    Else it is not kept: an audit of a masked prompt would measure something else.
    """
    if redact is None:
        return True
    try:
        payload = json.loads(pending.payload)
        return bool(redacted_strings(payload, redact) == payload)
    except Exception:
        logger.exception("redaction failed: a pending audit is not stored")
        return False


def redacted_strings(value: Any, redact: Redact) -> Any:
    """A JSON value with each of its strings redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted_strings(item, redact) for item in value]
    if isinstance(value, dict):
        return {redact(key): redacted_strings(item, redact) for key, item in value.items()}
    return value
