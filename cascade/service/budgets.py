"""What keys may spend: counted from the ledger's entries, and from the requests under way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from cascade.api import Cascade
from cascade.ledger.amounts import Amounts
from cascade.ledger.store import Selection, Store
from cascade.ledger.tags import current_tags
from cascade.observing import Observer
from cascade.service.config import BudgetConfig
from cascade.service.faults import ServiceError
from cascade.service.keys import KEY_TAG, RESERVED_TAG, Key
from cascade.state import LedgerEntry, Usage

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "IMAGE_CHARACTERS",
    "TEMPLATE_TOKENS",
    "Account",
    "Budgets",
    "Reservation",
    "estimate",
    "prompt_size",
    "refusal_of",
    "start_of_day",
    "start_of_month",
    "uncovered",
]

CHARACTERS_PER_TOKEN = 3
"""Fewer than in usual text, so that more is put aside than is spent."""

TEMPLATE_TOKENS = 64
"""For what providers put around a prompt."""

IMAGE_CHARACTERS = 4_500
"""What an image, a sound or a file counts: 1,500 tokens, as much as providers charge for a large
image. Its encoding may have millions of characters, none of which are read as text."""

ENCODED = frozenset({"url", "image_url", "images", "data", "file_data"})
"""Where OpenAI's and Ollama's protocols have encoded files."""


@dataclass(slots=True)
class Account:
    """What a key has spent today and this month, by UTC, and what is put aside for it."""

    day: datetime
    day_usd: Decimal = Decimal(0)
    month_usd: Decimal = Decimal(0)
    reserved_usd: Decimal = Decimal(0)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, amount: Decimal) -> None:
        """Something was spent now."""
        self.day_usd += amount
        self.month_usd += amount

    def roll(self, now: datetime) -> None:
        """Begin a new day, and perhaps a new month; none begins anew when the clock is set back."""
        day = start_of_day(now)
        if day > self.day:
            self.day_usd = Decimal(0)
            if start_of_month(day) != start_of_month(self.day):
                self.month_usd = Decimal(0)
            self.day = day


@dataclass(slots=True)
class Reservation:
    """Dollars put aside for the runs of one request; `local_only` says that there were none left,
    and that it has to stay on this machine instead."""

    account: Account | None = None
    per_run: Decimal = Decimal(0)
    runs: int = 0
    local_only: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of the ledger entries of its runs."""

    def settle(self) -> None:
        """A run has ended: what it cost is in the ledger, and counted from there."""
        if self.account is not None and self.runs:
            self.runs -= 1
            self.account.reserved_usd -= self.per_run

    def close(self) -> None:
        """The request has ended, with all its runs."""
        while self.runs:
            self.settle()


class Budgets(Observer):
    """Counts what each key spends. It looks on at each cascade: an entry counts the moment it
    arises, audits after the reply among them, so that nothing is counted by two.

    One process counts for itself: what another has spent on the same ledger is known from the
    start of this one.

    Args:
        store: the ledger, from which is read what was spent before; None where nothing is kept.
        config: what happens when a budget is used up.
    """

    def __init__(self, store: Store | None, config: BudgetConfig) -> None:
        self._store = store
        self._config = config
        self._accounts: dict[str, Account] = {}

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Count an entry on its key."""
        del cascade
        account = self._accounts.get(current_tags().get(KEY_TAG, ""))
        if account is not None:
            account.roll(datetime.now(UTC))
            account.add(self._amount(entry))

    async def account(self, key: Key) -> Account:
        """The account of a key, read from the ledger when it is first asked for.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        while True:
            account = self._accounts.get(key.id)
            if account is None:
                account = await self._opened(key)
            await account.ready.wait()
            if self._accounts.get(key.id) is not account:  # it could not be read
                continue
            now = datetime.now(UTC)
            if start_of_day(now) < account.day:
                await self._set_back(key, account, start_of_day(now))
            account.roll(now)
            return account

    async def _set_back(self, key: Key, account: Account, day: datetime) -> None:
        """The clock was set back: what had been spent on that day already is in the ledger.

        Where nothing is kept, what was counted counts on.
        """
        fresh, before = Account(day, account.day_usd, account.month_usd), account.day_usd
        if self._store is not None:
            fresh.day_usd = fresh.month_usd = Decimal(0)
            await self._load(key, fresh)
            fresh.add(account.day_usd - before)  # meanwhile
        account.day, account.day_usd, account.month_usd = day, fresh.day_usd, fresh.month_usd

    async def _opened(self, key: Key) -> Account:
        # It is there before it is read, so that no entry is missed meanwhile.
        account = self._accounts[key.id] = Account(start_of_day(datetime.now(UTC)))
        try:
            await self._load(key, account)
        except BaseException:
            del self._accounts[key.id]
            raise
        finally:
            account.ready.set()
        return account

    async def reserve(
        self, key: Key, per_run: Decimal, runs: int = 1, *, can_stay: bool
    ) -> Reservation:
        """Put dollars aside.

        Args:
            key: whose; it has a budget.
            per_run: what a run of the request may cost.
            runs: how many there are.
            can_stay: whether a model on this machine could answer it.

        Raises:
            ServiceError: 402, a budget has less than that left, and it may not or cannot stay on
                this machine.
            LedgerError: what was spent before cannot be read.
        """
        account = await self.account(key)
        refusal = refusal_of(key, account, per_run * runs)
        if refusal is None:
            account.reserved_usd += per_run * runs
            return Reservation(account, per_run, runs)
        return uncovered(key, self._config, refusal, can_stay=can_stay)

    async def _load(self, key: Key, account: Account) -> None:
        if self._store is None:
            return
        now = datetime.now(UTC)
        today, month, tags = start_of_day(now), start_of_month(now), {KEY_TAG: key.id}
        day_usd = self._known(await self._store.cost(Selection(since=today, tags=tags)))
        before = Selection(since=month, until=today, tags=tags)
        month_usd = day_usd + self._known(await self._store.cost(before))
        lost: dict[str, tuple[datetime, Decimal]] = {}
        for attempt in await self._store.unfinished(Selection(since=month, tags=tags)):
            lost[attempt.run_id] = (attempt.begun_at, self._put_aside(attempt.tags))
        for begun_at, amount in lost.values():
            month_usd += amount
            day_usd += amount if begun_at >= today else 0
        account.day_usd += day_usd
        account.month_usd += month_usd

    def _put_aside(self, tags: Mapping[str, str]) -> Decimal:
        try:
            amount = Decimal(tags[RESERVED_TAG])
        except (KeyError, InvalidOperation):  # it was begun outside of this service
            return self._config.unknown_call_usd
        return amount if amount.is_finite() and amount >= 0 else self._config.unknown_call_usd

    def _known(self, amounts: Amounts) -> Decimal:
        return amounts.known + amounts.unknown * self._config.unknown_call_usd

    def _amount(self, entry: LedgerEntry) -> Decimal:
        if entry.cost_usd is not None:
            return entry.cost_usd
        if entry.assumed_usd is not None:
            return entry.assumed_usd
        return self._config.unknown_call_usd


