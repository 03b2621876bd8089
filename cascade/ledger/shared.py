"""Budgets of keys, shared by all processes on one database.

What a request may cost is put aside before it is sent, and counted when it has ended. Both are rows
of the database, changed under a lock of the key's account, so that no number of requests, processes
and machines spends more than is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal, TypeVar

from cascade.ledger.base import EXACT, UnavailableError
from cascade.ledger.database import Database, Money, UtcTime, Words
from cascade.state import new_id

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip
from sqlalchemy.dialects import postgresql  # isort: skip

T = TypeVar("T")

Window = Literal["day", "month"]
"""Span of a budget, in UTC."""

LINGER_S, PAUSE_S = 0.005, 0.1
"""Time that settlements wait for the next reservation, to be written in its transaction, and time
between two tries to write."""

ZERO = Decimal(0)


@dataclass(slots=True)
class Account:
    """Account of a key: money spent, and money put aside for its requests under way."""

    day: date
    day_usd: Decimal = ZERO
    month_usd: Decimal = ZERO
    put_aside_usd: Decimal = ZERO

    def spent_usd(self, window: Window) -> Decimal:
        """Dollars spent in this window."""
        return self.day_usd if window == "day" else self.month_usd

    def add(self, spent: Decimal, put_aside: Decimal = ZERO) -> None:
        """Count so much more as spent and put aside."""
        self.day_usd = EXACT.add(self.day_usd, spent)
        self.month_usd = EXACT.add(self.month_usd, spent)
        self.put_aside_usd = EXACT.add(self.put_aside_usd, put_aside)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Dollars that are put aside for one request until it is settled, or its lease ends."""

    id: str
    key: str
    usd: Decimal
    until: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refusal to put dollars aside: of a window whose limit does not cover the request, they are
    `spent`, or `put_aside` by requests under way that may cost less."""

    window: Window
    limit_usd: Decimal
    account: Account
    usd: Decimal
    why: Literal["spent", "put_aside"]


# --- in the database

_metadata = sa.MetaData()
_accounts = sa.Table(
    "budget_accounts",
    _metadata,
    sa.Column("key", Words, primary_key=True),
    sa.Column("day", sa.Date, nullable=False),
    *(sa.Column(f"{name}_usd", Money, nullable=False) for name in ("day", "month", "put_aside")),
)
_reservations = sa.Table(
    "budget_reservations",
    _metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("key", Words, nullable=False, index=True),
    sa.Column("usd", Money, nullable=False),
    sa.Column("until", UtcTime, nullable=False),
)

# Made once: to make a statement anew takes longer than to execute it.
_FIELDS = tuple(Account.__dataclass_fields__)
_MINE = _accounts.c.key == sa.bindparam("mine")
_ACCOUNT = sa.select(*(_accounts.c[name] for name in _FIELDS)).where(_MINE).with_for_update()
_NEW = postgresql.insert(_accounts).on_conflict_do_nothing()  # SQLite's dialect compiles it as well
_CHANGE = _accounts.update().where(_MINE).values({name: sa.bindparam(name) for name in _FIELDS})
_PUT_ASIDE = _reservations.insert()
_RELEASE = _reservations.delete().where(_reservations.c.id == sa.bindparam("settled"))
_LAPSED = (
    _reservations.c.key.in_(sa.bindparam("keys", expanding=True)),
    _reservations.c.until <= sa.bindparam("now"),
)
_LAPSE = _reservations.delete().where(*_LAPSED).returning(_reservations.c.key, _reservations.c.usd)

_Change = Callable[[sa.Connection, Account], T]


def _account(connection: sa.Connection, key: str, day: date) -> Account:
    """The account of a key on a day, locked until the end of the transaction."""
    found = connection.execute(_ACCOUNT, {"mine": key}).first()
    if found is None:
        connection.execute(_NEW, {"key": key, **asdict(Account(day))})
        found = connection.execute(_ACCOUNT, {"mine": key}).one()
    account = Account(*found)
    if day > account.day:  # a clock that is set back makes none begin anew
        if (day.year, day.month) != (account.day.year, account.day.month):
            account.month_usd = ZERO
        account.day, account.day_usd = day, ZERO
    return account


# --- budgets


@dataclass(eq=False, slots=True)
class _Batch:
    """Changes of accounts that are made in one transaction, and the task that does so."""

    changes: list[tuple[str, _Change[Any]]] = field(default_factory=list)
    made: asyncio.Task[list[Any]] | None = None


class Budgets:
    """Money that keys may spend, put aside and counted in a database: never overspent.

    Several processes and machines may share it. What is put aside and not settled within a lease,
    longer than a request takes, counts as spent: its process died, and whether the request was paid
    for is not known. It belongs to one event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_s: float = 900.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = Database(url, "budgets", _metadata)
        self._lease = timedelta(seconds=lease_s)
        self._clock = clock
        self._batch = _Batch()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Lock()
        self._closing = False

    async def reserve(
        self, key: str, usd: Decimal, limits: Mapping[Window, Decimal]
    ) -> Reservation | Refusal:
        """Put aside what a request may cost, where that much is left of each limit.

        Raises:
            UnavailableError: the database cannot be reached; then nothing may be spent.
        """
        wanted = Reservation(new_id(), key, usd, self._clock() + self._lease)

        def reserve(connection: sa.Connection, account: Account) -> Reservation | Refusal:
            for window, limit in limits.items():
                spent = EXACT.add(account.spent_usd(window), usd)
                if EXACT.add(spent, account.put_aside_usd) > limit:
                    why: Literal["spent", "put_aside"] = "spent" if spent > limit else "put_aside"
                    return Refusal(window, limit, replace(account), usd, why)
            connection.execute(_PUT_ASIDE, asdict(wanted))
            account.add(ZERO, usd)
            return wanted

        try:
            return await self._change(key, reserve)
        except asyncio.CancelledError:
            # It may have been put aside in the same moment, or is about to be.
            self.settle(wanted, ZERO)
            raise

    def settle(self, reservation: Reservation, usd: Decimal) -> asyncio.Future[None]:
        """Count what a request has cost, and release the rest. Settling twice counts once. It is
        tried again while the database is away, also where nothing waits for it."""

        def settle(connection: sa.Connection, account: Account) -> None:
            # It may have been settled before, or lapsed.
            if connection.execute(_RELEASE, {"settled": reservation.id}).rowcount:
                account.add(usd, -reservation.usd)

        return self._change(reservation.key, settle, patient=True)

    def charge(self, key: str, usd: Decimal) -> asyncio.Future[None]:
        """Count dollars that were spent without a reservation, such as an audit's, like
        `settle`."""
        return self._change(key, lambda _, account: account.add(usd), patient=True)

    async def account(self, key: str) -> Account:
        """Account of a key, of today and this month."""
        return await self._change(key, lambda _, account: replace(account))

    async def aclose(self) -> None:
        """Finish what is under way, and disconnect; it may be used again. What cannot be settled,
        as the database is away, lapses with its lease."""
        self._closing = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._closing = False
        await self._database.aclose()

    def _change(self, key: str, make: _Change[T], *, patient: bool = False) -> asyncio.Future[T]:
        task = asyncio.create_task(self._ask(key, make, patient=patient))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Shielded: a change that is cancelled while it is made is made.
        shielded = asyncio.shield(task)
        shielded.add_done_callback(lambda one: one.cancelled() or one.exception())
        return shielded

    async def _ask(self, key: str, make: _Change[Any], *, patient: bool) -> Any:
        while True:
            batch, at = self._batch, len(self._batch.changes)
            batch.changes.append((key, make))
            if patient and not self._closing:
                await asyncio.sleep(LINGER_S)
            batch.made = batch.made or asyncio.create_task(self._write(batch))
            try:
                return (await batch.made)[at]
            except UnavailableError:
                if not patient or self._closing:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _write(self, batch: _Batch) -> list[Any]:
        async with self._turn:
            self._batch = _Batch()  # for what is asked from now on
            return await self._database.write(partial(self._make, changes=batch.changes))

    def _make(
        self, connection: sa.Connection, changes: list[tuple[str, _Change[Any]]]
    ) -> list[Any]:
        # In the order of their keys, so that no two processes wait for one another.
        keys, now = sorted({key for key, _ in changes}), self._clock()
        accounts = {key: _account(connection, key, now.date()) for key in keys}
        for key, usd in connection.execute(_LAPSE, {"keys": keys, "now": now}).all():
            accounts[key].add(usd, -usd)
        made = [make(connection, accounts[key]) for key, make in changes]
        rows = [{"mine": key, **asdict(account)} for key, account in accounts.items()]
        connection.execute(_CHANGE, rows)
        return made
