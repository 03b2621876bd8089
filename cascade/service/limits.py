"""How often a key may ask: a token bucket for each."""

from __future__ import annotations

import time

from cascade.service.keys import Key


class Limits:
    """Requests per minute and key: a bucket that holds a minute's worth and refills evenly."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: Key) -> float | None:
        """Take one request out of the bucket; else the seconds until there is one again."""
        if key.per_minute is None:
            return None
        now = time.monotonic()
        level, at = self._buckets.get(key.id, (key.per_minute, now))
        level = min(key.per_minute, level + (now - at) * key.per_minute / 60)
        if level >= 1:
            self._buckets[key.id] = (level - 1, now)
            return None
        self._buckets[key.id] = (level, now)
        return (1 - level) * 60 / key.per_minute
