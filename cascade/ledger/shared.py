"""Budgets of keys, shared by all processes on one database.

What a request may cost is put aside before it is sent, and counted when it has ended. Both are rows
of the database, changed under a lock of the key's account, so that no number of requests, processes
and machines spends more than is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from cascade.ledger.base import EXACT, UnavailableError
from cascade.state import new_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")

Window = Literal["day", "month"]
"""Span of a budget, in UTC."""

MOST_AT_ONCE = 200
"""Changes of one transaction; they came while another was under way."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between two tries to write; each pause is twice the one before."""

LAPSE_EVERY = timedelta(seconds=5)
"""Time between two looks for a key's reservations whose lease ended."""

REMEMBERED = timedelta(days=1)
"""Time for which a lapsed reservation can still be settled."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a key has spent, and what is put aside for its requests under way."""

    day: date
    day_usd: Decimal = Decimal(0)
    month_usd: Decimal = Decimal(0)
    put_aside_usd: Decimal = Decimal(0)

    def spent_usd(self, window: Window) -> Decimal:
        """What is spent in this window."""
        return self.day_usd if window == "day" else self.month_usd

    def renews_at(self, window: Window) -> datetime:
        """When the next window begins."""
        midnight = datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC)
        if window == "day":
            return midnight + timedelta(days=1)
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)

    def plus(self, spent: Decimal, put_aside: Decimal = Decimal(0)) -> Account:
        """With so much more spent and put aside; neither falls below zero."""
        return replace(
            self,
            day_usd=max(Decimal(0), EXACT.add(self.day_usd, spent)),
            month_usd=max(Decimal(0), EXACT.add(self.month_usd, spent)),
            put_aside_usd=max(Decimal(0), EXACT.add(self.put_aside_usd, put_aside)),
        )

    def on(self, day: date) -> Account:
        """As it is on a later day. None begins anew when a clock is set back."""
        if day <= self.day:
            return self
        same_month = (day.year, day.month) == (self.day.year, self.day.month)
        month_usd = self.month_usd if same_month else Decimal(0)
        return replace(self, day=day, day_usd=Decimal(0), month_usd=month_usd)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Dollars that are put aside for one request until it is settled, or its lease ends."""

    id: str
    key: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why dollars were not put aside.

    Attributes:
        window: whose limit does not cover the request.
        limit_usd: the limit.
        account: of the key, at that moment.
        usd: what was asked for.
        why: `spent`, so that it waits for the next window; or `put_aside`, by requests under way
            that may cost less: it may be covered in a moment.
    """

    window: Window
    limit_usd: Decimal
    account: Account
    usd: Decimal
    why: Literal["spent", "put_aside"]

    @property
    def renews_at(self) -> datetime:
        """When the next window begins."""
        return self.account.renews_at(self.window)


class _Change(NamedTuple):
    """A change of one key's account, in a transaction with those that come with it.

    A `patient` one is tried again until the database is back.
    """

    key: str
    make: Callable[[_Books], Any]
    done: asyncio.Future[Any]
    patient: bool


