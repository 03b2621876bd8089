"""Sums of dollars that keep apart what was measured, what was estimated and what nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal

from cascade.state import Basis, LedgerEntry

EXACT = Context(prec=200)
"""The default context rounds a sum to 28 digits; then totals would depend on the grouping."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """A sum of dollars whose parts are kept apart by their basis.

    Attributes:
        measured: the sum of what was measured.
        estimated: the sum of what was estimated.
        unknown: how many amounts nobody knows. They are not zero.
    """

    measured: Decimal = Decimal(0)
    estimated: Decimal = Decimal(0)
    unknown: int = 0

    @property
    def known(self) -> Decimal:
        """Measured and estimated together."""
        return EXACT.add(self.measured, self.estimated)

    @property
    def total(self) -> Decimal | None:
        """The whole sum, or None where a part is unknown."""
        return None if self.unknown else self.known

    def plus(self, amount: Decimal | None, basis: Basis, times: int = 1) -> Amounts:
        """The sum with one more amount, or so many that are equal."""
        if amount is None:
            return Amounts(self.measured, self.estimated, self.unknown + times)
        if times != 1:
            amount = EXACT.multiply(amount, times)
        if basis == "measured":
            return Amounts(EXACT.add(self.measured, amount), self.estimated, self.unknown)
        return Amounts(self.measured, EXACT.add(self.estimated, amount), self.unknown)

    def plus_spend(
        self, cost: Decimal | None, basis: Basis, assumed: Decimal | None, times: int = 1
    ) -> Amounts:
        """The sum with one more cost, or so many, as budgets count it: an unknown one at what is
        assumed.
        """
        if cost is None and assumed is not None:
            return self.plus(assumed, "estimated", times)
        return self.plus(cost, basis, times)


@dataclass(frozen=True, slots=True)
class Total:
    """What a group of entries cost and saved, to the last decimal."""

    entries: int = 0
    cost_usd: Amounts = Amounts()
    saved_usd: Amounts = Amounts()
    baseline_usd: Amounts = Amounts()

    def plus(self, entry: LedgerEntry) -> Total:
        """The total with one more entry."""
        return Total(
            self.entries + 1,
            self.cost_usd.plus(entry.cost_usd, entry.cost_basis),
            self.saved_usd.plus(entry.saved_usd, entry.basis),
            self.baseline_usd.plus(entry.baseline_usd, entry.basis),
        )
