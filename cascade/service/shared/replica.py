"""This process among those that serve: its name, and the lease by which others know it lives."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from cascade.errors import LedgerError
from cascade.service.shared.database import SharedDatabase

logger = logging.getLogger("cascade")

BEATS = 4
"""So many times in a lease it is renewed: three may fail."""

_BEAT = "SELECT ended FROM cascade_beat(:replica, CAST(:lease_s AS DOUBLE PRECISION))"

_LEAVE = """
    DELETE FROM service_replicas r WHERE r.id = :replica AND NOT EXISTS
        (SELECT 1 FROM service_reservations WHERE replica_id = r.id AND lost_usd IS NULL)
"""

_FORGET = (
    "DELETE FROM service_spent WHERE day < CAST(now() AS date) - 62",
    """DELETE FROM service_reservations WHERE lost_usd IS NOT NULL
        AND made_at < now() - interval '62 days'""",
    "DELETE FROM service_evidence WHERE at < now() - interval '62 days'",
    "DELETE FROM service_prepared WHERE replica_id NOT IN (SELECT id FROM service_replicas)",
)
"""What nobody asks for any more; a month of budgets needs 31 days."""


class Replica:
    """This process, with its lease. What it put aside is released when it lets that lapse.

    Times are the database's: the clocks of the machines do not matter.

    Args:
        database: the shared one.
        lease_s: seconds after which a process that says nothing is taken for dead.
    """

    def __init__(self, database: SharedDatabase, lease_s: float) -> None:
        self.id = f"r{secrets.token_hex(6)}"
        self.lease_s = lease_s
        self._database = database

    async def live(self) -> None:
        """Renew the lease for ever, and release what replicas had put aside whose lease is over."""
        fresh = True
        while True:
            try:
                await self.beat()
                if fresh:
                    for statement in _FORGET:
                        await self._database.ask(statement)
                fresh = False
            except LedgerError as error:
                logger.warning("the lease of this replica could not be renewed: %s", error)
            except Exception:
                logger.exception("the lease of this replica could not be renewed")
            await asyncio.sleep(self.lease_s / BEATS)

    @asynccontextmanager
    async def living(self) -> AsyncGenerator[None]:
        """Renew the lease, as `live` does, until the block ends."""
        task = asyncio.create_task(self.live())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def beat(self) -> list[str]:
        """Renew the lease once; returns the replicas whose reservations were released.

        Those of others are released only by a replica that could renew its own lease for as long
        as a lease lasts: after an outage of the database nobody is taken for dead who was only
        kept from saying that it lives.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        ended: list[str] = []
        while rows := await self._database.ask(_BEAT, replica=self.id, lease_s=self.lease_s):
            ended += [str(row["ended"]) for row in rows]
        if ended:
            logger.warning("released what replicas without a lease had put aside: %s", ended)
        return ended

    async def leave(self) -> None:
        """Say that it is gone, if nothing is put aside for it any more.

        Raises:
            UnavailableError: the database cannot be reached; its lease will lapse.
        """
        await self._database.ask(_LEAVE, replica=self.id)
