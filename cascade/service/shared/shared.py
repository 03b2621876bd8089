"""All that one replica shares with the others, and what it does for that while it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from cascade.errors import LedgerError
from cascade.ledger.store import Store
from cascade.service.config import ServiceConfig
from cascade.service.keys import CHANNEL as KEYS_CHANNEL
from cascade.service.keys import Keys
from cascade.service.reload import Reloads
from cascade.service.serving import Served
from cascade.service.shared.budgets import SharedBudgets
from cascade.service.shared.database import SharedDatabase
from cascade.service.shared.drift import SharedDrift
from cascade.service.shared.listening import Hear, Listening
from cascade.service.shared.replica import Replica
from cascade.service.shared.rollouts import CHANNEL as ROLLOUTS_CHANNEL
from cascade.service.shared.rollouts import Rollouts

logger = logging.getLogger("cascade")

LEAVING_S = 5.0
"""For what is to be given back at the end; the ledger waits longer for its entries."""

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
        self.rollouts: Rollouts | None = None
        self.drift: SharedDrift | None = None
        self._heard: dict[str, Hear] = {KEYS_CHANNEL: keys.forget}
        self.budgets = SharedBudgets(store, self.database, self.replica, config.budgets)

    def keep(self, served: Mapping[str, Served], reloads: Reloads, every_s: float) -> None:
        """Follow which versions of calibrations are in use, and what drift the others see."""
        self.drift = SharedDrift(self.database, self.replica, served)
        self.rollouts = Rollouts(self.database, self.replica, reloads, every_s)
        self._heard[ROLLOUTS_CHANNEL] = self.rollouts.hear

    async def begin(self) -> None:
        """Say that this replica lives, and use the versions of calibrations that are in use now.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        await self.replica.beat()
        if self.rollouts is not None:
            await self.rollouts.look()

    async def live(self) -> None:
        """Renew the lease, and keep in step with the others, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.replica.live())
            tasks.create_task(Listening(self.database, self._heard).live())
            if self.rollouts is not None:
                tasks.create_task(self.rollouts.live())
            if self.drift is not None:
                tasks.create_task(self.drift.live())
            tasks.create_task(self._tidy())

    async def aclose(self) -> None:
        """Give back what is put aside, and leave; where the database is away, the lease lapses."""
        try:
            if self.rollouts is not None:
                await self.rollouts.aclose()
            async with asyncio.timeout(LEAVING_S):
                await self.budgets.aclose()
                await self.replica.leave()
        except (LedgerError, TimeoutError) as error:
            why = error or "the ledger's database does not answer"
            logger.warning("what was put aside is released with the lease: %s", why)
        finally:
            await self.database.aclose()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDIED_S)
            try:
                await self.budgets.tidy()
            except LedgerError as error:
                logger.warning("old reservations cannot be looked at: %s", error)
            except Exception:
                logger.exception("old reservations cannot be looked at")
