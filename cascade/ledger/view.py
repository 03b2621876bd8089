"""Totals over ledger entries: per run, per node, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cached_property
from typing import Any

from cascade.ledger.base import Amounts, total_of
from cascade.ledger.entries import LedgerEntry
from cascade.state import Basis, Record


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
        return self.cost.known

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
