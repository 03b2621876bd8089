"""Prices of the user's own that change with time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.ledger.prices.listed import NoPrice
from cascade.ledger.prices.own import Price
from cascade.state import Usage


@dataclass(frozen=True, slots=True, init=False)
class DatedPrice:
    """Prices with the day from which each is valid; a call costs what is valid at its time.

    Args:
        prices: first day (UTC; a `date` or ISO text such as `2026-07-01`) → price. Before the
            first of them the cost is unknown.

    Raises:
        ConfigurationError: there is no price, a day is no date, or a price is none.
    """

    prices: tuple[tuple[date, Price], ...]

    def __init__(self, prices: Mapping[date | str, Price]) -> None:
        if not prices:
            raise ConfigurationError("DatedPrice({}) prices nothing: give {date: Price(…)}.")
        series: dict[date, Price] = {}
        for day, price in prices.items():
            first = _day(day)
            if not isinstance(price, Price):
                raise ConfigurationError(f"DatedPrice({{{day!r}: {price!r}}}): give a Price(…).")
            if first in series:
                raise ConfigurationError(f"DatedPrice has two prices from {first} on: keep one.")
            source = f"{price.source}, valid from {first}"
            series[first] = price.model_copy(update={"source": source})
        ordered = tuple(sorted(series.items(), key=lambda item: item[0]))
        object.__setattr__(self, "prices", ordered)

    @property
    def source(self) -> str:
        """Of the price that is valid now."""
        return self.at(datetime.now(UTC)).source

    def at(self, when: datetime) -> Price | NoPrice:
        """The price that is valid at a time (naive times are UTC)."""
        day = (when if when.tzinfo is None else when.astimezone(UTC)).date()
        valid = [price for first, price in self.prices if first <= day]
        if valid:
            return valid[-1]
        return NoPrice(reason=f"price not set before {self.prices[0][0]}: give an earlier one")

    def by_batch(self) -> DatedPrice:
        """The prices of calls that are made by the provider's batch API.

        Raises:
            ConfigurationError: one of them does not say what that costs.
        """
        other = object.__new__(DatedPrice)
        by_batch = tuple((first, price.by_batch()) for first, price in self.prices)
        object.__setattr__(other, "prices", by_batch)
        return other

    def cost(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """Dollars of one call made now; for another time ask `at(time)`."""
        return self.at(datetime.now(UTC)).cost(usage, busy_ms, tool_calls)

    def marginal(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """`cost` without hardware, as far as that is known."""
        return self.at(datetime.now(UTC)).marginal(usage, busy_ms, tool_calls)


def _day(day: object) -> date:
    try:
        if isinstance(day, str):
            return date.fromisoformat(day)
    except ValueError:
        pass
    if isinstance(day, datetime):
        return (day if day.tzinfo is None else day.astimezone(UTC)).date()
    if isinstance(day, date):
        return day
    raise ConfigurationError(f"{day!r} is no day from which a price is valid: give 2026-07-01.")
