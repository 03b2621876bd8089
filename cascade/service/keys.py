"""API keys, kept as hashes in the ledger's database, their rates and their budgets."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictBool, StringConstraints, ValidationError
from sqlalchemy import Column, MetaData, Table, Text

from cascade.errors import ConfigurationError
from cascade.ledger.database import Database, json_type
from cascade.ledger.shared import Budgets, Refusal, Reservation, Window
from cascade.service.faults import ServiceError

PREFIX = "csk_"
"""By which a leaked key is found in logs and repositories."""

KEY_TAG, CASCADE_TAG = "key", "cascade"
"""Tags of ledger entries: the id of the key, and the name of the cascade."""

KNOWN_FOR_S, WRONG_FOR_S, MOST_REMEMBERED = 2.0, 10.0, 10_000
"""Seconds for which a key that was found (also where it is revoked then), and one that was not, is
not looked up again; keys and addresses that are remembered."""

WRONG_AT_ONCE, WRONG_PER_MINUTE = 20, 6
"""Unknown keys of one address that are looked up: a team behind it mistypes some. A known key is
never held up, so that others behind the same proxy cannot be locked out."""

PATIENCE_S, POLL_S = 10.0, 0.1
"""Longest wait for money that requests under way have put aside, and seconds between two looks."""

_FORM = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")

Dollars = Annotated[Decimal, Field(gt=0, allow_inf_nan=False, max_digits=24)]
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$"),
]
Tags = Annotated[dict[Line, Line], Field(max_length=20)]


class Key(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """API key: what it may do, and the hash of its secret."""

    id: str
    """Its name in tags, on the page and on the command line; no secret."""
    name: Line
    digest: str = Field(repr=False, exclude=True)
    """SHA-256 of the secret: 256 random bits need no slow hash with a salt, as passwords do."""
    models: tuple[str, ...] = ()
    """Models that it may ask for; empty: all."""
    per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    day_usd: Dollars | None = None
    month_usd: Dollars | None = None
    """Budgets of a day and a month of UTC."""
    tags: Tags = Field(default_factory=dict)
    """Tags of the ledger entries of its requests, beside `key` and `cascade`."""
    admin: StrictBool = False
    """Whether it opens `/admin` and the page."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    revoked_at: datetime | None = None

    @property
    def limits(self) -> dict[Window, Decimal]:
        """Its budgets, by window."""
        given: dict[Window, Decimal | None] = {"day": self.day_usd, "month": self.month_usd}
        return {window: usd for window, usd in given.items() if usd is not None}


