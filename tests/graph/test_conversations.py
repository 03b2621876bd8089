"""A conversation replayed: what the large model alone costs with its cache warm, and without."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, HumanMessage

from cascade import Cascade, Price, Tier
from cascade.ledger import LedgerView
from cascade.models import Request
from cascade.state import Completion, Usage
from cascade.testing import ScriptedModel, reply

CACHING = Price(input=1, cached_input="0.1", output=0)
PLAIN = Price(input=1, output=0)
NOTE = "the large model alone would have found more of the prompt in its cache"


def length(messages: Sequence[BaseMessage]) -> int:
    return sum(len(message.text) for message in messages)


class Provider:
    """A large model behind a real prompt cache, counting four characters a token."""

    def __init__(self, price: Price) -> None:
        self.price = price
        self.kept: list[list[str]] = []
        self.bill = Decimal(0)

    def __call__(self, request: Request) -> Completion:
        texts = [str(message.text) for message in request.messages]
        characters = length(request.messages)
        tokens = characters // 4
        begun = [before for before in self.kept if texts[: len(before)] == before]
        covered = max((sum(map(len, before)) for before in begun), default=0)
        warm = int(covered / characters * tokens) // 128 * 128
        self.kept.append(texts)
        usage = Usage(
            input_tokens=tokens, output_tokens=0, cached_tokens=warm if warm >= 1024 else 0
        )
        self.bill += self.price.cost(usage) or 0
        return Completion("answer", "large", usage)


def replay(
    lengths: Sequence[int], accepts: Sequence[bool], price: Price, **options: Any
) -> tuple[LedgerView, Provider]:
    """A conversation of so many characters a turn; some turns are accepted, some escalated."""
    turn = 0

    def draft(request: Request) -> Completion:
        tokens = length(request.messages) // 4
        chance = 0.9 if accepts[turn] else 0.5
        return reply("answer", probability=chance, input_tokens=tokens, output_tokens=0)

    provider = Provider(price)
    cascade = Cascade(
        Tier(ScriptedModel(draft, returns_logprobs=True), price=Price(input=0, output=0)),
        Tier(ScriptedModel(provider), price=price),
        **options,
    )
    messages: list[BaseMessage] = []
    entries = []
    for turn, characters in enumerate(lengths):
        messages.append(HumanMessage(f"{turn:03}" + "q" * characters))
        result = cascade.invoke(messages)
        messages.append(result.message)
        entries += result.ledger.entries
    return LedgerView(entries), provider


conversations = st.lists(st.tuples(st.integers(0, 9_000), st.booleans()), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(conversations)
def test_the_baseline_is_what_the_large_model_alone_is_billed(
    turns: list[tuple[int, bool]],
) -> None:
    """Whoever answered which turn: the bill of a provider that answered them all."""
    lengths, accepts = [n for n, _ in turns], [accepted for _, accepted in turns]
    ledger, _ = replay(lengths, accepts, CACHING)
    _, alone = replay(lengths, [False] * len(turns), CACHING)
    assert ledger.baseline_usd == alone.bill
    assert ledger.saved_usd == alone.bill - ledger.known_cost_usd


@settings(max_examples=20, deadline=None)
@given(conversations)
def test_without_a_price_for_the_cache_there_is_nothing_to_find(
    turns: list[tuple[int, bool]],
) -> None:
    lengths, accepts = [n for n, _ in turns], [accepted for _, accepted in turns]
    cold, _ = replay(lengths, accepts, PLAIN)
    warm, _ = replay(lengths, accepts, CACHING)
    assert cold.baseline_usd is not None
    assert warm.baseline_usd is not None
    assert warm.baseline_usd <= cold.baseline_usd
    assert all(e.saved_usd == 0 for e in cold if e.node == "expert")


def test_an_escalated_turn_pays_for_a_cache_that_the_cascade_left_cold() -> None:
    ledger, provider = replay([10_000, 100], [True, False], CACHING)
    (expert,) = [entry for entry in ledger if entry.node == "expert"]
    assert expert.cost_usd == provider.bill == Decimal("0.002528")
    # 2,432 of 2,528 tokens at a tenth of the price
    assert expert.baseline_usd == Decimal("0.0003392")
    assert expert.saved_usd == Decimal("0.0003392") - Decimal("0.002528")
    assert (expert.basis, expert.cost_basis, expert.note) == ("estimated", "measured", NOTE)


def test_an_escalation_that_finds_its_own_cache_is_its_own_baseline() -> None:
    ledger, _ = replay([10_000, 100], [False, False], CACHING)
    experts = [entry for entry in ledger if entry.node == "expert"]
    assert [e.cached_tokens for e in experts] == [0, 2432]
    assert [(e.saved_usd, e.basis, e.note) for e in experts] == [(0, "measured", "")] * 2


def test_a_judge_of_the_users_and_a_router_do_not_hide_a_turn() -> None:
    routed, _ = replay(
        [10_000, 100, 100],
        [True] * 3,
        CACHING,
        router=lambda messages: "large" if len(messages) == 3 else None,
        verifier=lambda _question, _answer: True,
    )
    (expert,) = [entry for entry in routed if entry.node == "expert"]
    assert expert.saved_usd is not None
    assert expert.saved_usd < 0
    plain, _ = replay([10_000, 100, 100], [True] * 3, CACHING)
    assert plain.baseline_usd == routed.baseline_usd


@pytest.mark.parametrize("price", [CACHING, PLAIN])
def test_many_turns_of_short_text_are_below_every_minimum(price: Price) -> None:
    ledger, _ = replay([20] * 6, [True, False] * 3, price)
    assert ledger.baseline_basis == "estimated"
    assert [e.saved_usd for e in ledger if e.node == "expert"] == [0, 0, 0]
