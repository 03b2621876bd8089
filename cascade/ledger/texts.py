"""What was asked and answered. Entries have the hashes of it; the text itself is kept on demand."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from cascade.ledger.tags import current_tags
from cascade.state import Completion, LedgerEntry

KeptTexts = Literal["none", "pending", "all"]
"""Which prompts and answers a store keeps: none, those of audits that are not done yet, or also
those of every call."""

HASH_DIGITS = 32
"""Hexadecimal digits of a hash: 128 bits, so that two texts never share one by chance."""


EXAMPLE = "lesson:"
"""Begins the `id` of a message that is an example from a memory: the words of somebody else, who
may have them deleted. They are in the lessons, and in no text that is kept of a call."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What a model was asked and what it answered.

    Attributes:
        prompt: JSON of the messages, by role and content, with their tool calls; without examples.
        answer: the answer's text, then its tool calls; None where none came.
    """

    prompt: str = field(repr=False)
    answer: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An audit that was drawn and is not done yet.

    Attributes:
        run_id: of the audited run, which has one audit at most.
        payload: whatever the audit needs, as JSON; only the auditor reads it.
        tags: of the run; those of the context where none are given.
        at: when it was drawn.
    """

    run_id: str
    payload: str = field(repr=False)
    tags: Mapping[str, str] = field(default_factory=current_tags)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


def texts_of(messages: Sequence[BaseMessage], completion: Completion | None = None) -> Texts:
    """The texts of a call, the same for the same conversation: ids and metadata are left out."""
    plain = [_plain(m) for m in messages if not (m.id or "").startswith(EXAMPLE)]
    try:
        prompt = _as_json(plain, sort_keys=True)
    except (TypeError, ValueError):  # keys that are no text, a list within itself
        prompt = _as_json([repr(message) for message in plain])
    return Texts(prompt, completion.transcript if completion is not None else None)


def with_hashes(entry: LedgerEntry, texts: Texts, key: bytes | None = None) -> LedgerEntry:
    """The entry with the hashes of its texts."""
    hashes = {
        "prompt_hash": text_hash(texts.prompt, key),
        "answer_hash": None if texts.answer is None else text_hash(texts.answer, key),
    }
    return entry.model_copy(update=hashes)


def text_hash(text: str, key: bytes | None = None) -> str:
    """The beginning of the SHA-256 of a text; with a key the HMAC (RFC 2104).

    Whoever has the plain hash of a short text can find the text by trying; without the key the
    HMAC tells them nothing.
    """
    data = text.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(data).digest() if key is None else hmac.digest(key, data, "sha256")
    return digest.hex()[:HASH_DIGITS]


def _as_json(value: object, *, sort_keys: bool = False) -> str:
    return json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys, default=str
    )


def _plain(message: BaseMessage) -> dict[str, object]:
    plain: dict[str, object] = {"role": message.type, "content": message.content}
    if isinstance(message, AIMessage) and message.tool_calls:
        plain["tool_calls"] = [[call["name"], call["args"]] for call in message.tool_calls]
    if isinstance(message, ToolMessage) and message.name:
        plain["name"] = message.name
    return plain