def digest_of(secret: str) -> str:
    """The hash of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


_TABLE = Table(
    "service_keys",
    MetaData(),
    Column("digest", Text, primary_key=True),
    Column("key", json_type, nullable=False),
)


class Keys:
    """The keys of a service, in the ledger's database, shared by all its processes.

    Raises:
        ConfigurationError: from its methods: a setting cannot work, or there is no such key.
        LedgerError: from its methods: the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, "service", _TABLE.metadata)
        self._known: dict[str, tuple[Key | None, float]] = {}
        self._guesses = Rates()

    async def create(self, name: str, **settings: Any) -> tuple[Key, str]:
        """Make a key; its secret is returned here and never again."""
        secret = PREFIX + secrets.token_urlsafe(32)
        own = {"name": name, "id": f"key_{secrets.token_hex(6)}", "digest": digest_of(secret)}
        try:
            key = Key.model_validate(settings | own)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            told = f"a key's {first['loc'][0]} is {first['input']!r:.80}: {first['msg']}."
            raise ConfigurationError(told) from None
        row = {"digest": key.digest, "key": key}
        await self._database.write(lambda c: c.execute(_TABLE.insert(), row))
        return key, secret

    async def list(self, *where: Any) -> Sequence[Key]:
        """The keys of some conditions in SQL, else all, revoked ones too; oldest first."""
        rows = await self._database.read(lambda c: c.execute(_TABLE.select().where(*where)).all())
        return sorted((Key(digest=r.digest, **r.key) for r in rows), key=lambda key: key.made_at)

    async def revoke(self, key_id: str) -> Key:
        """Revoke a valid key."""
        key = next((key for key in await self.list() if key.id == key_id), None)
        if key is None or key.revoked_at is not None:
            why = "it is revoked already" if key else "there is no key with this id"
            raise ConfigurationError(f"{key_id}: {why}; `cascade keys list` shows all.")
        key = key.model_copy(update={"revoked_at": datetime.now(UTC)})
        change = _TABLE.update().where(_TABLE.c.digest == key.digest).values(key=key)
        await self._database.write(lambda c: c.execute(change))
        self._known.pop(key.digest, None)
        return key

    async def find(self, secret: str, address: str = "") -> Key | None:
        """The valid key with this secret.

        Raises:
            ServiceError: too many wrong ones came from an address.
        """
        if not _FORM.fullmatch(secret):
            return None
        digest, now = digest_of(secret), time.monotonic()
        key, until = self._known.get(digest, (None, now))
        if now < until:
            return key
        guess, wrong = digest not in self._known, False
        bounds = (address, WRONG_PER_MINUTE, WRONG_AT_ONCE)
        if guess and (wait_s := self._guesses.take(*bounds)):
            said = f"too many wrong API keys came from your address: wait {wait_s} s."
            raise ServiceError(429, said, "too_many_wrong_keys", retry_after=wait_s)
        # Meanwhile others go on with a known key, and of many with the same new one, one guesses.
        self._known[digest] = (key, now + KNOWN_FOR_S if key else now)
        while len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        try:
            found = await self.list(_TABLE.c.digest == digest)
            key = next((key for key in found if key.revoked_at is None), None)
            wrong = key is None
        finally:
            if guess and not wrong:
                self._guesses.take(*bounds, count=-1)
        self._known[digest] = (key, now + (WRONG_FOR_S if key is None else KNOWN_FOR_S))
        return key

    async def aclose(self) -> None:
        """Close the connections; the keys may be used again."""
        await self._database.aclose()


class Rates:
    """Requests per minute by name, as buckets that fill evenly; each process counts for itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(
        self, name: str, per_minute: float, at_once: float | None = None, count: int = 1
    ) -> int:
        """Count a request, or take one back (`count=-1`); seconds to wait where it is too many."""
        now, most = self._clock(), max(1.0, at_once or per_minute)
        left, at = self._left.pop(name, (most, now))
        left = min(most, left + (now - at) * per_minute / 60)
        wait_s = math.ceil(max(0.0, 1 - left) * 60 / per_minute)
        self._left[name] = (left if wait_s and count > 0 else left - count, now)
        if len(self._left) > MOST_REMEMBERED:
            del self._left[next(iter(self._left))]
        return wait_s


async def put_aside(budgets: Budgets, key: Key, usd: Decimal) -> Reservation:
    """Put dollars of a key aside; waits for those that requests under way have put aside.

    Raises:
        ServiceError: 402 where the budget is spent, 429 where it is only put aside.
    """
    until = time.monotonic() + PATIENCE_S
    while isinstance(answer := await budgets.reserve(key.id, usd, key.limits), Refusal):
        if answer.why == "spent" or time.monotonic() >= until:
            break
        await asyncio.sleep(POLL_S)
    else:
        return answer
    account, window = answer.account, answer.window
    said = (
        f"this request may cost {dollars(usd)}; of this key's budget of ${answer.limit_usd:f} for "
        f"the {window}, {dollars(account.spent_usd(window))} is spent and "
        f"{dollars(account.put_aside_usd)} put aside for requests under way."
    )
    if answer.why == "put_aside":
        raise ServiceError(429, f"{said} Try again.", "budget_put_aside", retry_after=1)
    raise ServiceError(402, f"{said} The next {window} begins at 00:00 UTC.", "budget_exhausted")


def dollars(usd: Decimal | None) -> str:
    """An amount for people: to the millionth, and four digits beyond the leading zeros."""
    if not usd:
        return "?" if usd is None else "$0"
    return "$" + f"{round(usd, max(6, 3 - usd.adjusted())):f}".rstrip("0").rstrip(".")
