"""Prices of calls: set by the user, from a file, from a provider's list, or unknown.

Local models have no price until one is set: hardware and power are not free, and a guess of zero
would turn every figure of the ledger into flattery.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from typing_extensions import override

from cascade.errors import ConfigurationError
from cascade.state import Record, Usage

FINEST = Decimal("1e-15")
"""Fraction of a dollar to which costs are kept, so that adding many of them rounds nothing."""

MILLION = Decimal(1_000_000)
MS_PER_HOUR = Decimal(3_600_000)

Dollars = Decimal | float | int | str
"""An amount in US dollars; floats are read by their decimal digits."""


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("an amount is a number")
    return value


# No price is above 1e12; beyond 1e999999 nothing can be added up.
Amount = Annotated[
    Decimal, BeforeValidator(_refuse_bool), Field(ge=0, le=Decimal("1e12"), allow_inf_nan=False)
]
Share = Annotated[Decimal, BeforeValidator(_refuse_bool), Field(gt=0, le=1)]


class Pricing(Record):
    """Price of the calls of one model: unknown, but in the classes below.

    Attributes:
        source: where it comes from; of an unknown one, why it is, and how to set one.
        per_hour: dollars per hour of a machine of your own.
    """

    source: str
    per_hour: Amount | None = None

    def by_batch(self) -> Pricing:
        """The price of calls by the provider's batch API.

        Raises:
            ConfigurationError: it is not known.
        """
        return self

    def cost(
        self, usage: Usage, busy_ms: float | None = None, at: datetime | None = None
    ) -> Decimal | None:
        """Dollars of one call; None where price or usage are unknown.

        Args:
            usage: tokens of the call.
            busy_ms: time of the machine, for a price per hour.
            at: when it was sent, for a price with dates; default now.
        """
        del usage, busy_ms, at
        return None


class Price(Pricing):
    """A price in US dollars, set by the user.

    Args:
        input: per 1M input tokens.
        output: per 1M output tokens, reasoning tokens included.
        cached_input: per 1M input tokens read from the provider's cache; default `input`.
        cache_write: per 1M input tokens written to it, for 5 minutes; default `input`.
        cache_write_1h: per 1M input tokens written to it for an hour; default `cache_write`.
        per_hour: per hour of a machine of your own; `Price.local` computes it.
        batch_share: share of it that a call by the provider's batch API costs, in (0, 1].
        source: where the price comes from, for ledger entries.

    Raises:
        ConfigurationError: an amount is out of its range, or nothing is priced.
    """

    source: str = "set by you"
    input: Amount | None = None
    output: Amount | None = None
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    batch_share: Share | None = None

    def __init__(
        self,
        *,
        input: Dollars | None = None,  # noqa: A002 - the contract's name
        output: Dollars | None = None,
        cached_input: Dollars | None = None,
        cache_write: Dollars | None = None,
        cache_write_1h: Dollars | None = None,
        per_hour: Dollars | None = None,
        batch_share: Dollars | None = None,
        source: str = "set by you",
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Price.model_fields}
        with _told_as("Price", given):
            super().__init__(**given)

    @model_validator(mode="after")
    def _prices_something(self) -> Self:
        if (self.input is None) != (self.output is None):
            raise ValueError("input and output go together; 0 is one that is really free")
        if self.input is None and self.per_hour is None:
            raise ValueError("it prices nothing: give input and output, or per_hour")
        return self

    @classmethod
    def local(
        cls,
        *,
        hardware_per_hour: Dollars = 0,
        utilisation: Dollars = 1,
        kw: Dollars = 0,
        kwh: Dollars = 0,
    ) -> Price:
        """The price of a machine of your own per busy hour: hardware ÷ utilisation + kW × $/kWh.

        Args:
            hardware_per_hour: rent per hour, or purchase ÷ hours of its life.
            utilisation: share of the paid hours in which it computes, in (0, 1].
            kw: what it draws while it computes.
            kwh: price of a kilowatt hour.

        Raises:
            ConfigurationError: an amount is out of its range, kw is without kwh, or nothing is
                priced.
        """
        given = {name: value for name, value in locals().items() if name in OwnMachine.model_fields}
        with _told_as("Price.local", given):
            return cls(per_hour=OwnMachine.model_validate(given).per_hour)

    @override
    def by_batch(self) -> Price:
        share = self.batch_share
        if share is None:
            raise ConfigurationError(
                f"the price ({self.source}) does not say what a call by batch costs: give "
                "batch_share, such as 0.5 where it is half."
            )
        amounts = self.model_dump(exclude={"batch_share", "source"}, exclude_none=True)
        parts = {name: usd * share for name, usd in amounts.items()}
        return Price(**parts, source=f"{self.source}, by batch × {share}")

    @override
    def cost(
        self, usage: Usage, busy_ms: float | None = None, at: datetime | None = None
    ) -> Decimal | None:
        total = Decimal(0)
        if self.input is not None and self.output is not None:
            if usage.input_tokens is None or usage.output_tokens is None:
                return None
            plain, read, short, long = _parts(usage, usage.input_tokens)
            reading = self.input if self.cached_input is None else self.cached_input
            write = self.input if self.cache_write is None else self.cache_write
            write_1h = write if self.cache_write_1h is None else self.cache_write_1h
            total += self.input * plain + reading * read + write * short + write_1h * long
            total = (total + self.output * usage.output_tokens) / MILLION
        if self.per_hour is not None:
            if busy_ms is None:
                return None
            total += _to_finest(self.per_hour * Decimal(str(busy_ms)) / MS_PER_HOUR)
        return total


class OwnMachine(Record):
    """Cost of a machine of one's own."""

    hardware_per_hour: Amount
    utilisation: Share
    kw: Amount
    kwh: Amount

    @property
    def per_hour(self) -> Decimal:
        """Dollars per busy hour."""
        return self.hardware_per_hour / self.utilisation + self.kw * self.kwh

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        if self.kw and not self.kwh:
            raise ValueError("kw has no price of power: give kwh")
        if not self.per_hour:
            raise ValueError("no machine is free: give hardware_per_hour, or kw and kwh")
        return self


