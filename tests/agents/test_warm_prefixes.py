"""What a change of the model costs: the prompt cache of the one that was asked before is warm."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from cascade import Cascade, EconomicPolicy, Latch, Price, Tier
from cascade.agents.latch import Latching
from cascade.agents.outlook import Outlook
from cascade.agents.steps import steps_of, told
from cascade.ledger.shadow_cache import ShadowCache
from cascade.state import Draft, Run, Usage
from cascade.testing import ScriptedModel, reply
from cascade.tiers import open_tiers

NOW = 1_000_000.0
PRICE = Price(input=1, cached_input="0.1", output=10)
WRITES = Price(input=1, cached_input="0.1", cache_write="1.25", output=10)
LONG = "word " * 2_000
WARM = 2_432
"""Of 2,500 tokens, of which the long message is all but a few: 19 steps of 128."""


def outlook(large: Price | None = PRICE, name: str = "large", **options: Any) -> Outlook:
    small = Tier(ScriptedModel("x", name="small"), price=Price(input=1, output=1))
    tiers = open_tiers(
        [small, Tier(ScriptedModel("x", name=name), price=large)], ("small", "large")
    )
    return Outlook(tiers, clock=lambda: NOW, **options)


def said(*asked: str, ago: float = 60.0) -> AIMessage:
    """An answer of the last of these tiers, so many seconds ago."""
    *before, tier = asked
    run = Run("r", "q", begun_at=NOW - ago, asked=tuple(before))
    return AIMessage("x", response_metadata=told(run, tier))


def conversation(*answers: AIMessage) -> list[BaseMessage]:
    """A long question, answered; and a short one."""
    messages: list[BaseMessage] = [HumanMessage(LONG)]
    for answer in answers:
        messages += [answer, HumanMessage("?")]
    return messages


DRAFT = Draft("small", reply("x", input_tokens=2_500, output_tokens=100))


def cost(messages: list[BaseMessage], expected: Outlook) -> Decimal | None:
    return expected.cost(expected.tiers[-1], DRAFT, messages)


def priced(price: Price, *, cached: int = 0, written: int = 0) -> Decimal | None:
    used = Usage(
        input_tokens=2_500, cached_tokens=cached, cache_write_tokens=written, output_tokens=100
    )
    return price.cost(used)


# --- what escalating costs


def test_what_the_large_model_answered_before_it_reads_from_its_cache() -> None:
    found = cost(conversation(said("small", "large")), outlook())
    assert found == priced(PRICE, cached=WARM) == Decimal("0.0013112")


def test_to_a_model_that_was_not_asked_the_whole_prompt_is_new() -> None:
    assert cost(conversation(said("small")), outlook()) == priced(PRICE) == Decimal("0.0035")


def test_a_cold_prompt_is_written_at_the_price_of_writing() -> None:
    cold, warm = conversation(said("small")), conversation(said("small", "large"))
    expected = outlook(WRITES)
    assert cost(cold, expected) == priced(WRITES, written=WARM) == Decimal("0.004108")
    assert cost(warm, expected) == priced(WRITES, cached=WARM)


def test_what_was_added_since_is_new() -> None:
    """A tool's long result after the answer is in nobody's cache."""
    messages = [*conversation(said("small", "large")), HumanMessage(LONG)]
    # 10,000 of 20,002 characters: 1,249 of 2,500 tokens, 9 steps
    assert cost(messages, outlook()) == priced(PRICE, cached=9 * 128)


def test_only_the_last_time_it_was_asked_counts() -> None:
    messages = conversation(said("large"), said("small"), said("small"))
    assert cost(messages, outlook()) == priced(PRICE, cached=WARM)


@pytest.mark.parametrize(("ago", "cached"), [(299.0, WARM), (300.0, 0), (-4.0, WARM), (-6.0, 0)])
def test_a_cache_forgets_and_nothing_comes_from_the_future(ago: float, cached: int) -> None:
    messages = conversation(said("large", ago=ago))
    assert cost(messages, outlook()) == priced(PRICE, cached=cached)


def test_an_answer_that_does_not_say_when_it_was_given_warms_nothing() -> None:
    unknown = said("large")
    del unknown.response_metadata["step"]["at"]
    assert cost(conversation(unknown), outlook()) == priced(PRICE)


def test_how_long_a_cache_lasts_is_that_of_the_baseline() -> None:
    messages = conversation(said("large", ago=3_000.0))
    expected = outlook(cache=ShadowCache(ttl_s=3_600))
    assert cost(messages, expected) == priced(PRICE, cached=WARM)


def test_short_prompts_are_in_no_cache() -> None:
    messages = [HumanMessage("Hi"), said("large"), HumanMessage("?")]
    assert cost(messages, outlook()) == priced(PRICE)


@pytest.mark.parametrize("marked", [False, True])
def test_claude_reads_and_writes_only_what_is_marked(marked: bool) -> None:
    block: dict[str, Any] = {"type": "text", "text": LONG}
    if marked:
        block["cache_control"] = {"type": "ephemeral"}
    begins: list[BaseMessage] = [SystemMessage([block]), HumanMessage("?")]
    expected = outlook(WRITES, "claude-opus-4-6")
    warm = cost([*begins, said("large"), HumanMessage("?")], expected)
    cold = cost([*begins, said("small"), HumanMessage("?")], expected)
    if marked:
        assert (warm, cold) == (priced(WRITES, cached=WARM), priced(WRITES, written=WARM))
    else:
        assert warm == cold == priced(WRITES)


def test_without_the_conversation_nothing_is_in_a_cache() -> None:
    expected = outlook()
    assert expected.cost(expected.tiers[-1], DRAFT) == priced(PRICE)


def test_list_prices_are_taken_to_the_last_decimal() -> None:
    small = Tier(ScriptedModel("x", name="small"), price=PRICE)
    listed = Tier("openai:gpt-4.1", api_key="k")
    expected = Outlook(open_tiers([small, listed], ("small", "large")), clock=lambda: NOW)
    large = expected.tiers[-1]
    for asked, cached in ((("small", "large"), WARM), (("small",), 0)):
        used = Usage(input_tokens=2_500, cached_tokens=cached, output_tokens=100)
        by_table = large.pricing.cost(used)
        assert by_table is not None
        assert cost(conversation(said(*asked)), expected) == by_table


def test_each_larger_tier_has_its_own_cache() -> None:
    tiers = open_tiers(
        [Tier(ScriptedModel("x", name=n), price=PRICE, name=n) for n in ("a", "b", "c")]
    )
    expected = Outlook(tiers, clock=lambda: NOW)
    messages = conversation(said("a", "c"))
    costs = [expected.cost(tier, DRAFT, messages) for tier in tiers[1:]]
    assert costs == [priced(PRICE), priced(PRICE, cached=WARM)]


# --- the decision


def pair(confidence: float) -> Cascade:
    """An error costs 10 cents: escalating pays from a gain of 3.5 % on, or 1.3 % when warm."""
    answers = [
        reply("x", input_tokens=2_500, output_tokens=100, probability=p) for p in (0.5, confidence)
    ]
    return Cascade(
        Tier(ScriptedModel(answers, name="small"), price=Price(input="0.01", output="0.01")),
        Tier(ScriptedModel("y", name="large"), price=PRICE),
        policy=EconomicPolicy(0.1),
    )


def second_turn(confidence: float, first: str) -> Any:
    """The second question of a conversation whose first one that tier answered."""
    cascade = pair(confidence)
    question = HumanMessage(LONG)
    if first == "large":
        message = cascade.invoke([question]).message
    else:
        message = AIMessage("x", response_metadata={"tier": "small"})
        cascade.invoke("another conversation, whose cache is its own " * 400)
    return cascade.invoke([question, message, HumanMessage("?")])


@pytest.mark.parametrize(
    ("confidence", "first", "escalated", "usd"),
    [
        (0.98, "large", True, "0.0013112"),
        (0.98, "small", False, "0.0035"),
        (0.95, "small", True, "0.0035"),
        (0.99, "large", False, "0.0013112"),
    ],
)
def test_after_an_escalation_a_smaller_gain_is_enough(
    confidence: float, first: str, escalated: bool, usd: str
) -> None:
    result = second_turn(confidence, first)
    assert result.escalated is escalated
    # with a large model that is taken to be right, the rest of it is no expected error
    assert result.decision.expected_cost_escalate_usd == Decimal(usd)
    assert result.decision.threshold == pytest.approx(1 - float(usd) / 0.1)


def test_a_draft_may_be_stopped_by_the_same_figures() -> None:
    cascade = Cascade(
        Tier(
            ScriptedModel([reply("a b c", input_tokens=2_500, probability=0.98)], name="small"),
            price=Price(input="0.01", output="0.01"),
            max_tokens=4,
        ),
        Tier(ScriptedModel("y", name="large"), price=PRICE),
        policy=EconomicPolicy(0.1),
        abort=True,
    )
    question = HumanMessage(LONG)
    warm = AIMessage("x", response_metadata=pair(0.5).invoke([question]).message.response_metadata)
    # 2,500 tokens cost 0.25 cents or 0.03, so that 0.98 is enough, or not
    assert not cascade.invoke([question]).escalated
    result = cascade.invoke([question, warm, HumanMessage("?")])
    assert result.escalated
    assert result.decision.reason.startswith("stopped after 1 tokens")


# --- going back


def going_back(large: Price, small: Price, ahead: int) -> tuple[Decimal, Decimal]:
    tiers = open_tiers(
        [
            Tier(ScriptedModel("x", name="s"), price=small),
            Tier(ScriptedModel("x", name="l"), price=large),
        ],
        ("small", "large"),
    )
    expected = Outlook(tiers, clock=lambda: NOW)
    messages = conversation(said("large"))
    found = expected.going_back(messages, steps_of(messages, ("small", "large")), ahead)
    assert found is not None
    return found.back_usd, found.stay_usd


SMALL = Price(input="0.25", cached_input="0.025", output=2)
LARGE = Price(input="1.25", cached_input="0.125", output=10)


def test_going_back_pays_a_cold_cache_once_and_staying_a_warm_one_each_time() -> None:
    tokens = (10_000 + 2) // 4
    cold = SMALL.cost(Usage(input_tokens=tokens, output_tokens=0))
    # all of the prompt was asked by then: 2,500 tokens are 19 steps
    warm = SMALL.cost(Usage(input_tokens=tokens, cached_tokens=WARM, output_tokens=0))
    large = LARGE.cost(Usage(input_tokens=tokens, cached_tokens=WARM, output_tokens=0))
    assert cold is not None
    assert warm is not None
    assert large is not None
    assert going_back(LARGE, SMALL, 4) == (cold + 3 * warm, 4 * large)


def latched(window: int, small: Price = SMALL) -> str | None:
    """Why no draft is tried after the hold; None where one is."""
    tiers = open_tiers(
        [
            Tier(ScriptedModel("x", name="s"), price=small),
            Tier(ScriptedModel("x", name="l"), price=LARGE),
        ],
        ("small", "large"),
    )
    latching = Latching(Latch(after=1, window=window, hold=1), Outlook(tiers, clock=lambda: NOW))
    trouble = said("small", "large", ago=3_000.0)  # the small model's cache has forgotten it
    return latching.why(conversation(trouble, said("large")))


def test_no_draft_is_tried_where_it_costs_more_than_it_could_ever_spare() -> None:
    assert latched(4) is None
    assert latched(1) == (
        "latched: 1 of the last 1 drafts of this conversation were in trouble; no draft is tried: "
        "1 drafts from a cold prompt cache would cost $0.000625, as many answers from a warm one "
        "$0.000390"
    )


def test_where_prices_do_not_say_a_draft_is_tried() -> None:
    assert latched(1, Price(per_hour=1)) is None


def test_answers_are_taken_to_be_as_long_as_the_last_one() -> None:
    used = said("large").model_copy(
        update={"usage_metadata": {"input_tokens": 1, "output_tokens": 50, "total_tokens": 51}}
    )
    messages = conversation(used)
    expected = outlook()
    found = expected.going_back(messages, steps_of(messages, ("small", "large")), 1)
    assert found is not None
    assert found.stay_usd == PRICE.cost(
        Usage(input_tokens=2_500, cached_tokens=WARM, output_tokens=50)
    )
