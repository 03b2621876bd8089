"""Outcomes and findings made by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from cascade.demo.records import Facts, Findings
from cascade.demo.report import Outcome, summarise
from cascade.ledger import LedgerView
from cascade.state import LedgerEntry

CENT = Decimal("0.01")


def outcome(
    small: bool,
    large: bool | None,
    confidence: float | None,
    *,
    escalated: bool | None = None,
    kind: str = "capital",
    priced: bool = True,
) -> Outcome:
    """A question whose draft costs 1 cent and whose large answer costs 4; threshold 0.8."""
    if escalated is None:
        escalated = confidence is None or confidence < 0.8
    return Outcome(
        id=f"{kind}-{small}-{large}-{confidence}",
        kind=kind,
        question="What is the capital of <b>Italy</b>?",
        answer="Rome",
        small_answer="It is Rome" if small else "It is <i>Milan</i>",
        large_answer=None if large is None else "It is Rome" if large else "",
        small_correct=small,
        large_correct=large,
        cascade_correct=bool(large) if escalated else small,
        escalated=escalated,
        confidence=confidence,
        small_cost=CENT,
        large_cost=4 * CENT if priced and large is not None else None,
        cascade_cost=(5 * CENT if escalated else CENT) if priced else None,
        small_ms=100.0,
        large_ms=None if large is None else 500.0,
        cascade_ms=600.0 if escalated else 100.0,
    )


FOUR = (
    outcome(True, True, 0.9),
    outcome(False, True, 0.85, kind="plural"),
    outcome(True, False, 0.5),
    outcome(False, True, 0.2, kind="plural"),
)
"""Two drafts accepted (one of them wrong), two escalated (one of them for the worse)."""

FACTS = Facts(
    n=4,
    small="llamacpp:smollm2-135m",
    large="qwen<2.5>",
    large_source="recorded",
    large_alone=True,
    remarks=("recorded on a day",),
    assumptions=("small costs $0.05 per hour", "large costs <much>"),
    threshold=0.8,
)

ENTRY = LedgerEntry(
    run_id="1",
    node="draft",
    tier="small",
    model="m",
    input_tokens=5,
    output_tokens=2,
    latency_ms=100.0,
    cost_usd=CENT,
    saved_usd=-CENT,
)


def findings(outcomes: tuple[Outcome, ...] = FOUR, **changes: object) -> Findings:
    """Findings of a run with these outcomes; `changes` are made to its facts."""
    ledger = LedgerView([ENTRY])
    return Findings(
        facts=replace(FACTS, n=len(outcomes), **changes),  # type: ignore[arg-type]
        report=summarise(outcomes),
        nodes=tuple(ledger.by_node().values()),
        table=ledger.table(),
        outcomes=outcomes,
        degraded=0,
        compare_cost=Decimal(0),
        seconds=12.0,
    )
