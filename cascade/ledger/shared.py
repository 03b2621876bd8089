"""Budgets of keys, shared by all processes on one database.

What a request may cost is put aside before it is sent, and counted when it has ended. Both stand in
the row of the key's account, which is locked while it changes, so that no number of requests,
processes and machines spends more than is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from cascade.ledger.base import EXACT, UnavailableError
from cascade.ledger.database import Database, Words, json_type
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


class Account(BaseModel):
    """Account of a key: money spent, and money put aside for its requests under way; `held` has the
    dollars of each and the end of its lease."""

    day: date
    day_usd: Decimal = ZERO
    month_usd: Decimal = ZERO
    put_aside_usd: Decimal = ZERO
    held: dict[str, tuple[Decimal, datetime]] = {}

    def spent_usd(self, window: Window) -> Decimal:
        """Dollars spent in this window."""
        return self.day_usd if window == "day" else self.month_usd

    def spend(self, usd: Decimal) -> None:
        """Count dollars as spent."""
        self.day_usd, self.month_usd = EXACT.add(self.day_usd, usd), EXACT.add(self.month_usd, usd)

    def settle(self, reservation_id: str, usd: Decimal) -> None:
        """Count what a request has cost, and release the rest; once."""
        if (held := self.held.pop(reservation_id, None)) is not None:
            self.put_aside_usd = EXACT.subtract(self.put_aside_usd, held[0])
            self.spend(usd)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Dollars that are put aside for one request until it is settled, or its lease ends."""

    id: str
    key: str
    usd: Decimal


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refusal to put dollars aside: those of a window are `spent`, or `put_aside` by requests under
    way that may cost less."""

    window: Window
    limit_usd: Decimal
    account: Account
    usd: Decimal
    why: Literal["spent", "put_aside"]


_accounts = sa.Table(
    "budget_accounts",
    sa.MetaData(),
    sa.Column("key", Words, primary_key=True),
    sa.Column("account", json_type, nullable=False),
)

# Made once: to make a statement anew takes longer than to execute it.
_MINE = _accounts.c.key == sa.bindparam("mine")
_ACCOUNT = sa.select(_accounts.c.account).where(_MINE).with_for_update()
_NEW = postgresql.insert(_accounts).on_conflict_do_nothing()  # SQLite's dialect compiles it as well
_CHANGE = _accounts.update().where(_MINE).values(account=sa.bindparam("account"))

_Change = Callable[[Account], T]


def _account(connection: sa.Connection, key: str, now: datetime) -> Account:
    """The account of a key, locked until the end of the transaction."""
    day, found = now.date(), connection.execute(_ACCOUNT, {"mine": key}).scalar()
    if found is None:
        connection.execute(_NEW, {"key": key, "account": Account(day=day)})
        found = connection.execute(_ACCOUNT, {"mine": key}).scalar_one()
    account = Account.model_validate(found)
    if day > account.day:  # a clock that is set back makes none begin anew
        if (day.year, day.month) != (account.day.year, account.day.month):
            account.month_usd = ZERO
        account.day, account.day_usd = day, ZERO
    for id_, (usd, until) in [*account.held.items()]:
        if until <= now:
            account.settle(id_, usd)
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
        self._database = Database(url, "budgets", _accounts.metadata)
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
        wanted, until = Reservation(new_id(), key, usd), self._clock() + self._lease

        def reserve(account: Account) -> Reservation | Refusal:
            for window, limit in limits.items():
                spent = EXACT.add(account.spent_usd(window), usd)
                if EXACT.add(spent, account.put_aside_usd) > limit:
                    why: Literal["spent", "put_aside"] = "spent" if spent > limit else "put_aside"
                    return Refusal(window, limit, account.model_copy(), usd, why)
            account.held[wanted.id] = usd, until
            account.put_aside_usd = EXACT.add(account.put_aside_usd, usd)
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
        settle = partial(Account.settle, reservation_id=reservation.id, usd=usd)
        return self._change(reservation.key, settle, patient=True)

    def charge(self, key: str, usd: Decimal) -> asyncio.Future[None]:
        """Count dollars that were spent without a reservation, such as an audit's."""
        return self._change(key, partial(Account.spend, usd=usd), patient=True)

    async def account(self, key: str) -> Account:
        """Account of a key, of today and this month."""
        return await self._change(key, Account.model_copy)

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
        accounts = {key: _account(connection, key, now) for key in keys}
        made = [make(accounts[key]) for key, make in changes]
        connection.execute(_CHANGE, [{"mine": key, "account": accounts[key]} for key in keys])
        return made
