"""What every price can say: what a call costs, in full and at the margin, and where it is from."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Protocol

from cascade.state import Usage

FINEST = Decimal("1e-15")
"""Costs are kept to this fraction of a dollar, so that adding many of them rounds nothing."""

Dollars = Decimal | float | int | str
"""An amount in US dollars; floats are read by their decimal digits."""


class Pricing(Protocol):
    """Something that turns the usage of one call into dollars."""

    @property
    def source(self) -> str:
        """Where the price comes from, for people to read."""
        ...

    def at(self, when: datetime) -> Pricing:
        """The price that is valid at a time; itself where it does not change."""
        ...

    def by_batch(self) -> Pricing:
        """The price of calls that are made by the provider's batch API.

        Raises:
            ConfigurationError: it does not say what that costs.
        """
        ...

    def cost(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """Dollars of one call; None where the usage or the price is unknown.

        Args:
            usage: tokens of the call.
            busy_ms: how long a local model computed.
            tool_calls: tool calls in the answer.
        """
        ...

    def marginal(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """Dollars that this one call adds to the bill: `cost` without hardware that is paid
        for anyway; never more than `cost`.
        """
        ...


def to_finest(amount: Decimal) -> Decimal:
    """The amount with no more digits than `FINEST`."""
    exponent = amount.as_tuple().exponent
    return amount.quantize(FINEST) if isinstance(exponent, int) and exponent < -15 else amount


def cache_split(usage: Usage, input_tokens: int) -> tuple[int, int]:
    """(read from the cache, written to it) among the input tokens, which hold them both."""
    read = min(usage.cached_tokens or 0, input_tokens)
    return read, min(usage.cache_write_tokens or 0, input_tokens - read)
