"""The figures of a finished run that all outlets show."""

from __future__ import annotations

from decimal import Decimal
from typing import TypedDict

from cascade.ledger import LedgerView
from cascade.ledger.view import weakest
from cascade.observing import ObservedRun
from cascade.state import Basis


class RunFacts(TypedDict):
    """One run in figures; None where there is nothing to say, or nobody knows.

    `basis` is the weakest of cost and saving; `error_type` the class of the error it failed with.
    """

    cascade: str
    run_id: str
    outcome: str
    tier: str | None
    escalated: bool | None
    confidence: float | None
    calibrated: bool | None
    cost_usd: Decimal | None
    saved_usd: Decimal | None
    basis: Basis
    latency_ms: float
    error_type: str | None


def run_facts(run: ObservedRun) -> RunFacts:
    """The figures of a run that has ended."""
    ending, ledger = run.ending, LedgerView(run.entries)
    return RunFacts(
        cascade=run.cascade,
        run_id=run.id,
        outcome=str(run.outcome),
        tier=ending.tier if ending else None,
        escalated=ending.escalated if ending else None,
        confidence=ending.confidence if ending else None,
        calibrated=ending.calibrated if ending else None,
        cost_usd=ledger.cost_usd,
        saved_usd=ledger.saved_usd,
        basis=weakest((ledger.cost_basis, ledger.saved_basis)),
        latency_ms=run.seconds * 1000,
        error_type=type(run.error).__name__ if run.error else None,
    )
