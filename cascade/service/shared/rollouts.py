"""A replica follows which version of a calibration is in use, and says what it has prepared."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cascade.api import Cascade
from cascade.confidence.calibration import Calibration
from cascade.errors import CascadeError, LedgerError
from cascade.service.reload import Loaded, Reloads
from cascade.service.shared.database import SharedDatabase
from cascade.service.shared.replica import Replica

logger = logging.getLogger("cascade")

CHANNEL = "cascade_rollouts"
"""Of PostgreSQL's notifications: there is a version to prepare, or to switch to."""

_NEWEST = """
    SELECT DISTINCT ON (cascade, switched_at IS NULL) number, cascade, version,
        switched_at IS NOT NULL AS switched
    FROM service_rollouts r WHERE given_up_at IS NULL
        AND (switched_at IS NOT NULL OR number > coalesce((SELECT max(number)
            FROM service_rollouts s WHERE s.cascade = r.cascade AND s.switched_at IS NOT NULL), 0))
    ORDER BY cascade, switched_at IS NULL, number DESC
"""
_DOCUMENT = "SELECT document FROM service_calibrations WHERE cascade = :name AND version = :version"
_PREPARED = """
    INSERT INTO service_prepared (replica_id, number, problem, prepared_at)
    VALUES (:replica, :number, :problem, clock_timestamp())
    ON CONFLICT (replica_id, number) DO UPDATE SET problem = excluded.problem
"""
_SWITCHED = """
    UPDATE service_prepared SET switched_at = clock_timestamp()
    WHERE replica_id = :replica AND number = :number
"""


@dataclass(frozen=True, slots=True)
class _Rollout:
    number: int
    cascade: str
    version: int
    switched: bool


class Rollouts:
    """Prepares each version that is rolled out beside the one in use, and switches when told to.

    A version that cannot be made here is not switched to: this replica goes on as before and says
    so, to who rolls it out, in the log, on `/readyz` and in the metrics.

    Args:
        database: the shared one.
        replica: this process.
        reloads: makes cascades anew and puts them in their places.
        every_s: seconds between two looks, where nothing is heard.
    """

    def __init__(
        self, database: SharedDatabase, replica: Replica, reloads: Reloads, every_s: float
    ) -> None:
        self._database = database
        self._replica = replica
        self._reloads = reloads
        self._every_s = every_s
        self._prepared: dict[int, Cascade | None] = {}
        self._used: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._something = asyncio.Event()

    def hear(self, message: str) -> None:
        """Another process has changed something."""
        del message
        self._something.set()

    async def live(self) -> None:
        """Follow for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._something.wait()
            self._something.clear()
            try:
                await self.look()
            except LedgerError as error:
                logger.warning("it cannot be seen which calibrations are in use: %s", error)
            except Exception:
                logger.exception("the calibrations of the ledger could not be looked at")

    async def look(self) -> None:
        """Switch to what is in use now, and prepare what is to come.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        async with self._one_at_a_time:
            found = [_Rollout(**row) for row in await self._database.ask(_NEWEST)]
            for rollout in found:  # all that is ready first: others switch in the same moment
                if rollout.switched and self._prepared.get(rollout.number) is not None:
                    await self._switch(rollout)
            for rollout in found:
                if rollout.switched and self._used.get(rollout.cascade) != rollout.number:
                    await self._prepare(rollout)
                    await self._switch(rollout)
                elif not rollout.switched and rollout.number not in self._prepared:
                    await self._prepare(rollout)
            await self._let_go({rollout.number for rollout in found})

    async def aclose(self) -> None:
        """Close what was prepared and is not in use."""
        await self._let_go(set())

    async def _prepare(self, rollout: _Rollout) -> None:
        """Make its cascade, and say so; what cannot be made is kept in mind as None."""
        name, made, problem = rollout.cascade, None, None
        if name in self._reloads.names:
            try:
                made = await self._reloads.make(name, await self._calibration(rollout))
            except LedgerError:
                raise
            except Exception as error:  # noqa: BLE001 - who rolls it out is told
                problem = self._reloads.why(name, error)
                logger.error("%s: version %d is not possible: %s", name, rollout.version, problem)
        self._prepared[rollout.number] = made
        if rollout.switched and problem is not None:
            self._reloads.last[name] = Loaded(name, datetime.now(UTC), problem)
        await self._say(_PREPARED, rollout, problem=problem)

    async def _calibration(self, rollout: _Rollout) -> Calibration | None:
        if not rollout.version:
            return None
        where = {"name": rollout.cascade, "version": rollout.version}
        rows = await self._database.ask(_DOCUMENT, **where)
        if not rows:
            raise CascadeError(f"there is no version {rollout.version} of it in the ledger.")
        return Calibration.read(rows[0]["document"], f"version {rollout.version}")

    async def _switch(self, rollout: _Rollout) -> None:
        name, cascade = rollout.cascade, self._prepared.pop(rollout.number)
        self._used[name] = rollout.number
        if cascade is None:  # it is not served here, or cannot be made
            return
        version = str(rollout.version) if rollout.version else None
        self._reloads.take(name, cascade, version)
        self._reloads.last[name] = Loaded(name, datetime.now(UTC), None)
        self._reloads.leave_alone(name, left=version is not None)
        logger.info("%s: uses version %d of its calibration", name, rollout.version)
        await self._say(_SWITCHED, rollout)

    async def _say(self, statement: str, rollout: _Rollout, **values: object) -> None:
        named = {"replica": self._replica.id, "number": rollout.number}
        await self._database.ask(statement, **named, **values)

    async def _let_go(self, kept: set[int]) -> None:
        for number in self._prepared.keys() - kept:
            cascade = self._prepared.pop(number)
            if cascade is not None:
                await cascade.aclose()
