"""Prices of calls: set by the user, from a file, from a provider's list, or unknown.

Local models have no price until one is set: hardware and power are not free.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from operator import mul
from pathlib import Path
from typing import Any

from typing_extensions import override

from cascade._numbers import to_number
from cascade.errors import ConfigurationError
from cascade.state import Record, Usage

Dollars = Decimal | float | int | str
"""An amount in US dollars; floats are read by their decimal digits."""


class Pricing(Record):
    """Price of the calls of one model, in dollars: `per_million` tokens, by the parameters of
    `Price`, or `per_hour` of a machine; unknown without both. `source` says where it comes from, or
    why it is unknown and how to set it."""

    source: str
    per_million: Mapping[str, Decimal] | None = None
    per_hour: Decimal | None = None
    batch_share: Decimal | None = None

    def by_batch(self) -> Pricing:
        """The price of calls by the provider's batch API; a `ConfigurationError` where it is not
        known."""
        if self.per_million is not None and (share := self.batch_share) is not None:
            cheaper = {name: usd * share for name, usd in self.per_million.items()}
            source = f"{self.source}, by batch × {share}"
            return self.model_copy(update={"per_million": cheaper, "source": source})
        if not has_price(self, busy_ms=1.0):
            return self
        raise ConfigurationError(
            f"what a call by batch costs is not known ({self.source}): give the tier "
            "Price(input=…, output=…, batch_share=…), 0.5 where it is half."
        )

    def cost(
        self, usage: Usage, busy_ms: float | None = None, at: datetime | None = None
    ) -> Decimal | None:
        """Dollars of one call; None where price or usage are unknown. A price per hour needs the
        time in which the machine was `busy_ms`, a list price, which has dates, that of the call."""
        total: Decimal | None = None
        if (usd := self.per_million) is not None:
            if (counts := _counts(usage)) is None:
                return None
            plain, write = usd["input"], usd.get("cache_write", usd["input"])
            read, write_1h = usd.get("cached_input", plain), usd.get("cache_write_1h", write)
            rates = plain, read, write, write_1h, usd["output"]
            total = sum(map(mul, rates, counts), Decimal(0)) / 1_000_000
        if self.per_hour is not None:
            if busy_ms is None:
                return None
            hourly = _to_finest(self.per_hour * Decimal(str(busy_ms)) / 3_600_000)
            total = hourly if total is None else total + hourly
        return total


class Price(Pricing):
    """A price in US dollars, set by the user.

    Per 1M tokens of `input`, of `output`, reasoning included, of input that was read from the
    provider's cache (`cached_input`) and written to it (`cache_write`, and `cache_write_1h` for an
    hour). Or `per_hour` of a machine of your own, which `Price.local` computes. `batch_share` of it
    costs a call by the provider's batch API, in (0, 1]; `source` is for ledger entries.

    Raises:
        ConfigurationError: an amount is out of its range, or nothing is priced.
    """

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
        tokens = {"input": input, "output": output, "cached_input": cached_input}
        tokens |= {"cache_write": cache_write, "cache_write_1h": cache_write_1h}
        usd = {name: _amount(f"Price.{name}", v) for name, v in tokens.items() if v is not None}
        if (usd or per_hour is None) and (input is None or output is None):
            raise ConfigurationError(
                f"Price(input={input!r}, output={output!r}, per_hour={per_hour!r}): give input and "
                "output, where 0 is one that is really free, or per_hour of a machine."
            )
        fields: dict[str, Any] = {"source": source, "per_million": usd or None}
        if per_hour is not None:
            fields["per_hour"] = _amount("Price.per_hour", per_hour)
        if batch_share is not None:
            fields["batch_share"] = _amount("Price.batch_share", batch_share, above=0, most=1)
        super().__init__(**fields)

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

        Hardware is rent per hour, or purchase ÷ hours of its life; `utilisation` the share of the
        paid hours in which it computes, in (0, 1]; `kw` what it draws while it does.

        Raises:
            ConfigurationError: an amount is out of its range, or nothing is priced.
        """
        hardware = _amount("Price.local.hardware_per_hour", hardware_per_hour)
        share = _amount("Price.local.utilisation", utilisation, above=0, most=1)
        drawn, power = _amount("Price.local.kw", kw), _amount("Price.local.kwh", kwh)
        per_hour = hardware / share + drawn * power
        if not per_hour or (drawn and not power):
            raise ConfigurationError(
                f"Price.local(hardware_per_hour={hardware}, kw={drawn}, kwh={power}): no machine "
                "and no power is free: give hardware_per_hour, or kw and kwh."
            )
        return cls(per_hour=per_hour)


