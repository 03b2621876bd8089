"""Prices of calls: set by the user, from a file, from a provider's list, or unknown.

Local models have no price until one is set: hardware and power are not free, and a guess of zero
would turn every figure of the ledger into flattery.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field, ValidationError

from cascade.errors import ConfigurationError
from cascade.state import Record, Usage

FINEST = Decimal("1e-15")
"""Fraction of a dollar to which costs are kept, so that adding many of them rounds nothing."""

MILLION = Decimal(1_000_000)
MS_PER_HOUR = Decimal(3_600_000)

Dollars = Decimal | float | int | str
"""An amount in US dollars; floats are read by their decimal digits."""


class Pricing(Protocol):
    """Price of the calls of one model."""

    @property
    def source(self) -> str:
        """Where the price comes from, in words."""
        ...

    def at(self, when: datetime) -> Pricing:
        """The price that is valid at a time; itself where it does not change."""
        ...

    def by_batch(self) -> Pricing:
        """The price of calls by the provider's batch API.

        Raises:
            ConfigurationError: it is not known.
        """
        ...

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call; None where the usage or the price is unknown.

        Args:
            usage: tokens of the call.
            busy_ms: time of the machine, for a price per hour; see `BusyClock`.
        """
        ...


def _refuse_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("an amount is a number")
    return value


# No price is above 1e12; beyond 1e999999 nothing can be added up.
Amount = Annotated[
    Decimal, BeforeValidator(_refuse_bool), Field(ge=0, le=Decimal("1e12"), allow_inf_nan=False)
]
Share = Annotated[Decimal, BeforeValidator(_refuse_bool), Field(gt=0, le=1)]


class Price(Record):
    """A price in US dollars, set by the user.

    Args:
        input: per 1M input tokens.
        output: per 1M output tokens, reasoning tokens included.
        cached_input: per 1M input tokens that the provider read from its cache; default `input`.
        cache_write: per 1M input tokens that it wrote to its cache (for 5 minutes, where it has
            several lifetimes); default `input`.
        cache_write_1h: per 1M input tokens that it wrote to its cache for an hour; default
            `cache_write`.
        per_hour: per hour of a machine of your own; `Price.local` computes it.
        batch_share: share of it that a call by the provider's batch API costs, in (0, 1].
        source: where the price comes from, for ledger entries.

    Raises:
        ConfigurationError: an amount is negative or no number, or neither tokens nor hours are
            priced.
    """

    input: Amount | None = None
    output: Amount | None = None
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    cache_write_1h: Amount | None = None
    per_hour: Amount | None = None
    batch_share: Share | None = None
    source: str = "set by you"

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
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise _refusal("Price", given, error) from error
        if (self.input is None) != (self.output is None):
            raise ConfigurationError(
                f"Price(input={self.input}, output={self.output}): input and output go together. "
                "Give both; 0 is allowed where something is really free."
            )
        if self.input is None and self.per_hour is None:
            raise ConfigurationError(
                "Price() prices nothing: give input and output (dollars per 1M tokens), "
                "or per_hour (dollars per hour of a machine of your own)."
            )

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
            utilisation: share of the paid hours in which it computes, in (0, 1]; the idle rest
                is paid too.
            kw: what it draws while it computes.
            kwh: price of a kilowatt hour.

        Raises:
            ConfigurationError: an amount is negative or not a number, the utilisation not in
                (0, 1], kw without kwh, or nothing is priced.
        """
        given = {name: value for name, value in locals().items() if name in _MACHINE}
        try:
            machine = _Machine.model_validate(given)
        except ValidationError as error:
            raise _refusal("Price.local", given, error) from error
        if machine.kw and not machine.kwh:
            raise ConfigurationError(f"Price.local(kw={kw}) has no price of power: give kwh.")
        hour = machine.hardware_per_hour / machine.utilisation + machine.kw * machine.kwh
        if not hour:
            raise ConfigurationError(
                "Price.local() prices nothing: give hardware_per_hour, or kw and kwh; no machine "
                "is free."
            )
        return cls(per_hour=hour)

    def at(self, when: datetime) -> Price:
        """Itself: it has no dates."""
        del when
        return self

    def by_batch(self) -> Price:
        """The price of calls by the provider's batch API.

        Raises:
            ConfigurationError: `batch_share` is not set.
        """
        share = self.batch_share
        if share is None:
            raise ConfigurationError(
                f"the price ({self.source}) does not say what a call by batch costs: give "
                "batch_share, such as 0.5 where it is half."
            )
        amounts = self.model_dump(exclude={"batch_share", "source"}, exclude_none=True)
        parts = {name: usd * share for name, usd in amounts.items()}
        return Price(**parts, source=f"{self.source}, by batch × {share}")

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call; None where the usage that is priced is unknown."""
        total = Decimal(0)
        if self.input is not None and self.output is not None:
            if usage.input_tokens is None or usage.output_tokens is None:
                return None
            read, short, long = _cached(usage, usage.input_tokens)
            tokens = self.input * (usage.input_tokens - read - short - long)
            tokens += self.output * usage.output_tokens
            if read:
                tokens += _first(self.cached_input, self.input) * read
            if short or long:
                write = _first(self.cache_write, self.input)
                tokens += write * short + _first(self.cache_write_1h, write) * long
            total += tokens / MILLION
        if self.per_hour is not None:
            if busy_ms is None:
                return None
            total += self.per_hour * Decimal(str(busy_ms)) / MS_PER_HOUR
        return _to_finest(total)


