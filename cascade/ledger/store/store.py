"""The store as a user holds it: it takes entries from any thread, and answers in any loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cascade.errors import ConfigurationError
from cascade.ledger.store.base import (
    Attempt,
    Backend,
    Grouping,
    Selection,
    Stored,
    Total,
    new_id,
)
from cascade.ledger.store.export import open_export
from cascade.ledger.store.redaction import Redact, redacted
from cascade.ledger.store.writer import Limits, Writer
from cascade.ledger.tags import NO_TAGS, current_tags
from cascade.state import LedgerEntry

PAGE = 2_000
"""Entries that are read at once: long reads hold up nobody's writes."""

EVERYTHING = Selection()


class Store:
    """A ledger in a database, for `Cascade(ledger=…)`; made by `open_store`.

    Entries wait in a bounded queue and are written in batches by a thread of the store's own.
    When the queue is full, `append` waits; nothing is ever dropped. What is read has in it all
    that was appended before. The queue is flushed by `aclose`, `close`, and at exit.

    Args:
        backend: the database.
        crash_safe: write each call down before it is sent.
        redact: takes out of each entry what must not be stored.
        tags: tags of every entry.
        limits: sizes and times of the queue.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        crash_safe: bool = True,
        redact: Redact | None = None,
        tags: Mapping[str, str] = NO_TAGS,
        limits: Limits | None = None,
    ) -> None:
        self._backend = backend
        self._writer = Writer(backend, limits or Limits())
        self._crash_safe = crash_safe
        self._redact = redact
        self._tags = tags

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Hand over entries, to be written soon.

        Raises:
            LedgerError: the queue was full for longer than `Limits.patience_s`.
        """
        tags = self._tags_now()
        for entry in entries:
            kept = redacted(entry, self._redact)
            self._writer.put(Stored(kept.attempt_id or new_id(), kept, tags))

    async def begin(
        self, *, run_id: str, node: str, tier: str | None = None, model: str | None = None
    ) -> str | None:
        """Write down that a call is about to be sent; returns once that is in the database.

        Returns:
            the `attempt_id` for the entry of the call; None where the store is not crash-safe.

        Raises:
            LedgerError: it cannot be written down. The call should not be sent.
        """
        if not self._crash_safe:
            return None
        attempt = Attempt(
            attempt_id=new_id(),
            run_id=run_id,
            node=node,
            tier=tier,
            model=model,
            tags=self._tags_now(),
        )
        written = self._writer.put_now(attempt)
        try:
            # Shielded, so that a cancelled caller does not take back what others wait for.
            await asyncio.shield(asyncio.wrap_future(written))
        except asyncio.CancelledError:
            self.withdraw(attempt.attempt_id)
            raise
        return attempt.attempt_id

    def withdraw(self, attempt_id: str) -> None:
        """Take back an attempt: its call was not sent."""
        self._writer.put_now(attempt_id)

    async def query(
        self, selection: Selection = EVERYTHING, *, limit: int | None = None
    ) -> list[LedgerEntry]:
        """The entries that are meant, ordered by time; the oldest `limit` of them."""
        found: list[LedgerEntry] = []
        async with aclosing(self.stored(selection)) as stored:
            async for item in stored:
                if limit is not None and len(found) >= limit:
                    break
                found.append(item.entry)
        return found

    async def stored(self, selection: Selection = EVERYTHING) -> AsyncGenerator[Stored]:
        """The entries that are meant with their ids and tags, one after the other."""
        async with aclosing(self._pages(selection)) as pages:
            async for page in pages:
                for item in page:
                    yield item

    async def totals(
        self, selection: Selection = EVERYTHING, *, by: Grouping = "node"
    ) -> dict[str, Total]:
        """What was spent and saved, exactly, by node, tier, model, run or day.

        Groups are in the order of their first entries; an entry without a tier or model is in
        the group `""`.
        """
        totals: dict[str, Total] = {}
        async with aclosing(self.stored(selection)) as stored:
            async for item in stored:
                group = _group(item.entry, by)
                totals[group] = totals.get(group, Total()).plus(item.entry)
        return totals

    async def unfinished(
        self,
        selection: Selection = EVERYTHING,
        *,
        older_than: timedelta = timedelta(),
    ) -> list[Attempt]:
        """Calls with an unknown outcome: begun, and never completed by an entry.

        Their process was killed, or is still at it: with `older_than` longer than any call
        takes, only the killed ones are left. What they cost is unknown.
        """
        await self.flush()
        latest = datetime.now(UTC) - older_than
        attempts = await self._writer.call(lambda: self._backend.unfinished(selection))
        return [attempt for attempt in attempts if attempt.begun_at <= latest]

    async def delete(
        self,
        selection: Selection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Delete entries and unfinished attempts, by run, tag, time, node or tier.

        Args:
            selection: what to delete.
            older_than: delete what is older than this, for retention.
            everything: must be True to delete all there is.

        Returns:
            how many entries were deleted.
        """
        if older_than is not None:
            if selection is not None:
                raise ConfigurationError("give a selection or older_than, not both.")
            selection = Selection(until=datetime.now(UTC) - older_than)
        chosen = selection or EVERYTHING
        if chosen.everything and not everything:
            raise ConfigurationError(
                "this would delete the whole ledger: give a selection, or everything=True."
            )
        await self.flush()
        return await self._writer.call(lambda: self._backend.delete(chosen))

    async def export(self, path: str | Path, selection: Selection = EVERYTHING) -> int:
        """Write entries to a file: `.jsonl`, `.csv` or `.parquet`; returns how many.

        Amounts are decimal text, times UTC, and what is unknown is null (empty in CSV).

        Raises:
            ConfigurationError: the name has none of these endings.
            MissingDependencyError: Parquet without pyarrow.
        """
        n = 0
        with open_export(Path(path)) as write:
            async with aclosing(self._pages(selection)) as pages:
                async for page in pages:
                    await asyncio.to_thread(write, page)
                    n += len(page)
        return n

    async def flush(self) -> None:
        """Return once everything appended so far is in the database.

        Raises:
            LedgerError: the database cannot be reached, or refused an entry.
        """
        await asyncio.wrap_future(self._writer.flush())

    def close(self) -> None:
        """Flush and disconnect. The store may be used again afterwards."""
        self._writer.close()

    async def aclose(self) -> None:
        """`close`, without holding up the event loop."""
        await asyncio.to_thread(self._writer.close)

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _pages(self, selection: Selection) -> AsyncGenerator[Sequence[Stored]]:
        await self.flush()
        last: Stored | None = None
        while True:
            after = last
            page = await self._writer.call(lambda: self._backend.page(selection, after, PAGE))  # noqa: B023
            if page:
                yield page
            if len(page) < PAGE:
                return
            last = page[-1]

    def _tags_now(self) -> Mapping[str, str]:
        tags = current_tags()
        return {**self._tags, **tags} if tags else self._tags


def _group(entry: LedgerEntry, by: Grouping) -> str:
    if by == "day":
        return entry.at.date().isoformat()
    return getattr(entry, by) or ""