class ListPrice(Pricing):
    """A provider's list price, or that of its batch API, from genai-prices: dated, offline."""

    provider: str
    model: str
    batch: bool = False

    @override
    def by_batch(self) -> Pricing:
        probe = Usage(input_tokens=1_000, output_tokens=1_000)
        batch = self.model_copy(update={"batch": True, "source": f"{self.source}, by batch"})
        return batch if batch.cost(probe) != self.cost(probe) else super().by_batch()

    @override
    def cost(
        self, usage: Usage, busy_ms: float | None = None, at: datetime | None = None
    ) -> Decimal | None:
        if (counts := _counts(usage)) is None:
            return None
        import genai_prices  # noqa: PLC0415 - heavy, and only here

        _, read, write, write_1h, written = counts
        counted = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            cache_read_tokens=read,
            cache_write_tokens=write + write_1h,
            cache_write_1h_tokens=write_1h,
            output_tokens=written,
        )
        found = genai_prices.calc_price(
            counted,
            self.model,
            provider_id=self.provider,
            genai_request_timestamp=at,
            price_context={"processing": "batch"} if self.batch else None,
        )
        return _to_finest(found.total_price)


def has_price(pricing: Pricing, busy_ms: float | None = None) -> bool:
    """True if the cost of calls is known; without the time that a call was busy, if its tokens
    alone tell it, so that it can be foreseen."""
    return pricing.cost(Usage(input_tokens=1, output_tokens=1), busy_ms) is not None


def _amount(name: str, value: Dollars, **bounds: float) -> Decimal:
    # No price is above 1e12; with 1e999999 nothing could be added up.
    to_number(name, value, **(bounds or {"least": 0, "most": 1e12}))
    return Decimal(str(value))


def _to_finest(amount: Decimal) -> Decimal:
    short = round(amount, 15)  # so that adding many of them rounds nothing
    return amount if amount == short else short


def _counts(usage: Usage) -> tuple[int, int, int, int, int] | None:
    """Tokens of plain input, read from the cache, written to it for minutes and for an hour, and of
    output; None where they are unknown."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    read = min(usage.cached_tokens or 0, usage.input_tokens)
    written = min(usage.cache_write_tokens or 0, usage.input_tokens - read)
    long = min(usage.cache_write_1h_tokens or 0, written)
    return usage.input_tokens - read - written, read, written - long, long, usage.output_tokens


_PROVIDER_IDS = {"google_genai": "google", "google_vertexai": "google", "mistralai": "mistral"}
"""LangChain's provider names where genai-prices uses another."""


@lru_cache(maxsize=256)
def find_pricing(
    provider: str, model: str, *, local: bool = False, base_url: str | None = None
) -> Pricing:
    """The list price of a model, or an unknown one that says why there is none: it runs on this
    machine, or is asked at an address that is no provider's."""
    why = "price not set"
    if not local and provider not in ("ollama", "llamacpp"):
        import genai_prices  # noqa: PLC0415 - heavy, and only here

        place: dict[str, Any] = {"provider_api_url": base_url}
        if base_url is None:
            place = {"provider_id": _PROVIDER_IDS.get(provider, provider)}
        try:
            found = genai_prices.calc_price(genai_prices.Usage(), model, **place)
            source = f"list price, genai-prices {genai_prices.__version__}"
            return ListPrice(source=source, provider=found.provider.id, model=model)
        except LookupError:
            why = f"no list price of {provider}:{model}{' at that address' * bool(base_url)}"
    how = "with input and output, or Price.local(…) for a machine of your own"
    return Pricing(source=f"{why}: give the tier a `price` (on the command line: --prices) {how}")


def to_price(given: object) -> Price:
    """A price from a table with the parameters of `Price` or `Price.local`; a `ConfigurationError`
    where it is none."""
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError(f"{given!r} is no price: give input and output.")
    try:
        return (Price.local if given.keys() & {"hardware_per_hour", "kw"} else Price)(**given)
    except TypeError as error:  # a name that is none
        raise ConfigurationError(f"{error}: give those of Price or of Price.local.") from error


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices of many models from a TOML file: a table for each, as in `to_price`, named by its
    model string, such as ["openai:gpt-5.1"].

    Raises:
        ConfigurationError: the file cannot be read, or a table is no price.
    """
    import tomllib  # noqa: PLC0415 - seldom

    path, prices, told = Path(path), dict[str, Price](), f"{path}, a TOML file of prices"
    try:
        for model, table in tomllib.loads(path.read_text("utf-8"), parse_float=Decimal).items():
            told = f"{path}, {model!r}"
            prices[model] = to_price(table).model_copy(update={"source": path.name})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{told}: {error}") from error
    return prices
