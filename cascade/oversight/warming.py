"""The part of `Cascade` that makes ready before the first question what that would wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol, runtime_checkable

from cascade._portal import run_sync
from cascade.errors import LedgerError, ModelError
from cascade.oversight.overseeing import Oversight
from cascade.tiers import OpenTier

logger = logging.getLogger("cascade")


@runtime_checkable
class _Opened(Protocol):
    """A store that is connected once it has been flushed."""

    async def flush(self) -> None: ...


class Warming:
    """Opens connections, loads local weights and opens the ledger, if it is told to."""

    name: str
    tiers: tuple[OpenTier, ...]
    _oversight: Oversight

    async def awarm(self) -> None:
        """Make ready what the first question would wait for.

        A connection to each tier's server is opened, a local model's weights are loaded, and the
        ledger's database is opened. No model is asked and nothing is spent. What cannot be had is
        logged as a warning: the first question will meet it, and goes on where it can.

        Connections belong to an event loop: warm up in the one that will ask.
        """
        store = self._oversight.recorder.store
        work: list[Awaitable[None]] = [tier.model.warm() for tier in self.tiers]
        work += [store.flush()] if isinstance(store, _Opened) else []
        for failure in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(failure, ModelError | LedgerError):
                logger.warning("%s is not warm: %s", self.name, failure)
            elif failure is not None:
                raise failure

    def warm(self) -> None:
        """`awarm` for synchronous callers."""
        run_sync(self.awarm())
