"""The ledger of a chaos run, against what the upstream saw, what callers were told, and itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from threading import Lock
from typing import Any

from cascade.ledger.amounts import Total
from cascade.ledger.store import Store, Stored
from cascade.ledger.store.base import Grouping
from cascade.report import make_report
from cascade.report.sums import Sums
from cascade.state import LedgerEntry
from tests.faults.chaos_upstream import Call, Seen
from tests.faults.chaos_verdicts import Figures, Outcome, figures_of, problem, wrong_entries

GROUPINGS: tuple[Grouping, ...] = ("node", "run_id", "tier")
AFTER_THE_REPLY = frozenset({"audit", "shadow", "hedge"})
"""Nodes whose entries a result may not have: they can be made after the reply. A hedge that ended
as its run stood still between two nodes is not waited for."""


class Begun:
    """Counts the calls that a store was told of before they were sent."""

    def __init__(self, store: Store) -> None:
        self.begun = self.withdrawn = 0
        self._lock = Lock()
        begin, withdraw = store.begin, store.withdraw

        async def counted_begin(**call: Any) -> str | None:
            with self._lock:
                self.begun += 1
            return await begin(**call)

        def counted_withdraw(attempt_id: str) -> None:
            with self._lock:
                self.withdrawn += 1
            withdraw(attempt_id)

        store.begin, store.withdraw = counted_begin, counted_withdraw  # type: ignore[method-assign]


class Notes:
    """What callers were told, in a file: in memory it would look like a leak."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w", encoding="utf-8")

    def add(self, outcome: Outcome) -> None:
        """Keep what a request's own ledger said."""
        if outcome.books:
            self._file.write(json.dumps([outcome.number, outcome.books]) + "\n")

    def read(self) -> Iterator[tuple[int, str, dict[str, Figures]]]:
        """Number of the request, run, and figures by node."""
        self._file.close()
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                number, books = json.loads(line)
                for run_id, nodes in books.items():
                    yield number, run_id, {node: tuple(each) for node, each in nodes.items()}


@dataclass
class Audited:
    """What is in the ledger.

    Attributes:
        entries: of all kinds; `calls` of them are of calls.
        unfinished: calls that were begun and have no entry.
        lost: calls that the upstream has seen and the ledger does not know.
        doubled: answers in the ledger that the upstream has not given.
        unsent: entries of failed and cancelled calls that never arrived.
        unknown: entries of unknown cost.
        wrong: problems.
    """

    entries: int = 0
    calls: int = 0
    unfinished: int = 0
    lost: int = 0
    doubled: int = 0
    unsent: int = 0
    unknown: int = 0
    wrong: list[str] = field(default_factory=list)


async def audited(store: Store, seen: Seen, begun: Begun, notes: Notes) -> Audited:
    """Read the whole ledger and hold it against all that is known."""
    found, runs = Audited(), dict[str, dict[str, list[LedgerEntry]]]()
    answered: Counter[Call] = Counter()
    failed: Counter[Call] = Counter()
    attempts: Counter[str] = Counter()
    sums: dict[str, Sums] = {}
    async for item in store.stored():
        _read(item, found, runs, answered, failed)
        sums.setdefault(item.entry.node, Sums()).add(item.entry)
        if item.entry.model is not None:
            attempts[item.entry.attempt_id or "none"] += 1
    unknown = Counter((a.tags["request"], _model(a.model)) for a in await store.unfinished())
    found.unfinished = unknown.total()
    _against_upstream(found, seen, answered, failed, unknown)
    known = sum(attempts.values()) + found.unfinished
    if known != begun.begun - begun.withdrawn or len(attempts) != sum(attempts.values()):
        told = f"{begun.begun} begun, {begun.withdrawn} withdrawn, {known} known"
        found.wrong.append(problem("calls that were begun are not those of the ledger", told))
    _against_callers(found, runs, notes)
    await _against_itself(found, store, sums)
    return found


def _read(
    item: Stored,
    found: Audited,
    runs: dict[str, dict[str, list[LedgerEntry]]],
    answered: Counter[Call],
    failed: Counter[Call],
) -> None:
    entry = item.entry
    found.entries += 1
    found.unknown += entry.cost_usd is None
    found.wrong += wrong_entries([entry])
    runs.setdefault(entry.run_id, {}).setdefault(entry.node, []).append(entry)
    if entry.model is None:
        return
    found.calls += 1
    call = (item.tags.get("request", "none"), _model(entry.model))
    (answered if entry.outcome == "ok" else failed)[call] += 1


def _model(name: str | None) -> str:
    return (name or "").rpartition(":")[2]


def _against_upstream(
    found: Audited,
    seen: Seen,
    answered: Counter[Call],
    failed: Counter[Call],
    unknown: Counter[Call],
) -> None:
    """Each call that arrived has one entry, and no answer is there that was not given.

    A call that failed or was cancelled may not have arrived.
    """
    kept = answered + failed + unknown
    lost, doubled = seen.calls - kept, answered - seen.calls
    found.lost, found.doubled = lost.total(), doubled.total()
    found.unsent = (kept - seen.calls).total() - found.doubled
    kinds = {
        "a call that arrived is not in the ledger": lost,
        "an answer that was not given": doubled,
        "a call that was begun has no entry": unknown,
    }
    for kind, calls in kinds.items():
        found.wrong += [problem(kind, f"{call} met {seen.met.get(call)}") for call in calls]


def _against_callers(
    found: Audited, runs: dict[str, dict[str, list[LedgerEntry]]], notes: Notes
) -> None:
    """What a caller was told of a run is what the ledger says of it."""
    for number, run_id, told in notes.read():
        kept = {node: figures_of(entries) for node, entries in runs.get(run_id, {}).items()}
        later = {node for node in kept if node not in told}
        same = all(kept.get(node) == figures for node, figures in told.items())
        if not same or later - AFTER_THE_REPLY:
            about = f"request {number}, {run_id}: told {told}, kept {kept}"
            found.wrong.append(problem("a caller was told other figures than are kept", about))


async def _against_itself(found: Audited, store: Store, sums: dict[str, Sums]) -> None:
    """Sums by node, by run, by tier, and of the report are the same."""
    groups = {by: (await store.totals(by=by)).values() for by in GROUPINGS}
    costs = {by: _cost(totals) for by, totals in groups.items()}
    report = await make_report(store)
    spent = sum((each.cost for each in sums.values()), Decimal(0))
    costs |= {"report": report.total.cost_usd, "entries": spent}
    if len(set(costs.values())) != 1:
        found.wrong.append(problem("sums differ", str(costs)))
    (by_node,) = [table for table in report.tables if table.by == "node"]
    lines = {line.name: (line.entries, line.cost_usd) for line in by_node.lines}
    if lines != {node: (each.entries, each.cost) for node, each in sums.items()}:
        found.wrong.append(problem("the report's nodes are not those of the ledger", str(lines)))


def _cost(totals: Iterable[Total]) -> Decimal:
    return sum((total.cost_usd.known for total in totals), Decimal(0))
