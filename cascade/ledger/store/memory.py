"""A backend without a database, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cascade.ledger.store.base import Attempt, Backend, Batch, Selection, Stored


class MemoryBackend(Backend):
    """Keeps everything in two dictionaries; nothing outlives the process."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._entries: dict[str, Stored] = {}

    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, batch: Batch) -> None:
        """Keep the batch."""
        for attempt in batch.attempts:
            self._attempts.setdefault(attempt.attempt_id, attempt)
        for stored in batch.entries:
            self._entries.setdefault(stored.id, _in_utc(stored))
        completed = [stored.entry.attempt_id or "" for stored in batch.entries]
        for attempt_id in (*completed, *batch.withdrawn):
            self._attempts.pop(attempt_id, None)

    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The next entries."""
        found = sorted(
            (s for s in self._entries.values() if _entry_is_meant(s, selection)), key=_place
        )
        start = 0 if after is None else sum(_place(s) <= _place(after) for s in found)
        return found[start : start + limit]

    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts without an entry."""
        found = [a for a in self._attempts.values() if _attempt_is_meant(a, selection)]
        return sorted(found, key=lambda attempt: (attempt.begun_at, attempt.attempt_id))

    async def delete(self, selection: Selection) -> int:
        """Forget what is meant."""
        gone = [s.id for s in self._entries.values() if _entry_is_meant(s, selection)]
        for attempt in await self.unfinished(selection):
            del self._attempts[attempt.attempt_id]
        for key in gone:
            del self._entries[key]
        return len(gone)

    async def aclose(self) -> None:
        """Nothing to close."""


def _in_utc(stored: Stored) -> Stored:
    at = stored.entry.at.astimezone(UTC)
    return replace(stored, entry=stored.entry.model_copy(update={"at": at}))


def _place(stored: Stored) -> tuple[datetime, str]:
    return stored.entry.at, stored.id


def _entry_is_meant(stored: Stored, selection: Selection) -> bool:
    entry = stored.entry
    return _is_meant(selection, entry.run_id, entry.node, entry.tier, entry.at, stored.tags)


def _attempt_is_meant(attempt: Attempt, selection: Selection) -> bool:
    return _is_meant(
        selection, attempt.run_id, attempt.node, attempt.tier, attempt.begun_at, attempt.tags
    )


def _is_meant(
    selection: Selection,
    run_id: str,
    node: str,
    tier: str | None,
    at: datetime,
    tags: Mapping[str, str],
) -> bool:
    return (
        selection.run_id in (None, run_id)
        and selection.node in (None, node)
        and selection.tier in (None, tier)
        and (selection.since is None or at >= selection.since)
        and (selection.until is None or at < selection.until)
        and all(tags.get(key) == value for key, value in selection.tags.items())
    )
