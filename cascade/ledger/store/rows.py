"""Records of the ledger as rows of its tables, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.ledger.store.base import Attempt, Stored, StoredTexts
from cascade.ledger.tags import NO_TAGS
from cascade.ledger.texts import Pending, Texts
from cascade.state import LedgerEntry

_ENTRY_FIELDS = tuple(LedgerEntry.model_fields)


def entry_row(stored: Stored) -> dict[str, Any]:
    """An entry for `ledger_entries`."""
    return {**stored.entry.__dict__, "id": stored.id, "tags": dict(stored.tags)}


def stored_of(row: Mapping[str, Any]) -> Stored:
    """An entry from `ledger_entries`."""
    entry = LedgerEntry(**{name: row[name] for name in _ENTRY_FIELDS})
    return Stored(row["id"], entry, _tags_of(row))


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """An attempt for `ledger_attempts`."""
    return {
        "attempt_id": attempt.attempt_id,
        "run_id": attempt.run_id,
        "node": attempt.node,
        "tier": attempt.tier,
        "model": attempt.model,
        "begun_at": attempt.begun_at,
        "tags": dict(attempt.tags),
    }


def attempt_of(row: Mapping[str, Any]) -> Attempt:
    """An attempt from `ledger_attempts`."""
    return Attempt(**{**row, "tags": _tags_of(row)})


def texts_row(kept: StoredTexts) -> dict[str, Any]:
    """Texts for `ledger_texts`."""
    return {
        "id": kept.id,
        "run_id": kept.run_id,
        "node": kept.node,
        "tier": kept.tier,
        "prompt": kept.texts.prompt,
        "answer": kept.texts.answer,
        "at": kept.at,
        "tags": dict(kept.tags),
    }


def texts_of(row: Mapping[str, Any]) -> StoredTexts:
    """Texts from `ledger_texts`."""
    return StoredTexts(
        id=row["id"],
        run_id=row["run_id"],
        node=row["node"],
        tier=row["tier"],
        texts=Texts(row["prompt"], row["answer"]),
        at=row["at"],
        tags=_tags_of(row),
    )


def pending_row(audit: Pending) -> dict[str, Any]:
    """An audit for `ledger_pending`."""
    return {
        "run_id": audit.run_id,
        "payload": audit.payload,
        "at": audit.at,
        "tags": dict(audit.tags),
    }


def pending_of(row: Mapping[str, Any]) -> Pending:
    """An audit from `ledger_pending`."""
    return Pending(run_id=row["run_id"], payload=row["payload"], at=row["at"], tags=_tags_of(row))


def _tags_of(row: Mapping[str, Any]) -> Mapping[str, str]:
    return row["tags"] or NO_TAGS