@contextmanager
def _told_as(owner: str, given: Mapping[str, Any]) -> Generator[None]:
    """A value that is refused, as an error that names it; of a rule, all that is set."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        named = first["loc"][:1] or [name for name, value in given.items() if value]
        values = ", ".join(f"{name}={given[str(name)]!r}" for name in named if name != "source")
        raise ConfigurationError(
            f"{owner}({values}): {first['msg'].removeprefix('Value error, ')}. Prices are US "
            "dollars per 1M tokens or per hour of a machine, as Decimal, int, float or text."
        ) from error


def _to_finest(amount: Decimal) -> Decimal:
    exponent = amount.as_tuple().exponent
    return amount.quantize(FINEST) if isinstance(exponent, int) and exponent < -15 else amount


def _parts(usage: Usage, input_tokens: int) -> tuple[int, int, int, int]:
    """Input tokens: plain, read from the cache, written for 5 minutes, written for an hour."""
    read = min(usage.cached_tokens or 0, input_tokens)
    written = min(usage.cache_write_tokens or 0, input_tokens - read)
    long = min(usage.cache_write_1h_tokens or 0, written)
    return input_tokens - read - written, read, written - long, long


class ListPrice(Pricing):
    """A provider's list price, or that of its batch API, from genai-prices: dated, offline, kept by
    the pydantic team."""

    provider: str
    model: str
    batch: bool = False

    @override
    def by_batch(self) -> ListPrice:
        probe = Usage(input_tokens=1_000, output_tokens=1_000)
        batch = self.model_copy(update={"batch": True, "source": f"{self.source}, by batch"})
        if batch.cost(probe) == self.cost(probe):
            raise ConfigurationError(
                f"the list price of {self.provider}:{self.model} by batch is not known: give the "
                "tier Price(input=…, output=…, batch_share=…)."
            )
        return batch

    @override
    def cost(
        self, usage: Usage, busy_ms: float | None = None, at: datetime | None = None
    ) -> Decimal | None:
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        import genai_prices  # noqa: PLC0415 - heavy, and only here

        _, read, short, long = _parts(usage, usage.input_tokens)
        counted = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=read,
            cache_write_tokens=short + long,
            cache_write_1h_tokens=long,
            output_tokens=usage.output_tokens,
        )
        found = genai_prices.calc_price(
            counted,
            self.model,
            provider_id=self.provider,
            genai_request_timestamp=at or datetime.now(UTC),
            price_context={"processing": "batch"} if self.batch else None,
        )
        return _to_finest(found.total_price)


def has_price(pricing: Pricing, busy_ms: float | None = None) -> bool:
    """True if the cost of calls is known; without the time that a call was busy, if its tokens
    alone tell it, so that it can be foreseen."""
    return pricing.cost(Usage(input_tokens=1, output_tokens=1), busy_ms) is not None


_PROVIDER_IDS = {"google_genai": "google", "google_vertexai": "google", "mistralai": "mistral"}
"""LangChain's provider names where genai-prices uses another."""


@lru_cache(maxsize=256)
def find_pricing(
    provider: str, model: str, *, local: bool = False, base_url: str | None = None
) -> Pricing:
    """The list price of a model, or an unknown one that says why there is none.

    Args:
        provider: prefix of the model string.
        model: name of the model at the provider.
        local: whether the model runs on this machine.
        base_url: address that the client asks; None for the provider's own. At an address that is
            not a provider's, no list price holds.
    """
    how = "give the tier a `price` with input and output"
    by_file = "(on the command line: --prices)"
    if provider in ("ollama", "llamacpp"):
        return Pricing(source=f"price not set: give the tier a `price` with per_hour {by_file}")
    if local:
        hour = "where its server bills tokens, or Price.local(…) for a machine of your own"
        return Pricing(source=f"price not set: {how} {hour} {by_file}")
    import genai_prices  # noqa: PLC0415 - heavy, and only here

    place: dict[str, Any] = {"provider_api_url": base_url}
    if base_url is None:
        place = {"provider_id": _PROVIDER_IDS.get(provider, provider)}
    probe = genai_prices.Usage(input_tokens=1, output_tokens=1)
    try:
        found = genai_prices.calc_price(probe, model, **place)
    except LookupError:
        at = "" if base_url is None else " at that address"
        return Pricing(source=f"no list price of {provider}:{model}{at}: {how} {by_file}")
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, rarely asked

    source = f"list price, genai-prices {version('genai-prices')}"
    return ListPrice(source=source, provider=found.provider.id, model=model)
