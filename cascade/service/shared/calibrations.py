"""Calibrations in the ledger's database, rolled out to all replicas or to none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cascade.errors import ConfigurationError, LedgerError
from cascade.service.shared.database import SharedDatabase, is_shared
from cascade.service.shared.rollouts import CHANNEL

WAIT_S = 60.0
"""How long replicas may take to prepare a version."""

LOOKS_S = 0.1
"""Between two looks at what they have prepared."""

_ADD = """
    INSERT INTO service_calibrations (cascade, version, document, note, made_at)
    SELECT :name, coalesce(max(version), 0) + 1, :document, :note, clock_timestamp()
    FROM service_calibrations WHERE cascade = :name RETURNING version
"""
_BEGIN = """
    WITH begun AS (INSERT INTO service_rollouts (cascade, version, begun_at)
        VALUES (:name, :version, clock_timestamp()) RETURNING number)
    SELECT number, pg_notify(:channel, 'prepare') FROM begun
"""
_REPLICAS = """
    SELECT r.id, p.prepared_at IS NOT NULL AS prepared, p.problem FROM service_replicas r
    LEFT JOIN service_prepared p ON p.replica_id = r.id AND p.number = :number
    WHERE r.until > clock_timestamp() ORDER BY r.id
"""
_SWITCH = """
    WITH switched AS (UPDATE service_rollouts SET switched_at = clock_timestamp()
        WHERE number = :number AND given_up_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM service_rollouts later WHERE later.cascade = :name
                AND later.number > :number AND later.switched_at IS NOT NULL)
        RETURNING number)
    SELECT number, pg_notify(:channel, 'switch') FROM switched
"""
_GIVE_UP = """
    UPDATE service_rollouts SET given_up_at = clock_timestamp()
    WHERE number = :number AND switched_at IS NULL
"""
_HISTORY = """
    SELECT number, version FROM service_rollouts
    WHERE cascade = :name AND switched_at IS NOT NULL ORDER BY number DESC LIMIT 2
"""
_VERSIONS = "SELECT version FROM service_calibrations WHERE cascade = :name ORDER BY version"
_STATUS = """
    SELECT DISTINCT ON (o.cascade) o.cascade, o.version, o.switched_at,
        coalesce(c.note, '') AS note,
        (SELECT array_agg(v.version ORDER BY v.version) FROM service_calibrations v
            WHERE v.cascade = o.cascade) AS versions,
        (SELECT json_object_agg(r.id, p.switched_at) FROM service_replicas r
            LEFT JOIN service_prepared p ON p.replica_id = r.id AND p.number = o.number
            WHERE r.until > clock_timestamp()) AS replicas
    FROM service_rollouts o
    LEFT JOIN service_calibrations c ON c.cascade = o.cascade AND c.version = o.version
    WHERE o.switched_at IS NOT NULL ORDER BY o.cascade, o.number DESC
