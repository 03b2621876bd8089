"""The store as a user holds it: it takes entries from any thread, and answers in any loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar, get_args

from cascade._closing import Closing
from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.amounts import Amounts, Total
from cascade.ledger.store.at_once import AtOnce
from cascade.ledger.store.base import (
    Attempt,
    Backend,
    Claim,
    Dropped,
    Grouping,
    Selection,
    Stored,
    StoredTexts,
    Withdrawn,
    group_of,
    new_id,
)
from cascade.ledger.store.export import open_export
from cascade.ledger.store.redaction import Redact, may_be_kept, redacted, redacted_texts
from cascade.ledger.store.writer import Limits, Writer
from cascade.ledger.tags import NO_TAGS, checked_tags, current_tags
from cascade.ledger.texts import KeptTexts, Pending, Texts, with_hashes
from cascade.state import LedgerEntry

PAGE = 500
"""Entries that are read at once: the writer's thread is at it for 20 ms, and calls that are about
to be sent wait for it."""

TEXTS_PAGE = 100
"""Texts that are read at once: they may be long."""

LEASE = timedelta(minutes=15)
"""How long a claimed audit belongs to its process; afterwards another may claim it."""

GRACE_S = 1.0
"""How much longer than its patience the writer may take to say that a database is away."""

EVERYTHING = Selection()

T = TypeVar("T")


class Store(Closing):
    """A ledger in a database, for `Cascade(ledger=…)`; made by `open_store`.

    Entries wait in a bounded queue and are written in batches by a thread of the store's own.
    When the queue is full, `append` waits, and raises when it stays so. What is read has in it all
    that was appended before. The queue is flushed by `aclose`, `close`, and at exit.

    Args:
        backend: the database.
        crash_safe: write each call down before it is sent.
        texts: which prompts and answers are kept.
        hash_key: a secret for the hashes of prompts and answers.
        redact: takes out of notes, prompts and answers what must not be stored.
        tags: tags of every entry.
        limits: sizes and times of the queue.

    Raises:
        ConfigurationError: `texts` has no such value, `hash_key` is empty, or a tag is no text.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        crash_safe: bool = True,
        texts: KeptTexts = "none",
        hash_key: str | bytes | None = None,
        redact: Redact | None = None,
        tags: Mapping[str, str] = NO_TAGS,
        limits: Limits | None = None,
    ) -> None:
        if texts not in get_args(KeptTexts):
            raise ConfigurationError(
                f"texts={texts!r}: give one of {', '.join(get_args(KeptTexts))}."
            )
        if hash_key is not None and not hash_key:
            raise ConfigurationError("hash_key is empty: give a secret, or leave it out.")
        self._backend = backend
        self._kept_texts: KeptTexts = texts
        self._hash_key = hash_key.encode() if isinstance(hash_key, str) else hash_key
        self._writer = Writer(backend, limits or Limits())
        self._at_once = AtOnce(self._writer.write_now, self._writer.hand_over)
        self._crash_safe = crash_safe
        self._redact = redact
        self._tags = checked_tags(tags, "the store")

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Hand over entries, to be written soon.

        Raises:
            LedgerError: the queue was full for longer than `Limits.full_s`.
        """
        tags = self._tags_now()
        for entry in entries:
            kept = redacted(entry, self._redact)
            self._writer.put(Stored(kept.attempt_id or new_id(), kept, tags))

    @property
    def texts(self) -> KeptTexts:
        """Which prompts and answers are kept."""
        return self._kept_texts

    @property
    def lost(self) -> int:
        """Entries that are in the log instead of the database: there was no room for them in the
        queue, they were refused, or the process ended before they could be written.
        """
        return self._writer.lost

    @property
    def waiting(self) -> int:
        """Entries and the like that were handed over and are not written yet."""
        return self._writer.waiting

    def keep(self, entry: LedgerEntry, texts: Texts) -> LedgerEntry:
        """Append the entry of a call with the hashes of its texts, and return it.

        The texts themselves, redacted, are kept with `texts="all"`.

        Raises:
            LedgerError: the queue was full for longer than `Limits.full_s`.
        """
        entry = with_hashes(entry, texts, self._hash_key)
        tags = self._tags_now()
        stored = Stored(entry.attempt_id or new_id(), redacted(entry, self._redact), tags)
        kept = redacted_texts(texts, self._redact) if self._kept_texts == "all" else None
        if kept is None:
            self._writer.put(stored)
        else:
            place = (stored.id, entry.run_id, entry.node, entry.tier)
            self._writer.put(stored, StoredTexts(*place, texts=kept, at=entry.at, tags=tags))
        return entry

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
        patience_s = self._writer.limits.patience_s
        try:
            async with asyncio.timeout(patience_s + GRACE_S):
                await self._at_once.written(attempt)
        except asyncio.CancelledError:
            self.withdraw(attempt.attempt_id)
            raise
        except TimeoutError as error:
            self.withdraw(attempt.attempt_id)
            why = f"the ledger's database has not answered for {patience_s} s; nothing was sent."
            raise LedgerError(why) from error
        return attempt.attempt_id

    def withdraw(self, attempt_id: str) -> None:
        """Take back an attempt: its call was not sent."""
        self._writer.put_now(Withdrawn(attempt_id))

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

    async def stored_texts(self, selection: Selection = EVERYTHING) -> AsyncGenerator[StoredTexts]:
        """The prompts and answers that were kept with `texts="all"`, ordered by time."""

        async def fetch(after: StoredTexts | None) -> Sequence[StoredTexts]:
            return await self._backend.texts(selection, after, TEXTS_PAGE)

        async with aclosing(self._paged(fetch, TEXTS_PAGE)) as pages:
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
                group = group_of(item.entry, by)
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

    def put_pending(self, pending: Pending) -> None:
        """Keep an audit that was drawn until it is dropped; with `texts="none"` nothing is kept.

        An audit whose payload the redaction would change is not kept.

        Raises:
            LedgerError: the queue was full for longer than `Limits.full_s`.
        """
        if self._kept_texts != "none" and may_be_kept(pending, self._redact):
            self._writer.put(replace(pending, tags={**self._tags, **pending.tags}))

    def drop_pending(self, run_id: str) -> None:
        """Forget a pending audit: it is done, or never will be.

        Raises:
            LedgerError: the queue was full for longer than `Limits.full_s`.
        """
        self._writer.put(Dropped(run_id))

    async def pending(self, selection: Selection = EVERYTHING) -> list[Pending]:
        """The audits that are not done, claimed or not, oldest first."""
        await self.flush()
        return list(await self._writer.call(lambda: self._backend.pending(selection)))

    async def claim_pending(
        self, older_than: timedelta, *, lease: timedelta = LEASE
    ) -> list[Pending]:
        """Take on audits that were drawn so long ago and that nobody else is at.

        Of several processes that share the ledger each gets others. Their clocks should agree
        within seconds.

        Args:
            older_than: since they were drawn; longer than an audit usually waits.
            lease: how long they belong to this process. After that others may claim them, as
                the process may have died.
        """
        now = datetime.now(UTC)
        claim = Claim(by=new_id(), at=now, drawn_until=now - older_than, lapsed=now - lease)
        await self.flush()
        return list(await self._writer.call(lambda: self._backend.claim(claim)))

    async def spent(self, node: str, since: datetime) -> Amounts:
        """What the entries of a node cost since a time.

        An unknown cost counts among the estimated ones at its `assumed_usd`, as in budgets;
        where there is none, it stays unknown.
        """
        return await self.cost(Selection(node=node, since=since))

    async def cost(self, selection: Selection = EVERYTHING) -> Amounts:
        """What the entries that are meant cost; unknown costs as in `spent`."""
        await self.flush()
        return await self._writer.call(lambda: self._backend.spent(selection))

    async def delete(
        self,
        selection: Selection | None = None,
        *,
        older_than: timedelta | None = None,
        texts_older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Delete entries with all that belongs to them, by run, tag, time, node or tier.

        With entries go their prompts and answers, unfinished attempts and pending audits.

        Args:
            selection: what to delete.
            older_than: delete what is older than this, for retention.
            texts_older_than: delete prompts, answers and pending audits that are older than
                this, and leave the entries.
            everything: must be True to delete all there is.

        Returns:
            how many entries were deleted; with `texts_older_than`, how many texts and audits.

        Raises:
            ConfigurationError: it is not said what to delete, or in two ways.
        """
        if sum(given is not None for given in (selection, older_than, texts_older_than)) > 1:
            raise ConfigurationError("give a selection, older_than or texts_older_than: only one.")
        if texts_older_than is not None:
            old = Selection(until=datetime.now(UTC) - texts_older_than)
            await self.flush()
            return await self._writer.call(lambda: self._backend.delete_texts(old))
        if older_than is not None:
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
        await self._writer.written()

    def close(self) -> None:
        """Flush and disconnect. The store may be used again afterwards."""
        self._writer.close()

    async def aclose(self) -> None:
        """`close`, without holding up the event loop."""
        await asyncio.to_thread(self._writer.close)

    def _pages(self, selection: Selection) -> AsyncGenerator[Sequence[Stored]]:
        return self._paged(lambda after: self._backend.page(selection, after, PAGE), PAGE)

    async def _paged(
        self, fetch: Callable[[T | None], Awaitable[Sequence[T]]], size: int
    ) -> AsyncGenerator[Sequence[T]]:
        await self.flush()
        last: T | None = None
        while True:
            after = last
            page = await self._writer.call(lambda: fetch(after))  # noqa: B023
            if page:
                yield page
            if len(page) < size:
                return
            last = page[-1]

    def _tags_now(self) -> Mapping[str, str]:
        tags = current_tags()
        return {**self._tags, **tags} if tags else self._tags
