"""The official Python clients stop a call upstream when they are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import replies
from tests.service.talking import ASKED, Talk, talking

UNSURE = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
HALF = replies.sse([replies.openai_delta(content="Par")], done=False, ending="hang")


async def chat(talk: Talk, stream: bool) -> Any:
    return await talk.openai.chat.completions.create(model="support", messages=ASKED, stream=stream)


async def responses(talk: Talk, stream: bool) -> Any:
    return await talk.openai.responses.create(model="support", input="hi", stream=stream)


async def ollama(talk: Talk, stream: bool) -> Any:
    return await talk.ollama.chat(model="support", messages=ASKED, stream=stream)


def shown(part: Any) -> bool:
    return "Par" in str(part)


clients = pytest.mark.parametrize("ask", [chat, responses, ollama])
Ask = Callable[[Talk, bool], Awaitable[Any]]


@clients
async def test_a_request_that_is_cancelled_stops_the_draft(tmp_path: Path, ask: Ask) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(replies.HANG)
        asking = asyncio.ensure_future(ask(talk, False))
        await talk.upstream.has_received()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(talk.upstream.last.left.wait, 5)


@clients
async def test_a_stream_that_is_closed_half_way_stops_the_large_model(
    tmp_path: Path, ask: Ask
) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(UNSURE, HALF)
        stream = await ask(talk, True)
        async for part in stream:
            if shown(part):
                break
        await (stream.aclose() if ask is ollama else stream.close())
        assert await asyncio.to_thread(talk.upstream.last.left.wait, 5)
        assert [one.body["model"] for one in talk.upstream.received] == ["small", "large"]