class _Machine(Record):
    hardware_per_hour: Amount
    utilisation: Share
    kw: Amount
    kwh: Amount


_MACHINE = frozenset(_Machine.model_fields)


def _refusal(owner: str, given: Mapping[str, Any], error: ValidationError) -> ConfigurationError:
    first = error.errors()[0]
    name = str(first["loc"][0])
    return ConfigurationError(
        f"{owner}({name}={given[name]!r}): {first['msg']}. Prices are US dollars per 1M tokens "
        "or per hour of a machine, as Decimal, int, float or text."
    )


def _first(amount: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if amount is None else amount


def _to_finest(amount: Decimal) -> Decimal:
    exponent = amount.as_tuple().exponent
    return amount.quantize(FINEST) if isinstance(exponent, int) and exponent < -15 else amount


def _cached(usage: Usage, input_tokens: int) -> tuple[int, int, int]:
    """Of the input tokens: read from the cache, written for 5 minutes, written for an hour."""
    read = min(usage.cached_tokens or 0, input_tokens)
    written = min(usage.cache_write_tokens or 0, input_tokens - read)
    long = min(usage.cache_write_1h_tokens or 0, written)
    return read, written - long, long


class DatedPrice:
    """Prices of the user's own that change with time.

    Args:
        prices: first day (UTC; a `date` or ISO text such as `2026-07-01`) → price. Before the
            first of them the cost is unknown.

    Raises:
        ConfigurationError: there is no price, a day is no date, or a price is none.
    """

    def __init__(self, prices: Mapping[date | str, Price]) -> None:
        series: dict[date, Price] = {}
        for given, price in prices.items():
            try:
                day = date.fromisoformat(given[:10]) if isinstance(given, str) else given
            except ValueError:
                day = None
            if not isinstance(day, date) or not isinstance(price, Price) or day in series:
                raise ConfigurationError(
                    f"DatedPrice({{{given!r}: {price!r}}}): give one Price(…) for each first day, "
                    "such as 2026-07-01."
                )
            series[day] = price.model_copy(update={"source": f"{price.source}, from {day}"})
        if not series:
            raise ConfigurationError("DatedPrice({}) prices nothing: give {day: Price(…)}.")
        self.prices = dict(sorted(series.items()))

    @property
    def source(self) -> str:
        """Of the price that is valid now."""
        return self.at(datetime.now(UTC)).source

    def at(self, when: datetime) -> Price | NoPrice:
        """The price that is valid at a time (naive times are UTC)."""
        day = (when if when.tzinfo is None else when.astimezone(UTC)).date()
        valid = [price for first, price in self.prices.items() if first <= day]
        none = NoPrice(reason=f"price not set before {next(iter(self.prices))}: give one")
        return valid[-1] if valid else none

    def by_batch(self) -> DatedPrice:
        """The prices of calls by the provider's batch API."""
        return DatedPrice({day: price.by_batch() for day, price in self.prices.items()})

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call made now; for another time ask `at(time)`."""
        return self.at(datetime.now(UTC)).cost(usage, busy_ms)


class ListPrice(Record):
    """A provider's list price from genai-prices: dated, offline, kept by the pydantic team.

    Attributes:
        when: calls are priced as of this time; None for the time at which the cost is asked for.
        batch: whether calls are made by the provider's batch API.
    """

    provider: str
    model: str
    when: datetime | None = None
    batch: bool = False

    @property
    def source(self) -> str:
        """Package and version of the table."""
        return f"{_table()}, by batch" if self.batch else _table()

    def at(self, when: datetime) -> ListPrice:
        """The list price that was valid at a time."""
        return self.model_copy(update={"when": when})

    def by_batch(self) -> ListPrice:
        """The list price of calls by the provider's batch API.

        Raises:
            ConfigurationError: the table has none.
        """
        probe = Usage(input_tokens=1_000, output_tokens=1_000)
        batch = self.model_copy(update={"batch": True})
        if batch.cost(probe) == self.cost(probe):
            raise ConfigurationError(
                f"the list price of {self.provider}:{self.model} by batch is not known: give the "
                "tier Price(input=…, output=…, batch_share=…)."
            )
        return batch

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Dollars of one call; None where the usage is unknown."""
        del busy_ms
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        read, short, long = _cached(usage, usage.input_tokens)
        tokens = (usage.input_tokens, read, short + long, long, usage.output_tokens)
        # Prices change at whole minutes, so that a second has one price.
        second = (self.when or datetime.now(UTC)).replace(microsecond=0)
        return _listed(self.provider, self.model, second, self.batch, tokens)


@lru_cache(maxsize=1024)
def _listed(
    provider: str,
    model: str,
    second: datetime,
    batch: bool,
    tokens: tuple[int, int, int, int, int],
) -> Decimal:
    """Cost of (input, read, written, written for an hour, output) tokens, from the table."""
    from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - heavy, and only here
    from genai_prices import calc_price  # noqa: PLC0415

    whole, read, written, long, output = tokens
    used = PricedUsage(
        input_tokens=whole,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=long,
        output_tokens=output,
    )
    found = calc_price(
        used,
        model,
        provider_id=provider,
        genai_request_timestamp=second,
        price_context={"processing": "batch"} if batch else None,
    )
    return _to_finest(found.total_price)


@lru_cache(maxsize=1)
def _table() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, rarely asked

    return f"list price, genai-prices {version('genai-prices')}"


class NoPrice(Record):
    """An unknown price: no cost is known."""

    reason: str

    @property
    def source(self) -> str:
        """Why there is no price and how to set one."""
        return self.reason

    def at(self, when: datetime) -> NoPrice:
        """Itself."""
        del when
        return self

    def by_batch(self) -> NoPrice:
        """Itself."""
        return self

    def cost(self, usage: Usage, busy_ms: float | None = None) -> Decimal | None:
        """Always unknown."""
        del usage, busy_ms
        return None


_PROVIDER_IDS = {"google_genai": "google", "google_vertexai": "google", "mistralai": "mistral"}
"""LangChain's provider names where genai-prices uses another."""

_MACHINES = ("ollama", "llamacpp")
"""Providers that bill no tokens: their price is that of the machine."""


@lru_cache(maxsize=256)
def find_pricing(
    provider: str, model: str, *, local: bool = False, base_url: str | None = None
) -> Pricing:
    """The list price of a model, or a `NoPrice` that says why there is none.

    Args:
        provider: prefix of the model string.
        model: name of the model at the provider.
        local: whether the model runs on this machine.
        base_url: address that the client asks, whoever made it; None for the provider's own. At an
            address that is not a provider's, no list price holds.
    """
    if provider in _MACHINES:
        return NoPrice(reason="price not set: give the tier Price(per_hour=…) or Price.local(…)")
    if local:
        return NoPrice(
            reason="price not set: give the tier Price(input=…, output=…) where its server bills "
            "tokens, or Price.local(…) for a machine of your own"
        )
    from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - heavy, and only here
    from genai_prices import calc_price  # noqa: PLC0415

    probe = PricedUsage(input_tokens=1, output_tokens=1)
    try:
        if base_url is None:
            found = calc_price(probe, model, provider_id=_PROVIDER_IDS.get(provider, provider))
        else:
            found = calc_price(probe, model, provider_api_url=base_url)
    except LookupError:
        where = "" if base_url is None else " at that address"
        return NoPrice(
            reason=f"no list price of {provider}:{model}{where}: give the tier "
            "Price(input=…, output=…)"
        )
    return ListPrice(provider=found.provider.id, model=model)


Prices = Mapping[str, Price | DatedPrice]
"""Model string (`provider:name`) → its price: what `Tier(price=…)` takes for many models."""

_TOKENS = frozenset(Price.model_fields) - {"source"}


def load_prices(path: str | Path) -> dict[str, Price | DatedPrice]:
    """Prices of many models from a TOML file, or a JSON file (`.json`).

        ["openai:gpt-5.1"]               # the parameters of Price
        input = "1.10"
        output = "8.80"

        [["openai:gpt-5.6-sol"]]         # or several prices, each from a day on
        from = 2026-01-01
        input = 5
        output = 30

        ["ollama:qwen2.5:3b"]            # or those of Price.local
        hardware_per_hour = "0.40"
        utilisation = "0.25"

    Raises:
        ConfigurationError: the file cannot be read, or names what has no price here; the message
            names file and model.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        read: Any = json.loads if path.suffix == ".json" else tomllib.loads
        found = read(text, parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(f"prices in {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(
            f"prices in {path} cannot be read: {error}. Write TOML, or JSON into a .json file."
        ) from error
    if not isinstance(found, dict) or not found:
        raise ConfigurationError(f'{path} holds no prices: give ["provider:model"] and its price.')
    prices = {}
    for model, entry in found.items():
        try:
            prices[model] = _of_model(path.name, entry)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, {model!r}: {error}") from error
    return prices


def _of_model(source: str, entry: object) -> Price | DatedPrice:
    if not isinstance(entry, list):
        return _of_table(source, entry)
    series: dict[date | str, Price] = {}
    for each in entry:
        if not isinstance(each, dict) or str(each.get("from")) in series:
            raise ConfigurationError("several prices of a model are tables, each with its `from`.")
        rest = {name: value for name, value in each.items() if name != "from"}
        series[str(each.get("from"))] = _of_table(source, rest)
    return DatedPrice(series)


def _of_table(source: str, entry: object) -> Price:
    if not isinstance(entry, dict) or not entry:
        raise ConfigurationError(f"{entry!r} is no price: give input and output.")
    unknown = sorted(entry.keys() - _TOKENS - _MACHINE)
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]!r} has no price here. There are "
            f"{', '.join(sorted(_TOKENS | _MACHINE))}, and from."
        )
    machine = {name: value for name, value in entry.items() if name in _MACHINE}
    others = {name: value for name, value in entry.items() if name not in _MACHINE}
    if machine and "per_hour" in others:
        raise ConfigurationError(f"per_hour and {min(machine)} say the same twice: give one.")
    if machine:
        others["per_hour"] = Price.local(**machine).per_hour
    return Price(**others, source=source)
