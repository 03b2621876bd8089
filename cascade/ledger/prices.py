"""What a call costs: prices set by the user, list prices by date, or nothing known.

Local models have no price until one is set: their electricity and hardware are not free, and
a guess of zero would turn every figure of the ledger into flattery.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Protocol

from pydantic import Field, ValidationError

from cascade.errors import ConfigurationError
from cascade.state import Record, Usage

MILLION = Decimal(1_000_000)
MS_PER_HOUR = Decimal(3_600_000)

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

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call; None where the usage or the price is unknown."""
        ...


class Price(Record):
    """A price set by the user, in US dollars.

    Args:
        input: per 1M input tokens.
        output: per 1M output tokens, reasoning tokens included.
        cached_input: per 1M input tokens that the provider read from its cache; as `input`
            when it is not given.
        per_hour: per hour in which a local model is busy computing (hardware and power).

    Raises:
        ConfigurationError: an amount is negative, or neither tokens nor hours are priced.
    """

    input: Decimal | None = Field(default=None, ge=0)
    output: Decimal | None = Field(default=None, ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)
    per_hour: Decimal | None = Field(default=None, ge=0)

    def __init__(
        self,
        *,
        input: Dollars | None = None,  # noqa: A002 - the contract's name
        output: Dollars | None = None,
        cached_input: Dollars | None = None,
        per_hour: Dollars | None = None,
    ) -> None:
        amounts = {
            "input": input,
            "output": output,
            "cached_input": cached_input,
            "per_hour": per_hour,
        }
        try:
            super().__init__(**amounts)
        except ValidationError as error:
            first = error.errors()[0]
            name = first["loc"][0]
            raise ConfigurationError(
                f"Price({name}={amounts[str(name)]!r}): {first['msg']}. Prices are US dollars per "
                "1M tokens (input, output, cached_input) or per busy hour (per_hour)."
            ) from error
        if (self.input is None) != (self.output is None):
            raise ConfigurationError(
                f"Price(input={self.input}, output={self.output}): input and output go together. "
                "Give both; 0 is allowed where something is really free."
            )
        if self.input is None and self.per_hour is None:
            raise ConfigurationError(
                "Price() prices nothing: give input and output (dollars per 1M tokens), "
                "or per_hour (dollars per busy hour of a local model)."
            )

    @property
    def source(self) -> str:
        """Always the user's own word."""
        return "set by you"

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call; None where the usage that is priced is unknown."""
        total = Decimal(0)
        if self.input is not None and self.output is not None:
            if usage.input_tokens is None or usage.output_tokens is None:
                return None
            cached = min(usage.cached_tokens or 0, usage.input_tokens)
            cached_price = self.input if self.cached_input is None else self.cached_input
            total += self.input * (usage.input_tokens - cached) / MILLION
            total += cached_price * cached / MILLION
            total += self.output * usage.output_tokens / MILLION
        if self.per_hour is not None:
            if busy_ms is None:
                return None
            total += self.per_hour * Decimal(str(busy_ms)) / MS_PER_HOUR
        return _to_finest(total)


class ListPrice(Record):
    """A provider's list price from genai-prices: dated, offline, kept by the pydantic team."""

    provider: str
    model: str

    @property
    def source(self) -> str:
        """Package and version of the table."""
        from importlib.metadata import version  # noqa: PLC0415 - slow to import, rarely asked

        return f"list price, genai-prices {version('genai-prices')}"

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call at the list price of today; None where the usage is unknown."""
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - heavy, and only here
        from genai_prices import calc_price  # noqa: PLC0415

        priced = PricedUsage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=min(usage.cached_tokens or 0, usage.input_tokens),
            output_tokens=usage.output_tokens,
        )
        found = calc_price(priced, self.model, provider_id=self.provider)
        return _to_finest(found.total_price)


def _to_finest(amount: Decimal) -> Decimal:
    exponent = amount.as_tuple().exponent
    return amount.quantize(FINEST) if isinstance(exponent, int) and exponent < -15 else amount


class NoPrice(Record):
    """The price is not known, so no cost is."""

    reason: str

    @property
    def source(self) -> str:
        """Why there is no price and how to set one."""
        return self.reason

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Always unknown."""
        return None


_PROVIDER_IDS = {"google_genai": "google", "google_vertexai": "google", "mistralai": "mistral"}
"""LangChain's provider names where genai-prices uses another."""


@lru_cache(maxsize=256)
def find_pricing(provider: str, model: str, *, local: bool, base_url: str | None = None) -> Pricing:
    """The list price of a model, or a `NoPrice` that says why there is none.

    Args:
        provider: the prefix of the model string.
        model: the model's name at the provider.
        local: whether the model runs on this machine.
        base_url: address of an OpenAI-compatible server, which is not OpenAI then.
    """
    if local:
        return NoPrice(reason="price not set: give the tier Price(per_hour=…)")
    from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - heavy, and only here
    from genai_prices import calc_price  # noqa: PLC0415

    probe = PricedUsage(input_tokens=1, output_tokens=1)
    try:
        if base_url is None:
            found = calc_price(probe, model, provider_id=_PROVIDER_IDS.get(provider, provider))
        else:
            found = calc_price(probe, model, provider_api_url=base_url)
    except LookupError:
        return NoPrice(reason="price not set: give the tier Price(input=…, output=…)")
    return ListPrice(provider=found.provider.id, model=model)
