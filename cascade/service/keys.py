"""Who may ask: API keys, kept as hashes beside the ledger."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

from sqlalchemy import func, insert, select, update

from cascade.errors import ConfigurationError
from cascade.ledger.store.engines import READS, make_engine, told_apart
from cascade.ledger.store.migrations import MigratedEngine
from cascade.ledger.store.opening import database_url
from cascade.ledger.store.tables import keys as table
from cascade.service.config import Exhausted

PREFIX = "csk_"
"""By which a leaked key is found in logs and repositories."""

KNOWN_FOR_S = 2.0
"""A key that was found is not looked up again for so long: a revoked one lives on for it."""

WRONG_FOR_S = 10.0
"""Nor is one that is none: a client with an old key sends it again and again."""

CHANNEL = "cascade_keys"
"""Of PostgreSQL's notifications: the digest of a key that was revoked or has another secret."""

MOST_REMEMBERED = 10_000
"""Digests of right and of wrong keys that are remembered; the oldest is forgotten."""

_FORM = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")
"""Of a secret: 32 bytes in base64 behind the prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as it is kept: what it may do, and the hash of its secret.

    Attributes:
        id: names it in tags, on the page and on the command line; no secret.
        name: what its owner calls it.
        digest: SHA-256 of the key. 256 random bits cannot be guessed, so that a slow hash with a
            salt, as passwords need it, would add nothing but time to each request.
        models: those it may ask for; empty: all.
        per_minute: requests per minute; None: as many as it likes.
        day_usd, month_usd: its budgets, by days and months of UTC; None: no bound.
        exhausted: what happens when a budget is used up; None: as the service is configured.
        tags: of the ledger entries of its requests.
        admin: whether it opens `/admin` and the page.
        revoked_at: when it was revoked.
    """

    id: str
    name: str
    digest: str = field(repr=False)
    models: tuple[str, ...] = ()
    per_minute: float | None = None
    day_usd: Decimal | None = None
    month_usd: Decimal | None = None
    exhausted: Exhausted | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    admin: bool = False
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    revoked_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigurationError("a key needs a name, such as the team's that uses it.")
        if self.per_minute is not None and not self.per_minute > 0:
            raise ConfigurationError(f"per_minute={self.per_minute:g}: requests, above 0.")
        for name in ("day_usd", "month_usd"):
            amount = getattr(self, name)
            if amount is not None and not (amount.is_finite() and amount > 0):
                raise ConfigurationError(f"{name}={amount}: dollars, above 0.")
        for name in (KEY_TAG, RESERVED_TAG, RESERVATION_TAG):
            if name in self.tags:
                raise ConfigurationError(f"the tag {name!r} is the key's own: choose another name.")

    @property
    def budgeted(self) -> bool:
        """Whether it has a budget."""
        return self.day_usd is not None or self.month_usd is not None

    def may_use(self, model: str) -> bool:
        """Whether it may ask for this model."""
        return not self.models or model in self.models


KEY_TAG = "key"
"""The tag of ledger entries that names the API key of a request by its id."""

RESERVED_TAG = "reserved_usd"
"""The tag that says what a budget had put aside for the request of an entry or attempt. A call
that was begun and never ended, because its process was killed, counts at that."""

