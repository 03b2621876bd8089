"""Who may ask: API keys, kept as hashes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

PREFIX = "csk_"


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
        day_usd, month_usd: its budgets; None: no bound.
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
    tags: Mapping[str, str] = field(default_factory=dict)
    admin: bool = False
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    revoked_at: datetime | None = None

    def may_use(self, model: str) -> bool:
        """Whether it may ask for this model."""
        return not self.models or model in self.models


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """A key: 256 random bits behind a prefix by which leak scanners find it."""
    return PREFIX + secrets.token_urlsafe(32)


class Keys:
    """The keys of a service."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._by_digest = {key.digest: key for key in keys}

    async def find(self, secret: str) -> Key | None:
        """The key with this secret, if it is one and was not revoked."""
        key = self._by_digest.get(digest_of(secret))
        return None if key is None or key.revoked_at is not None else key
