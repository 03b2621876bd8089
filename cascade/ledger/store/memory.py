"""A backend without a database, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from cascade.ledger.amounts import Amounts
from cascade.ledger.store.base import (
    Attempt,
    Backend,
    Batch,
    Claim,
    Selection,
    Stored,
    StoredTexts,
)
from cascade.ledger.texts import Pending

K = TypeVar("K", Stored, StoredTexts)


class MemoryBackend(Backend):
    """Keeps everything in dictionaries; nothing outlives the process."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._entries: dict[str, Stored] = {}
        self._texts: dict[str, StoredTexts] = {}
        self._pending: dict[str, Pending] = {}
        self._claimed_at: dict[str, datetime] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, batch: Batch) -> None:
        """Keep the batch."""
        for attempt in batch.attempts:
            self._attempts.setdefault(attempt.attempt_id, attempt)
        for stored in batch.entries:
            self._entries.setdefault(stored.id, _in_utc(stored))
        for texts in batch.texts:
            self._texts.setdefault(texts.id, texts)
        for pending in batch.pending:
            self._pending.setdefault(pending.run_id, pending)
        completed = [stored.entry.attempt_id or "" for stored in batch.entries]
        for attempt_id in (*completed, *(gone.attempt_id for gone in batch.withdrawn)):
            self._attempts.pop(attempt_id, None)
        self._drop(gone.run_id for gone in batch.dropped)

    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The next entries."""
        return _page((s for s in self._entries.values() if _is_meant(s, selection)), after, limit)

    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts without an entry."""
        found = [a for a in self._attempts.values() if _is_meant(a, selection)]
        return sorted(found, key=lambda attempt: (attempt.begun_at, attempt.attempt_id))

    async def texts(
        self, selection: Selection, after: StoredTexts | None, limit: int
    ) -> Sequence[StoredTexts]:
        """The next texts."""
        return _page((t for t in self._texts.values() if _is_meant(t, selection)), after, limit)

    async def pending(self, selection: Selection) -> Sequence[Pending]:
        """The audits that are not done."""
        found = [p for p in self._pending.values() if _is_meant(p, selection)]
        return sorted(found, key=lambda pending: (pending.at, pending.run_id))

    async def claim(self, claim: Claim) -> Sequence[Pending]:
        """Take audits on."""
        found = [
            pending
            for pending in await self.pending(Selection())
            if pending.at <= claim.drawn_until
            and self._claimed_at.get(pending.run_id, claim.lapsed) <= claim.lapsed
        ]
        self._claimed_at.update({pending.run_id: claim.at for pending in found})
        return found

    async def spent(self, selection: Selection) -> Amounts:
        """Add the costs up."""
        sum_of = Amounts()
        for stored in self._entries.values():
            if _is_meant(stored, selection):
                entry = stored.entry
                sum_of = sum_of.plus_spend(entry.cost_usd, entry.cost_basis, entry.assumed_usd)
        return sum_of

    async def delete(self, selection: Selection) -> int:
        """Forget what is meant."""
        await self.delete_texts(selection)
        gone = [s.id for s in self._entries.values() if _is_meant(s, selection)]
        for attempt in await self.unfinished(selection):
            del self._attempts[attempt.attempt_id]
        for key in gone:
            del self._entries[key]
        return len(gone)

    async def delete_texts(self, selection: Selection) -> int:
        """Forget the texts that are meant."""
        gone = [t.id for t in self._texts.values() if _is_meant(t, selection)]
        for key in gone:
            del self._texts[key]
        dropped = [pending.run_id for pending in await self.pending(selection)]
        self._drop(dropped)
        return len(gone) + len(dropped)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _drop(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            self._pending.pop(run_id, None)
            self._claimed_at.pop(run_id, None)


def _in_utc(stored: Stored) -> Stored:
    at = stored.entry.at.astimezone(UTC)
    return replace(stored, entry=stored.entry.model_copy(update={"at": at}))


def _page(found: Iterable[K], after: K | None, limit: int) -> Sequence[K]:
    ordered = sorted(found, key=_place)
    start = 0 if after is None else sum(_place(kept) <= _place(after) for kept in ordered)
    return ordered[start : start + limit]


def _place(kept: Stored | StoredTexts) -> tuple[datetime, str]:
    return _time_of(kept), kept.id


def _time_of(kept: Stored | StoredTexts | Attempt | Pending) -> datetime:
    if isinstance(kept, Stored):
        return kept.entry.at
    return kept.begun_at if isinstance(kept, Attempt) else kept.at


def _is_meant(kept: Stored | StoredTexts | Attempt | Pending, selection: Selection) -> bool:
    named: Any = kept.entry if isinstance(kept, Stored) else kept
    at, tags = _time_of(kept), kept.tags
    return (
        all(
            getattr(selection, name) in (None, getattr(named, name, _NONE))
            for name in ("run_id", "node", "tier")
        )
        and (selection.since is None or at >= selection.since)
        and (selection.until is None or at < selection.until)
        and all(tags.get(key) == value for key, value in selection.tags.items())
    )


_NONE = object()
"""The node and tier of what has none: no selection means it."""
