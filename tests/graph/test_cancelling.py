"""Whoever stops waiting stops the request: the server sees it within a tenth of a second.

And the ledger knows of the call that was stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, Tier
from cascade.ledger.store import Store, open_store
from cascade.models.base import guard
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel
from tests.servers import replies
from tests.servers.fake import FakeServer, Received

AT_MOST_S = 0.1
TRIES = 3
"""The best of so many: the machine of a test may be busy with something else at that moment."""

SCRIPTS: dict[str, dict[str, list[replies.Reply]]] = {
    "openai": {
        "draft": [],
        "self_check": [replies.openai_reply("Sydney")],
        "expert": [replies.openai_reply("Sydney"), replies.openai_reply("False")],
    },
    "ollama": {
        "draft": [],
        "self_check": [replies.ollama_reply("Sydney")],
        "expert": [replies.ollama_reply("Sydney"), replies.ollama_reply("False")],
    },
}
NODES = ["draft", "self_check", "expert"]
STUCK_IN_STREAM = replies.sse([replies.openai_delta(content="It is ")], done=False, ending="hang")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(guard, "forbidden", False)  # the server is on this machine, and a fake
    with FakeServer() as running:
        yield running


class House:
    """A cascade over HTTP whose server hangs in one of its nodes, and whose ledger is a file."""

    def __init__(self, server: FakeServer, folder: Path, provider: str = "openai") -> None:
        url = {"openai": server.openai_url, "ollama": server.url}[provider]
        key = {"openai": "k", "ollama": None}[provider]
        tiers = [Tier(f"{provider}:{n}", base_url=url, api_key=key) for n in ("small", "large")]
        self.server, self.provider = server, provider
        self.ledger: Store = open_store(f"sqlite:///{folder}/ledger.db")
        self.cascade = Cascade(*tiers, signals=["p_true"], ledger=self.ledger)
        self.waits_s: list[float] = []

    def hangs_in(self, node: str, last: replies.Reply = replies.HANG) -> int:
        """Let the next question hang there; returns which request that will be."""
        before = SCRIPTS[self.provider][node]
        self.server.will(*before, last)
        return len(self.chats) + len(before)

    @property
    def chats(self) -> list[Received]:
        """Questions to a model, without those about it."""
        return [r for r in self.server.received if r.path not in ("/api/show", "/api/tags")]

    async def hanging(self, n: int) -> Received:
        for _ in range(1000):
            if len(self.chats) > n:
                return self.chats[n]
            await asyncio.sleep(0.01)
        raise AssertionError(f"{n} requests did not arrive")

    def measure(self, stopped: float, hung: Received) -> None:
        assert hung.left.wait(10), "the server never saw that nobody waits any more"
        self.waits_s.append(time.perf_counter() - stopped)

    async def close(self) -> list[LedgerEntry]:
        await self.cascade.aclose()
        await self.ledger.flush()
        entries = await self.ledger.query()
        assert await self.ledger.unfinished() == []
        await self.ledger.aclose()
        return entries

    def check(self, entries: list[LedgerEntry], node: str) -> None:
        assert min(self.waits_s) < AT_MOST_S, self.waits_s
        last = NODES[: NODES.index(node) + 1]
        calls = [(e.node, e.outcome) for e in entries if e.model is not None]
        ended = [(name, "ok") for name in last[:-1]]
        assert calls == [*ended, (node, "cancelled")] * TRIES
        assert all(e.cost_usd is None for e in entries if e.outcome == "cancelled")


Way = Callable[[Cascade, Awaitable[Any]], Awaitable[float]]
"""Asks and stops once the server hangs; returns when it stopped."""


async def by_cancel(cascade: Cascade, hangs: Awaitable[Any]) -> float:
    task = asyncio.create_task(cascade.ainvoke("?"))
    await hangs
    stopped = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return stopped


async def by_time_limit(cascade: Cascade, hangs: Awaitable[Any]) -> float:
    limit = asyncio.timeout(None)
    stopped = 0.0
    with pytest.raises(TimeoutError):  # noqa: PT012 - the limit is around it
        async with limit, asyncio.TaskGroup() as group:
            group.create_task(cascade.ainvoke("?"))
            await hangs
            stopped = time.perf_counter()
            limit.reschedule(asyncio.get_running_loop().time())
    return stopped


async def by_leaving_a_stream(cascade: Cascade, hangs: Awaitable[Any]) -> float:
    """The reader of a stream is cancelled while it waits for the next event."""

    async def read() -> None:
        async for _ in cascade.astream("?"):
            pass

    task = asyncio.create_task(read())
    await hangs
    stopped = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return stopped


@pytest.mark.parametrize("way", [by_cancel, by_time_limit, by_leaving_a_stream])
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("provider", ["openai", "ollama"])
async def test_who_stops_waiting_stops_the_request(
    provider: str, node: str, way: Way, server: FakeServer, tmp_path: Path
) -> None:
    house = House(server, tmp_path, provider)
    tasks = asyncio.all_tasks()
    for _ in range(TRIES):
        hung = asyncio.ensure_future(house.hanging(house.hangs_in(node)))
        stopped = await way(house.cascade, hung)
        await asyncio.to_thread(house.measure, stopped, await hung)
    assert asyncio.all_tasks() == tasks
    house.check(await house.close(), node)


async def test_closing_a_stream_between_its_events_stops_the_request(
    server: FakeServer, tmp_path: Path
) -> None:
    house = House(server, tmp_path)
    for _ in range(TRIES):
        n = house.hangs_in("expert", STUCK_IN_STREAM)
        events = house.cascade.astream("?")
        shown = [await anext(events), await anext(events)]
        assert [type(event).__name__ for event in shown] == ["Decided", "Token"]
        stopped = time.perf_counter()
        await events.aclose()
        await asyncio.to_thread(house.measure, stopped, await house.hanging(n))
    entries = await house.close()
    house.check(entries, "expert")
    assert "6 characters had arrived" in entries[-1].note


def test_breaking_off_a_synchronous_stream_stops_the_request(
    server: FakeServer, tmp_path: Path
) -> None:
    house = House(server, tmp_path)
    for _ in range(TRIES):
        n = house.hangs_in("expert", STUCK_IN_STREAM)
        for event in house.cascade.stream("?"):
            if type(event).__name__ == "Token":
                break
        house.measure(time.perf_counter(), house.chats[n])
    house.check(asyncio.run(house.close()), "expert")


@pytest.fixture
def keyboard() -> Iterator[None]:
    """An interrupt from the keyboard counts, also where this was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
