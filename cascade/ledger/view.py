"""Totals over ledger entries: per run, per node, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from cascade.ledger.amounts import EXACT
from cascade.state import Basis, LedgerEntry

_WEAKEST_FIRST: tuple[Basis, ...] = ("unknown", "estimated", "measured")


def weakest(bases: Iterable[Basis]) -> Basis:
    """The basis of a sum: that of its weakest part; measured when there is none."""
    found = set(bases)
    for basis in _WEAKEST_FIRST:
        if basis in found:
            return basis
    return "measured"


@dataclass(frozen=True, slots=True)
class NodeTotal:
    """What one node spent and saved over the entries of a view.

    `cost_usd`, `saved_usd` and `baseline_usd` are None where a part is unknown; the `known_*`
    figures sum the parts that are known.
    """

    node: str
    entries: int
    cost_usd: Decimal | None
    saved_usd: Decimal | None
    baseline_usd: Decimal | None
    known_cost_usd: Decimal
    known_saved_usd: Decimal
    cost_basis: Basis
    saved_basis: Basis
    latency_ms: float


class LedgerView:
    """A read-only view of ledger entries with their totals.

    Sums are exact decimals, and additive: the sum over nodes is the sum over entries. A total
    with an unknown part is None and its basis `unknown`; `known_cost_usd` sums the rest.
    """

    def __init__(self, entries: Iterable[LedgerEntry]) -> None:
        self.entries: tuple[LedgerEntry, ...] = tuple(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self.entries)

    def __repr__(self) -> str:
        return f"LedgerView({len(self)} entries, cost {_dollars(self.cost_usd, self.cost_basis)})"

    @property
    def cost_usd(self) -> Decimal | None:
        """Dollars spent, or None when a part is unknown."""
        return _total([entry.cost_usd for entry in self.entries])

    @property
    def cost_basis(self) -> Basis:
        """Basis of `cost_usd`."""
        return weakest(entry.cost_basis for entry in self.entries)

    @property
    def known_cost_usd(self) -> Decimal:
        """Dollars spent by the calls whose cost is known."""
        return _sum(e.cost_usd for e in self.entries)

    @property
    def assumed_usd(self) -> Decimal:
        """Dollars that budgets count for the calls whose cost is unknown, as far as anybody can
        guess (see `LedgerEntry`)."""
        return _sum(e.assumed_usd for e in self.entries if e.cost_usd is None)

    @property
    def saved_usd(self) -> Decimal | None:
        """Dollars saved against the baseline (negative: lost), or None when a part is unknown."""
        return _total([entry.saved_usd for entry in self.entries])

    @property
    def saved_basis(self) -> Basis:
        """Basis of `saved_usd`."""
        return weakest(entry.basis for entry in self.entries if entry.saved_usd != 0)

    @property
    def baseline_usd(self) -> Decimal | None:
        """What the large model alone would have cost on the same requests."""
        return _total([entry.baseline_usd for entry in self.entries])

    @property
    def baseline_basis(self) -> Basis:
        """Basis of `baseline_usd`."""
        return weakest(_baseline_basis(entry) for entry in self.entries if entry.baseline_usd != 0)

    @property
    def unknown(self) -> int:
        """How many entries have an unknown cost."""
        return sum(entry.cost_usd is None for entry in self.entries)

    def by_node(self) -> dict[str, NodeTotal]:
        """Totals per node, in the order in which the nodes first appear."""
        groups: dict[str, list[LedgerEntry]] = {}
        for entry in self.entries:
            groups.setdefault(entry.node, []).append(entry)
        return {node: _node_total(node, LedgerView(group)) for node, group in groups.items()}

    def table(self) -> str:
        """The totals per node as aligned text, with the basis of each figure."""
        rows: list[tuple[str, ...]] = [
            ("node", "entries", "tokens in", "tokens out", "seconds", "cost", "saved")
        ]
        for node, total in self.by_node().items():
            view = LedgerView(entry for entry in self.entries if entry.node == node)
            rows.append(_row(node, total.entries, view, total.latency_ms))
        rows.append(
            _row("run" if self._runs() == 1 else f"{self._runs()} runs", len(self), self, None)
        )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        rule = "  ".join("─" * width for width in widths)
        lines = [_line(row, widths) for row in rows]
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *self._footnotes()])

    def _runs(self) -> int:
        return len({entry.run_id for entry in self.entries})

    def _footnotes(self) -> list[str]:
        notes = []
        if any(entry.basis == "estimated" for entry in self.entries):
            notes.append("≈ estimated: what the large model would have cost was not measured")
        unknown = [e for e in self.entries if e.cost_usd is None]
        if unknown:
            assumed = sum(e.assumed_usd is not None for e in unknown)
            counted = f"budgets count {_dollars(self.assumed_usd, 'estimated')} for {assumed:,}"
            notes.append(
                f"? the cost of {len(unknown):,} of {len(self):,} entries is unknown; "
                + (counted if assumed else "budgets count nothing for it")
            )
        if any(e.saved_usd is None and e.cost_usd is not None for e in self.entries):
            notes.append(
                "? saved: what the large model would have cost is unknown; "
                "a price by tokens lets it be estimated, audits measure it"
            )
        reasons = sorted({e.note for e in unknown if e.note})
        notes += [f"? unknown: {reason}" for reason in reasons]
        return notes


def _node_total(node: str, view: LedgerView) -> NodeTotal:
    return NodeTotal(
        node=node,
        entries=len(view),
        cost_usd=view.cost_usd,
        saved_usd=view.saved_usd,
        baseline_usd=view.baseline_usd,
        known_cost_usd=view.known_cost_usd,
        known_saved_usd=_sum(e.saved_usd for e in view.entries),
        cost_basis=view.cost_basis,
        saved_basis=view.saved_basis,
        latency_ms=sum(entry.latency_ms for entry in view.entries),
    )


def _baseline_basis(entry: LedgerEntry) -> Basis:
    if entry.baseline_usd is None:
        return "unknown"
    # The entry's own basis is that of its weakest figure, which then is another one.
    return "estimated" if entry.basis == "unknown" else entry.basis


def _total(amounts: Sequence[Decimal | None]) -> Decimal | None:
    return None if None in amounts else _sum(amounts)


def _sum(amounts: Iterable[Decimal | None]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        if amount is not None:
            total = EXACT.add(total, amount)
    return total


def _count(view: LedgerView, field: Literal["input_tokens", "output_tokens"]) -> str:
    counts = [getattr(entry, field) for entry in view.entries if entry.model is not None]
    if not counts:
        return "–"
    return f"{sum(c for c in counts if c is not None):,}" + ("+?" if None in counts else "")


def _dollars(amount: Decimal | None, basis: Basis) -> str:
    if amount is None:
        return "?"
    sign = "−" if amount < 0 else ""
    # Amounts below a hundred-thousandth keep two digits: little is not nothing.
    places = min(12, max(6, 1 - amount.adjusted())) if amount else 6
    return f"{'≈ ' if basis == 'estimated' and amount else ''}{sign}${abs(amount):.{places}f}"


def _row(name: str, entries: int, view: LedgerView, latency_ms: float | None) -> tuple[str, ...]:
    return (
        name,
        f"{entries:,}",
        _count(view, "input_tokens"),
        _count(view, "output_tokens"),
        "" if latency_ms is None else f"{latency_ms / 1000:.2f}",
        _dollars(view.cost_usd, view.cost_basis),
        _dollars(view.saved_usd, view.saved_basis),
    )


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
