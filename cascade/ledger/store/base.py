"""The narrow interface between the ledger and a database, and the records that cross it."""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from cascade.errors import LedgerError
from cascade.ledger.amounts import Amounts
from cascade.ledger.texts import Pending, Texts
from cascade.state import LedgerEntry

_counter = itertools.count()
_process = os.urandom(6).hex()


def new_id() -> str:
    """A unique id; later ones sort after earlier ones of the same process."""
    # The process id is there for a fork, which shares all the rest with its parent.
    return f"{time.time_ns():016x}-{_process}{os.getpid():x}-{next(_counter):x}"


class UnavailableError(LedgerError):
    """The database cannot be reached or is busy: the same write may succeed later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A call that is about to be sent. Its entry completes it.

    An attempt without an entry is a call whose process died, or is still at it: whether the
    provider was paid is not known.
    """

    attempt_id: str
    run_id: str
    node: str
    tier: str | None = None
    model: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    begun_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it is kept.

    `id` is that of its attempt where it has one: a call can be in the ledger only once.
    """

    id: str
    entry: LedgerEntry
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredTexts:
    """The texts of a call as they are kept, with what they are selected by.

    `id` is that of the call's entry.
    """

    id: str
    run_id: str
    node: str
    tier: str | None
    texts: Texts
    at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)


class Withdrawn(NamedTuple):
    """An attempt that was not sent after all."""

    attempt_id: str


class Dropped(NamedTuple):
    """An audit that is not pending any more."""

    run_id: str


class Batch(NamedTuple):
    """What is written in one transaction.

    Attributes:
        attempts: calls about to be sent.
        entries: entries to keep; each completes the attempt of its `attempt_id`.
        withdrawn: attempts to forget.
        texts: texts to keep.
        pending: audits that are not done yet.
        dropped: audits that are not pending any more, also where they are of this batch.
    """

    attempts: Sequence[Attempt] = ()
    entries: Sequence[Stored] = ()
    withdrawn: Sequence[Withdrawn] = ()
    texts: Sequence[StoredTexts] = ()
    pending: Sequence[Pending] = ()
    dropped: Sequence[Dropped] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries are meant: all that satisfy every given condition.

    Attributes:
        run_id: of this run.
        node: of this node.
        tier: of this tier.
        since: at this time or later.
        until: before this time.
        tags: with each of these tags.
    """

    run_id: str | None = None
    node: str | None = None
    tier: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """Whether it excludes nothing."""
        return self == Selection()


Grouping = Literal["node", "tier", "model", "run_id", "day"]
"""By what totals are taken; days are in UTC."""


def group_of(entry: LedgerEntry, by: Grouping) -> str:
    """The group of an entry; `""` where it has none."""
    if by == "day":
        return entry.at.date().isoformat()
    return getattr(entry, by) or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Which pending audits a process takes on.

    Attributes:
        by: who takes them.
        at: now.
        drawn_until: those that were drawn at this time or before.
        lapsed: and that nobody has taken on after this time.
    """

    by: str
    at: datetime
    drawn_until: datetime
    lapsed: datetime


class Backend(ABC):
    """A database that keeps a ledger.

    Its methods run in one event loop, that of the store's writer; reads may run while a write
    does. Raise `UnavailableError` for what may succeed later, and any other error for
    what never will.

    Attributes:
        read_only: whether it refuses to write, to migrate, and to make a database.
    """

    read_only: bool = False

    @abstractmethod
    async def open(self) -> None:
        """Connect, and bring the schema up to date, whoever else is doing so at this moment."""

    @abstractmethod
    async def write(self, batch: Batch) -> None:
        """Keep all of the batch, durably, or nothing of it.

        A batch may come twice, when it was not known whether the first time succeeded:
        whatever is there already by its id is left as it is.
        """

    def write_now(self, batch: Batch) -> bool:
        """Keep a small batch in the thread that calls, if that takes no longer than handing over.

        The only method that is called from other threads, also while another is at work. It waits
        for nothing: not for a lock, and not for the disk.

        Returns:
            whether it is kept, as `write` would have kept it. If not, it comes again by `write`,
            and what is there already is left as it is.
        """
        del batch
        return False

    async def tidy(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what `write_now` leaves undone because it would take long; called now and then."""

    @abstractmethod
    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The first entries after this one, ordered by time, then id."""

    @abstractmethod
    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts that no entry has completed, ordered by time, then id."""

    @abstractmethod
    async def texts(
        self, selection: Selection, after: StoredTexts | None, limit: int
    ) -> Sequence[StoredTexts]:
        """The first texts after these, ordered by time, then id."""

    @abstractmethod
    async def pending(self, selection: Selection) -> Sequence[Pending]:
        """The audits that are not done, ordered by time, then run.

        They have no node and no tier: a selection of either means none of them.
        """

    @abstractmethod
    async def claim(self, claim: Claim) -> Sequence[Pending]:
        """Mark audits, and return those that were marked: nobody else gets them meanwhile."""

    @abstractmethod
    async def spent(self, selection: Selection) -> Amounts:
        """What entries cost, where an unknown cost counts as its `assumed_usd`."""

    @abstractmethod
    async def delete(self, selection: Selection) -> int:
        """Delete entries, attempts, texts and pending audits; returns how many entries."""

    @abstractmethod
    async def delete_texts(self, selection: Selection) -> int:
        """Delete texts and pending audits alone; returns how many of both there were."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections."""
