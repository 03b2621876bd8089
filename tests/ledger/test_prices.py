"""What calls cost: prices of the user, of a file, of a provider's list, and unknown ones."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError
from cascade.ledger.prices import Price, find_pricing, load_prices
from cascade.state import Usage

JULY = datetime(2026, 7, 15, tzinfo=UTC)


def usage(**tokens: int) -> Usage:
    return Usage(**{"input_tokens": 1_000_000, "output_tokens": 0, **tokens})


LONG = usage(cache_write_tokens=1_000_000, cache_write_1h_tokens=1_000_000)


@pytest.mark.parametrize(
    ("used", "usd"),
    [
        (usage(), "3"),
        (usage(output_tokens=1_000_000), "18"),
        (usage(cached_tokens=1_000_000), "0.3"),
        (usage(cache_write_tokens=1_000_000), "3.75"),
        (LONG, "6"),
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


def test_what_has_no_price_of_its_own_costs_as_the_next() -> None:
    plain, written = Price(input=3, output=15), Price(input=3, output=15, cache_write=4)
    assert plain.cost(usage(cached_tokens=1_000_000)) == plain.cost(LONG) == 3
    assert written.cost(LONG) == 4


@given(
    st.integers(0, 10**9), st.integers(0, 10**9),
    st.decimals(0, 1000, places=6), st.decimals(0, 1000, places=6),
)  # fmt: skip
def test_a_cost_is_exact_to_a_quadrillionth(
    read: int, written: int, for_input: Decimal, for_output: Decimal
) -> None:
    used = Usage(input_tokens=read, output_tokens=written)
    found = Price(input=for_input, output=for_output).cost(used)
    exact = (Fraction(for_input) * read + Fraction(for_output) * written) / 1_000_000
    assert abs(Fraction(found) - exact) <= Fraction(1, 10**15)


TOKENS = {"input": 1, "output": 1}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"input": 1},
        {**TOKENS, "input": -1},
        {**TOKENS, "input": "much"},
        {**TOKENS, "input": float("nan")},
        {**TOKENS, "output": "1e13"},
        {**TOKENS, "input": True},
        {**TOKENS, "batch_share": 0},
        {"kw": 1},
        {"hardware_per_hour": -1},
        {"hardware_per_hour": 0},
        {"hardware_per_hour": 1, "utilisation": 0},
    ],
)
def test_a_price_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    local = given.keys() & {"kw", "hardware_per_hour"}
    with pytest.raises(ConfigurationError, match=r"Price\.local" if local else r"Price\("):
        (Price.local if local else Price)(**given)


def test_a_machine_costs_its_busy_hours() -> None:
    price = Price.local(hardware_per_hour="0.40", utilisation=0.25, kw="0.5", kwh="0.20")
    assert price.cost(Usage(), 3_600_000) == price.per_hour == Decimal("1.7")
    assert price.cost(Usage(), None) is None
    assert price.cost(Usage(), 1) == Decimal("0.000000472222222")


def test_a_batch_costs_its_share_where_that_is_known() -> None:
    batch = Price(input=2, output=8, cached_input=1, batch_share=0.5).by_batch()
    assert batch.cost(usage(output_tokens=1_000_000)) == 5
    assert "by batch" in batch.source
    listed = find_pricing("openai", "gpt-4o").by_batch()
    assert (listed.cost(usage()), listed.source[-8:]) == (Decimal("1.25"), "by batch")
    for unknown in (Price(**TOKENS), find_pricing("groq", "llama-3.3-70b-versatile")):
        with pytest.raises(ConfigurationError, match="batch_share"):
            unknown.by_batch()


def test_a_list_price_is_dated_and_knows_both_kinds_of_cache_writes() -> None:
    listed = find_pricing("anthropic", "claude-sonnet-4-5")
    written = {"cached_tokens": 100, "cache_write_tokens": 1_000, "cache_write_1h_tokens": 400}
    used = Usage(input_tokens=2_000, output_tokens=10, **written)
    assert listed.cost(used, at=JULY) == Decimal("0.00753")
    assert listed.cost(Usage()) is None
    assert "genai-prices" in listed.source


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
    assert prices["ollama:qwen2.5:3b"].per_hour == Decimal("1.6")
    assert {price.source for price in prices.values()} == {"prices.toml"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = ", "TOML file of prices: Invalid value"),
        ("m = 3", "'m': 3 is no price"),
        ("[m]\ninput = 1\noutputs = 2", "'m': .*'outputs'"),
        ("[m]\ninput = 1", "'m': Price"),
        ("[m]\nper_hour = 1\nkw = 1", "'m': .*'per_hour'.* of Price or of Price.local"),
        (None, "No such file"),
    ],
)
def test_a_file_with_a_mistake_names_it(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "prices.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load_prices(path)
