"""How often a key may ask: a token bucket for each."""

from __future__ import annotations

import time
from collections.abc import Callable

from cascade.service.keys import Key


class Limits:
    """Requests per minute and key: a bucket that holds a minute's worth and refills evenly.

    Each process counts for itself; a new one begins with full buckets.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: Key) -> float | None:
        """Take one request out of the bucket; else the seconds until there is one again."""
        if key.per_minute is None:
            return None
        now, per_second = self._clock(), key.per_minute / 60
        size = max(1.0, key.per_minute)
        level, at = self._buckets.get(key.id, (size, now))
        level = min(size, level + (now - at) * per_second)
        taken = level >= 1
        self._buckets[key.id] = (level - taken, now)
        return None if taken else (1 - level) / per_second
