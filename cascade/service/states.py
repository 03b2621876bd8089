"""What each tier did last, as far as requests have shown it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from cascade.observing import ObservedCall, Observer


@dataclass(frozen=True, slots=True)
class TierState:
    """What a tier did last: `error` is the class of what it failed with, None where it answered."""

    at: datetime
    error: str | None


class TierStates(Observer):
    """Remembers how the last call of each tier ended; nothing is asked for it."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, str], TierState] = {}

    def call_ended(self, call: ObservedCall) -> None:
        """Remember it; a call that was cancelled from this side says nothing."""
        if isinstance(call.error, asyncio.CancelledError):
            return
        error = None if call.error is None else type(call.error).__name__
        self.last[call.cascade, call.tier] = TierState(datetime.now(UTC), error)
