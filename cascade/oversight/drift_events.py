"""Drift in the ledger: alarms, resets and what a restart has to know, as entries of node `drift`.

Such an entry costs and saves nothing. Its note is for people; what a program reads is in its
`signals`, which no redaction takes away: `caution` (the place in `CAUTIONS` after it), `reset`,
`alarm:<chart>`, `harm_…` (the state of the e-process), and the figures of the chart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from cascade._background import Background
from cascade.ledger import Recorder
from cascade.ledger.store import Selection, Store
from cascade.ledger.tags import NO_TAGS, tagged
from cascade.policies import CAUTIONS, Caution
from cascade.state import LedgerEntry

NODE = "drift"

ALARM = "alarm:"
"""Begins the names of the signals that say which charts gave an alarm."""


@dataclass(slots=True)
class Remembered:
    """What the ledger says about the time before a restart.

    Attributes:
        since: the last reset.
        until: when a reaction first changed what is accepted; later decisions are not usual ones.
        alarmed: charts that gave their alarm already.
        harm: figures of the e-process.
    """

    caution: Caution = "normal"
    since: datetime | None = None
    until: datetime | None = None
    alarmed: set[str] = field(default_factory=set)
    harm: dict[str, float] = field(default_factory=dict)

    def read(self, entry: LedgerEntry) -> Remembered:
        """What is known after one more entry, a later one."""
        figures = dict(entry.signals or {})
        if "reset" in figures:
            return Remembered(since=entry.at)
        self.caution = caution_in(figures)
        if self.until is None and CAUTIONS.index(self.caution) >= CAUTIONS.index("tighten"):
            self.until = entry.at
        self.alarmed |= charts_in(figures)
        harm = {name: value for name, value in figures.items() if name.startswith("harm_")}
        self.harm = harm or self.harm
        return self


def caution_in(figures: Mapping[str, float]) -> Caution:
    """How careful a cascade was after an event."""
    return CAUTIONS[min(len(CAUTIONS) - 1, max(0, int(figures.get("caution", 0))))]


def charts_in(figures: Mapping[str, float]) -> set[str]:
    """The charts that gave an alarm with an event."""
    return {name.removeprefix(ALARM) for name in figures if name.startswith(ALARM)}


class DriftEvents:
    """Writes and reads the events of one cascade.

    Args:
        name: of the cascade. Cascades that share a store are told apart by their names and tags.
        tier: the one that drafts first.
        recorder: takes the entries; its store is asked after a restart.
        background: writes them.
        tags: of the cascade's entries.
    """

    def __init__(
        self,
        name: str,
        tier: str,
        recorder: Recorder,
        background: Background,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> None:
        self.name = name
        self._tier = tier
        self._run_id = f"{NODE}:{name}"
        self._recorder = recorder
        self._background = background
        self._store = recorder.store if isinstance(recorder.store, Store) else None
        self._tags = tags
        self._begun_at = datetime.now(UTC)

    def write(
        self,
        note: str,
        caution: Caution,
        figures: Mapping[str, float] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Put an event into the ledger, after the reply."""
        entry = LedgerEntry(
            run_id=self._run_id,
            node=NODE,
            cost_usd=Decimal(0),
            saved_usd=Decimal(0),
            note=note,
            at=at or datetime.now(UTC),
            signals={"caution": float(CAUTIONS.index(caution)), **(figures or {})},
        )

        def record() -> None:
            with tagged(**self._tags):
                self._recorder.record(entry)
            self._recorder.take(self._run_id)

        after_reply(self._background, record)

    async def remembered(self) -> Remembered:
        """What earlier processes left; nothing where the store cannot be asked.

        Raises:
            LedgerError: the database cannot be reached.
        """
        found = Remembered()
        if self._store is None:
            return found
        where = Selection(node=NODE, run_id=self._run_id, tags=self._tags, until=self._begun_at)
        for entry in await self._store.query(where):
            found = found.read(entry)
        return found

    @property
    def place(self) -> str:
        """What tells this cascade's events from those of others."""
        return " ".join([self._run_id, *(f"{k}={v}" for k, v in sorted(self._tags.items()))])

    async def since(self, at: datetime) -> Sequence[LedgerEntry]:
        """The events of all processes since a time, in its order.

        Raises:
            LedgerError: the database cannot be reached.
        """
        if self._store is None:
            return []
        where = Selection(node=NODE, run_id=self._run_id, tags=self._tags, since=at)
        return await self._store.query(where)

    async def decisions(self, n: int, remembered: Remembered) -> Sequence[LedgerEntry]:
        """The first decisions of earlier processes, since the last reset and in usual times.

        Raises:
            LedgerError: the database cannot be reached.
        """
        if self._store is None:
            return []
        until = min(self._begun_at, remembered.until or self._begun_at)
        where = Selection(
            node="verify", tier=self._tier, since=remembered.since, until=until, tags=self._tags
        )
        found: list[LedgerEntry] = []
        async with aclosing(self._store.stored(where)) as stored:
            async for item in stored:
                if item.entry.action not in (None, "observe"):
                    found.append(item.entry)
                if len(found) >= n:
                    break
        return found


def after_reply(background: Background, work: Callable[[], None]) -> None:
    """Do it after the reply, or at once where too much is waiting for that."""

    async def do() -> None:
        work()

    if not background.start(do):
        work()
