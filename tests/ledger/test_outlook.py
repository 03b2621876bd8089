"""What larger tiers are expected to cost, and what the large model alone would have."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage

from cascade.ledger.outlook import Outlook, PricedTier, fit_lengths
from cascade.ledger.prices import Price, Pricing
from cascade.state import Completion, Usage
from tests.ledger.samples import Clock

SMALL = Price(input=1, output=1)
LARGE = Price(input=1, output=10, cached_input="0.1", cache_write=2)
NO_PRICE = Pricing(source="?")


@dataclass(frozen=True)
class FakeModel:
    name: str = "openai:large"


def outlook(clock: Clock | None = None, **large: Any) -> Outlook:
    given = {"name": "large", "model": FakeModel(), "pricing": LARGE, "max_tokens": None, **large}
    made = Outlook([PricedTier("small", FakeModel(), SMALL, None), PricedTier(**given)])
    made.clock = clock or Clock()
    return made


def draft(prompt: int | None = 1_000, output: int | None = 100, **more: Any) -> Completion:
    usage = Usage(input_tokens=prompt, output_tokens=output, **more.pop("usage", {}))
    return Completion("Paris", "m", usage=usage, **more)


def question(text: str = "Capital of France?", name: str | None = "q") -> list[AnyMessage]:
    return [HumanMessage(text, id=name)]


LONG = [SystemMessage("rules " * 2_000), *question()]
LATER = [*LONG, AIMessage("Paris"), *question("And of Italy?", "q2")]


def baseline(ahead: Outlook, drafted: Completion, messages: list[AnyMessage]) -> tuple[Any, ...]:
    """What an accepted draft earns, with the ends of the range."""
    earned = ahead.earned(drafted, Decimal(0), messages)
    return earned["baseline_usd"], *earned["baseline_range"]


def test_before_any_audit_the_large_model_writes_what_is_seen_of_the_draft() -> None:
    thinking = draft(output=2_000, usage={"reasoning_tokens": 1_990})
    usd, low, high = baseline(outlook(), thinking, question())
    assert (usd, low) == (Decimal("0.0011"), Decimal("0.001"))
    assert high >= Decimal("0.0022"), "120 tokens are likely"


def test_twelve_audits_teach_how_long_the_large_models_answers_are() -> None:
    taught = outlook()
    for i in range(12):
        taught.learn(10 + i % 3, 118 + i % 5, 1.0)
    usd, low, high = baseline(taught, draft(output=10), question())
    assert Decimal("0.0020") < usd < Decimal("0.00235")
    assert low < Decimal("0.0022") < high
    before = taught.lengths
    for _ in range(288):
        taught.learn(1, 1, 1.0)
    assert taught.lengths.predict(1)[0] < before.predict(1)[0]


def test_a_range_from_audits_covers_what_it_says() -> None:
    rng = random.Random(0)

    def drawn() -> tuple[int, int, float]:
        words = rng.randint(5, 300)
        return (words, max(1, round(words * rng.lognormvariate(0.5, 0.7))), 10.0)

    covered = []
    for _ in range(30):
        known = fit_lengths([drawn() for _ in range(80)])
        for one in [drawn() for _ in range(100)]:
            _, low, high = known.predict(one[0])
            covered.append(low <= one[1] <= high)
    assert sum(covered) / len(covered) >= 0.95


def test_weights_of_audits_count_and_one_heavy_audit_leaves_the_range_open() -> None:
    rare = [(10, 1_000, 50.0)] * 10
    often = [(10, 10, 1.0)] * 10
    assert fit_lengths([*rare, *often]).predict(10)[0] > 500
    assert fit_lengths(often).predict(10)[0] == pytest.approx(10)
    assert fit_lengths([*often * 4, (10, 90, 1e6)]).factors is None


def test_a_baseline_has_no_more_than_an_answer_may_have_and_nothing_that_was_added() -> None:
    usd, _, high = baseline(outlook(max_tokens=50), draft(output=100), question())
    assert usd == high == Decimal("0.0015")
    assert baseline(outlook(), draft(added_tokens=600), question())[0] == Decimal("0.0014")


def test_a_tier_costs_its_prompt_and_an_answer_as_long_as_the_draft() -> None:
    ahead, free = outlook(), outlook(pricing=NO_PRICE)
    for messages in (question(), []):
        assert ahead.cost(ahead.tiers[-1], draft(), messages) == Decimal("0.002")
    for unknown in (draft(prompt=None), draft(output=None)):
        assert ahead.cost(ahead.tiers[-1], unknown, question()) is None
    assert free.cost(free.tiers[-1], draft(), question()) is None


def test_an_accepted_draft_earns_the_baseline_with_its_range() -> None:
    earned = outlook().earned(draft(), Decimal("0.0005"), question())
    low, high = earned.pop("baseline_range")
    assert low < earned["baseline_usd"] == Decimal("0.002") < high
    assert (earned["saved_usd"], earned["basis"]) == (Decimal("0.0015"), "estimated")
    unknown = outlook().earned(draft(), None, question())
    assert (unknown["saved_usd"], unknown["basis"]) == (None, "unknown")
    for ahead, drafted in (
        (outlook(pricing=NO_PRICE), draft()),
        (outlook(), draft(prompt=None)),
        (outlook(), draft(output=None)),
    ):
        nothing = ahead.earned(drafted, Decimal(0), question())
        assert nothing == {"baseline_usd": None, "saved_usd": None, "basis": "unknown"}


def test_the_large_model_alone_would_have_found_earlier_turns_in_its_cache() -> None:
    clock = Clock()
    ahead, drafted = outlook(clock), draft(prompt=3_000)
    first, second = baseline(ahead, drafted, LONG), baseline(ahead, drafted, LATER)
    assert first[0] == Decimal("0.004")
    assert second[0] == Decimal("0.004") - Decimal("0.0000009") * 2_944
    assert baseline(ahead, drafted, LATER) == second, "a question is looked up once"
    clock.now += 400
    assert baseline(ahead, drafted, [*LATER, *question("Spain?", "q3")])[0] == first[0]


def test_a_measured_request_is_charged_as_if_all_turns_had_gone_to_the_large_model() -> None:
    ahead, used = outlook(), Usage(input_tokens=3_000, output_tokens=100)
    baseline(ahead, draft(prompt=3_000), LONG)  # the small model answered
    plain, found = LARGE.cost(used), ahead.measured(used, LATER)
    assert found < plain
    even_later = [*LATER, AIMessage("Rome"), *question("And of Spain?", "q3")]
    assert ahead.measured(used, even_later) == plain, "its usage says what it really found"
    assert ahead.measured(used, question("short", "q4")) == plain


def test_a_large_model_that_was_sent_the_conversation_reads_it_from_its_cache() -> None:
    ahead, drafted = outlook(), draft(prompt=3_000)
    small, large = ahead.tiers
    cold = ahead.cost(large, drafted, LONG)
    ahead.measured(Usage(input_tokens=3_000, output_tokens=100), LONG)
    warm = ahead.cost(large, drafted, LONG)
    assert cold - warm == Decimal("0.0000019") * 2_944
    assert ahead.cost(small, drafted, LONG) == Decimal("0.0031")


@pytest.mark.parametrize(
    ("model", "marked", "cached"),
    [("openai:gpt", False, True), ("anthropic:claude", False, False), ("x:claude", True, True)],
)
def test_some_providers_cache_only_what_is_marked(model: str, marked: bool, cached: bool) -> None:
    mark = {"cache_control": {"type": "ephemeral"}} if marked else {}
    messages = [SystemMessage([{"type": "text", "text": "rules " * 2_000, **mark}]), *question()]
    ahead, used = outlook(model=FakeModel(model)), Usage(input_tokens=3_000, output_tokens=100)
    baseline(ahead, draft(prompt=3_000), messages)
    found = ahead.measured(used, [*messages, AIMessage("Paris"), *question("More?", "q2")])
    assert (found != LARGE.cost(used)) is cached
