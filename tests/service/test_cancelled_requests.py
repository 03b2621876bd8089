"""Clients that go away: the upstream is let go, and the ledger knows."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import replies
from tests.service.talking import Talk, talking

PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/api/chat": {"messages": [{"role": "user", "content": "hi"}]},
}


async def settled(talk: Talk) -> None:
    """Wait until the gateway has ended what it was at."""
    for _ in range(500):
        if talk.gateway.service.served["support"].gate.running == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the request runs on")


async def waiting(talk: Talk, n: int) -> None:
    """Wait until so many requests are in the queue."""
    for _ in range(500):
        if talk.gateway.service.served["support"].gate.waiting == n:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it is not {n} that wait")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_goes_away_cancels_the_call(
    tmp_path: Path, path: str, stream: bool
) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(replies.HANG)
        asking = asyncio.create_task(talk.post(path, **PATHS[path], stream=stream))
        await talk.upstream.has_received()
        asking.cancel()
        left = talk.upstream.last.left
        assert await asyncio.to_thread(left.wait, 5)
        await settled(talk)
        (entry,) = [entry for entry in await talk.entries() if entry.node == "draft"]
        assert entry.outcome == "cancelled"


async def test_a_stream_that_is_left_half_way_cancels_the_call(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        unsure = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
        half = replies.sse([replies.openai_delta(content="Par")], done=False, ending="hang")
        talk.upstream.will(unsure, half)
        body = {"model": "support", "stream": True, **PATHS["/v1/chat/completions"]}
        async with talk.http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if "Par" in line:
                    break
        assert await asyncio.to_thread(talk.upstream.last.left.wait, 5)
        await settled(talk)
        assert {(e.node, e.outcome) for e in await talk.entries()} >= {("expert", "cancelled")}


async def test_a_client_that_waits_in_the_queue_may_leave_it(tmp_path: Path) -> None:
    async with talking(tmp_path, cascade={"concurrency": 1, "queue": 5}) as talk:
        talk.upstream.will(replies.HANG)
        first = asyncio.create_task(talk.chat())
        await talk.upstream.has_received()
        second = asyncio.create_task(talk.chat())
        await waiting(talk, 1)
        second.cancel()
        await waiting(talk, 0)
        first.cancel()
        await settled(talk)
        assert (await talk.chat()).status_code == 200
        assert len(talk.upstream.received) == 3


async def test_of_several_answers_all_are_cancelled(tmp_path: Path) -> None:
    async with talking(tmp_path) as talk:
        talk.upstream.will(*[replies.HANG] * 3)
        asking = asyncio.create_task(talk.chat(n=3))
        await talk.upstream.has_received(3)
        asking.cancel()
        for received in talk.upstream.received:
            assert await asyncio.to_thread(received.left.wait, 5)
        await settled(talk)


async def test_a_request_that_is_given_up_costs_its_key_what_was_spent(tmp_path: Path) -> None:
    async with talking(tmp_path, auth=True) as talk:
        secret = await talk.gateway.key("team", day_usd=Decimal(10))
        headers = {"Authorization": f"Bearer {secret}"}
        unsure = replies.openai_reply("a", logprobs=[{"token": "a", "logprob": -3.0}])
        talk.upstream.will(unsure, replies.HANG)
        asking = asyncio.create_task(talk.chat(headers=headers))
        await talk.upstream.has_received(2)
        asking.cancel()
        await settled(talk)
        service = talk.gateway.service
        key = await talk.gateway.in_loop(service.keys.find(secret))
        account = await talk.gateway.in_loop(service.budgets.account(key))
        # The two tokens of the draft at $1 a thousand; input is free, and nothing else arrived.
        assert account.day_usd == Decimal("0.002")
        assert account.reserved_usd == 0


async def test_a_client_that_goes_away_in_the_middle_of_many_disturbs_no_other(
    tmp_path: Path,
) -> None:
    async with talking(tmp_path) as talk:
        asking = [asyncio.create_task(talk.chat(stream=n % 2 == 0)) for n in range(30)]
        await asyncio.sleep(0.02)
        for n in range(0, 30, 3):
            asking[n].cancel()
        done = await asyncio.gather(*asking, return_exceptions=True)
        answered = [one for one in done if isinstance(one, httpx.Response)]
        assert len(answered) >= 20
        assert {one.status_code for one in answered} == {200}
        await settled(talk)
