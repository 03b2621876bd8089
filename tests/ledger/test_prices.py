"""What calls cost, by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.ledger import ListPrice, NoPrice, Price, find_pricing
from cascade.state import Usage


def usage(input_tokens: int | None, output_tokens: int | None, cached: int | None = None) -> Usage:
    return Usage(input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached)


@pytest.mark.parametrize(
    ("price", "used", "busy_ms", "dollars"),
    [
        (Price(input=2, output=10), usage(1_000_000, 100_000), None, "3"),
        (Price(input="0.1", output="0.4"), usage(7, 3), None, "0.0000019"),
        # floats are read by their digits: 0.1 is a tenth
        (Price(input=0.1, output=0.4), usage(7, 3), None, "0.0000019"),
        # 400 of 1000 input tokens from the cache, at a tenth of the price
        (Price(input=1, output=4, cached_input="0.1"), usage(1000, 0, 400), None, "0.00064"),
        (Price(input=1, output=4), usage(1000, 0, 400), None, "0.001"),
        # more cached tokens than input tokens cannot be
        (Price(input=1, output=4, cached_input=0), usage(1000, 0, 5000), None, "0"),
        (Price(per_hour="0.36"), usage(None, None), 10_000, "0.001"),
        (Price(input=1, output=1, per_hour="0.36"), usage(1000, 1000), 10_000, "0.003"),
        (Price(input=0, output=0), usage(5, 5), None, "0"),
    ],
)
def test_costs_are_those_computed_by_hand(
    price: Price, used: Usage, busy_ms: float | None, dollars: str
) -> None:
    assert price.cost(used, busy_ms) == Decimal(dollars)


@pytest.mark.parametrize(
    ("price", "used", "busy_ms"),
    [
        (Price(input=1, output=1), usage(None, 5), None),
        (Price(input=1, output=1), usage(5, None), None),
        (Price(per_hour=1), usage(5, 5), None),
        (Price(input=1, output=1, per_hour=1), usage(5, 5), None),
        (Price(input=1, output=1, per_hour=1), usage(None, 5), 10.0),
        # also at a price of 0: what was not counted is not known
        (Price(input=0, output=0), usage(None, None), None),
    ],
)
def test_unknown_usage_costs_an_unknown_amount(
    price: Price, used: Usage, busy_ms: float | None
) -> None:
    assert price.cost(used, busy_ms) is None


@pytest.mark.parametrize(
    ("amounts", "complaint"),
    [
        ({"input": -1, "output": 1}, "input=-1"),
        ({"input": 1, "output": -0.5}, "output=-0.5"),
        ({"per_hour": -1}, "per_hour=-1"),
        ({"input": "cheap", "output": 1}, "input='cheap'"),
        ({"input": float("nan"), "output": 1}, "input=nan"),
        ({"input": 1, "output": float("inf")}, "output=inf"),
        ({"input": 1}, "go together"),
        ({"output": 1}, "go together"),
        ({"cached_input": 1}, "prices nothing"),
        ({}, "prices nothing"),
    ],
)
def test_a_price_that_makes_no_sense_is_refused(amounts: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Price(**amounts)


def test_a_price_says_that_it_is_the_users_own() -> None:
    assert Price(per_hour=1).source == "set by you"


@given(st.floats(0.001, 100), st.floats(0, 1e7))
def test_costs_have_few_enough_digits_to_be_added_exactly(per_hour: float, busy_ms: float) -> None:
    cost = Price(per_hour=per_hour).cost(Usage(), busy_ms)
    assert cost is not None
    exponent = cost.as_tuple().exponent
    assert isinstance(exponent, int)
    assert exponent >= -15


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "gpt-5.1"), ("anthropic", "claude-sonnet-4-5"), ("google_genai", "gemini-2.5-pro")],
)
def test_hosted_models_have_a_list_price(provider: str, model: str) -> None:
    pricing = find_pricing(provider, model, local=False)
    assert isinstance(pricing, ListPrice)
    assert pricing.source.startswith("list price, genai-prices ")
    cost = pricing.cost(usage(1_000_000, 1_000_000))
    assert cost is not None
    assert Decimal(1) < cost < Decimal(200)


def test_the_list_price_of_gpt_5_1_is_what_openai_asks() -> None:
    pricing = find_pricing("openai", "gpt-5.1", local=False)
    # $1.25 and $10 per 1M tokens, $0.125 for cached input
    assert pricing.cost(usage(1_000_000, 100_000)) == Decimal("2.25")
    assert pricing.cost(usage(1_000_000, 0, 1_000_000)) == Decimal("0.125")


def test_a_list_price_needs_the_usage() -> None:
    pricing = find_pricing("openai", "gpt-5.1", local=False)
    assert pricing.cost(usage(None, 5)) is None


def test_cached_tokens_beyond_the_input_do_not_break_the_list_price() -> None:
    pricing = find_pricing("openai", "gpt-5.1", local=False)
    assert pricing.cost(usage(1000, 0, 5000)) == pricing.cost(usage(1000, 0, 1000))


@pytest.mark.parametrize(
    ("provider", "model", "local", "base_url", "reason"),
    [
        ("openai", "no-such-model", False, None, "input=…, output=…"),
        ("no-such-provider", "gpt-5.1", False, None, "input=…, output=…"),
        ("openai", "gpt-5.1", False, "http://10.0.0.1:8000/v1", "input=…, output=…"),
        ("openai", "gpt-5.1", True, None, "per_hour=…"),
        ("ollama", "qwen2.5:3b", True, None, "per_hour=…"),
    ],
)
def test_where_no_price_is_known_the_reason_says_what_to_set(
    provider: str, model: str, local: bool, base_url: str | None, reason: str
) -> None:
    pricing = find_pricing(provider, model, local=local, base_url=base_url)
    assert isinstance(pricing, NoPrice)
    assert reason in pricing.source
    assert pricing.cost(usage(5, 5), 5.0) is None


def test_a_known_providers_own_address_keeps_its_list_price() -> None:
    pricing = find_pricing(
        "openai", "deepseek-chat", local=False, base_url="https://api.deepseek.com"
    )
    assert pricing.cost(usage(1000, 1000)) is not None
