"""All that one replica shares with the others, and what it does for that while it lives."""

from __future__ import annotations

import asyncio
import logging

from cascade.errors import LedgerError
from cascade.ledger.store import Store
from cascade.service.config import ServiceConfig
from cascade.service.keys import CHANNEL as KEYS_CHANNEL
from cascade.service.keys import Keys
from cascade.service.shared.budgets import SharedBudgets
from cascade.service.shared.database import SharedDatabase
from cascade.service.shared.listening import Listening
from cascade.service.shared.replica import Replica

logger = logging.getLogger("cascade")

TIDIED_S = 60.0
"""Seconds between two looks for reservations that nobody here knows."""


class Shared:
    """The shared state as one replica holds it.

    Args:
        url: of the ledger in PostgreSQL.
        store: the ledger.
        keys: of the service.
        config: of the service.
    """

    def __init__(self, url: str, store: Store, keys: Keys, config: ServiceConfig) -> None:
        self.database = SharedDatabase(url)
        self.replica = Replica(self.database, config.replicas.lease_s)
        self._listening = Listening(self.database, {KEYS_CHANNEL: keys.forget})
        self.budgets = SharedBudgets(store, self.database, self.replica, config.budgets)

    async def live(self) -> None:
        """Renew the lease, and keep in step with the others, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.replica.live())
            tasks.create_task(self._listening.live())
            tasks.create_task(self._tidy())

    async def aclose(self) -> None:
        """Give back what is put aside, and leave; where the database is away, the lease lapses."""
        try:
            await self.budgets.aclose()
            await self.replica.leave()
        except LedgerError as error:
            logger.warning("what was put aside is released with the lease: %s", error)
        finally:
            await self.database.aclose()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDIED_S)
            try:
                await self.budgets.tidy()
            except LedgerError as error:
                logger.warning("old reservations cannot be looked at: %s", error)
