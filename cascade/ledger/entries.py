"""Entries of the ledger, what one node spent and saved in one run, and their exact totals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal
from functools import cached_property, partial, reduce
from typing import Any, Literal

from pydantic import Field

from cascade.state import Basis, Decision, Record, Usage, new_id

EXACT = Context(prec=200)
"""Context for sums: the default one rounds to 28 digits, so that totals depended on grouping."""


def total_of(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    return reduce(EXACT.add, amounts, Decimal(0))


class LedgerEntry(Record):
    """Cost and saving of one node in one run; each attempt of a call has an entry of its own.

    Attributes:
        node: `router`, `draft`, `self_check`, `verify`, `person`, `expert`, `audit`, or the name
            of the middleware that booked it, such as `cache`.
        model: `provider:name` that was asked.
        saved_usd: what the node has earned of the baseline, the cost of the large model alone, less
            its own cost; the sum over a run is the saving of the run.
        basis: the weakest of all figures of the entry.
        baseline_usd: earned, before the node's own cost; `baseline_range` is its 95 % range.
        assumed_usd: what budgets count where `cost_usd` is unknown.
        price: where the price came from, in words.
        outcome: how the call ended; `not_sent`: its tier was left alone; `begun`: it is under way,
            or its process died.
        note: why, in words for a person.
        decision: of a verifier, with signals and audit rate.
        loss: of an audit or shadow run: how much better the large answer is, in [−1, 1].
        at: when the node did it (of a call: when it was sent), in UTC.
        id: the same before and after a call, so that a ledger has it once.
    """

    run_id: str
    node: str
    tier: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    latency_ms: float = 0.0
    cost_usd: Decimal | None = None
    cost_basis: Basis = "measured"
    saved_usd: Decimal | None = None
    basis: Basis = "measured"
    baseline_usd: Decimal | None = Decimal(0)
    baseline_range: tuple[Decimal, Decimal] | None = None
    assumed_usd: Decimal | None = None
    price: str | None = None
    outcome: Literal["ok", "failed", "cancelled", "not_sent", "begun"] = "ok"
    note: str = ""
    decision: Decision | None = None
    loss: float | None = Field(default=None, ge=-1, le=1)
    at: datetime = Field(default_factory=partial(datetime.now, UTC))
    id: str = Field(default_factory=new_id)

    @property
    def usage(self) -> Usage:
        """Its tokens."""
        return Usage(**{name: getattr(self, name, None) for name in Usage.model_fields})


@dataclass(frozen=True, slots=True)
class Amounts:
    """Sums of dollars by basis, and the number of unknown amounts, which are not zero."""

    measured: Decimal = Decimal(0)
    estimated: Decimal = Decimal(0)
    unknown: int = 0

    @classmethod
    def of(cls, parts: Iterable[tuple[Decimal | None, Basis]]) -> Amounts:
        """The sum of amounts, each with its basis."""
        given = list(parts)
        measured = [usd for usd, basis in given if usd is not None and basis == "measured"]
        estimated = [usd for usd, basis in given if usd is not None and basis != "measured"]
        unknown = len(given) - len(measured) - len(estimated)
        return cls(total_of(measured), total_of(estimated), unknown)

    @property
    def total(self) -> Decimal | None:
        """The whole sum, or None where a part is unknown."""
        return None if self.unknown else EXACT.add(self.measured, self.estimated)

    @property
    def basis(self) -> Basis:
        """Basis of the whole sum: that of its weakest part."""
        if self.unknown:
            return "unknown"
        return "estimated" if self.estimated else "measured"


class LedgerView(Record):
    """Read-only view of ledger entries with their exact totals. One with an unknown part is None
    and its basis `unknown`; `cost`, `saved` and `baseline` keep the parts apart by basis."""

    entries: tuple[LedgerEntry, ...] = ()

    def __init__(self, entries: Iterable[LedgerEntry] = ()) -> None:
        fields: dict[str, Any] = {"entries": tuple(entries)}
        super().__init__(**fields)

    def __iter__(self) -> Iterator[LedgerEntry]:  # type: ignore[override]
        return iter(self.entries)

    def __repr__(self) -> str:
        return f"LedgerView({len(self.entries)} entries, cost {_dollars(self.cost)})"

    @cached_property
    def cost(self) -> Amounts:
        """Dollars spent, by basis."""
        return Amounts.of((entry.cost_usd, entry.cost_basis) for entry in self.entries)

    @cached_property
    def saved(self) -> Amounts:
        """Dollars saved against the baseline, by basis; negative where money was lost."""
        return Amounts.of((entry.saved_usd, entry.basis) for entry in self.entries)

    @property
    def baseline(self) -> Amounts:
        """Cost of the large model alone on the same requests, by basis."""
        # The entry's own basis is that of its weakest figure, which then is another one.
        return Amounts.of(
            (e.baseline_usd, "estimated" if e.basis == "unknown" else e.basis) for e in self.entries
        )

    @property
    def cost_usd(self) -> Decimal | None:
        """Dollars spent, or None where a part is unknown."""
        return self.cost.total

    @property
    def known_cost_usd(self) -> Decimal:
        """Dollars spent by the calls whose cost is known."""
        return EXACT.add(self.cost.measured, self.cost.estimated)

    @property
    def cost_basis(self) -> Basis:
        """Basis of `cost_usd`."""
        return self.cost.basis

    @property
    def saved_usd(self) -> Decimal | None:
        """Dollars saved against the baseline, or None where a part is unknown."""
        return self.saved.total

    @property
    def saved_basis(self) -> Basis:
        """Basis of `saved_usd`."""
        return self.saved.basis

    @property
    def baseline_usd(self) -> Decimal | None:
        """Cost of the large model alone, or None where a part is unknown."""
        return self.baseline.total

    def by_node(self) -> dict[str, LedgerView]:
        """The entries of each node, in the order in which the nodes first appear."""
        nodes = dict.fromkeys(entry.node for entry in self.entries)
        return {node: LedgerView(e for e in self.entries if e.node == node) for node in nodes}

    def table(self) -> str:
        """The totals per node as aligned text, with the basis of each figure."""
        runs = len({entry.run_id for entry in self.entries})
        head = ("node", "entries", "tokens in", "tokens out", "seconds", "cost", "saved")
        rows = [head, *(_row(node, view) for node, view in self.by_node().items())]
        rows.append(_row("run" if runs == 1 else f"{runs:,} runs", self))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rule = tuple("─" * width for width in widths)
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in (head, rule, *rows[1:-1], rule, rows[-1])
        ]
        if self.cost.estimated:
            lines.append("≈ cost: not all of what it rests on was told by the servers")
        if self.baseline.estimated:
            part = _plain(self.saved.estimated)
            lines.append(f"≈ saved: {part} rests on estimates of what the large model costs")
        if unknown := [entry for entry in self.entries if entry.cost_usd is None]:
            assumed = _plain(total_of(entry.assumed_usd or Decimal(0) for entry in unknown))
            of = f"{len(unknown):,} of {len(self.entries):,} entries"
            lines.append(f"? the cost of {of} is unknown; budgets count {assumed} for it")
            lines += sorted({f"? unknown: {entry.note}" for entry in unknown if entry.note})
        if any(e.saved_usd is None and e.cost_usd is not None for e in self.entries):
            why = "the large model's cost is unknown; a price by tokens or audits tell it"
            lines.append(f"? saved: {why}")
        return "\n".join(lines)


def _row(name: str, view: LedgerView) -> tuple[str, ...]:
    calls = [entry for entry in view.entries if entry.model is not None]
    read, written = [e.input_tokens for e in calls], [e.output_tokens for e in calls]
    seconds = sum(entry.latency_ms for entry in view.entries) / 1000
    found = f"{len(view.entries):,}", _count(read), _count(written), f"{seconds:.2f}"
    return name, *found, _dollars(view.cost), _dollars(view.saved)


def _count(counts: list[int | None]) -> str:
    """The sum of token counts; a part that is unknown is a question mark."""
    return f"{sum(filter(None, counts)):,}{'+?' * (None in counts)}" if counts else "–"


def _dollars(amounts: Amounts) -> str:
    if amounts.total is None:
        return "?"
    return ("≈ " if amounts.basis == "estimated" else "") + _plain(amounts.total)


def _plain(amount: Decimal) -> str:
    sign = "−" if amount < 0 else ""
    # Amounts below a hundred-thousandth keep two digits: little is not nothing.
    places = min(12, max(6, 1 - amount.adjusted())) if amount else 6
    return f"{sign}${abs(amount):.{places}f}"


# --- words that may leave the process

FAILED = {"not_sent": "left alone after failures", "cancelled": "stopped", "failed": ""}
"""Outcomes of calls that came to nothing; a failed one's note begins with its error's class."""

_PLACES = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)\]]+"
    r"|\b(?:org|proj|acct|account|project|tenant|req|request)[-_]\w{6,}"
    r"|\b[\w.-]+@[\w.-]+\.\w+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
    r"|(?<![\w/])/(?:[\w.@-]+/)+[\w.@-]*|\b(?:sk|csk|key|pk)[-_][\w*-]{6,}",
    re.IGNORECASE,
)
_FAILED = re.compile(r"\b(?:failed: |could not be had: )")


def failures(entries: Iterable[LedgerEntry]) -> list[str]:
    """The tiers that failed, with how each did last."""
    came_to_nothing = [e for e in entries if e.tier and e.outcome in FAILED]
    found = {e.tier: FAILED[e.outcome] or e.note.partition(":")[0] for e in came_to_nothing}
    return [f"{tier}: {kind}" for tier, kind in found.items()]


def without_places(text: str) -> str:
    """A text without addresses, accounts, paths and keys."""
    return _PLACES.sub("[…]", text)


def plain_reason(reason: str, failed: Iterable[str]) -> str:
    """The reason of a decision, as it may leave the process: it may end in the words of an error,
    which quote a server, in whose place come those of `failures`."""
    kept, found = reason, _FAILED.search(reason)
    if found is not None:
        decided = reason[: found.start()].rpartition("; but ")[0]
        kept = "; ".join([*filter(None, [decided]), *(list(failed) or ["a tier failed"])])
    return without_places(kept)[:300]
