"""How the last call of each tier ended, as far as requests have shown it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from cascade.observing import ObservedCall, Observer


@dataclass(frozen=True, slots=True)
class LastCall:
    """Of a tier: `error` is the class of what it failed with, None where it answered."""

    at: datetime
    error: str | None


class LastCalls(Observer):
    """Remembers them by cascade and tier; nothing is asked for it."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], LastCall] = {}

    def of(self, cascade: str, tier: str) -> LastCall | None:
        """That of a tier; None where it was not asked yet."""
        return self._ended.get((cascade, tier))

    def call_ended(self, call: ObservedCall) -> None:
        """Remember it; a call that was cancelled from this side says nothing."""
        if isinstance(call.error, asyncio.CancelledError):
            return
        error = None if call.error is None else type(call.error).__name__
        self._ended[call.cascade, call.tier] = LastCall(datetime.now(UTC), error)
