"""Budgets of keys, shared by all processes on one database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

Window = Literal["day", "month"]
"""Span of a budget, in UTC."""


@dataclass(frozen=True, slots=True)
class Account:
    """What a key has spent, and what is put aside for its requests under way."""

    day_usd: Decimal = Decimal(0)
    month_usd: Decimal = Decimal(0)
    put_aside_usd: Decimal = Decimal(0)


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
        renews_at: when the next window begins.
    """

    window: Window
    limit_usd: Decimal
    account: Account
    usd: Decimal
    why: Literal["spent", "put_aside"]
    renews_at: datetime


class Budgets:
    """Money that keys may spend, put aside and counted in a database: never overspent.

    Several processes and machines may share it. What a process that died has put aside counts as
    spent, at its bound, once its lease ends.

    Args:
        url: of the ledger's database, as for `open_store`; `memory://` for one process.
        lease_s: longest time that a request takes.
    """

    def __init__(self, url: str, *, lease_s: float = 900.0) -> None: ...

    async def reserve(
        self, key: str, usd: Decimal, limits: Mapping[Window, Decimal]
    ) -> Reservation | Refusal:
        """Put dollars aside, where what is spent and put aside leaves as many under each limit.

        Raises:
            UnavailableError: the database cannot be reached; then nothing may be spent.
        """
        raise NotImplementedError

    async def settle(self, reservation: Reservation, usd: Decimal) -> None:
        """Count what a request has cost, and release the rest. Settling twice counts once."""

    async def charge(self, key: str, usd: Decimal) -> None:
        """Count dollars that were spent without a reservation, such as an audit's."""

    async def account(self, key: str) -> Account:
        """What a key has spent today and this month, and what is put aside for it."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Write what is left, and disconnect."""