"""


class RolloutError(LedgerError):
    """A version was not rolled out: nothing has changed anywhere. The message says why."""


@dataclass(frozen=True, slots=True)
class RolledOut:
    """A version that is in use now.

    Attributes:
        cascade: of which cascade.
        version: which; 0 is the calibration of the configuration, or none.
        replicas: those that had prepared it and were told to switch.
        waited_s: until they had.
    """

    cascade: str
    version: int
    replicas: tuple[str, ...]
    waited_s: float


@dataclass(frozen=True, slots=True)
class InUse:
    """What is in use of a cascade.

    Attributes:
        cascade: which.
        version: of its calibration; 0 is that of the configuration, or none.
        since: when all were told to switch.
        note: what was said of it.
        versions: all there are.
        replicas: those that live, and whether they use it.
    """

    cascade: str
    version: int
    since: datetime
    note: str
    versions: tuple[int, ...]
    replicas: Mapping[str, bool]


class Calibrations:
    """The calibrations of a service whose ledger is in PostgreSQL.

    Args:
        url: of the ledger.

    Raises:
        ConfigurationError: it is not in PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        if not is_shared(url):
            raise ConfigurationError(
                "versions of calibrations are kept where several replicas share a ledger in "
                "PostgreSQL: with another, change the file of `calibrator`, which is watched."
            )
        self._database = SharedDatabase(url)

    async def push(
        self, cascade: str, document: str, *, note: str = "", wait_s: float = WAIT_S
    ) -> RolledOut:
        """Keep a calibration as the next version, and roll it out.

        Args:
            cascade: whose.
            document: what the file says that `cascade calibrate` wrote.
            note: what people should know of it.
            wait_s: how long the replicas may take to prepare it.

        Raises:
            RolloutError: a replica cannot use it, or has not said in time that it can.
            UnavailableError: the database cannot be reached.
        """
        named = {"name": cascade, "document": document, "note": note}
        [row] = await self._database.ask(_ADD, **named)
        return await self._roll_out(cascade, row["version"], wait_s)

    async def rollback(
        self, cascade: str, *, to: int | None = None, wait_s: float = WAIT_S
    ) -> RolledOut:
        """Roll an older version out again.

        Args:
            cascade: whose.
            to: which; 0 is the calibration of the configuration. By default what was in use before.
            wait_s: as in `push`.

        Raises:
            ConfigurationError: there is no such version.
            RolloutError: as in `push`.
            UnavailableError: the database cannot be reached.
        """
        if to is None:
            history = await self._database.ask(_HISTORY, name=cascade)
            if not history:
                raise ConfigurationError(f"{cascade}: no version was ever rolled out.")
            to = int(history[1]["version"]) if len(history) > 1 else 0
        there = [row["version"] for row in await self._database.ask(_VERSIONS, name=cascade)]
        if to and to not in there:
            known = ", ".join(map(str, there)) or "none"
            raise ConfigurationError(f"{cascade}: there is no version {to}; there are {known}.")
        return await self._roll_out(cascade, to, wait_s)

    async def status(self) -> Sequence[InUse]:
        """What is in use of each cascade that a version was ever rolled out of.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        return [
            InUse(
                row["cascade"],
                row["version"],
                row["switched_at"],
                row["note"],
                tuple(row["versions"] or ()),
                {name: at is not None for name, at in (row["replicas"] or {}).items()},
            )
            for row in await self._database.ask(_STATUS)
        ]

    async def aclose(self) -> None:
        """Close the connections; it may be used again afterwards."""
        await self._database.aclose()

    async def _roll_out(self, cascade: str, version: int, wait_s: float) -> RolledOut:
        begun = {"name": cascade, "version": version, "channel": CHANNEL}
        [row] = await self._database.ask(_BEGIN, **begun)
        number, at = row["number"], time.monotonic()
        try:
            replicas = await self._prepared(number, at + wait_s)
            told = {"name": cascade, "number": number, "channel": CHANNEL}
            if not await self._database.ask(_SWITCH, **told):
                raise RolloutError("another version was rolled out meanwhile.")
        except BaseException:
            await self._database.ask(_GIVE_UP, number=number)
            raise
        return RolledOut(cascade, version, replicas, time.monotonic() - at)

    async def _prepared(self, number: int, until: float) -> tuple[str, ...]:
        """The replicas that live, once all of them could make a cascade with it."""
        while True:
            rows = await self._database.ask(_REPLICAS, number=number)
            problems = [f"{row['id']}: {row['problem']}" for row in rows if row["problem"]]
            if problems:
                raise RolloutError("it cannot be used, and nothing was changed: " + problems[0])
            missing = [row["id"] for row in rows if not row["prepared"]]
            if not missing:
                return tuple(row["id"] for row in rows)
            if time.monotonic() > until:
                raise RolloutError(
                    f"nothing was changed: {', '.join(missing)} have not said in time that they "
                    "can use it; their logs say more."
                )
            await asyncio.sleep(LOOKS_S)
