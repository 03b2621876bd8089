"""Event loops: several of them, closing from any of them, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager

import pytest

from cascade._portal import portal_loop, run_sync
from cascade.models import Model, loops
from cascade.models.loops import stream_at_home
from tests.models.asking import ask, ask_by_stream, ask_in_pieces
from tests.servers import replies
from tests.servers.fake import FakeServer


@contextmanager
def loop_elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def test_64_requests_at_once_are_not_mixed_up(model: Model) -> None:
    answers = await asyncio.gather(*(ask(model, f"question {i}") for i in range(64)))
    streams = await asyncio.gather(*(ask_by_stream(model, f"question {i}") for i in range(64)))
    assert [a.text for a in answers] == [a.text for a in streams]
    assert [a.text for a in answers] == [f"QUESTION {i}" for i in range(64)]


# Closing


async def test_a_model_is_closed_in_its_loop_and_can_be_used_again(
    model: Model, server: FakeServer
) -> None:
    for text in ("once", "again"):
        assert (await ask(model, text)).text == text.upper()
        await model.aclose()
        await server.has_closed_connections()
        await model.aclose()


async def test_connections_of_other_loops_are_closed_there_and_not_waited_for(
    model: Model, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "DELAY_S", 0.01)
    with loop_elsewhere() as other:
        await asyncio.to_thread(asyncio.run_coroutine_threadsafe(ask(model), other).result)
        await model.aclose()
        await server.has_closed_connections()
    await ask(model)
    run_sync(model.aclose())  # holds up this loop, in which the connections are
    await server.has_closed_connections()


async def test_connections_of_a_model_that_is_dropped_are_closed(
    opened: Callable[[str], Model], server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "DELAY_S", 0.01)
    await ask(opened("openai"))
    gc.collect()
    await server.has_closed_connections()


def test_connections_of_closed_loops_are_forgotten(opened: Callable[[str], Model]) -> None:
    model = opened("openai")
    idle = asyncio.new_event_loop()
    for loop in (asyncio.new_event_loop(), asyncio.new_event_loop(), idle):
        loop.run_until_complete(ask(model))
        if loop is not idle:
            loop.close()
    asyncio.run(ask(model))
    assert len(model._connection._clients._kept) == 2  # type: ignore[attr-defined]
    run_sync(model.aclose())
    idle.close()


UNCLOSED = """
import asyncio, gc
from langchain_core.messages import HumanMessage
from cascade._portal import portal_loop, run_sync
from cascade.models import Request, open_model

def opened():
    return open_model("openai:m", base_url=URL)

def ask(model):
    return model.complete(Request((HumanMessage("hi"),)))

asyncio.run(ask(opened()))

loop = asyncio.new_event_loop()  # closed as it is
loop.run_until_complete(ask(opened()))
loop.close()

in_a_cycle = opened()
in_a_cycle.itself = in_a_cycle
run_sync(ask(in_a_cycle))
del in_a_cycle
gc.collect()

async def end(closes):
    model = opened()
    await ask(model)
    if closes:
        await model.aclose()
for n in range(20):
    asyncio.run(end(closes=n % 2))

standing_still, model = asyncio.new_event_loop(), opened()
standing_still.run_until_complete(ask(model))
run_sync(ask(model))  # and one on the background loop, until the process ends
print("asked")
"""


def test_models_that_are_dropped_unclosed_print_nothing(server: FakeServer) -> None:
    code = UNCLOSED.replace("URL", repr(server.openai_url))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("asked\n", "", 0)


# Leaving


@pytest.mark.parametrize("asking", [ask, ask_in_pieces])
async def test_cancelling_closes_the_connection(
    asking: Callable[..., object], model: Model, server: FakeServer
) -> None:
    server.will(replies.HANG)
    task = asyncio.ensure_future(asking(model))  # type: ignore[call-overload]
    await server.has_received()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.last.left.wait, 5)


# A home for clients of others


class Numbers:
    """A stream that knows on which loop it was closed."""

    def __init__(self) -> None:
        self.closed_on: asyncio.AbstractEventLoop | None = None
        self.closed = threading.Event()

    async def stream(self) -> AsyncGenerator[int]:
        try:
            for number in range(1000):
                yield number
                await asyncio.sleep(0)
        finally:
            self.closed_on = asyncio.get_running_loop()
            self.closed.set()


async def test_a_stream_at_home_is_read_and_closed_on_the_background_loop() -> None:
    numbers = Numbers()
    reading = stream_at_home(numbers.stream())
    assert [await anext(reading) for _ in range(3)] == [0, 1, 2]
    await reading.aclose()
    assert await asyncio.to_thread(numbers.closed.wait, 5)
    assert numbers.closed_on is portal_loop()


async def test_a_failure_at_home_is_raised_to_the_reader() -> None:
    async def failing() -> AsyncGenerator[int]:
        yield 1
        raise KeyError("k")

    reading = stream_at_home(failing())
    assert await anext(reading) == 1
    with pytest.raises(KeyError):
        await anext(reading)


def test_a_reader_whose_loop_ends_is_not_waited_for() -> None:
    numbers = Numbers()

    async def read_one() -> int:
        return await anext(stream_at_home(numbers.stream()))

    assert asyncio.run(read_one()) == 0
    assert numbers.closed.wait(5)
