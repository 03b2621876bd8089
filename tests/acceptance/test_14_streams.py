"""Row 14: streams that never show a rejected draft; drafts that are stopped while written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk
from langgraph.graph import START, MessagesState, StateGraph

from cascade import Cascade, Price
from cascade.errors import ModelError
from cascade.events import Decided, Provisional, Retracted, Token
from cascade.middleware import Abort
from cascade.result import CascadeResult
from tests.acceptance.setups import calls_of, pair, shown, tries
from tests.acceptance.upstream import Answer, Held, Upstream

Q = "Capital of Australia?"
P = pytest.mark.parametrize("p", [0.95, 0.3])
PRICE = Price(input=1, output=1)


async def read(made: Cascade, how: str, show: Any = "verified") -> list[Any]:
    if how == "stream":
        return await asyncio.to_thread(lambda: list(made.stream(Q, show=show)))
    return [event async for event in made.astream(Q, show=show)]


# --- what is shown


@P
@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_a_stream_shows_the_answer_and_no_word_of_a_rejected_draft(
    upstream: Upstream, how: str, p: float
) -> None:
    *events, result = await read(pair(upstream, p), how)
    assert isinstance(result, CascadeResult)
    assert shown(events) == result.answer
    assert not [event for event in events if isinstance(event, Provisional | Retracted)]
    assert "".join(e.text for e in events if isinstance(e, Token)) == result.answer
    assert isinstance(events[0], Decided)
    assert {event.tier for event in events if isinstance(event, Token)} == {result.tier}


@P
async def test_an_optimistic_stream_shows_drafts_and_withdraws_rejected_ones(
    upstream: Upstream, p: float
) -> None:
    *events, result = await read(pair(upstream, p), "astream", "optimistic")
    provisional = "".join(event.text for event in events if isinstance(event, Provisional))
    assert provisional == f"small: {Q}"
    assert [isinstance(e, Retracted) for e in events].count(True) == (result.tier == "large")
    assert bool([e for e in events if isinstance(e, Token)]) is (result.tier == "large")
    assert shown(events) == result.answer


@P
@pytest.mark.parametrize("how", ["stream", "astream"])
async def test_the_chat_model_streams_the_answer_alone(
    upstream: Upstream, how: str, p: float
) -> None:
    model = pair(upstream, p).as_chat_model()
    if how == "stream":
        chunks = await asyncio.to_thread(lambda: list(model.stream(Q)))
    else:
        chunks = [chunk async for chunk in model.astream(Q)]
    assert len(chunks) > 2
    assert "".join(chunk.text for chunk in chunks) == f"{'small' if p > 0.8 else 'large'}: {Q}"


async def test_final_shows_the_result_alone_and_an_unknown_way_is_refused(
    upstream: Upstream,
) -> None:
    with pytest.raises(ValueError, match=r"show='all'.*verified, optimistic, final"):
        await read(pair(upstream), "astream", "all")
    assert upstream.seen == []
    (result,) = await read(pair(upstream, 0.3), "astream", "final")
    assert result.tier == "large"


async def test_words_of_the_large_model_are_shown_while_it_still_writes(upstream: Upstream) -> None:
    held = Held()
    upstream.next("large", Answer("one two three four", held=held, first=2))
    words = []
    async for event in pair(upstream, 0.3).astream(Q):
        if isinstance(event, Token):
            words.append(event.text)
            held.release()  # it goes on only because its first word has arrived
    assert "".join(words) == "one two three four"


async def test_a_rejected_draft_of_a_langchain_model_stays_out_of_the_streams_around_it(
    upstream: Upstream,
) -> None:
    upstream.says("small", "True or not", p=None)
    made = Cascade(upstream.chat("small"), upstream.tier("large"), verifier=lambda _q, _a: False)
    around = StateGraph(MessagesState).add_node("cascade", made.graph).add_edge(START, "cascade")
    stream = around.compile().astream(
        {"messages": [("human", Q)]}, stream_mode="messages", subgraphs=True
    )
    texts = [m.text async for _, (m, _) in stream if isinstance(m, AIMessageChunk) or m.text != Q]
    assert "".join(texts) == f"large: {Q}"
    assert "small" in upstream.models()


# --- streams that break


async def test_a_stream_that_breaks_is_repeated_and_ends_as_the_answer(upstream: Upstream) -> None:
    upstream.next("large", Answer("one two three four", broken_after=2), "five six")
    *events, result = await read(pair(upstream, 0.3, tries(2)), "astream")
    assert (result.answer, shown(events)) == ("five six", "five six")
    assert calls_of(result) == [("draft", "ok"), ("expert", "failed"), ("expert", "ok")]


async def test_where_it_breaks_for_good_its_words_are_withdrawn_for_the_draft(
    upstream: Upstream,
) -> None:
    upstream.next("large", Answer("one two three four", broken_after=2))
    *events, result = await read(pair(upstream, 0.3, tries(1)), "astream")
    assert (result.degraded, result.answer) == (True, f"small: {Q}")
    assert shown(events) in ("", result.answer)
    assert isinstance([e for e in events if not isinstance(e, Token)][-1], Retracted)


async def test_a_chat_models_stream_that_breaks_is_an_error(upstream: Upstream) -> None:
    upstream.says("large", Answer("one two three four", broken_after=2))
    model = pair(upstream, 0.3, tries(1)).as_chat_model()
    with pytest.raises(ModelError, match="disable_streaming=True"):
        [chunk async for chunk in model.astream(Q)]


# --- readers that leave


@pytest.mark.parametrize("how", ["stream", "astream", "chat model"])
async def test_a_reader_that_leaves_ends_the_call(upstream: Upstream, how: str) -> None:
    upstream.says("large", Answer("one two three", endless=True))
    made = pair(upstream, 0.3)
    if how != "stream":
        events: Any = (made if how == "astream" else made.as_chat_model()).astream(Q)
        await anext(e async for e in events if isinstance(e, Token | AIMessageChunk))
        await events.aclose()
    else:

        def leave() -> None:
            read = made.stream(Q)
            next(event for event in read if isinstance(event, Token))
            read.close()

        await asyncio.to_thread(leave)
    assert await asyncio.to_thread(upstream.asked("large")[0].left.wait, 300)


# --- abort


@pytest.mark.parametrize("provider", ["openai", "ollama"])
@pytest.mark.parametrize("show", ["verified", "optimistic"])
async def test_a_hopeless_draft_is_stopped_while_it_is_written(
    upstream: Upstream, provider: str, show: str
) -> None:
    upstream.says("small", Answer("we cannot know this " * 8, p=0.2, endless=True))
    small = upstream.tier("small", provider=provider, max_tokens=40, price=PRICE)
    made = Cascade(small, upstream.tier("large", price=PRICE), middleware=[Abort()])
    *events, result = await read(made, "astream", show)
    (draft,) = upstream.asked("small")
    assert draft.streamed
    assert await asyncio.to_thread(draft.left.wait, 300)
    assert (result.tier, result.escalated) == ("large", True)
    assert shown(events) == result.answer == f"large: {Q}"
    assert calls_of(result) == [("draft", "cancelled"), ("expert", "ok")]


async def test_a_draft_that_can_still_be_accepted_is_written_to_its_end(upstream: Upstream) -> None:
    small = upstream.tier("small", max_tokens=40)
    result = await Cascade(small, upstream.tier("large"), middleware=[Abort()]).ainvoke(Q)
    assert (result.answer, result.tier) == (f"small: {Q}", "small")
    assert calls_of(result) == [("draft", "ok")]
