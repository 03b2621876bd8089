"""What a reader of a stream sees, and what is left when they stop reading."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade import Cascade, Tier
from cascade.agents.showing import words
from cascade.errors import ModelUnavailableError, StreamInterruptedError
from cascade.events import Decided, Retracted, Token
from cascade.graph import DEFAULT_RETRY
from cascade.ledger import MemoryLedger, recorder
from cascade.models import Chunk, Request
from cascade.result import CascadeResult
from cascade.testing import ScriptedModel, reply

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
BROKEN = StreamInterruptedError("the line broke", model="m", billed=None)
DOWN = ModelUnavailableError("down", model="m", billed=False)


class Breaking(ScriptedModel):
    """Shows two words and breaks off, as often as it is told, then answers."""

    def __init__(self, answer: str, breaks: int) -> None:
        super().__init__([answer], name="breaking")
        self.breaks = breaks

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        if self.breaks:
            self.breaks -= 1
            self.requests.append(request)
            yield Chunk("The answer")
            yield Chunk(" might be")
            raise BROKEN
        async for chunk in super()._stream(request):
            yield chunk


class Endless(ScriptedModel):
    """Streams one word after the other until somebody stops it."""

    def __init__(self) -> None:
        super().__init__(["x"], name="endless")
        self.stopped = threading.Event()

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        try:
            while True:
                yield Chunk("word ")
                await asyncio.sleep(0.001)
        finally:
            self.stopped.set()


def draft(text: str, probability: float) -> ScriptedModel:
    return ScriptedModel([reply(text, probability=probability)])


def shown(events: list[Any]) -> str:
    """What a reader sees at the end."""
    text = ""
    for event in events:
        if isinstance(event, Retracted):
            text = ""
        elif isinstance(event, Token):
            text += event.text
    return text


async def read_into(events: list[Any], cascade: Cascade) -> None:
    async for event in cascade.astream("?"):
        events.append(event)  # noqa: PERF401 - what comes before an error counts


async def events_of(cascade: Cascade) -> list[Any]:
    return [event async for event in cascade.astream("?")]


async def test_an_accepted_draft_comes_after_its_decision_word_by_word() -> None:
    events = await events_of(Cascade(draft("It is Canberra", 0.9), ScriptedModel("x")))
    decided, *tokens, result = events
    assert isinstance(decided, Decided)
    assert (decided.tier, decided.decision.action) == ("small", "accept")
    assert tokens == [Token("It", "small"), Token(" is", "small"), Token(" Canberra", "small")]
    assert isinstance(result, CascadeResult)
    assert result.answer == "It is Canberra"


async def test_a_rejected_draft_is_never_shown() -> None:
    cascade = Cascade(draft("It is Sydney", 0.3), ScriptedModel(["It is Canberra"]))
    events = await events_of(cascade)
    assert [type(e).__name__ for e in events] == ["Decided", *["Token"] * 3, "CascadeResult"]
    assert {e.tier for e in events if isinstance(e, Token)} == {"large"}
    assert shown(events) == events[-1].answer == "It is Canberra"


async def test_each_tier_that_was_judged_is_told() -> None:
    tiers = [
        Tier(draft("a", 0.1), name="s"),
        Tier(draft("b", 0.2), name="m"),
        Tier(ScriptedModel("c"), name="l"),
    ]
    events = await events_of(Cascade(tiers=tiers))
    assert [e.tier for e in events if isinstance(e, Decided)] == ["s", "m"]


async def test_tokens_of_a_broken_stream_are_retracted_before_the_next_attempt() -> None:
    cascade = Cascade(draft("Sydney", 0.3), Breaking("Canberra", breaks=1), retry_policy=FAST)
    events = await events_of(cascade)
    kinds = [type(e).__name__ for e in events]
    assert kinds == ["Decided", "Token", "Token", "Retracted", "Token", "CascadeResult"]
    assert "the line broke" in events[3].reason
    assert shown(events) == "Canberra"


async def test_a_stream_that_breaks_for_good_is_retracted_and_the_draft_shown() -> None:
    cascade = Cascade(draft("Sydney it is", 0.3), Breaking("x", breaks=3), retry_policy=FAST)
    events = await events_of(cascade)
    assert sum(isinstance(e, Retracted) for e in events) == 3
    assert events[-1].degraded
    assert shown(events) == events[-1].answer == "Sydney it is"


async def test_nothing_is_retracted_when_nothing_was_shown() -> None:
    large = ScriptedModel(["Canberra"], failures=[DOWN])
    events = await events_of(Cascade(draft("Sydney", 0.3), large, retry_policy=FAST))
    assert not any(isinstance(e, Retracted) for e in events)
    events = await events_of(
        Cascade(draft("Sydney", 0.3), ScriptedModel([DOWN]), retry_policy=FAST)
    )
    assert not any(isinstance(e, Retracted) for e in events)
    assert shown(events) == "Sydney"


async def test_without_a_draft_the_error_comes_after_a_retraction() -> None:
    cascade = Cascade(tiers=[Breaking("x", breaks=3)], retry_policy=FAST)
    events: list[Any] = []
    with pytest.raises(StreamInterruptedError) as caught:
        await read_into(events, cascade)
    assert shown(events) == ""
    assert caught.value.ledger is not None
    assert [e.outcome for e in caught.value.ledger] == ["failed"] * 3


def test_a_synchronous_stream_gives_the_same_events() -> None:
    cascade = Cascade(draft("It is Canberra", 0.9), ScriptedModel("x"))
    one, two = list(cascade.stream("?")), asyncio.run(events_of(cascade))
    assert one[:-1] == two[:-1]
    assert isinstance(one[-1], CascadeResult)


def test_a_synchronous_stream_raises_what_went_wrong() -> None:
    with pytest.raises(ModelUnavailableError):
        list(Cascade(tiers=[ScriptedModel([DOWN])], retry_policy=FAST).stream("?"))


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def test_a_synchronous_stream_that_is_closed_early_stops_the_model() -> None:
    model, store = Endless(), MemoryLedger()
    threads = threading.active_count()
    stream = Cascade(tiers=[model], ledger=store).stream("?")
    assert next(stream) == Token("word ", "scripted:endless")
    stream.close()
    wait_until(lambda: model.stopped.is_set() and store.entries)
    assert [e.outcome for e in store.entries] == ["cancelled"]
    assert threading.active_count() <= threads + 1  # the portal's own


async def test_a_stream_that_is_closed_early_stops_the_model_before_it_returns() -> None:
    model, store = Endless(), MemoryLedger()
    before = asyncio.all_tasks()
    stream = Cascade(tiers=[model], ledger=store).astream("?")
    await anext(stream)
    await stream.aclose()
    assert model.stopped.is_set()
    assert [e.outcome for e in store.entries] == ["cancelled"]
    assert asyncio.all_tasks() == before


async def test_a_time_limit_around_a_stream_stops_the_model() -> None:
    model, store = Endless(), MemoryLedger()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(events_of(Cascade(tiers=[model], ledger=store)), 0.1)
    assert model.stopped.is_set()
    assert [e.outcome for e in store.entries] == ["cancelled"]


async def test_streams_that_are_read_in_turns_keep_their_ledgers_apart() -> None:
    failing = Cascade(draft("", 0.9), ScriptedModel([DOWN]), retry_policy=FAST)
    fine = Cascade(draft("a b c", 0.9), ScriptedModel("x"))
    one, two = fine.astream("?"), failing.astream("?")
    await anext(one)
    await anext(two)
    rest = [event async for event in one]
    with pytest.raises(ModelUnavailableError) as caught:
        async for _ in two:
            pass
    assert len(rest[-1].ledger) == 3  # type: ignore[union-attr]
    assert caught.value.ledger is not None
    assert [e.node for e in caught.value.ledger] == [
        "draft",
        "self_check",
        "verify",
        *["expert"] * 3,
    ]
    assert recorder._collected.get() is None


async def test_a_stream_may_be_left_to_the_garbage_collector() -> None:
    model = Endless()
    async for _ in Cascade(tiers=[model]).astream("?"):
        break
    for _ in range(1000):
        if model.stopped.is_set():
            break
        await asyncio.sleep(0.005)
    assert model.stopped.is_set()


@given(st.text(alphabet=" \n\tab."))
def test_the_words_of_a_draft_make_up_the_whole_draft(text: str) -> None:
    assert "".join(words(text)) == text
