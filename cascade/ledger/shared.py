"""Budgets of keys, shared by all processes on one database.

What a request may cost is put aside before it is sent, and counted when it has ended. Both are rows
of the database, changed under a lock of the key's account, so that no number of requests, processes
and machines spends more than is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from cascade.ledger.base import EXACT, UnavailableError
from cascade.ledger.database import Database
from cascade.ledger.tables import LEDGER, accounts, insert_into, reservations
from cascade.state import new_id

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip

T = TypeVar("T")

Window = Literal["day", "month"]
"""Span of a budget, in UTC."""

MOST_AT_ONCE = 200
"""Changes of one transaction; they came while another was under way."""

LINGER_S, PAUSE_S = 0.005, 0.1
"""Time that settlements wait for the next reservation, to be written in its transaction, and time
between two tries to write."""

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Account:
    """Account of a key: money spent, and money put aside for its requests under way."""

    day: date
    day_usd: Decimal = ZERO
    month_usd: Decimal = ZERO
    put_aside_usd: Decimal = ZERO

    def spent_usd(self, window: Window) -> Decimal:
        """Dollars spent in this window."""
        return self.day_usd if window == "day" else self.month_usd

    def plus(self, spent: Decimal, put_aside: Decimal = ZERO) -> Account:
        """With so much more spent and put aside."""
        add = EXACT.add
        day_usd, month_usd = add(self.day_usd, spent), add(self.month_usd, spent)
        return Account(self.day, day_usd, month_usd, add(self.put_aside_usd, put_aside))

    def on(self, day: date) -> Account:
        """The account on a later day; a clock that is set back makes none begin anew."""
        if day <= self.day:
            return self
        same_month = (day.year, day.month) == (self.day.year, self.day.month)
        return Account(day, ZERO, self.month_usd if same_month else ZERO, self.put_aside_usd)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Dollars that are put aside for one request until it is settled, or its lease ends."""

    id: str
    key: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refusal to put dollars aside: of a window whose limit does not cover the request, they are
    `spent`, or `put_aside` by requests under way that may cost less."""

    window: Window
    limit_usd: Decimal
    account: Account
    usd: Decimal
    why: Literal["spent", "put_aside"]

    @property
    def renews_at(self) -> datetime:
        """Beginning of the next window."""
        day = self.account.day
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        if self.window == "day":
            return midnight + timedelta(days=1)
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)


class _Change(NamedTuple):
    """A change of an account, in a transaction with those that come with it."""

    key: str
    make: Callable[[_Books], Any]
    done: asyncio.Future[Any]


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
        self._database = Database(url, LEDGER)
        self._lease = timedelta(seconds=lease_s)
        self._clock = clock
        self._asked: list[_Change] = []
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
        wanted = Reservation(new_id(), key, usd)
        try:
            refusal = await self._change(key, lambda books: books.reserve(wanted, limits))
        except asyncio.CancelledError:
            # It may have been put aside in the same moment, or is about to be.
            self.settle(wanted, ZERO)
            raise
        return wanted if refusal is None else refusal

    def settle(self, reservation: Reservation, usd: Decimal) -> asyncio.Future[None]:
        """Count what a request has cost, and release the rest. Settling twice counts once. It is
        tried again while the database is away, also where nothing waits for it."""
        settle = partial(_Books.settle, reservation=reservation, usd=usd)
        return self._change(reservation.key, settle, patient=True)

    def charge(self, key: str, usd: Decimal) -> asyncio.Future[None]:
        """Count dollars that were spent without a reservation, such as an audit's, like
        `settle`."""
        return self._change(key, partial(_Books.add, usd=usd), patient=True)

    async def account(self, key: str) -> Account:
        """Account of a key, of today and this month."""
        return await self._change(key, lambda books: books.account)

    async def aclose(self) -> None:
        """Finish what is under way, and disconnect; it may be used again. What cannot be settled,
        as the database is away, lapses with its lease."""
        self._closing = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._closing = False
        await self._database.aclose()

    def _change(
        self, key: str, make: Callable[[_Books], T], *, patient: bool = False
    ) -> asyncio.Future[T]:
        task = asyncio.create_task(self._ask(key, make, patient=patient))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Shielded: a change that is cancelled while it is made is made.
        shielded = asyncio.shield(task)
        shielded.add_done_callback(lambda one: one.cancelled() or one.exception())
        return shielded

    async def _ask(self, key: str, make: Callable[[_Books], T], *, patient: bool) -> T:
        while True:
            done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            self._asked.append(_Change(key, make, done))
            if patient and not self._closing:
                await asyncio.sleep(LINGER_S)
            async with self._turn:  # whose turn it is makes all that were asked for
                while not done.done():
                    await self._transact()
            try:
                return done.result()
            except UnavailableError:
                if not patient or self._closing:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _transact(self) -> None:
        some, self._asked = self._asked[:MOST_AT_ONCE], self._asked[MOST_AT_ONCE:]
        try:
            made = await self._database.write(partial(self._make, changes=some))
        except Exception as error:  # noqa: BLE001 - each is told
            for change in some:
                change.done.set_exception(error)
        else:
            for change, result in zip(some, made, strict=True):
                change.done.set_result(result)
        finally:
            for change in some:
                change.done.cancel()  # without effect where it is done

    def _make(self, connection: sa.Connection, changes: Sequence[_Change]) -> list[Any]:
        # In the order of their keys, so that no two processes wait for one another.
        keys, now = sorted({change.key for change in changes}), self._clock()
        books = {key: _Books(connection, key, now.date(), now + self._lease) for key in keys}
        for key, usd in connection.execute(_LAPSE, {"keys": keys, "now": now}).all():
            books[key].account = books[key].account.plus(usd, -usd)
        made = [change.make(books[change.key]) for change in changes]
        rows = [{"mine": key, **asdict(each.account)} for key, each in books.items()]
        connection.execute(_CHANGE, rows)
        return made


# Made once: to make a statement anew takes longer than to execute it.
_FIELDS = tuple(Account.__dataclass_fields__)
_MINE = accounts.c.key == sa.bindparam("mine")
_ACCOUNT = sa.select(*(accounts.c[name] for name in _FIELDS)).where(_MINE).with_for_update()
_CHANGE = accounts.update().where(_MINE).values({name: sa.bindparam(name) for name in _FIELDS})
_PUT_ASIDE = reservations.insert()
_SETTLED = reservations.c.id == sa.bindparam("settled")
_RELEASE = reservations.delete().where(_SETTLED).returning(reservations.c.usd)
_LAPSED = (
    reservations.c.key.in_(sa.bindparam("keys", expanding=True)),
    reservations.c.until <= sa.bindparam("now"),
)
_LAPSE = reservations.delete().where(*_LAPSED).returning(reservations.c.key, reservations.c.usd)


class _Books:
    """The account of one key, locked until the end of a transaction; reservations that are made
    now lapse at `until`."""

    def __init__(self, connection: sa.Connection, key: str, day: date, until: datetime) -> None:
        self._connection, self._key, self._until = connection, key, until
        mine = {"mine": key}
        found = connection.execute(_ACCOUNT, mine).first()
        if found is None:
            insert = insert_into(accounts, connection.dialect.name).on_conflict_do_nothing()
            connection.execute(insert, {"key": key, **asdict(Account(day))})
            found = connection.execute(_ACCOUNT, mine).one()
        self.account = Account(*found).on(day)

    def reserve(self, wanted: Reservation, limits: Mapping[Window, Decimal]) -> Refusal | None:
        """Put dollars aside; None where that is done."""
        for window, limit in limits.items():
            spent = EXACT.add(self.account.spent_usd(window), wanted.usd)
            if EXACT.add(spent, self.account.put_aside_usd) > limit:
                why: Literal["spent", "put_aside"] = "spent" if spent > limit else "put_aside"
                return Refusal(window, limit, self.account, wanted.usd, why)
        self._connection.execute(_PUT_ASIDE, {**asdict(wanted), "until": self._until})
        self.account = self.account.plus(ZERO, wanted.usd)
        return None

    def settle(self, reservation: Reservation, usd: Decimal) -> None:
        """Count what it cost, and release the rest; it may have been settled before, or lapsed."""
        if self._connection.execute(_RELEASE, {"settled": reservation.id}).first() is not None:
            self.account = self.account.plus(usd, -reservation.usd)

    def add(self, usd: Decimal) -> None:
        """Count dollars as spent."""
        self.account = self.account.plus(usd)
