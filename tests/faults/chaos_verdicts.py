"""What may become of a request, and what may not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from cascade import CascadeResult, errors
from cascade.errors import ModelError
from cascade.ledger import LedgerView
from cascade.state import LedgerEntry
from tests.faults.chaos_plans import LAST, LEAVES, Plan
from tests.faults.chaos_upstream import NUMBER

MOST_USD = Decimal(200)
"""No call of a chaos run can cost this: the largest reply that is read, 64 MiB, would be 16 million
of the dearest tokens, $168."""

_OURS = {"LeftError": "reader left", "StoppedError": "stopped with its batch"}

Figures = tuple[int, str, int]
"""Of some entries: how many, what is known of their cost, how many of unknown cost."""


def problem(kind: str, about: str) -> str:
    """A problem as it is counted: by its kind, with an example behind the colon."""
    return f"{kind}: {about}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        kind: `answer`, `degraded`, `empty answer` (of the last tier), the name of an error, or how
            the caller went away.
        wrong: what must not be.
        books: what its own ledger says, by run and node; None where it has none to show.
    """

    number: int
    way: str
    kind: str
    took_s: float
    wrong: tuple[str, ...] = ()
    books: Mapping[str, Mapping[str, Figures]] | None = field(default=None)


def judged(plan: Plan, ending: object, took_s: float, wrong: tuple[str, ...]) -> Outcome:
    """The outcome that an ending is."""
    kind, more, ledger = _read(plan, ending)
    books = None if ledger is None else books_of(ledger)
    return Outcome(plan.number, plan.way, kind, took_s, (*wrong, *more), books)


def _read(plan: Plan, ending: object) -> tuple[str, list[str], LedgerView | None]:
    name = type(ending).__name__
    if isinstance(ending, CascadeResult):
        kind = "degraded" if ending.degraded else "answer" if ending.answer else "empty answer"
        return kind, wrong_in(ending, plan.number), ending.ledger
    if isinstance(ending, ModelError) and name in (errors.__doc__ or ""):
        wrong = [] if ending.ledger is not None else [problem("an error without a ledger", name)]
        wrong += wrong_entries(ending.ledger or ())
        return name, wrong, ending.ledger
    if name in _OURS:
        return _OURS[name], [], None
    if isinstance(ending, asyncio.CancelledError | TimeoutError) and plan.way in LEAVES:
        return "cancelled", [], None
    return f"BARE {name}", [problem(f"no documented error, {name}", f"{ending!r:.200}")], None


def wrong_in(result: CascadeResult, number: int) -> list[str]:
    """What cannot be in a result."""
    wrong = wrong_entries(result.ledger)
    others = {found for found in NUMBER.findall(result.answer) if found != str(number)}
    if others:
        wrong.append(problem("the answer to another request", f"{result.answer!r:.80}"))
    stands = result.tier == LAST and not result.degraded  # what the last tier says is the answer
    if not result.answer and not stands and not result.message.tool_calls:
        wrong.append(problem("an answer without a word", f"{result.decision.reason:.120}"))
    nodes, view = result.ledger.by_node().values(), result.ledger
    if sum(node.known_cost_usd for node in nodes) != view.known_cost_usd:
        wrong.append(problem("nodes cost another sum than their run", str(view)))
    if {entry.run_id for entry in view} != {result.run_id}:
        wrong.append(problem("entries of another run in a result", result.run_id))
    return wrong


def wrong_entries(entries: Iterable[LedgerEntry]) -> list[str]:
    """What cannot be in ledger entries."""
    return [problem(why, _about(entry)) for entry in entries for why in _wrong_entry(entry)]


def _about(entry: LedgerEntry) -> str:
    counts = f"{entry.input_tokens} and {entry.output_tokens} tokens"
    return f"{entry.node} of {entry.model}, ${entry.cost_usd}, {counts}, {entry.note!r:.80}"


def _wrong_entry(entry: LedgerEntry) -> list[str]:
    amounts = {
        "cost": entry.cost_usd,
        "assumed cost": entry.assumed_usd,
        "baseline": entry.baseline_usd,
        "marginal cost": entry.marginal_usd,
    }
    if entry.node == "audit":  # it corrects an estimate, which may have been too high
        del amounts["baseline"]
    wrong = [
        f"{name} that is {'negative' if amount < 0 else 'absurd'}"
        for name, amount in amounts.items()
        if amount is not None and not 0 <= amount < MOST_USD
    ]
    if (entry.cost_usd is None) != (entry.cost_basis == "unknown"):
        wrong.append("a cost whose basis is not its own")
    if not math.isfinite(entry.latency_ms) or entry.latency_ms < 0:
        wrong.append("a latency that cannot be")
    known = entry.cost_usd is not None and entry.baseline_usd is not None
    if known and entry.saved_usd != (entry.baseline_usd or 0) - (entry.cost_usd or 0):
        wrong.append("a saving that is not baseline less cost")
    if entry.confidence is not None and not 0 <= entry.confidence <= 1:
        wrong.append("a confidence that is no probability")
    return wrong


def books_of(entries: Iterable[LedgerEntry]) -> dict[str, dict[str, Figures]]:
    """Entries by run and node."""
    views: dict[str, dict[str, list[LedgerEntry]]] = {}
    for entry in entries:
        views.setdefault(entry.run_id, {}).setdefault(entry.node, []).append(entry)
    return {
        run: {node: figures_of(of_node) for node, of_node in nodes.items()}
        for run, nodes in views.items()
    }


def figures_of(entries: Iterable[LedgerEntry]) -> Figures:
    """Figures that two ledgers of the same calls share."""
    view = LedgerView(entries)
    return len(view), str(view.known_cost_usd.normalize()), view.unknown
