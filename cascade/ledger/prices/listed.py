"""List prices of providers, by date, and what there is where nobody knows a price.

Local models have no price until one is set: their electricity and hardware are not free, and
a guess of zero would turn every figure of the ledger into flattery.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from cascade.errors import ConfigurationError
from cascade.ledger.prices.base import Pricing, cache_split, to_finest
from cascade.state import Record, Usage


@lru_cache(maxsize=1)
def _table() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - slow to import, rarely asked

    return f"list price, genai-prices {version('genai-prices')}"


@lru_cache(maxsize=1024)
def _cost(
    provider: str, model: str, second: datetime, tokens: tuple[int, int, int, int]
) -> Decimal:
    """The cost of (input, read, written, output) tokens. A run asks several times for the same."""
    from genai_prices import Usage as PricedUsage  # noqa: PLC0415 - heavy, and only here
    from genai_prices import calc_price  # noqa: PLC0415

    read_in, read, written, output = tokens
    used = PricedUsage(
        input_tokens=read_in,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=output,
    )
    found = calc_price(used, model, provider_id=provider, genai_request_timestamp=second)
    return to_finest(found.total_price)


BATCH_SHARES = {"openai": Decimal("0.5")}
"""What part of its list price a call by a provider's batch API costs, which genai-prices does not
know: OpenAI's discount on its Batch API, as its price list had it in 2026."""


class ListPrice(Record):
    """A provider's list price from genai-prices: dated, offline, kept by the pydantic team.

    Attributes:
        when: calls are priced as of this time; None for the time at which the cost is asked for.
        share: the part of the list price that is paid.
    """

    provider: str
    model: str
    when: datetime | None = None
    share: Decimal = Decimal(1)

    @property
    def source(self) -> str:
        """Package and version of the table."""
        return _table() if self.share == 1 else f"{_table()}, by batch × {self.share}"

    def at(self, when: datetime) -> ListPrice:
        """The list price that was valid at a time."""
        return self.model_copy(update={"when": when})

    def by_batch(self) -> ListPrice:
        """The list price of calls that are made by the provider's batch API.

        Raises:
            ConfigurationError: nobody knows what this provider takes for them.
        """
        if self.provider not in BATCH_SHARES:
            raise ConfigurationError(
                f"what {self.provider} takes for a call by batch is not known: set the price of "
                f"{self.model} yourself, with batch_share."
            )
        return self.model_copy(update={"share": BATCH_SHARES[self.provider]})

    def cost(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """Dollars of one call; None where the usage is unknown. Tool calls cost their tokens."""
        del busy_ms, tool_calls
        if usage.input_tokens is None or usage.output_tokens is None:
            return None
        # Prices change at whole minutes, so that a second has one price.
        second = (self.when or datetime.now(UTC)).replace(microsecond=0)
        split = cache_split(usage, usage.input_tokens)
        tokens = (usage.input_tokens, *split, usage.output_tokens)
        usd = _cost(self.provider, self.model, second, tokens)
        return usd if self.share == 1 else to_finest(usd * self.share)

    def marginal(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """The cost: each token is billed by itself."""
        return self.cost(usage, busy_ms, tool_calls)


class NoPrice(Record):
    """The price is not known, so no cost is."""

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

    def cost(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
        """Always unknown."""
        return None

    def marginal(
        self, usage: Usage, busy_ms: float | None = None, tool_calls: int = 0
    ) -> Decimal | None:
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
        return NoPrice(reason="price not set: give the tier Price(per_hour=…) or Price.local(…)")
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
