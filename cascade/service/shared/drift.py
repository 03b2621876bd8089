"""The watch for drift over all replicas: their alarms, their resets, and their evidence of harm."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from weakref import WeakKeyDictionary

from cascade.errors import LedgerError
from cascade.oversight.alarms import broken_promise
from cascade.oversight.drift import NEVER, DriftWatch, Evidence
from cascade.service.serving import Served
from cascade.service.shared.database import SharedDatabase
from cascade.service.shared.replica import Replica

logger = logging.getLogger("cascade")

EVERY_S = 2.0
"""Seconds between two looks at what the others have found."""

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)

_SAY = """
    INSERT INTO service_evidence (place, part, since, max_harm, n, log_e, at)
    VALUES (:place, :part, :since, :max_harm, :n, :log_e, clock_timestamp())
    ON CONFLICT (place, part) DO UPDATE SET since = excluded.since, max_harm = excluded.max_harm,
        n = excluded.n, log_e = excluded.log_e, at = excluded.at
"""
_ALL = """
    SELECT sum(log_e) AS log_e, sum(n) AS n, count(*) AS parts FROM service_evidence e
    WHERE place = :place AND max_harm = :max_harm AND since =
        (SELECT max(since) FROM service_evidence s WHERE s.place = e.place)
"""


class SharedDrift:
    """Keeps the watches of this replica in step with those of the others.

    An alarm in one of them is one in all, and so is a reset. Windows and the chart of escalations
    are each replica's own. The e-processes of harm are multiplied: what has been seen of it is
    looked at together, as if one process had seen all.

    Args:
        database: the shared one.
        replica: this process.
        served: the cascades.
    """

    def __init__(
        self, database: SharedDatabase, replica: Replica, served: Mapping[str, Served]
    ) -> None:
        self._database = database
        self._replica = replica
        self._served = served
        self._numbers = count(1)
        self._parts: WeakKeyDictionary[DriftWatch, str] = WeakKeyDictionary()

    async def live(self) -> None:
        """Keep in step for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except LedgerError as error:
                logger.warning("the drift that other replicas see is not known: %s", error)
            except Exception:
                logger.exception("the drift that other replicas see is not known")

    async def look(self) -> None:
        """Say what was seen here, and hear what was seen elsewhere.

        Raises:
            LedgerError: the database cannot be reached.
        """
        for served in list(self._served.values()):
            watch = served.cascade.drift
            if watch is None:
                continue
            await watch.follow()
            evidence = watch.evidence
            if evidence is not None:
                await self._join(watch, evidence)

    async def _join(self, watch: DriftWatch, evidence: Evidence) -> None:
        part = self._parts.get(watch)
        if part is None:
            part = self._parts[watch] = f"{self._replica.id}.{next(self._numbers)}"
        named = {"place": watch.place, "max_harm": evidence.max_harm}
        since = _FIRST if evidence.since == NEVER else evidence.since
        said = {"part": part, "since": since, "n": evidence.n, "log_e": evidence.log_e}
        await self._database.ask(_SAY, **named, **said)
        [found] = await self._database.ask(_ALL, **named)
        log_e, delta = found["log_e"], watch.options.delta
        if log_e is None or log_e < -math.log(delta):
            return
        text = (
            f"{broken_promise(evidence.max_harm, int(found['n']))} of all replicas "
            f"log E = {log_e:.1f} ≥ {-math.log(delta):.1f}"
        )
        figures = {"log_e": float(log_e), "n": float(found["n"]), "parts": float(found["parts"])}
        watch.alarm("harm", "harm", text, figures)
