"""The narrow interface between the ledger and a database, and the records that cross it."""

from __future__ import annotations

import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Literal, NamedTuple

from cascade.errors import LedgerError
from cascade.state import Basis, LedgerEntry

_EXACT = Context(prec=200)
"""The default context rounds a sum to 28 digits; then totals would depend on the grouping."""

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


class Batch(NamedTuple):
    """What is written in one transaction.

    Attributes:
        attempts: calls about to be sent.
        entries: entries to keep; each completes the attempt of its `attempt_id`.
        withdrawn: ids of attempts that were not sent after all.
    """

    attempts: Sequence[Attempt] = ()
    entries: Sequence[Stored] = ()
    withdrawn: Sequence[str] = ()


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


@dataclass(frozen=True, slots=True)
class Amounts:
    """A sum of dollars whose parts are kept apart by their basis.

    Attributes:
        measured: the sum of what was measured.
        estimated: the sum of what was estimated.
        unknown: how many amounts nobody knows. They are not zero.
    """

    measured: Decimal = Decimal(0)
    estimated: Decimal = Decimal(0)
    unknown: int = 0

    @property
    def known(self) -> Decimal:
        """Measured and estimated together."""
        return _EXACT.add(self.measured, self.estimated)

    @property
    def total(self) -> Decimal | None:
        """The whole sum, or None where a part is unknown."""
        return None if self.unknown else self.known

    def plus(self, amount: Decimal | None, basis: Basis) -> Amounts:
        """The sum with one more amount."""
        if amount is None:
            return Amounts(self.measured, self.estimated, self.unknown + 1)
        if basis == "measured":
            return Amounts(_EXACT.add(self.measured, amount), self.estimated, self.unknown)
        return Amounts(self.measured, _EXACT.add(self.estimated, amount), self.unknown)


@dataclass(frozen=True, slots=True)
class Total:
    """What a group of entries cost and saved, to the last decimal."""

    entries: int = 0
    cost_usd: Amounts = Amounts()
    saved_usd: Amounts = Amounts()
    baseline_usd: Amounts = Amounts()

    def plus(self, entry: LedgerEntry) -> Total:
        """The total with one more entry."""
        return Total(
            self.entries + 1,
            self.cost_usd.plus(entry.cost_usd, entry.cost_basis),
            self.saved_usd.plus(entry.saved_usd, entry.basis),
            self.baseline_usd.plus(entry.baseline_usd, entry.basis),
        )


Grouping = Literal["node", "tier", "model", "run_id", "day"]
"""By what totals are taken; days are in UTC."""


class Backend(ABC):
    """A database that keeps a ledger.

    All its methods run in one event loop, that of the store's writer; reads may run while a
    write does. Raise `UnavailableError` for what may succeed later, and any other error for
    what never will.
    """

    @abstractmethod
    async def open(self) -> None:
        """Connect, and bring the schema up to date, whoever else is doing so at this moment."""

    @abstractmethod
    async def write(self, batch: Batch) -> None:
        """Keep all of the batch, durably, or nothing of it.

        A batch may come twice, when it was not known whether the first time succeeded:
        attempts and entries whose ids are there already are left as they are.
        """

    @abstractmethod
    async def page(
        self, selection: Selection, after: Stored | None, limit: int
    ) -> Sequence[Stored]:
        """The first entries after this one, ordered by time, then id."""

    @abstractmethod
    async def unfinished(self, selection: Selection) -> Sequence[Attempt]:
        """The attempts that no entry has completed, ordered by time, then id."""

    @abstractmethod
    async def delete(self, selection: Selection) -> int:
        """Delete entries and attempts; returns how many entries there were."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections."""