@pytest.mark.parametrize("node", NODES)
def test_an_interrupt_from_the_keyboard_stops_the_request(
    node: str, server: FakeServer, tmp_path: Path
) -> None:
    house = House(server, tmp_path)
    for _ in range(TRIES):
        n = house.hangs_in(node)

        def interrupt(n: int = n) -> None:
            asyncio.run(house.hanging(n))
            os.kill(os.getpid(), signal.SIGINT)

        pressing = threading.Thread(target=interrupt)
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            house.cascade.invoke("?")
        stopped = time.perf_counter()
        pressing.join()
        house.measure(stopped, house.chats[n])
    house.check(asyncio.run(house.close()), node)


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from cascade import Cascade, Tier
from cascade.ledger.store import open_store

url, folder, way = sys.argv[1:]
tiers = [Tier(f"openai:{name}", base_url=url, api_key="k") for name in ("small", "large")]
cascade = Cascade(*tiers, ledger=open_store(f"sqlite:///{folder}/ledger.db"))
print(cascade.invoke("?") if way == "invoke" else list(cascade.stream("?")))
"""


@pytest.mark.parametrize("way", ["invoke", "stream"])
async def test_a_program_that_is_interrupted_closes_its_request_and_its_ledger(
    way: str, server: FakeServer, tmp_path: Path
) -> None:
    """It does not end before both is done, though nothing but its main thread keeps it alive."""
    for _ in range(TRIES):
        server.will(replies.HANG)
        began = len(server.received)
        program = subprocess.Popen(  # noqa: ASYNC220 - it starts in no time
            [sys.executable, "-c", PROGRAM, server.openai_url, str(tmp_path), way],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        while len(server.received) == began:
            assert program.poll() is None, program.communicate()
            await asyncio.sleep(0.01)
        program.send_signal(signal.SIGINT)
        stopped = time.perf_counter()
        assert await asyncio.to_thread(server.last.left.wait, 10)
        assert time.perf_counter() - stopped < 5.0, "not before the program was gone"
        _, complaints = program.communicate(timeout=30)
        assert "KeyboardInterrupt" in complaints
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        assert [(e.node, e.outcome) for e in await ledger.query()] == [
            ("draft", "cancelled")
        ] * TRIES
        assert await ledger.unfinished() == []


# --- a model in this process


class Watched:
    """llama.cpp's server, and when its last call returned."""

    def __init__(self, server: Any) -> None:
        self.listening_address = server.listening_address
        self._server = server
        self.began, self.ended = threading.Event(), threading.Event()
        self.ended_s = 0.0

    def handle_chat_completions(self, payload: dict[str, Any], callback: Any) -> object:
        def called(item: Any) -> bool:
            self.began.set()
            return bool(callback(item))

        try:
            return self._server.handle_chat_completions(payload, called)
        finally:
            self.ended_s = time.perf_counter()
            self.ended.set()


@pytest.mark.live
async def test_a_model_in_this_process_stops_computing_when_nobody_waits(tmp_path: Path) -> None:
    """At its next token; the caller waits for nothing."""
    small = Tier("llamacpp:smollm2-135m", max_tokens=1500, options={"ignore_eos": True})
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        cascade = Cascade(small, ScriptedModel("x"), ledger=ledger)
        model: Any = cascade.tiers[0].model
        await model.listening_address()  # loaded
        engine = model._shared_engine()
        server, returned_s, computed_s = engine._server, [], []
        for _ in range(TRIES):
            engine._server = watched = Watched(server)
            task = asyncio.create_task(cascade.ainvoke("Count to a thousand."))
            assert await asyncio.to_thread(watched.began.wait, 60)
            await asyncio.sleep(0.3)
            stopped = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            returned_s.append(time.perf_counter() - stopped)
            assert await asyncio.to_thread(watched.ended.wait, 60)
            computed_s.append(watched.ended_s - stopped)
        engine._server = server
        assert min(returned_s) < AT_MOST_S, returned_s
        assert min(computed_s) < AT_MOST_S, computed_s
        calls = [(e.node, e.outcome) for e in await ledger.query()]
        assert calls == [("draft", "cancelled")] * TRIES
        await cascade.aclose()