class Budgets:
    """Money that keys may spend, put aside and counted in a database: never overspent.

    Several processes and machines may share it. What a process that died has put aside counts as
    spent, at its bound, once its lease ends; until then it is put aside. It belongs to one event
    loop.

    Args:
        url: of the ledger's database, as for `open_store`; `memory://` for one process.
        lease_s: longest time that a request takes. One that takes longer is corrected when it is
            settled.
        clock: the time, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_s: float = 900.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        # They need SQLAlchemy, and take 0.2 s to load.
        from cascade.ledger.database import Database  # noqa: PLC0415
        from cascade.ledger.sql import LEDGER  # noqa: PLC0415

        self._database = Database(url, LEDGER)
        self._lease = timedelta(seconds=lease_s)
        self._clock = clock
        self._asked: list[_Change] = []
        self._working: asyncio.Task[None] | None = None
        self._lapsed_at: dict[str, datetime] = {}
        self._closing = False

    async def reserve(
        self, key: str, usd: Decimal, limits: Mapping[Window, Decimal]
    ) -> Reservation | Refusal:
        """Put dollars aside, where what is spent and put aside leaves as many under each limit.

        Args:
            key: whose.
            usd: what the request may cost at most.
            limits: window → dollars; a window without a limit is left out.

        Raises:
            UnavailableError: the database cannot be reached; then nothing may be spent.
        """
        wanted = Reservation(new_id(), key, usd)
        try:
            refusal = await self._change(key, lambda books: books.reserve(wanted, limits))
        except asyncio.CancelledError:
            # It may have been put aside in the same moment, or is about to be.
            self._put(key, lambda books: books.settle(wanted, Decimal(0)), patient=True)
            raise
        return wanted if refusal is None else refusal

    async def settle(self, reservation: Reservation, usd: Decimal) -> None:
        """Count what a request has cost, and release the rest. Settling twice counts once.

        Returns once that is done, and waits while the database is away: call it in a task of its
        own where nothing should wait for it.
        """
        await asyncio.shield(
            self._put(reservation.key, lambda books: books.settle(reservation, usd), patient=True)
        )

    async def charge(self, key: str, usd: Decimal) -> None:
        """Count dollars that were spent without a reservation, such as an audit's; waits like
        `settle`."""
        await asyncio.shield(self._put(key, lambda books: books.add(usd), patient=True))

    async def account(self, key: str) -> Account:
        """What a key has spent today and this month, and what is put aside for it."""
        found: Account = await self._change(key, lambda books: books.account)
        return found

    async def aclose(self) -> None:
        """Finish what is under way, and disconnect; it may be used again. What cannot be settled,
        as the database is away, lapses with its lease."""
        self._closing = True
        while self._working is not None:
            await asyncio.wait([self._working])
        self._closing = False
        await self._database.aclose()

    async def _change(self, key: str, make: Callable[[_Books], T]) -> T:
        # Shielded: a change that is cancelled while it is made is made.
        return await asyncio.shield(self._put(key, make))

    def _put(
        self, key: str, make: Callable[[_Books], T], *, patient: bool = False
    ) -> asyncio.Future[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda one: one.cancelled() or one.exception())
        self._asked.append(_Change(key, make, done, patient))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return done

    async def _work(self) -> None:
        """Make the changes that came meanwhile, until there are none left."""
        pause_s = FIRST_PAUSE_S
        try:
            while self._asked:
                some, self._asked = self._asked[:MOST_AT_ONCE], self._asked[MOST_AT_ONCE:]
                try:
                    made = await self._database.write(lambda c: self._make(c, some))  # noqa: B023
                except Exception as error:  # noqa: BLE001 - it is told to who waits
                    again = isinstance(error, UnavailableError) and not self._closing
                    for change in some:
                        if not (again and change.patient):
                            change.done.set_exception(error)
                    if again:
                        self._asked[:0] = [change for change in some if change.patient]
                        await asyncio.sleep(pause_s)
                        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                else:
                    pause_s = FIRST_PAUSE_S
                    for change, result in zip(some, made, strict=True):
                        change.done.set_result(result)
        finally:
            self._working = None

    def _make(self, connection: Connection, changes: Sequence[_Change]) -> list[Any]:
        # In the order of their keys, so that no two processes wait for one another.
        keys = sorted({change.key for change in changes})
        now = self._clock()
        books = {key: _Books(connection, key, now, now + self._lease) for key in keys}
        for key in keys:
            if now - self._lapsed_at.get(key, datetime.min.replace(tzinfo=UTC)) >= LAPSE_EVERY:
                books[key].lapse()
                self._lapsed_at[key] = now
        made = [change.make(books[change.key]) for change in changes]
        for each in books.values():
            each.write()
        return made


class _Books:
    """The account of one key, locked until the end of a transaction.

    Args:
        connection: in the transaction.
        key: whose.
        now: the time.
        until: when reservations that are made now lapse.
    """

    def __init__(self, connection: Connection, key: str, now: datetime, until: datetime) -> None:
        from sqlalchemy import select  # noqa: PLC0415 - takes 0.2 s to load
        from sqlalchemy.dialects import postgresql, sqlite  # noqa: PLC0415

        from cascade.ledger.sql import accounts, reservations  # noqa: PLC0415

        self._accounts, self._reservations = accounts, reservations
        self._connection, self._key, self._now, self._until = connection, key, now, until
        columns = [accounts.c[name] for name in Account.__dataclass_fields__]
        mine = select(*columns).where(accounts.c.key == key).with_for_update()
        found = connection.execute(mine).first()
        if found is None:
            dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
            row = {"key": key, **asdict(Account(now.date()))}
            connection.execute(dialect.insert(accounts).on_conflict_do_nothing(), row)
            found = connection.execute(mine).one()
        self._written = Account(*found)
        self.account = self._written.on(now.date())

    def reserve(self, wanted: Reservation, limits: Mapping[Window, Decimal]) -> Refusal | None:
        """Put dollars aside; None where that is done."""
        account = self.account
        for window, limit in limits.items():
            spent = EXACT.add(account.spent_usd(window), wanted.usd)
            if EXACT.add(spent, account.put_aside_usd) > limit:
                why: Literal["spent", "put_aside"] = "spent" if spent > limit else "put_aside"
                return Refusal(window, limit, account, wanted.usd, why)
        row = {"id": wanted.id, "key": self._key, "usd": wanted.usd, "until": self._until}
        self._connection.execute(self._reservations.insert(), row)
        self.account = account.plus(Decimal(0), wanted.usd)
        return None

    def settle(self, reservation: Reservation, usd: Decimal) -> None:
        """Count what it cost, and release the rest."""
        table = self._reservations
        this = table.delete().where(table.c.id == reservation.id).returning(table.c.lapsed_at)
        found = self._connection.execute(this).first()
        if found is None:  # it was settled before
            return
        if found.lapsed_at is None:
            self.account = self.account.plus(usd, -reservation.usd)
        else:  # its bound was counted as spent
            self.account = self.account.plus(EXACT.subtract(usd, reservation.usd))

    def add(self, usd: Decimal) -> None:
        """Count dollars as spent."""
        self.account = self.account.plus(usd)

    def write(self) -> None:
        """Write the account down."""
        if self.account != self._written:
            change = self._accounts.update().where(self._accounts.c.key == self._key)
            self._connection.execute(change.values(asdict(self.account)))

    def lapse(self) -> None:
        """Count as spent what was put aside by requests that never ended: nobody knows whether
        they were paid for."""
        table, mine = self._reservations, self._reservations.c.key == self._key
        ended = table.update().where(mine, table.c.lapsed_at.is_(None), table.c.until <= self._now)
        lapsed = self._connection.execute(
            ended.values(lapsed_at=self._now).returning(table.c.usd)
        ).all()
        for (usd,) in lapsed:
            self.account = self.account.plus(usd, -usd)
        old = table.c.lapsed_at <= self._now - REMEMBERED
        self._connection.execute(table.delete().where(mine, old))