RESERVATION_TAG = "reservation"
"""The tag by which an entry or attempt is found that belongs to what a replica has put aside."""


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(name: str, **settings: Any) -> tuple[Key, str]:
    """A new key and its secret: 256 random bits behind a prefix.

    Raises:
        ConfigurationError: a setting of `Key` has a value that cannot work.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(id=f"key_{secrets.token_hex(6)}", name=name, digest=digest_of(secret), **settings)
    return key, secret


class Keys:
    """The keys of a service, in the ledger's database.

    Args:
        url: of the ledger; None keeps them in memory, where nothing else can make or revoke any.
    """

    def __init__(self, url: str | None = None) -> None:
        self._engine = (
            None if url is None else MigratedEngine(partial(make_engine, database_url(url)))
        )
        self._kept: dict[str, Key] = {}
        self._known: dict[str, tuple[Key, float]] = {}
        self._asked: dict[str, asyncio.Task[Key | None]] = {}
        self._right: OrderedDict[str, float] = OrderedDict()
        self._wrong: OrderedDict[str, float] = OrderedDict()

    async def create(self, name: str, **settings: Any) -> tuple[Key, str]:
        """Make a key; its secret is returned here and never again.

        Raises:
            ConfigurationError: a setting cannot work.
            UnavailableError: the database cannot be reached.
        """
        key, secret = make_key(name, **settings)
        if self._engine is None:
            self._kept[key.id] = key
            return key, secret
        engine = await self._engine.get()
        with told_apart():
            async with engine.begin() as connection:
                await connection.execute(insert(table).values(_row(key)))
        return key, secret

    async def list(self) -> Sequence[Key]:
        """All keys, revoked ones too, oldest first.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        if self._engine is None:
            return list(self._kept.values())
        return await self._select(select(table).order_by(table.c.made_at, table.c.id))

    async def revoke(self, which: str) -> Key:
        """Revoke a key by its id, or by its name where only one that is valid has it.

        Raises:
            ConfigurationError: there is no such key, or several.
            UnavailableError: the database cannot be reached.
        """
        return await self._change(await self._valid(which), revoked_at=datetime.now(UTC))

    async def _valid(self, which: str) -> Key:
        found = [key for key in await self.list() if which in (key.id, key.name)]
        valid = [key for key in found if key.revoked_at is None]
        if not valid:
            why = "it is revoked already" if found else "there is no such key"
            raise ConfigurationError(f"{which}: {why}; `cascade keys list` shows all.")
        if len(valid) > 1:
            ids = ", ".join(key.id for key in valid)
            raise ConfigurationError(f"{which}: several keys are called so: give one of {ids}.")
        return valid[0]

    async def rotate(self, which: str) -> tuple[Key, str]:
        """Give a key a new secret; the old one is refused from then on, as that of a revoked key.

        It stays the same key: its budgets, what it has spent, and its tags.

        Raises:
            ConfigurationError: there is no such valid key, or several.
            UnavailableError: the database cannot be reached.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        return await self._change(await self._valid(which), digest=digest_of(secret)), secret

    async def _change(self, key: Key, **to: Any) -> Key:
        """Change a key, in the database too, and tell the other processes that share it."""
        changed = replace(key, **to)
        if self._engine is None:
            self._kept[key.id] = changed
        else:
            engine = await self._engine.get()
            with told_apart():
                async with engine.begin() as connection:
                    await connection.execute(update(table).where(table.c.id == key.id).values(to))
                    if engine.dialect.name == "postgresql":
                        await connection.execute(select(func.pg_notify(CHANNEL, key.digest)))
        self.forget(key.digest)
        return changed

    async def find(self, secret: str) -> Key | None:
        """The key with this secret, if it is one and was not revoked.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        if not _FORM.fullmatch(secret):
            return None  # nothing has to be looked up
        digest = digest_of(secret)
        if self._is_wrong(digest):
            return None
        key, at = self._known.get(digest, (None, -math.inf))
        age_s = time.monotonic() - at
        if age_s >= KNOWN_FOR_S:
            return await asyncio.shield(self._asking(digest))
        if age_s >= KNOWN_FOR_S / 2:  # so that a busy key never waits for the database
            self._asking(digest)
        return key

    def is_guess(self, secret: str) -> bool:
        """Whether it would have to be looked up and was never a key before, as a guess is."""
        if not _FORM.fullmatch(secret):
            return False
        digest = digest_of(secret)
        known = digest in self._right or digest in self._asked
        return not (known or self._is_wrong(digest))

    def _is_wrong(self, digest: str) -> bool:
        return time.monotonic() - self._wrong.get(digest, -math.inf) < WRONG_FOR_S

    def forget(self, digest: str) -> None:
        """What was read before this is not true any more, nor is what is being read."""
        self._known.pop(digest, None)
        self._asked.pop(digest, None)

    def _asking(self, digest: str) -> asyncio.Task[Key | None]:
        """The look-up that is under way, or a new one: a hundred requests need one answer."""
        task = self._asked.get(digest)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = self._asked[digest] = asyncio.create_task(self._found(digest))
            task.add_done_callback(lambda done: self._told(digest, done))
        return task

    def _told(self, digest: str, done: asyncio.Task[Key | None]) -> None:
        if self._asked.get(digest) is done:
            del self._asked[digest]
        if not done.cancelled():
            done.exception()  # whoever waits is told; a key that is known is asked for again

    async def _found(self, digest: str) -> Key | None:
        asked_at = time.monotonic()
        key = await self._look_up(digest)
        # Found by its hash, of which nobody can choose a part; compared in constant time anyhow.
        if key is None or key.revoked_at is not None or not hmac.compare_digest(key.digest, digest):
            self._known.pop(digest, None)
            self._right.pop(digest, None)
            _remember(self._wrong, digest, asked_at)
            return None
        _remember(self._right, digest, asked_at)
        if self._asked.get(digest) is asyncio.current_task():  # else it was revoked meanwhile
            self._known[digest] = (key, asked_at)
        return key

    async def get(self, key_id: str) -> Key | None:
        """The key with this id, revoked or not.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        if self._engine is None:
            return self._kept.get(key_id)
        found = await self._select(select(table).where(table.c.id == key_id))
        return found[0] if found else None

    async def reach(self) -> bool:
        """Whether there is a database, after it has answered.

        Raises:
            UnavailableError: it does not.
        """
        if self._engine is None:
            return False
        await self._select(select(table).limit(1))
        return True

    async def aclose(self) -> None:
        """Close the connections; the keys may be used again afterwards."""
        if self._engine is not None:
            await self._engine.aclose()

    async def _look_up(self, digest: str) -> Key | None:
        if self._engine is None:
            found = [key for key in self._kept.values() if key.digest == digest]
        else:
            found = list(await self._select(select(table).where(table.c.digest == digest)))
        return found[0] if found else None

    async def _select(self, statement: Any) -> Sequence[Key]:
        assert self._engine is not None
        engine = (await self._engine.get()).execution_options(**{READS: True})
        with told_apart():
            async with engine.connect() as connection:
                rows = (await connection.execute(statement)).mappings()
                return [_key(dict(row)) for row in rows]


def _remember(among: OrderedDict[str, float], digest: str, at: float) -> None:
    among[digest] = at
    among.move_to_end(digest)
    if len(among) > MOST_REMEMBERED:
        among.popitem(last=False)


def _row(key: Key) -> dict[str, Any]:
    row = {column.name: getattr(key, column.name) for column in table.columns}
    return row | {"models": list(key.models), "tags": dict(key.tags)}


def _key(row: dict[str, Any]) -> Key:
    return Key(**row | {"models": tuple(row["models"] or ()), "tags": row["tags"] or {}})
