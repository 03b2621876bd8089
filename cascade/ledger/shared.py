"""Budgets of keys, shared by all processes on one database.

What a request may cost is put aside before it is sent, and counted when it has ended, in the row of
the key's account, which is locked while it changes: nothing spends more than is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel
from typing_extensions import override

from cascade.errors import LedgerError
from cascade.ledger.database import Words, Writer, execute, json_type
from cascade.ledger.entries import EXACT
from cascade.state import new_id

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip
from sqlalchemy.dialects import postgresql  # isort: skip

T = TypeVar("T")

Window = Literal["day", "month"]
"""Span of a budget, in UTC."""

FEW = 16
"""Requests of a key under way up to which an event loop writes by itself: with more of them, the
background writes many at once."""


class Reservation(NamedTuple):
    """Dollars that are put aside for one request until it is settled, or its lease ends."""

    id: str
    key: str
    usd: Decimal


class Refusal(NamedTuple):
    """Refusal to put dollars aside: those of a window are `spent`, or `put_aside` by requests under
    way that may cost less."""

    window: Window
    limit_usd: Decimal
    account: Account
    why: Literal["spent", "put_aside"]


class Account(BaseModel):
    """Account of a key: money spent, and put aside for its requests under way; `held` has the
    dollars of each and the end of its lease."""

    day: date
    day_usd: Decimal = Decimal(0)
    month_usd: Decimal = Decimal(0)
    put_aside_usd: Decimal = Decimal(0)
    held: dict[str, tuple[Decimal, datetime]] = {}

    def spent_usd(self, window: Window) -> Decimal:
        """Dollars spent in this window."""
        return self.day_usd if window == "day" else self.month_usd

    def reserve(
        self, wanted: Reservation, until: datetime, limits: Mapping[Window, Decimal]
    ) -> Reservation | Refusal:
        """Put dollars aside, where that much is left of each limit."""
        for window, limit in limits.items():
            spent = EXACT.add(self.spent_usd(window), wanted.usd)
            if EXACT.add(spent, self.put_aside_usd) > limit:
                why: Literal["spent", "put_aside"] = "spent" if spent > limit else "put_aside"
                return Refusal(window, limit, self.model_copy(), why)
        self.held[wanted.id] = wanted.usd, until
        self.put_aside_usd = EXACT.add(self.put_aside_usd, wanted.usd)
        return wanted

    def settle(self, reservation_id: str, usd: Decimal) -> None:
        """Count what a request has cost, and release the rest; once."""
        if (held := self.held.pop(reservation_id, None)) is not None:
            self.put_aside_usd = EXACT.subtract(self.put_aside_usd, held[0])
            self.spend(usd)

    def spend(self, usd: Decimal) -> None:
        """Count dollars as spent."""
        self.day_usd, self.month_usd = EXACT.add(self.day_usd, usd), EXACT.add(self.month_usd, usd)


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


def _account(connection: Any, key: str, now: datetime) -> Account:
    """The account of a key, locked until the end of the transaction."""
    day, mine = now.date(), {"mine": key}
    while (found := execute(connection, _ACCOUNT, mine).fetchone()) is None:
        execute(connection, _NEW, {"key": key, "account": Account(day=day)})
    made, read = found[0], Account.model_validate_json
    account = read(made) if isinstance(made, str) else Account.model_validate(made)
    if day > account.day:  # a clock that is set back makes none begin anew
        if (day.year, day.month) != (account.day.year, account.day.month):
            account.month_usd = Decimal(0)
        account.day, account.day_usd = day, Decimal(0)
    for id_, (usd, until) in [*account.held.items()]:
        if until <= now:
            account.settle(id_, usd)
    return account


class Budgets(Writer):
    """Money that keys may spend, put aside and counted in a database: never overspent. What is not
    settled within a lease, longer than a request takes, counts as spent: its process died, and
    whether the request was paid for is not known."""

    linger_s = 0.005  # in which settlements wait for the next reservation's transaction
    lease = timedelta(minutes=15)
    clock: Callable[[], datetime] = staticmethod(partial(datetime.now, UTC))

    def __init__(self, url: str) -> None:
        super().__init__(url, "budgets", _accounts.metadata)
        self._under_way = 0  # requests of a key, as of the last transaction

    async def reserve(
        self, key: str, usd: Decimal, limits: Mapping[Window, Decimal]
    ) -> Reservation | Refusal:
        """Put aside what a request may cost, where that much is left of each limit.

        Raises:
            LedgerError: the database cannot be reached; then nothing may be spent.
        """
        wanted, until = Reservation(new_id(), key, usd), self.clock() + self.lease
        undo = partial(Account.settle, reservation_id=wanted.id, usd=Decimal(0))
        return await self._ask(key, lambda account: account.reserve(wanted, until, limits), undo)

    def settle(self, reservation: Reservation, usd: Decimal) -> None:
        """Count what a request has cost, and release the rest; once. It is written in the
        background, and tried again while the database is away."""
        settle = partial(Account.settle, reservation_id=reservation.id, usd=usd)
        self._put((reservation.key, settle), kept=True)

    def charge(self, key: str, usd: Decimal) -> None:
        """Count dollars that were spent without a reservation, such as an audit's."""
        self._put((key, partial(Account.spend, usd=usd)), kept=True)

    async def account(self, key: str) -> Account:
        """Account of a key, of today and this month."""
        return await self._ask(key, Account.model_copy)

    @override
    async def aclose(self) -> None:
        """Finish what is under way and disconnect; what cannot be settled lapses with its lease."""
        with suppress(LedgerError):
            await super().aclose()

    async def _ask(self, key: str, change: Callable[[Account], T], undo: Any = None) -> T:
        made: list[T] = []  # again where it is tried again
        work = key, lambda account: made.append(change(account))
        await self._written(work, undo and (key, undo), here=self._under_way <= FEW)
        return made[-1]

    @override
    def _make(self, works: Sequence[Any], connection: Any) -> None:
        # In the order of their keys, so that no two processes wait for one another.
        keys, now = sorted({key for key, _ in works}), self.clock()
        accounts = {key: _account(connection, key, now) for key in keys}
        for key, change in works:
            change(accounts[key])
        self._under_way = max(len(account.held) for account in accounts.values())
        execute(connection, _CHANGE, *({"mine": key, "account": accounts[key]} for key in keys))
