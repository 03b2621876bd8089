"""What calls cost, by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade import Tier
from cascade.errors import ConfigurationError
from cascade.ledger import (
    DatedPrice,
    ListPrice,
    NoPrice,
    Price,
    Pricing,
    find_pricing,
    load_prices,
)
from cascade.state import Usage
from cascade.testing import ScriptedModel


def usage(
    input_tokens: int | None,
    output_tokens: int | None,
    cached: int | None = None,
    written: int | None = None,
) -> Usage:
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached,
        cache_write_tokens=written,
    )


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
        # 400 read, 500 written, 100 plain
        (
            Price(input=1, output=4, cached_input="0.1", cache_write="1.25"),
            usage(1000, 0, 400, 500),
            None,
            "0.000765",
        ),
        (Price(input=1, output=4), usage(1000, 0, 400, 500), None, "0.001"),
        # what is read was not written, and no more than there is can be
        (Price(input=1, output=4, cache_write=2), usage(1000, 0, 900, 900), None, "0.0011"),
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
        ({"cache_write": 1}, "prices nothing"),
        ({"input": 1, "output": 1, "cache_write": -1}, "cache_write=-1"),
        ({"input": 1, "output": 1, "per_tool_call": -1}, "per_tool_call=-1"),
        ({"per_hour": 1, "power_per_hour": 2}, "power_per_hour=2"),
        ({"input": 1, "output": 1, "power_per_hour": 1}, "a part of the price"),
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


def test_tool_calls_that_the_provider_bills_are_paid_by_the_call() -> None:
    price = Price(input=1, output=1, per_tool_call="0.01")
    assert price.cost(usage(1000, 0), tool_calls=3) == Decimal("0.031")
    assert Price(input=1, output=1).cost(usage(1000, 0), tool_calls=3) == Decimal("0.001")


def test_a_machine_of_ones_own_costs_its_idle_hours_and_its_power() -> None:
    price = Price.local(hardware_per_hour="0.40", utilisation="0.25", kw="0.3", kwh="0.20")
    assert price.per_hour == Decimal("1.66")
    assert price.cost(Usage(), 3_600_000) == Decimal("1.66")
    assert price.marginal(Usage(), 3_600_000) == Decimal("0.06")
    assert price.cost(Usage()) is None
    assert price.marginal(Usage()) is None


def test_without_its_parts_a_price_per_hour_is_all_marginal() -> None:
    price = Price(input=1, output=1, per_hour=2)
    assert price.marginal(usage(1000, 0), 1000) == price.cost(usage(1000, 0), 1000)


@pytest.mark.parametrize(
    ("amounts", "complaint"),
    [
        ({"hardware_per_hour": 1, "utilisation": 0}, "utilisation=0"),
        ({"hardware_per_hour": 1, "utilisation": 1.5}, "utilisation=1.5"),
        ({"hardware_per_hour": -1}, "hardware_per_hour=-1"),
        ({"hardware_per_hour": "cheap"}, "hardware_per_hour='cheap'"),
        ({"hardware_per_hour": float("inf")}, "hardware_per_hour=inf"),
        ({"kw": -1, "kwh": 1}, "kw=-1"),
        ({"kw": 0.3}, "no price of power"),
        ({"kwh": 0.3}, "prices nothing"),
        ({}, "prices nothing"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(amounts: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Price.local(**amounts)


amount = st.decimals(0, 100, places=4, allow_nan=False)
count = st.integers(0, 1_000_000)
tokens = st.tuples(count, count, count, count).map(
    # cached and written tokens are among the input
    lambda n: usage(n[0] + n[1] + n[2], n[3], n[1], n[2])
)
owned = st.builds(
    Price,
    input=amount,
    output=amount,
    cached_input=st.none() | amount,
    cache_write=st.none() | amount,
    per_tool_call=st.none() | amount,
    per_hour=amount.map(lambda a: a + 100),
    power_per_hour=st.none() | amount,
)
listed = st.sampled_from([("openai", "gpt-5.1"), ("anthropic", "claude-opus-4-6")]).map(
    lambda names: find_pricing(*names, local=False)
)
calls = st.tuples(tokens, st.integers(0, 10**7), st.integers(0, 20))


def cost(price: Pricing, call: tuple[Usage, int, int]) -> Decimal:
    found = price.cost(*call)
    assert found is not None
    return found


def together(one: tuple[Usage, int, int], other: tuple[Usage, int, int]) -> tuple[Usage, int, int]:
    names = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens")
    both = {name: getattr(one[0], name) + getattr(other[0], name) for name in names}
    return Usage(**both), one[1] + other[1], one[2] + other[2]


@given(owned | listed, calls, calls)
def test_costs_add_up(
    price: Pricing, one: tuple[Usage, int, int], other: tuple[Usage, int, int]
) -> None:
    """Two calls cost what one with the tokens, time and tool calls of both does."""
    parts = cost(price, one) + cost(price, other)
    assert abs(cost(price, together(one, other)) - parts) <= Decimal("3e-15")


@given(owned | listed, calls, calls)
def test_more_of_anything_never_costs_less(
    price: Pricing, one: tuple[Usage, int, int], more: tuple[Usage, int, int]
) -> None:
    assert cost(price, together(one, more)) + Decimal("1e-15") >= cost(price, one)


@given(owned | listed, calls)
def test_the_marginal_cost_is_never_above_the_full_one(
    price: Pricing, call: tuple[Usage, int, int]
) -> None:
    marginal = price.marginal(*call)
    assert marginal is not None
    assert marginal <= cost(price, call)


@given(
    listed
    | st.tuples(amount, amount, amount).map(
        lambda a: Price(input=a[0] + a[1], cached_input=a[1], output=a[2])
    ),
    tokens,
)
def test_a_prompt_from_the_cache_never_costs_more(price: Pricing, used: Usage) -> None:
    cold = used.model_copy(update={"cached_tokens": 0, "cache_write_tokens": 0})
    warm = used.model_copy(update={"cache_write_tokens": 0})
    assert cost(price, (warm, 0, 0)) <= cost(price, (cold, 0, 0))


def test_the_list_price_knows_what_writing_the_cache_costs() -> None:
    pricing = find_pricing("anthropic", "claude-opus-4-6", local=False)
    now = pricing.at(datetime(2026, 11, 1, tzinfo=UTC))
    # $5 per 1M plain, $0.50 read, $6.25 written
    assert now.cost(usage(1_000_000, 0, 400_000, 500_000)) == Decimal("3.825")


def test_a_call_costs_the_list_price_of_its_time() -> None:
    pricing = find_pricing("openai", "o3", local=False)
    used = usage(1_000_000, 1_000_000)
    # $10 and $40 until OpenAI lowered it to $2 and $8 on 2025-06-10
    assert pricing.at(datetime(2025, 6, 9, tzinfo=UTC)).cost(used) == Decimal(50)
    assert pricing.at(datetime(2025, 6, 11, tzinfo=UTC)).cost(used) == Decimal(10)
    assert pricing.cost(used) == Decimal(10)


RISING = DatedPrice(
    {"2026-01-01": Price(input=1, output=1), date(2026, 7, 1): Price(input=2, output=2)}
)


@pytest.mark.parametrize(
    ("when", "dollars", "source"),
    [
        (datetime(2025, 12, 31, tzinfo=UTC), None, "price not set before 2026-01-01"),
        (datetime(2026, 1, 1, tzinfo=UTC), "1", "set by you, valid from 2026-01-01"),
        (datetime(2026, 6, 30, 23, 59, tzinfo=UTC), "1", "set by you, valid from 2026-01-01"),
        (datetime(2026, 7, 1, tzinfo=UTC), "2", "set by you, valid from 2026-07-01"),
        # 23:30 in Rio is the next day in UTC
        (
            datetime(2026, 6, 30, 23, 30, tzinfo=timezone(timedelta(hours=-3))),
            "2",
            "set by you, valid from 2026-07-01",
        ),
    ],
)
def test_a_dated_price_is_that_of_the_day(when: datetime, dollars: str | None, source: str) -> None:
    price = RISING.at(when)
    assert price.cost(usage(1_000_000, 0)) == (None if dollars is None else Decimal(dollars))
    assert source in price.source


def test_without_a_time_a_dated_price_is_that_of_today() -> None:
    today, long_ago = datetime.now(UTC), datetime(2000, 1, 1, tzinfo=UTC)
    price = DatedPrice(
        {long_ago: Price(input=1, output=1), today + timedelta(days=2): Price(input=9, output=9)}
    )
    assert price.cost(usage(1_000_000, 0)) == price.marginal(usage(1_000_000, 0)) == 1
    assert price.source == "set by you, valid from 2000-01-01"


@pytest.mark.parametrize(
    ("prices", "complaint"),
    [
        ({}, "prices nothing"),
        ({"soon": Price(per_hour=1)}, "'soon' is no day"),
        ({7: Price(per_hour=1)}, "7 is no day"),
        ({"2026-01-01": 5}, "5.*give a Price"),
        (
            {"2026-01-01": Price(per_hour=1), date(2026, 1, 1): Price(per_hour=2)},
            "two prices from 2026-01-01",
        ),
    ],
)
def test_dated_prices_that_make_no_sense_are_refused(prices: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        DatedPrice(prices)


TABLE = """
["openai:gpt-5.1"]
input = 1.10
output = "8.80"

