"""What the large model alone is expected to cost, and how that is learned."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from cascade import Price, Tier
from cascade.agents.outlook import Outlook
from cascade.ledger.baseline import AS_DRAFT
from cascade.state import Draft, Usage
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers

PRICE = Price(input=1, cached_input="0.1", output=10)
LONG = HumanMessage("word " * 2_000, id="long")


def outlook(name: str = "large", **options: Any) -> Outlook:
    small = Tier(ScriptedModel("x", name="small"), price=Price(input=1, output=1))
    return Outlook(open_tiers([small, Tier(ScriptedModel("x", name=name), **options)]))


def draft(input_tokens: int | None = 2_500, output_tokens: int = 100, calls: int = 0) -> Draft:
    call: Any = {"name": "find", "args": {}, "id": "1", "type": "tool_call"}
    answer = reply(
        "x", input_tokens=input_tokens, output_tokens=output_tokens, tool_calls=[call] * calls
    )
    return Draft("small", answer)


def test_before_audits_the_baseline_is_the_draft_with_a_wide_range() -> None:
    found = outlook(price=PRICE).baseline(draft(), [LONG])
    assert found is not None
    assert (found.usd, found.note) == (Decimal("0.0035"), "estimated, no audits yet")
    assert (found.low_usd, found.high_usd) == (Decimal("0.0025"), Decimal("0.0105"))


def test_a_later_turn_is_compared_with_a_warm_cache() -> None:
    expected = outlook(price=PRICE)
    expected.baseline(draft(), [LONG])
    turn = [LONG, AIMessage("x"), HumanMessage("?", id="2")]
    for _ in range(2):  # asked about twice, it is the same
        found = expected.baseline(draft(), turn)
        assert found is not None
        # 2,432 of 2,500 tokens at a tenth of the price, and 100 written
        assert found.usd == Decimal("0.0013112")


def test_whoever_answered_the_large_model_would_have_been_asked() -> None:
    expected = outlook(price=PRICE)
    expected.asked([LONG])
    used = Usage(input_tokens=2_500, output_tokens=100, cached_tokens=128)
    turn = [LONG, AIMessage("x"), HumanMessage("?", id="2")]
    assert expected.measured(used, turn) == Decimal("0.0013112")


def test_a_real_cache_that_was_warm_and_missed_is_believed() -> None:
    expected = outlook(price=PRICE)
    used = Usage(input_tokens=2_500, output_tokens=100)
    for n in range(3):
        turn = [LONG, AIMessage("x"), HumanMessage("?", id=str(n))]
        assert expected.measured(used, turn) == Decimal("0.0035")


def test_a_real_cache_that_holds_more_stands() -> None:
    expected = outlook(price=PRICE)
    used = Usage(input_tokens=2_500, output_tokens=100, cached_tokens=2_500)
    assert expected.measured(used, [LONG]) == Decimal("0.00125")


def test_a_price_without_a_cache_knows_no_difference() -> None:
    expected = outlook(price=Price(input=1, output=10))
    expected.asked([LONG])
    turn = [LONG, AIMessage("x"), HumanMessage("?", id="2")]
    used = Usage(input_tokens=2_500, output_tokens=100)
    assert expected.measured(used, turn) == Decimal("0.0035")


@pytest.mark.parametrize(("marked", "cost"), [(False, "0.0035"), (True, "0.0013112")])
def test_claude_caches_what_is_marked_for_it(marked: bool, cost: str) -> None:
    expected = outlook("claude-opus-4-6", price=PRICE)
    block: dict[str, Any] = {"type": "text", "text": "word " * 2_000}
    if marked:
        block["cache_control"] = {"type": "ephemeral"}
    rules = SystemMessage([block])
    messages: list[BaseMessage] = [rules, HumanMessage("", id="1")]
    expected.asked(messages)
    used = Usage(input_tokens=2_500, output_tokens=100)
    assert expected.measured(used, [rules, HumanMessage("?", id="2")]) == Decimal(cost)


def test_measured_counts_time_and_tool_calls_too() -> None:
    expected = outlook(price=Price(input=1, output=1, per_tool_call="0.5", per_hour=3600))
    used = Usage(input_tokens=0, output_tokens=0)
    found = expected.measured(used, [LONG], busy_ms=1000, tool_calls=2)
    assert found == 2
    assert expected.measured(used, [LONG]) is None
    assert outlook().measured(used, [LONG]) is None


def test_the_large_model_is_taken_to_make_as_many_tool_calls_as_the_draft() -> None:
    expected = outlook(price=Price(input=0, output=0, per_tool_call="0.01"))
    found = expected.baseline(draft(calls=3), [LONG])
    assert found is not None
    assert found.usd == Decimal("0.03")


def test_a_draft_of_unknown_usage_has_no_baseline_but_is_remembered() -> None:
    expected = outlook(price=PRICE)
    unknown = {"baseline_usd": None, "saved_usd": None, "basis": "unknown"}
    assert expected.earned(draft(None), Decimal(0), [LONG]) == unknown
    turn = [LONG, AIMessage("x"), HumanMessage("?", id="2")]
    used = Usage(input_tokens=2_500, output_tokens=100)
    assert expected.measured(used, turn) == Decimal("0.0013112")


def test_lengths_are_learned_from_audits() -> None:
    expected = outlook(price=PRICE)
    for n in range(1, 200):
        tokens = 50 + 7 * (n % 40)
        expected.learn(300, tokens, 2 * tokens)
    found = expected.baseline(draft(300, 100), [HumanMessage("?")])
    assert found is not None
    assert found.output_tokens == pytest.approx(200, rel=0.02)
    assert found.note == ""
    assert found.high_usd - found.low_usd < Decimal("0.0002")
    # the other tiers' lengths are not known better
    middle = expected.cost(expected.tiers[0], draft(300, 100))
    assert middle == Decimal("0.0004")


def test_it_learns_after_1_2_4_8_audits_and_then_every_hundred() -> None:
    expected = outlook(price=PRICE)
    seen = []
    for n in range(1, 301):
        before = expected.lengths
        expected.learn(100, 100, 150)
        if expected.lengths is not before:
            seen.append(n)
            assert expected.lengths.audits == n
    assert seen == [1, 2, 4, 8, 16, 32, 64, 100, 200, 300]


def test_the_last_two_thousand_audits_are_kept() -> None:
    expected = outlook(price=PRICE)
    for n in range(4_000):
        expected.learn(100, 100, 50 if n < 2_000 else 400)
    assert expected.lengths.audits == 2_000
    assert expected.lengths.tokens(100, 100) == pytest.approx(400, rel=0.01)


def test_the_chance_of_an_audit_is_its_weight() -> None:
    """Long answers were audited nine times as often."""
    expected = outlook(price=PRICE)
    for n in range(100):
        rare = n % 10 < 2
        expected.learn(100, 100, 100 if rare else 900, weight=1 / 0.1 if rare else 1 / 0.9)
    share = 20 / 0.1 / (20 / 0.1 + 80 / 0.9)
    assert expected.lengths.tokens(100, 100) == pytest.approx(
        share * 100 + (1 - share) * 900, rel=0.15
    )


def test_threads_may_learn_and_ask_at_the_same_time() -> None:
    expected = outlook(price=PRICE)

    def work(n: int) -> int:
        messages = [LONG, AIMessage(str(n % 7)), HumanMessage("?", id=str(n))]
        expected.learn(100 + n, 100, 150)
        expected.measured(Usage(input_tokens=2_500, output_tokens=100), messages)
        return expected.cache.cached(messages, 2_500)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(800)))
    assert expected.lengths.audits == 800
    # one was the first to be sent the long message; every other one found it
    assert sorted(found)[:2] == [0, 2432]
    assert not math.isnan(expected.lengths.smear)
    assert expected.lengths != AS_DRAFT
