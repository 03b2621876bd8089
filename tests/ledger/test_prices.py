"""What calls cost: prices of the user, of a file, of a provider's list, and unknown ones."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.ledger.prices import (
    ListPrice,
    NoPrice,
    Price,
    find_pricing,
    load_prices,
)
from cascade.state import Usage

JULY = datetime(2026, 7, 15, tzinfo=UTC)


def usage(**tokens: int) -> Usage:
    return Usage(**{"input_tokens": 1_000_000, "output_tokens": 0, **tokens})


@pytest.mark.parametrize(
    ("used", "usd"),
    [
        (usage(), "3"),
        (usage(output_tokens=1_000_000), "18"),
        (usage(cached_tokens=1_000_000), "0.3"),
        (usage(cache_write_tokens=1_000_000), "3.75"),
        (usage(cache_write_tokens=1_000_000, cache_write_1h_tokens=1_000_000), "6"),
        (usage(cache_write_tokens=500_000, cache_write_1h_tokens=100_000), "3.6"),
        (usage(cached_tokens=250_000, cache_write_tokens=250_000), "2.5125"),
        (usage(cached_tokens=9_999_999, cache_write_tokens=9_999_999), "0.3"),
        (Usage(input_tokens=5), None),
        (Usage(output_tokens=5), None),
    ],
)
def test_each_kind_of_token_has_its_own_price(used: Usage, usd: str | None) -> None:
    price = Price(input=3, output=15, cached_input=0.3, cache_write="3.75", cache_write_1h=6)
    assert price.cost(used) == (None if usd is None else Decimal(usd))


@pytest.mark.parametrize("given", [{}, {"cache_write": 4}])
def test_what_has_no_price_of_its_own_costs_as_the_next(given: dict[str, Any]) -> None:
    price = Price(input=3, output=15, **given)
    assert price.cost(usage(cached_tokens=1_000_000)) == 3
    long = usage(cache_write_tokens=1_000_000, cache_write_1h_tokens=1_000_000)
    assert price.cost(long) == given.get("cache_write", 3)


@pytest.mark.parametrize("amount", [Decimal("0.1"), 0.1, "0.1", "1e-1"])
def test_a_price_may_be_decimal_float_or_text_and_means_the_same(amount: Any) -> None:
    assert Price(input=amount, output=0).cost(usage()) == Decimal("0.1")


@given(
    st.integers(0, 10**9), st.integers(0, 10**9),
    st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6),
)  # fmt: skip
def test_a_cost_is_exact_to_a_quadrillionth(
    read: int, written: int, for_input: Decimal, for_output: Decimal
) -> None:
    found = Price(input=for_input, output=for_output).cost(
        Usage(input_tokens=read, output_tokens=written)
    )
    exact = (Fraction(for_input) * read + Fraction(for_output) * written) / 1_000_000
    assert found is not None
    assert abs(Fraction(found) - exact) <= Fraction(1, 10**15)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"input": 1},
        {"output": 1},
        {"input": -1, "output": 1},
        {"input": "much", "output": 1},
        {"input": float("nan"), "output": 1},
        {"input": 1, "output": "1e13"},
        {"input": True, "output": 1},
        {"input": 1, "output": 1, "batch_share": 0},
        {"input": 1, "output": 1, "batch_share": 2},
    ],
)
def test_a_price_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Price"):
        Price(**given)


def test_a_machine_costs_its_busy_hours() -> None:
    price = Price.local(hardware_per_hour="0.40", utilisation=0.25, kw="0.5", kwh="0.20")
    assert price.per_hour == Decimal("1.7")
    assert price.cost(Usage(), 3_600_000) == Decimal("1.7")
    assert price.cost(Usage(), None) is None


@pytest.mark.parametrize(
    "given",
    [{}, {"kw": 1}, {"hardware_per_hour": -1}, {"hardware_per_hour": 1, "utilisation": 0}],
)
def test_a_machine_that_costs_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"Price\.local"):
        Price.local(**given)


def test_a_batch_costs_its_share_where_that_is_known() -> None:
    price = Price(input=2, output=8, cached_input=1, batch_share=0.5)
    assert price.by_batch().cost(usage(output_tokens=1_000_000)) == 5
    assert "by batch" in price.by_batch().source
    with pytest.raises(ConfigurationError, match="batch_share"):
        Price(input=2, output=8).by_batch()


# --- list prices


def test_a_list_price_is_dated_and_knows_both_kinds_of_cache_writes() -> None:
    listed = find_pricing("anthropic", "claude-sonnet-4-5")
    used = Usage(
        input_tokens=2_000,
        cached_tokens=100,
        cache_write_tokens=1_000,
        cache_write_1h_tokens=400,
        output_tokens=10,
    )
    assert isinstance(listed, ListPrice)
    assert listed.cost(used, at=JULY) == Decimal("0.00753")
    assert listed.cost(Usage()) is None
    assert "genai-prices" in listed.source


def test_a_list_price_by_batch_is_known_for_some_providers_only() -> None:
    found = find_pricing("openai", "gpt-4o").by_batch()
    assert found.cost(usage()) == Decimal("1.25")
    assert found.source.endswith("by batch")
    with pytest.raises(ConfigurationError, match="batch_share"):
        find_pricing("groq", "llama-3.3-70b-versatile").by_batch()


@pytest.mark.parametrize(
    ("provider", "address"),
    [
        ("openai", "http://localhost:8000/v1"),
        ("openai", "https://gateway.example/v1"),
        ("anthropic", "https://proxy.example"),
        ("nobody", None),
    ],
)
def test_no_list_price_holds_at_an_address_that_is_not_the_providers(
    provider: str, address: str | None
) -> None:
    pricing = find_pricing(provider, "gpt-5.1", base_url=address)
    assert isinstance(pricing, NoPrice)
    assert pricing.cost(usage()) is None
    assert "Price(input" in pricing.source
    assert pricing.by_batch() is pricing


@pytest.mark.parametrize(
    "address", [None, "https://api.openai.com/v1", "https://api.openai.com/v1/"]
)
def test_the_list_price_holds_at_the_providers_own_address(address: str | None) -> None:
    assert find_pricing("openai", "gpt-5.1", base_url=address).cost(usage()) == Decimal("1.25")


def test_a_machine_is_asked_for_a_price_per_hour_and_a_server_here_for_either() -> None:
    for pricing in (find_pricing("ollama", "q", local=True), find_pricing("llamacpp", "q")):
        assert "per_hour" in pricing.source
        assert "input=" not in pricing.source
    here = find_pricing("openai", "gpt-5.1", local=True, base_url="http://127.0.0.1:1/v1")
    assert "Price(input=…, output=…)" in here.source


# --- files

GOOD = """
["openai:gpt-5.1"]
input = "1.10"
output = 8.80
cache_write_1h = 2

["ollama:qwen2.5:3b"]
hardware_per_hour = "0.40"
utilisation = "0.25"
"""


def test_a_file_prices_many_models(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(GOOD)
    prices = load_prices(path)
    assert prices["openai:gpt-5.1"].cost(usage()) == Decimal("1.1")
    assert prices["openai:gpt-5.1"].source == "prices.toml"
    assert prices["ollama:qwen2.5:3b"].per_hour == Decimal("1.6")
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"m": {"input": 0.1, "output": 1}}))
    assert load_prices(path)["m"].cost(usage()) == Decimal("0.1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no prices"),
        ("a = ", "cannot be read"),
        ("m = 3", "'m': 3 is no price"),
        ("[m]\ninput = 1\noutputs = 2", "'m': .*'outputs'"),
        ("[m]\ninput = 1", "'m': Price"),
        ("[m]\nper_hour = 1\nkw = 1", "'kw'.* the parameters of Price or of Price.local"),
    ],
)
def test_a_file_with_a_mistake_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_prices(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_prices(tmp_path / "none.toml")
