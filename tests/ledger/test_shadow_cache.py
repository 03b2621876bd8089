"""What the large model's prompt cache would hold, had it been asked everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from cascade.errors import ConfigurationError
from cascade.ledger.shadow_cache import ShadowCache, asks_for_caching, characters

LONG = "word " * 2_000  # 10,000 characters


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tokens(messages: Sequence[BaseMessage]) -> int:
    return characters(messages) // 4


def ask(cache: ShadowCache, *messages: BaseMessage) -> int:
    return cache.cached(messages, tokens(messages))


def test_the_first_prompt_finds_nothing_and_the_next_turn_finds_it() -> None:
    cache = ShadowCache()
    first = HumanMessage(LONG)
    assert ask(cache, first) == 0
    turn = [first, AIMessage("short"), HumanMessage("and now?")]
    found = ask(cache, *turn)
    # 2,500 tokens of the prompt are the first message; 19 steps of 128 fit
    assert found == 19 * 128 == 2432


def test_a_system_prompt_is_shared_by_other_conversations() -> None:
    cache = ShadowCache()
    rules = SystemMessage(LONG)
    ask(cache, rules, HumanMessage("one"))
    assert ask(cache, rules, HumanMessage("two")) == 2432


def test_what_was_really_sent_is_not_missed() -> None:
    """Then the real usage says what the provider found, were it nothing."""
    clock = Clock()
    cache = ShadowCache(clock=clock)
    first = HumanMessage(LONG)
    turn = [first, AIMessage("x" * 6_000), HumanMessage("y")]
    assert cache.missed([first], 2_500) == 0
    assert cache.missed(turn, 4_000) == 0
    # a turn that the large model was not sent
    unseen = [*turn, AIMessage("z"), HumanMessage("?" * 4_000)]
    assert ask(cache, *unseen) == 31 * 128
    after = [*unseen, AIMessage("z"), HumanMessage("!")]
    assert cache.missed(after, 5_000) == 39 * 128
    assert cache.missed(after, 5_000) == 0  # now it was
    # sent too long ago, but kept in use by turns that it was not sent
    clock.now = 200
    assert ask(cache, *after) == 39 * 128
    clock.now = 400
    assert cache.missed(after, 5_000) == 39 * 128


def test_another_beginning_finds_nothing() -> None:
    cache = ShadowCache()
    ask(cache, HumanMessage(LONG), AIMessage("x"))
    assert ask(cache, HumanMessage("!" + LONG), AIMessage("x"), HumanMessage("y")) == 0
    # the same text from someone else is another prompt
    assert ask(cache, SystemMessage(LONG), HumanMessage("y")) == 0


def test_the_same_question_asked_again_is_there_as_a_whole() -> None:
    cache = ShadowCache()
    ask(cache, HumanMessage(LONG))
    assert ask(cache, HumanMessage(LONG)) == 2432


def test_asking_about_the_same_question_again_gives_the_same_answer() -> None:
    """The decision, the expert and the audit ask one after the other, and none finds its own."""
    cache = ShadowCache()
    first = [HumanMessage(LONG, id="1")]
    turn = [*first, AIMessage("x", id="2"), HumanMessage("y", id="3")]
    assert [ask(cache, *first) for _ in range(3)] == [0, 0, 0]
    assert [ask(cache, *turn) for _ in range(3)] == [2432] * 3
    # an id that is used twice, for another text, is another question
    assert ask(cache, HumanMessage(LONG + "!", id="3")) == 0


@pytest.mark.parametrize(("minimum", "found"), [(1024, 2432), (2432, 2432), (2433, 0), (4096, 0)])
def test_below_the_providers_minimum_nothing_is_cached(minimum: int, found: int) -> None:
    cache = ShadowCache(minimum=minimum)
    ask(cache, HumanMessage(LONG))
    assert ask(cache, HumanMessage(LONG), AIMessage("x"), HumanMessage("y")) == found


def test_short_prompts_find_nothing() -> None:
    cache = ShadowCache()
    question = HumanMessage("What is the capital of Australia?")
    assert ask(cache, question) == ask(cache, question) == 0


@pytest.mark.parametrize(("pause", "found"), [(299, 2432), (301, 0)])
def test_a_prompt_is_kept_for_five_minutes_after_its_last_use(pause: float, found: int) -> None:
    clock = Clock()
    cache = ShadowCache(clock=clock)
    ask(cache, HumanMessage(LONG))
    clock.now = 200
    assert ask(cache, HumanMessage(LONG)) == 2432  # used again
    clock.now = 200 + pause
    assert ask(cache, HumanMessage(LONG), AIMessage("x"), HumanMessage("y")) == found


def test_the_least_recently_used_are_forgotten_first() -> None:
    cache = ShadowCache(most=3)
    ask(cache, HumanMessage("a" + LONG))
    ask(cache, HumanMessage("b" + LONG))
    ask(cache, HumanMessage("a" + LONG))
    ask(cache, HumanMessage("c" + LONG))
    ask(cache, HumanMessage("d" + LONG))
    assert ask(cache, HumanMessage("a" + LONG)) == 2432
    assert ask(cache, HumanMessage("b" + LONG)) == 0


def test_the_tokens_of_one_model_are_never_mixed_with_those_of_another() -> None:
    """The same prompt is 2,500 tokens for one model and 5,000 for another."""
    cache = ShadowCache()
    messages = [HumanMessage(LONG), AIMessage("x" * 10_000), HumanMessage("")]
    cache.cached(messages[:1], 2_500)
    assert cache.cached(messages, 10_000) == 39 * 128 == 4992


def test_images_and_calls_count_for_their_part() -> None:
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    seen = [HumanMessage([{"type": "text", "text": "look"}, image, "at it"])]
    assert characters(seen) == 4 + 4_000 + 5
    call = {"name": "find", "args": {"city": "Rome"}, "id": "1", "type": "tool_call"}
    answered = [AIMessage("", tool_calls=[call]), ToolMessage("sunny", tool_call_id="1")]
    assert characters(answered) == len("find") + len('{"city": "Rome"}') + len("sunny")
    assert characters([HumanMessage("")]) == 0


def test_a_prompt_may_mark_what_to_cache() -> None:
    marked = {"type": "text", "text": "rules", "cache_control": {"type": "ephemeral"}}
    assert asks_for_caching([SystemMessage([marked]), HumanMessage("x")])
    assert not asks_for_caching([SystemMessage([{"type": "text", "text": "rules"}])])
    assert not asks_for_caching([HumanMessage("cache_control")])


@pytest.mark.parametrize("name", ["ttl_s", "minimum", "step", "most"])
def test_limits_that_make_no_sense_are_refused(name: str) -> None:
    limits: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigurationError, match=f"{name}=0"):
        ShadowCache(**limits)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9_000), min_size=1, max_size=12))
def test_a_conversation_finds_all_that_went_before_it_in_whole_steps(lengths: list[int]) -> None:
    """Against the provider's rule, computed by hand from the text itself."""
    cache = ShadowCache()
    messages: list[BaseMessage] = []
    before = 0
    for turn, length in enumerate(lengths):
        question = HumanMessage(str(turn) + "q" * length)
        messages.append(question)
        now = characters(messages)
        steps = int(before / now * (now // 4)) // 128 * 128
        assert ask(cache, *messages) == (steps if steps >= 1024 else 0)
        before = now if now >= 1024 and now // 4 >= 1024 else before
        messages.append(AIMessage("a" * (length // 3)))
