"""What keys may spend."""

from __future__ import annotations

from decimal import Decimal

from cascade.ledger import LedgerView
from cascade.service.keys import Key


class Reservation:
    """Dollars put aside for one request until it is settled."""

    def __init__(self, budgets: Budgets, key: Key | None, amount: Decimal) -> None:
        self._budgets = budgets
        self.key = key
        self.amount = amount

    def settle(self, ledger: LedgerView) -> None:
        """A run of the request has cost this."""

    def close(self) -> None:
        """The request has ended."""


class Budgets:
    """Counts what each key spends."""

    def reserve(self, key: Key | None, amount: Decimal) -> Reservation:
        """Put dollars aside."""
        return Reservation(self, key, amount)
