"""Ledgers as cascades write them, entry by entry, of which the truth is known."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cascade.evaluation.render import Table, to_text, words
from cascade.evaluation.report import Report, make_report
from cascade.ledger.base import EVERYTHING, Selection
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.store import SqlLedger, open_store
from cascade.state import Decision

NOON, HOUR = datetime(2026, 3, 1, 12, tzinfo=UTC), timedelta(hours=1)
DRAFT, CENT, MORE = Decimal("0.0001"), Decimal("0.01"), Decimal("0.012")

_runs = itertools.count()


def usd(amount: float | str | Decimal) -> Decimal:
    return Decimal(str(amount))


def entry(run: str, node: str, cost: Decimal | None = Decimal(0), **fields: Any) -> LedgerEntry:
    """An entry whose cost counts against the saving, unless the fields say otherwise."""
    basis = "unknown" if cost is None else "measured"
    saved = None if cost is None else -cost
    defaults = {"at": NOON, "tier": "small", "cost_basis": basis, "basis": basis}
    money = {"cost_usd": cost, "saved_usd": saved}
    return LedgerEntry(run_id=run, node=node, **{**defaults, **money, **fields})


class Story:
    """The entries of one run, one second after the other."""

    def __init__(self, at: datetime = NOON) -> None:
        self.run = f"run-{next(_runs)}"
        self.at = at
        self.entries: list[LedgerEntry] = []

    def tell(self, node: str, cost: Decimal | None = Decimal(0), **fields: Any) -> Story:
        self.entries.append(entry(self.run, node, cost, **{"at": self.at, **fields}))
        self.at += timedelta(seconds=1)
        return self

    def call(self, node: str, cost: Decimal | None, **fields: Any) -> Story:
        """A call to a model."""
        tier = "large" if node in ("expert", "audit") else "small"
        told = {"tier": tier, "model": f"{tier}-model", "input_tokens": 100, "output_tokens": 20}
        return self.tell(node, cost, **{**told, "latency_ms": 500.0, **fields})

    def draft(self, cost: Decimal | None = DRAFT, **fields: Any) -> Story:
        return self.call("draft", cost, **fields)

    def accept(
        self,
        baseline: Decimal | None = CENT,
        *,
        rate: float | None = None,
        confidence: float | None = 0.9,
        node: str = "verify",
        threshold: float | None = None,
        calibrated: bool = False,
        **fields: Any,
    ) -> Story:
        known = {"confidence": confidence, "audit_rate": rate, "threshold": threshold}
        decision = Decision(action="accept", reason="sure", calibrated=calibrated, **known)
        earned: dict[str, Any] = {
            "baseline_usd": baseline,
            "saved_usd": baseline,
            "baseline_range": None if baseline is None else (baseline / 5, baseline * 8),
            "basis": "unknown" if baseline is None else "estimated",
        }
        return self.tell(node, **{"decision": decision, **earned, **fields})

    def decide(self, action: Any, node: str = "verify", **fields: Any) -> Story:
        said = {"confidence": 0.3, "reason": "not sure", **fields}
        return self.tell(node, decision=Decision(action=action, **said))

    def expert(self, cost: Decimal | None = CENT, **fields: Any) -> Story:
        earned = {"baseline_usd": cost, "saved_usd": None if cost is None else Decimal(0)}
        return self.call("expert", cost, **{**earned, **fields})

    def escalated(self, cost: Decimal | None = CENT, **fields: Any) -> Story:
        return self.draft().decide("escalate", **fields).expert(cost)

    def fails(self, node: str, cost: Decimal | None = None, **fields: Any) -> Story:
        told = {"outcome": "failed", "note": "the server is down", "input_tokens": None}
        return self.call(node, cost, **{**told, **fields})

    def audit(self, large: Decimal | None = MORE, loss: Any = 0.0, judge: Any = None) -> Story:
        """The large model is asked, perhaps a judge, and the result is written down."""
        self.call("audit", large)
        if judge is not None:
            self.call("audit", judge, tier="judge", model="judge-model")
        return self.tell("audit", loss=loss)

    def shadow(self, large: Decimal = CENT, loss: float | None = 0.0, **fields: Any) -> Story:
        """The large model answers, the small one drafts beside it and is compared."""
        self.expert(large).call("shadow", DRAFT)
        return self.accept(Decimal(0), node="shadow", loss=loss, basis="measured", **fields)


def accepted(n: int, **fields: Any) -> list[Story]:
    return [Story(NOON + i * HOUR / 10).draft().accept(**fields) for i in range(n)]


def audited(n: int, large: str = "0.02", loss: float | None = 0, rate: float = 0.5) -> list[Story]:
    stories = accepted(n, rate=rate)
    return [story.audit(usd(large), loss) for story in stories]


def mixed(n: int) -> list[Story]:
    """Runs of rising confidence, accepted from 0.35 on; every other draft is audited."""
    stories = []
    for i in range(n):
        story = Story(NOON + i * HOUR / 60).draft()
        if (sure := i / n) < 0.35:
            story.decide("escalate", confidence=sure, threshold=0.35).expert()
        else:
            story.accept(rate=0.5, confidence=sure, threshold=0.35)
            if i % 2:
                story.audit(MORE, float(i % 15 == 0))
        stories.append(story)
    return stories


def fill(store: SqlLedger, told: Iterable[Story | LedgerEntry]) -> None:
    """Write entries, whose team is `search`."""
    for story in told:
        entries = story.entries if isinstance(story, Story) else [story]
        store.append(entries, {"team": "search"})


def reported(told: Iterable[Any], selection: Selection = EVERYTHING, **options: Any) -> Report:
    """The report of these entries, whose team is `search`."""

    async def make() -> Report:
        async with open_store("memory://") as store:
            fill(store, told)
            return await make_report(store, selection, **options)

    return asyncio.run(make())


def text_of(report: Report) -> str:
    """The report for a terminal, in one line."""
    return " ".join(to_text(report.document).split())


def table_of(report: Report, title: str) -> Table:
    """The table with this title."""
    return next(table for table in report.document.tables if table.title == title)


def fact_of(report: Report, label: str) -> tuple[str, str]:
    """A figure of the first view in words, and its note."""
    fact = next(fact for fact in report.document.facts if fact.label == label)
    return words(fact.figure), fact.note


def cells_of(report: Report, title: str, name: str) -> list[str]:
    """The cells of one line of a table, in words."""
    row = next(row for row in table_of(report, title).rows if row[0] == name)
    return [words(cell) for cell in row[1:]]
