"""Who is logged in to the page: random tokens with an end."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cascade.service.keys import Key

LASTS_S = 12 * 3600.0
"""A working day; afterwards one logs in again."""

MOST_SESSIONS = 1_000
"""The oldest one ends where there are more."""

Clock = Callable[[], float]


@dataclass(eq=False, slots=True)
class Session:
    """Somebody who has logged in; `key` is None where the service asks nobody for a key."""

    key: Key | None
    ends_at: float
    closed: bool = False


class Sessions:
    """The sessions of one process: the cookie holds a random token, and only its hash is kept.

    A restart ends them all, and so does nothing else but their end, a logout and a revoked key.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._open: OrderedDict[str, Session] = OrderedDict()

    def open(self, key: Key) -> str:
        """Begin one; returns the token for the cookie, 256 random bits."""
        token = secrets.token_urlsafe(32)
        self._open[_hash(token)] = Session(key, self._clock() + LASTS_S)
        if len(self._open) > MOST_SESSIONS:
            _, oldest = self._open.popitem(last=False)
            oldest.closed = True
        return token

    def find(self, token: str) -> Session | None:
        """The session of a token, unless it has ended."""
        name = _hash(token)
        session = self._open.get(name)
        if session is not None and self.ended(session):
            del self._open[name]
            return None
        return session

    def ended(self, session: Session) -> bool:
        """Whether its time is over, or it was closed."""
        return self._clock() >= session.ends_at or session.closed

    def close(self, token: str) -> None:
        """End one, and the streams that it has open."""
        session = self._open.pop(_hash(token), None)
        if session is not None:
            session.closed = True


def _hash(token: str) -> str:
    """What is kept of a token; looking up a hash tells nothing of the token by its time."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
