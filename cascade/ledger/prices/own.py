"""Prices set by the user: per token, per tool call, and per hour of a machine of their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import Field, ValidationError

from cascade.errors import ConfigurationError
from cascade.ledger.prices.base import Dollars, cache_split, to_finest
from cascade.state import Record, Usage

MILLION = Decimal(1_000_000)
MS_PER_HOUR = Decimal(3_600_000)

MOST = Decimal("1e12")
"""No price is above it; beyond 1e999999 nothing can be added up."""

Amount = Annotated[Decimal, Field(ge=0, le=MOST, allow_inf_nan=False)]
Share = Annotated[Decimal, Field(gt=0, le=1)]

_SHARED = ("input", "output", "cached_input", "cache_write", "per_hour", "power_per_hour")
"""What a call by batch costs a part of."""


class Price(Record):
    """A price set by the user, in US dollars.

    Args:
        input: per 1M input tokens.
        output: per 1M output tokens, reasoning tokens included.
        cached_input: per 1M input tokens that the provider read from its cache; as `input`
            when it is not given.
        cache_write: per 1M input tokens that the provider wrote to its cache; as `input` when
            it is not given.
        per_tool_call: per tool call in an answer, for tools that the provider runs and bills.
        per_hour: per hour in which a local model is busy computing (hardware and power);
            `Price.local` computes it.
        power_per_hour: the part of `per_hour` that is spent only while it computes; the
            marginal cost counts this part alone.
        batch_share: the part of it that a call by the provider's batch API costs, above 0 and at
            most 1: 0.5 is half. Tool calls cost the same.
        source: where the price comes from, as ledger entries say it.

    Raises:
        ConfigurationError: an amount is negative, neither tokens nor hours are priced, or power
            is not a part of the price per hour.
    """

    input: Amount | None = None
    output: Amount | None = None
    cached_input: Amount | None = None
    cache_write: Amount | None = None
    per_tool_call: Amount | None = None
    per_hour: Amount | None = None
    power_per_hour: Amount | None = None
    batch_share: Share | None = None
    source: str = "set by you"

    def __init__(
        self,
        *,
        input: Dollars | None = None,  # noqa: A002 - the contract's name
        output: Dollars | None = None,
        cached_input: Dollars | None = None,
        cache_write: Dollars | None = None,
        per_tool_call: Dollars | None = None,
        per_hour: Dollars | None = None,
        power_per_hour: Dollars | None = None,
        batch_share: Dollars | None = None,
        source: str = "set by you",
    ) -> None:
        given: dict[str, Dollars | None] = {
            "input": input,
            "output": output,
            "cached_input": cached_input,
            "cache_write": cache_write,
            "per_tool_call": per_tool_call,
            "per_hour": per_hour,
            "power_per_hour": power_per_hour,
            "batch_share": batch_share,
            "source": source,
        }
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
                "or per_hour (dollars per busy hour of a local model)."
            )
        if self.power_per_hour is not None and self.power_per_hour > (self.per_hour or 0):
            raise ConfigurationError(
                f"Price(per_hour={self.per_hour}, power_per_hour={self.power_per_hour}): power is "
                "a part of the price per hour. Give what hardware and power cost together."
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
        """The price of a model on a machine of your own, per hour in which it is busy.

        Full cost: hardware $/h ÷ utilisation + kW × $/kWh; marginal cost: the power alone.

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
        given = {
            "hardware_per_hour": hardware_per_hour,
            "utilisation": utilisation,
            "kw": kw,
            "kwh": kwh,
        }
        try:
            machine = _Machine.model_validate(given)
        except ValidationError as error:
            raise _refusal("Price.local", given, error) from error
        if machine.kw and not machine.kwh:
            raise ConfigurationError(f"Price.local(kw={kw}) has no price of power: give kwh.")
        power = machine.kw * machine.kwh
        hour = machine.hardware_per_hour / machine.utilisation + power
        if not hour:
            raise ConfigurationError(
                "Price.local() prices nothing: give hardware_per_hour, or kw and kwh; no machine "
                "is free."
            )
        return cls(per_hour=hour, power_per_hour=power)

    def at(self, when: datetime) -> Price:
        """Itself: it has no dates. `DatedPrice` has."""
        del when
        return self

    def by_batch(self) -> Price:
        """The price of calls that are made by the provider's batch API.

        Raises:
            ConfigurationError: `batch_share` is not set.
        """
        share = self.batch_share
        if share is None:
            raise ConfigurationError(
                f"the price ({self.source}) does not say what a call by batch costs: give "
                "batch_share, such as 0.5 where it is half."
            )
        given = {name: getattr(self, name) for name in _SHARED}
        parts = {name: None if usd is None else usd * share for name, usd in given.items()}
        source = f"{self.source}, by batch × {share}"
        return self.model_copy(update={**parts, "batch_share": None, "source": source})

    def cost(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """Dollars of one call; None where the usage that is priced is unknown."""
        return self._cost(usage, busy_ms, tool_calls, self.per_hour)

    def marginal(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """`cost` with the power alone in place of the hour, where that is known."""
        hour = self.per_hour if self.power_per_hour is None else self.power_per_hour
        return self._cost(usage, busy_ms, tool_calls, hour)

    def _cost(
        self, usage: Usage, busy_ms: float | None, tool_calls: int, hour: Decimal | None
    ) -> Decimal | None:
        total = (self.per_tool_call or Decimal(0)) * tool_calls
        if self.input is not None and self.output is not None:
            if usage.input_tokens is None or usage.output_tokens is None:
                return None
            read, written = cache_split(usage, usage.input_tokens)
            tokens = self.input * (usage.input_tokens - read - written)
            tokens += self.output * usage.output_tokens
            if read:
                tokens += (self.input if self.cached_input is None else self.cached_input) * read
            if written:
                tokens += (self.input if self.cache_write is None else self.cache_write) * written
            total += tokens / MILLION
        if hour is not None:
            if busy_ms is None:
                return None
            total += hour * Decimal(str(busy_ms)) / MS_PER_HOUR
        return to_finest(total)


class _Machine(Record):
    hardware_per_hour: Amount
    utilisation: Share
    kw: Amount
    kwh: Amount


def _refusal(
    owner: str, given: Mapping[str, Dollars | None], error: ValidationError
) -> ConfigurationError:
    first = error.errors()[0]
    name = str(first["loc"][0])
    return ConfigurationError(
        f"{owner}({name}={given[name]!r}): {first['msg']}. Prices are US dollars per 1M tokens "
        "(input, output, cached_input, cache_write), per call (per_tool_call) or per busy hour "
        "(per_hour)."
    )