def estimate(
    cascade: Cascade,
    config: BudgetConfig,
    *,
    prompt_chars: int,
    max_tokens: int | None,
    answer_tokens: int,
) -> Decimal:
    """Dollars that one run may cost: every tier is asked, and every signal taken.

    Args:
        cascade: which runs.
        config: what a call of unknown cost counts.
        prompt_chars: characters of the prompt.
        max_tokens: the most that may be answered, if it is said.
        answer_tokens: what is taken where nobody says it.
    """
    tokens = prompt_chars // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
    total = Decimal(0)
    for number, tier in enumerate(cascade.tiers):
        most = [n for n in (max_tokens, tier.settings.max_tokens) if n is not None]
        usage = Usage(input_tokens=tokens, output_tokens=min(most, default=answer_tokens))
        cost = tier.pricing.cost(usage)
        drafts = number < len(cascade.tiers) - 1
        calls = 1 + (sum(signal.calls for signal in cascade.signals) if drafts else 0)
        total += calls * (config.unknown_call_usd if cost is None else cost)
    return total


def prompt_size(body: Any) -> int:
    """Characters of all text in the JSON of a request, tools and schemas among it."""
    total, left = 0, [("", body)]
    while left:  # not by recursion: how deep it is, the client says
        name, value = left.pop()
        if isinstance(value, str):
            encoded = name in ENCODED and len(value) > IMAGE_CHARACTERS
            total += IMAGE_CHARACTERS if encoded else len(value)
        elif isinstance(value, dict):
            total += sum(len(key) for key in value)
            left += value.items()
        elif isinstance(value, list):
            left += [(name, item) for item in value]
        else:
            total += 4
    return total


def start_of_day(now: datetime) -> datetime:
    """Midnight of UTC before a time."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def start_of_month(now: datetime) -> datetime:
    """The first midnight of a month of UTC."""
    return start_of_day(now).replace(day=1)


def refusal_of(key: Key, account: Account, amount: Decimal) -> ServiceError | None:
    """Why a key may not spend so much more, if it may not."""
    spent = {"day": account.day_usd, "month": account.month_usd}
    bounds = {"day": key.day_usd, "month": key.month_usd}
    for period, bound in bounds.items():
        if bound is not None and spent[period] + account.reserved_usd + amount > bound:
            return ServiceError(
                402,
                f"the budget of this key does not cover the request: of ${bound:f} for the "
                f"{period}, ${_short(spent[period])} are spent and ${_short(account.reserved_usd)} "
                f"put aside, and it may cost ${_short(amount)}. "
                f"The next {period} begins at {_next(period, account.day):%Y-%m-%d} 00:00 UTC.",
                "insufficient_quota",
                "budget_exhausted",
            )
    return None


def uncovered(
    key: Key, config: BudgetConfig, refusal: ServiceError, *, can_stay: bool
) -> Reservation:
    """What becomes of a request that a budget does not cover: where it may and can, it stays on
    this machine.

    Raises:
        ServiceError: it may or can not.
    """
    if (key.exhausted or config.exhausted) == "local_only" and can_stay:
        return Reservation(local_only=True)
    raise refusal


def _next(period: str, day: datetime) -> datetime:
    if period == "day":
        return day + timedelta(days=1)
    return start_of_month(start_of_month(day) + timedelta(days=32))


def _short(amount: Decimal) -> str:
    return f"{amount:.6f}".rstrip("0").rstrip(".")