[["scripted:large"]]
from = 2026-01-01
input = 5
output = 30

[["scripted:large"]]
from = 2026-07-01
input = 4
output = 20
cached_input = 0.4

["scripted:small"]
hardware_per_hour = 0.40
utilisation = 0.25
kw = 0.3
kwh = 0.2
"""


def test_a_file_prices_many_models(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(TABLE, encoding="utf-8")
    prices = load_prices(file)
    assert prices["openai:gpt-5.1"] == Price(input="1.10", output="8.80", source="prices.toml")
    large = Tier(ScriptedModel("x", name="large"), price=prices).open().pricing
    later = large.at(datetime(2026, 8, 1, tzinfo=UTC))
    assert later.source == "prices.toml, valid from 2026-07-01"
    assert later.cost(usage(1_000_000, 0, 1_000_000)) == Decimal("0.4")
    small = Tier(ScriptedModel("x", name="small"), price=prices).open().pricing
    assert small.marginal(Usage(), 3_600_000) == Decimal("0.06")
    assert small.cost(Usage(), 3_600_000) == Decimal("1.66")


def test_a_model_that_a_table_leaves_out_keeps_its_list_price(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"openai:gpt-5.1": {"input": 1.1, "output": 2}}', encoding="utf-8")
    prices = load_prices(str(file))
    mine = Tier("openai:gpt-5.1", api_key="none", price=prices).open().pricing
    assert mine.cost(usage(1_000_000, 0)) == Decimal("1.1")
    other = Tier("openai:gpt-5", api_key="none", price=prices).open().pricing
    assert isinstance(other, ListPrice)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("input = ", "cannot be read"),
        ("", "holds no prices"),
        ("input = 1", "'input': 1 is no price"),
        ("[m]", "'m': {} is no price"),
        ("[m]\ninput = 1", "'m': Price.input=1, output=None."),
        ("[m]\ninput = -1\noutput = 1", "'m': Price.input=-1"),
        ("[m]\nprice = 1", "'m': 'price' is nothing that has a price"),
        ("[m]\nsource = 'x'\nper_hour = 1", "'m': 'source' is nothing"),
        ("[m]\nper_hour = 1\nhardware_per_hour = 1", "say the same twice"),
        ("[m]\nutilisation = 2\nhardware_per_hour = 1", "'m': Price.local.utilisation=2"),
        ("[[m]]\nper_hour = 1", "from which day"),
        ("[[m]]\nfrom = 'soon'\nper_hour = 1", "'m': 'soon' is no day"),
        ("m = [1]", "from which day"),
    ],
)
def test_a_price_in_a_file_that_makes_no_sense_is_named(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load_prices(file)
    assert "prices.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml cannot be read"):
        load_prices(tmp_path / "nowhere.toml")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="holds no prices"):
        load_prices(tmp_path / "list.json")


@pytest.mark.parametrize("price", ["prices.toml", 5, {1, 2}])
def test_a_tier_says_what_a_price_may_be(price: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Tier\(price=.*load_prices\(file\)"):
        Tier(ScriptedModel("x"), price=price)


def test_no_price_stays_none_at_any_time() -> None:
    pricing = find_pricing("ollama", "qwen2.5:3b", local=True)
    later = pricing.at(datetime(2027, 1, 1, tzinfo=UTC))
    assert later.cost(usage(1, 1), 1.0) is later.marginal(usage(1, 1), 1.0) is None


def test_a_call_by_batch_costs_its_share_of_tokens_and_hours_and_all_of_its_tools(
    tmp_path: Path,
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        '["m"]\ninput = 4\noutput = 20\ncached_input = 1\nper_tool_call = "0.01"\n'
        'per_hour = "3.6"\nbatch_share = "0.25"\n'
        '[["d"]]\nfrom = 2025-01-01\ninput = 4\noutput = 8\nbatch_share = "0.5"\n'
    )
    prices = load_prices(file)
    by_batch = prices["m"].by_batch()
    used = usage(1000, 100, 400)
    plain, tools = prices["m"].cost(used, 1000, 0), Decimal("0.02")
    assert plain is not None
    assert by_batch.cost(used, 1000, 2) == plain / 4 + tools
    assert by_batch.source == "prices.toml, by batch × 0.25"
    dated = prices["d"].by_batch().at(datetime(2025, 6, 1, tzinfo=UTC))
    assert dated.cost(usage(1000, 1000)) == Decimal("0.006")
    assert dated.source == "prices.toml, valid from 2025-01-01, by batch × 0.5"


def test_openais_list_price_by_batch_is_half_at_its_time() -> None:
    listed = find_pricing("openai", "o3", local=False)
    for day, expected in ((9, "5"), (10, "1")):
        by_batch = listed.by_batch().at(datetime(2025, 6, day, tzinfo=UTC))
        assert by_batch.cost(usage(1_000_000, 0)) == Decimal(expected)
        assert by_batch.source.endswith("by batch × 0.5")


def test_what_nobody_knows_of_a_batch_is_not_guessed() -> None:
    with pytest.raises(ConfigurationError, match=r"set by you\) does not say .* batch_share"):
        Price(input=1, output=1).by_batch()
    with pytest.raises(ConfigurationError, match="anthropic takes for a call by batch is not"):
        find_pricing("anthropic", "claude-sonnet-4-5", local=False).by_batch()
    unknown = find_pricing("ollama", "x", local=True)
    assert unknown.by_batch() is unknown


@pytest.mark.parametrize("share", [0, -1, "1.5"])
def test_a_share_is_above_nothing_and_no_more_than_all(share: Any) -> None:
    with pytest.raises(ConfigurationError, match="batch_share"):
        Price(input=1, output=1, batch_share=share)
