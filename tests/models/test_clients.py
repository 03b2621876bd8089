"""Connections: several event loops, cancellation, many requests at once, nothing left open."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from cascade.models.base import Model
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from cascade.models.per_loop import PerLoop
from tests.models.asking import ask, ask_in_pieces, question
from tests.servers import replies
from tests.servers.fake import FakeServer


def open_either(kind: str, server: FakeServer) -> Model:
    if kind == "openai":
        return OpenAIModel("m", base_url=server.openai_url)
    return OllamaModel("m", base_url=server.url)


async def test_64_requests_at_once_are_not_mixed_up(
    either_model: Model, server: FakeServer
) -> None:
    answers = await asyncio.gather(*(ask(either_model, f"question {i}") for i in range(64)))
    assert [answer.text for answer in answers] == [f"QUESTION {i}" for i in range(64)]
    assert len({id(answer) for answer in answers}) == 64


async def test_64_streams_at_once_are_not_mixed_up(either_model: Model) -> None:
    streams = await asyncio.gather(
        *(ask_in_pieces(either_model, f"question {i}") for i in range(64))
    )
    assert ["".join(pieces) for pieces, _ in streams] == [f"QUESTION {i}" for i in range(64)]


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_one_model_in_several_event_loops(kind: str, server: FakeServer) -> None:
    model = open_either(kind, server)
    for i in range(3):
        assert asyncio.run(ask(model, f"loop {i}")).text == f"LOOP {i}"


@pytest.mark.parametrize("kind", ["openai", "ollama"])
@pytest.mark.parametrize("aiohttp", [True, False])
def test_a_proxy_of_the_environment_is_not_asked_for_a_server_on_this_machine(
    kind: str, aiohttp: bool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.models.posting.find_spec", lambda _: aiohttp or None)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert asyncio.run(ask(open_either(kind, server), "hi")).text == "HI"


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_one_model_in_event_loops_of_several_threads(kind: str, server: FakeServer) -> None:
    model = open_either(kind, server)
    texts: dict[int, str] = {}

    def run(i: int) -> None:
        async def several() -> None:
            answers = await asyncio.gather(*(ask(model, f"thread {i}") for _ in range(4)))
            texts[i] = {answer.text for answer in answers}.pop()

        asyncio.run(several())

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {i: f"THREAD {i}" for i in range(4)}


@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_closes_the_connection(
    either_model: Model, server: FakeServer, stream: bool
) -> None:
    server.will(replies.HANG)
    task = asyncio.create_task((ask_in_pieces if stream else ask)(either_model))
    await server.has_received()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.last.left.wait, 2)


async def test_leaving_a_stream_closes_the_connection(
    either_model: Model, server: FakeServer
) -> None:
    server.will(
        replies.sse(replies.openai_chunks("Paris")[:2], done=False, ending="hang")
        if isinstance(either_model, OpenAIModel)
        else replies.ndjson(replies.ollama_chunks("Paris")[:1] * 2, ending="hang")
    )
    stream = either_model.stream(question())
    async for chunk in stream:
        if chunk.text:
            break
    await stream.aclose()
    assert await asyncio.to_thread(server.last.left.wait, 2)


async def test_a_closed_model_can_be_used_again(either_model: Model) -> None:
    await ask(either_model)
    await either_model.aclose()
    await either_model.aclose()
    assert (await ask(either_model, "again")).text == "AGAIN"


class Resource:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


def test_ending_the_loop_closes_what_was_opened_in_it() -> None:
    opened = PerLoop(Resource, Resource.close)
    resource = asyncio.run(opened.get())
    assert resource.closed


def test_one_per_loop_and_ended_loops_are_forgotten() -> None:
    opened = PerLoop(Resource, Resource.close)

    async def twice() -> Resource:
        first = await opened.get()
        assert await opened.get() is first
        return first

    loops = []
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loops.append(weakref.ref(loop))
        loop.run_until_complete(twice())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    del loop
    asyncio.run(twice())
    gc.collect()
    assert [ref() for ref in loops] == [None, None]


async def test_closing_reaches_into_a_loop_of_another_thread() -> None:
    opened = PerLoop(Resource, Resource.close)
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    resource = asyncio.run_coroutine_threadsafe(opened.get(), other).result()
    await opened.aclose()
    assert resource.closed
    other.call_soon_threadsafe(other.stop)
    thread.join()
    other.close()


async def test_closing_after_the_other_loop_has_ended_does_nothing() -> None:
    opened = PerLoop(Resource, Resource.close)
    other = asyncio.new_event_loop()
    await asyncio.to_thread(other.run_until_complete, opened.get())
    await asyncio.to_thread(other.run_until_complete, other.shutdown_asyncgens())
    other.close()
    await opened.aclose()
