"""What keys may spend over all replicas: put aside and counted in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from decimal import Decimal
from itertools import count

from cascade.ledger.store import Store
from cascade.service.budgets import Account, Reservation, refusal_of, uncovered
from cascade.service.config import BudgetConfig
from cascade.service.keys import RESERVATION_TAG, Key
from cascade.service.shared.database import Row, SharedDatabase
from cascade.service.shared.replica import Replica

logger = logging.getLogger("cascade")

MOST_AT_ONCE = 200
"""Requests for which money is put aside by one statement; they came while another was under way."""

LINGER_S = 0.05
"""How long what is to be given back waits for more: as long as entries wait to be written."""

LONGEST_PAUSE_S = 5.0

_PUT_ASIDE = """
    SELECT * FROM cascade_put_aside(:replica, CAST(:lease_s AS DOUBLE PRECISION),
        CAST(:unknown_usd AS NUMERIC), CAST(:asked AS JSONB))
"""
_GIVE_BACK = "SELECT cascade_give_back(CAST(:settled AS JSONB))"
_OLD = """
    SELECT id FROM service_reservations WHERE replica_id = :replica AND lost_usd IS NULL
        AND made_at < clock_timestamp() - interval '1 minute'
"""
_SPENT = "SELECT * FROM cascade_spent(:key, CAST(:unknown_usd AS NUMERIC))"


@dataclass(slots=True)
class _Asked:
    id: str
    key: Key
    per_run: Decimal
    runs: int
    told: asyncio.Future[Row]

    def as_json(self) -> dict[str, object]:
        bounds = {"day_usd": self.key.day_usd, "month_usd": self.key.month_usd}
        written = {name: None if usd is None else f"{usd:f}" for name, usd in bounds.items()}
        mine = {"id": self.id, "key": self.key.id, "runs": self.runs}
        return {**mine, "per_run": f"{self.per_run:f}", **written}


@dataclass(slots=True)
class SharedReservation(Reservation):
    """Dollars put aside in the database; what is settled is given back there a moment later."""

    id: str = ""
    budgets: SharedBudgets | None = field(default=None, repr=False)

    def settle(self) -> None:
        """A run has ended: once its entries are in the database, its dollars are free again."""
        if self.budgets is not None and self.runs:
            self.runs -= 1
            self.budgets.give_back(self.id, self.runs)


class SharedBudgets:
    """Counts what each key spends, for all replicas that share a ledger in PostgreSQL.

    What was spent is counted by the database as entries are written, in the same transaction. What
    is put aside is a row there too, so that a request costs one round trip more, which it shares
    with those that come together with it. It is given back after the reply, when the entries of
    its runs are in the database: at no time is there less spent and put aside than is true.

    Args:
        store: the ledger.
        database: the same, for single statements.
        replica: this process; what it put aside is released when its lease lapses, but for calls
            that were begun and have no entry. They count what was put aside for them.
        config: what happens when a budget is used up.
    """

    def __init__(
        self, store: Store, database: SharedDatabase, replica: Replica, config: BudgetConfig
    ) -> None:
        self._store = store
        self._database = database
        self._replica = replica
        self._config = config
        self._numbers = count(1)
        self._asked: deque[_Asked] = deque()
        self._mine: set[str] = set()
        self._settled: dict[str, int] = {}
        self._asking: asyncio.Task[None] | None = None
        self._giving: asyncio.Task[None] | None = None

    async def account(self, key: Key) -> Account:
        """What a key has spent, and what is put aside for it by all replicas.

        What ended in this one before is in it.

        Raises:
            LedgerError: the database cannot be reached.
        """
        await self._give_once()
        unknown = f"{self._config.unknown_call_usd:f}"
        [row] = await self._database.ask(_SPENT, key=key.id, unknown_usd=unknown)
        return _account(row)

    async def reserve(
        self, key: Key, per_run: Decimal, runs: int = 1, *, can_stay: bool
    ) -> Reservation:
        """Put dollars aside, as `Budgets.reserve` does.

        Raises:
            ServiceError: 402, a budget has less than that left, and it may not or cannot stay on
                this machine.
            UnavailableError: the database cannot be reached; then nothing is spent on a budget.
        """
        told = asyncio.get_running_loop().create_future()
        asked = _Asked(f"{self._replica.id}.{next(self._numbers):x}", key, per_run, runs, told)
        self._mine.add(asked.id)
        self._asked.append(asked)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            row = await told
        except asyncio.CancelledError:
            if not told.cancelled():  # it was told in the same moment
                self.give_back(asked.id, 0)
            raise
        if row["granted"]:
            return SharedReservation(
                per_run=per_run, runs=runs, tags={RESERVATION_TAG: asked.id},
                id=asked.id, budgets=self,
            )  # fmt: skip
        self._mine.discard(asked.id)
        refusal = refusal_of(key, _account(row), per_run * runs)
        assert refusal is not None, row
        return uncovered(key, self._config, refusal, can_stay=can_stay)

    def give_back(self, reservation: str, runs_left: int) -> None:
        """Release what is put aside but for so many runs, once entries so far are written."""
        self._settled[reservation] = runs_left
        if self._giving is None:
            self._giving = asyncio.create_task(self._give())

    async def tidy(self) -> None:
        """Give back what is put aside for requests of this replica that it does not know.

        Such as that of a statement which this process gave up, and the database did not.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        rows = await self._database.ask(_OLD, replica=self._replica.id)
        for row in rows:
            if row["id"] not in self._mine:
                self.give_back(row["id"], 0)

    async def aclose(self) -> None:
        """Give back what is left to be given back.

        Raises:
            UnavailableError: the database cannot be reached; it is released with the lease.
        """
        if self._giving is not None:
            self._giving.cancel()
            await asyncio.gather(self._giving, return_exceptions=True)
        while self._settled:
            await self._give_once()

    async def _ask(self) -> None:
        """Put aside for all that came meanwhile, until there is nobody left."""
        try:
            while self._asked:
                n = min(len(self._asked), MOST_AT_ONCE)
                some = [self._asked.popleft() for _ in range(n)]
                await self._ask_for(some)
                for asked in some:
                    # Nobody waits for it, or nobody knows what the database did.
                    if asked.told.cancelled() or asked.told.exception() is not None:
                        self.give_back(asked.id, 0)
        finally:
            self._asking = None

    async def _ask_for(self, some: Sequence[_Asked]) -> None:
        try:
            rows = await self._database.ask(
                _PUT_ASIDE,
                replica=self._replica.id,
                lease_s=self._replica.lease_s,
                unknown_usd=f"{self._config.unknown_call_usd:f}",
                asked=json.dumps([asked.as_json() for asked in some]),
            )
            told = {row["id"]: row for row in rows}
            answers = [(asked.told, told[asked.id]) for asked in some]
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            for asked in some:
                if not asked.told.done():
                    asked.told.set_exception(error)
            return
        for future, row in answers:
            if not future.done():
                future.set_result(row)

    async def _give(self) -> None:
        pause_s = LINGER_S
        try:
            while self._settled:
                await asyncio.sleep(pause_s)
                try:
                    await self._give_once()
                    pause_s = LINGER_S
                except Exception as error:  # noqa: BLE001 - it is tried again for as long as it takes
                    logger.warning("what was put aside cannot be given back yet: %s", error)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self._giving = None

    async def _give_once(self) -> None:
        settled = dict(self._settled)
        await self._store.flush()
        if not settled:
            return
        listed = [{"id": name, "left_over": left} for name, left in settled.items()]
        await self._database.ask(_GIVE_BACK, settled=json.dumps(listed))
        for name, left in settled.items():
            if self._settled.get(name) == left:
                del self._settled[name]
            if not left:
                self._mine.discard(name)


def _account(row: Row) -> Account:
    return Account(
        datetime.combine(row["day"], time(), UTC),
        row["day_usd"],
        row["month_usd"],
        row["reserved_usd"],
    )
