"""The last finished requests, for the page: which way each took, and what it cost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count

from cascade.ledger import LedgerView
from cascade.observing import ObservedRun, Observer
from cascade.service.keys import KEY_TAG
from cascade.state import Basis, LedgerEntry


@dataclass(frozen=True, slots=True)
class Step:
    """One ledger entry on a request's way: a draft, a check, a decision, an answer."""

    node: str
    tier: str | None
    model: str | None
    cost_usd: Decimal | None
    cost_basis: Basis
    latency_ms: float
    confidence: float | None
    action: str | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished request. Nothing of what was asked or answered is in it.

    `number` grows by one with each request of this process. `key` is the id of its API key.
    `outcome` is one of `cascade.observing.Outcome`. Money is None where a part is unknown.
    """

    number: int
    run_id: str
    at: datetime
    cascade: str
    key: str | None
    tags: Mapping[str, str]
    outcome: str
    tier: str | None
    escalated: bool
    confidence: float | None
    calibrated: bool
    decision: str | None
    threshold: float | None
    cost_usd: Decimal | None
    cost_basis: Basis
    saved_usd: Decimal | None
    saved_basis: Basis
    seconds: float
    error: str | None
    steps: tuple[Step, ...] = field(default=())


class Recent(Observer):
    """A ring of the last finished requests, oldest first; older ones fall out.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = 500) -> None:
        self._ring: deque[Finished] = deque(maxlen=size)
        self._numbers = count(1)
        self._changed = asyncio.Event()

    def since(self, number: int = 0) -> list[Finished]:
        """Those after this number, oldest first."""
        return [finished for finished in self._ring if finished.number > number]

    async def after(self, number: int = 0) -> list[Finished]:
        """As `since`, but waits until there is one."""
        while not (found := self.since(number)):
            await self._changed.wait()
        return found

    def run_ended(self, run: ObservedRun) -> None:
        """Keep what is known of it."""
        self._ring.append(_finished(next(self._numbers), run))
        self._changed.set()
        self._changed = asyncio.Event()


def _finished(number: int, run: ObservedRun) -> Finished:
    ledger, ending = LedgerView(run.entries), run.ending
    decision = None if ending is None else ending.decision
    return Finished(
        number=number,
        run_id=run.id,
        at=datetime.now(UTC),
        cascade=run.cascade,
        key=run.tags.get(KEY_TAG),
        tags=dict(run.tags),
        outcome=str(run.outcome),
        tier=None if ending is None else ending.tier,
        escalated=ending is not None and ending.escalated,
        confidence=None if ending is None else ending.confidence,
        calibrated=ending is not None and ending.calibrated,
        decision=None if decision is None else decision.reason,
        threshold=None if decision is None else decision.threshold,
        cost_usd=ledger.cost_usd,
        cost_basis=ledger.cost_basis,
        saved_usd=ledger.saved_usd,
        saved_basis=ledger.saved_basis,
        seconds=run.seconds,
        error=None if run.error is None else type(run.error).__name__,
        steps=tuple(_step(entry) for entry in run.entries),
    )


def _step(entry: LedgerEntry) -> Step:
    return Step(
        node=entry.node,
        tier=entry.tier,
        model=entry.model,
        cost_usd=entry.cost_usd,
        cost_basis=entry.cost_basis,
        latency_ms=entry.latency_ms,
        confidence=entry.confidence,
        action=entry.action,
        outcome=entry.outcome,
    )
