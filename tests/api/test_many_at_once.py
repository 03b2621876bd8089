"""Hundreds of questions, many threads, several event loops: nothing is left over or mixed up.

Each question is answered over HTTP, audited after the reply, observed, and kept in a SQLite file.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, Price, Tier
from cascade._portal import run_sync
from cascade.ledger.store import open_store
from cascade.models.base import guard
from cascade.observing import ObservedRun, Observer
from cascade.result import CascadeResult
from tests.servers import replies
from tests.servers.fake import FakeServer

AT_ONCE = 200
THREADS = 16


def answer(body: Mapping[str, Any]) -> replies.Reply:
    """The number that was asked, by a model that doubts every third and counts it as tokens."""
    number, model = int(body["messages"][-1]["content"]), body["model"]
    doubtful = model == "small" and number % 3 == 0
    usage = {"prompt_tokens": number, "completion_tokens": 1}
    text = f"{model} {number}"
    logprobs = [{"token": text, "logprob": -2.0 if doubtful else -0.01, "top_logprobs": []}]
    if body.get("stream"):
        chunks = [replies.openai_delta(content=text), replies.openai_delta("stop")]
        return replies.sse([*chunks, {"choices": [], "usage": usage}])
    return replies.json_reply(replies.openai_body(text, usage=usage, logprobs=logprobs))


class AnsweringServer(FakeServer):
    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, answer)


class Runs(Observer):
    """Which runs began and ended, and with what answer."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}
        self.ended: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def run_began(self, run: ObservedRun) -> None:
        with self._lock:
            self.open[run.id] = str(run.messages[-1].text)

    def run_ended(self, run: ObservedRun) -> None:
        answer = None if run.ending is None else run.ending.answer
        with self._lock:
            self.ended.append((self.open.pop(run.id), "" if answer is None else str(answer.text)))


class House:
    def __init__(self, server: FakeServer, folder: Path) -> None:
        def tier(name: str) -> Tier:
            price = Price(input=1_000_000, output=0)  # a dollar per token: cost tells the question
            return Tier(f"openai:{name}", base_url=server.openai_url, api_key="k", price=price)

        self.server, self.runs = server, Runs()
        self.ledger = open_store(f"sqlite:///{folder}/ledger.db")
        self.cascade = Cascade(
            tier("small"),
            tier("large"),
            ledger=self.ledger,
            audit_rate=0.5,
            observers=[self.runs],
        )

    async def close(self) -> None:
        await self.cascade.aclose()
        await self.ledger.aclose()

    def check(self, results: Mapping[int, CascadeResult]) -> None:
        """Each answer is that of its question, and so is its ledger, in memory and in the file."""
        for number, result in results.items():
            tier = "large" if number % 3 == 0 else "small"
            assert (result.answer, result.tier) == (f"{tier} {number}", tier)
            assert {entry.run_id for entry in result.ledger} == {result.run_id}
            assert {entry.cost_usd for entry in result.ledger if entry.model} == {number}
        assert len({result.run_id for result in results.values()}) == len(results)
        wanted = Counter((str(number), result.answer) for number, result in results.items())
        assert Counter(self.runs.ended) == wanted
        assert self.runs.open == {}
        assert self.cascade._oversight.recorder._pending == {}
        self._check_file(results)

    def _check_file(self, results: Mapping[int, CascadeResult]) -> None:
        entries = run_sync(self.ledger.query())
        assert run_sync(self.ledger.unfinished()) == []
        by_run = {result.run_id: number for number, result in results.items()}
        kept: Counter[str] = Counter()
        for entry in entries:
            if entry.model is not None:
                assert entry.cost_usd == by_run[entry.run_id]
            kept[entry.run_id] += entry.node != "audit"
        assert kept == {result.run_id: len(result.ledger) for result in results.values()}
        audits = Counter(entry.run_id for entry in entries if entry.node == "audit")
        assert set(audits.values()) == {2}  # the call, and what it showed
        assert 0 < len(audits) < len(results)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """Afterwards there are as many sockets and threads as before the second use of it."""
    monkeypatch.setattr(guard, "forbidden", False)  # the server is on this machine, and a fake
    with AnsweringServer() as server:
        house = House(server, tmp_path)
        run_sync(asyncio.sleep(0))  # the background loop stays, with its own descriptors
        before = left_over()
        yield house
        run_sync(house.close())
        settles(lambda: left_over() == before, lambda: f"{before} before, {left_over()} after")


def left_over() -> tuple[int, Counter[str], int]:
    """Open sockets, threads by name without a number, and tasks of the background loop."""
    gc.collect()
    sockets = sum(_is_socket(name) for name in Path("/proc/self/fd").iterdir())
    threads = Counter(
        thread.name.rstrip("0123456789_-")
        for thread in threading.enumerate()
        if not thread.name.startswith(("asyncio_", "ThreadPoolExecutor"))  # a pool of the loop's
    )
    return sockets, threads, run_sync(_tasks()) - 1


async def _tasks() -> int:
    return len(asyncio.all_tasks())


def _is_socket(descriptor: Path) -> bool:
    try:
        return str(descriptor.readlink()).startswith("socket:")
    except OSError:
        return False


def settles(condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
    """Servers close their ends a moment later."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, complaint()
        time.sleep(0.05)


async def ask_all(cascade: Cascade, numbers: range) -> dict[int, CascadeResult]:
    answers = await asyncio.gather(*(cascade.ainvoke(str(number)) for number in numbers))
    return dict(zip(numbers, answers, strict=True))


def test_two_hundred_questions_at_once(house: House) -> None:
    async def ask() -> dict[int, CascadeResult]:
        before = asyncio.all_tasks()
        results = await ask_all(house.cascade, range(1, AT_ONCE + 1))
        await house.cascade.audits_done()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        return results

    results = asyncio.run(ask())
    run_sync(house.cascade.aclose())
    house.check(results)


def test_sixteen_threads_that_wait_for_their_answers(house: House) -> None:
    numbers = range(1, 97)
    with ThreadPoolExecutor(THREADS) as pool:
        results = dict(zip(numbers, pool.map(house.cascade.invoke, map(str, numbers)), strict=True))
    run_sync(house.cascade.aclose())
    house.check(results)


def test_sixteen_threads_with_event_loops_of_their_own(house: House) -> None:
    def loop_of(first: int) -> dict[int, CascadeResult]:
        return asyncio.run(ask_all(house.cascade, range(first, first + 6)))

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(loop_of, range(1, 97, 6)))
    run_sync(house.cascade.aclose())
    house.check({number: result for part in parts for number, result in part.items()})


def test_one_event_loop_after_the_other(house: House) -> None:
    results: dict[int, CascadeResult] = {}
    for first in range(1, 31, 10):
        results |= asyncio.run(ask_all(house.cascade, range(first, first + 10)))
    run_sync(house.cascade.aclose())
    house.check(results)


def test_synchronous_calls_inside_a_running_loop_beside_asynchronous_ones(house: House) -> None:
    async def ask() -> dict[int, CascadeResult]:
        beside = asyncio.create_task(ask_all(house.cascade, range(1, 21)))
        await asyncio.sleep(0)
        inside = {number: house.cascade.invoke(str(number)) for number in range(21, 31)}
        return inside | await beside

    results = asyncio.run(ask())
    run_sync(house.cascade.aclose())
    house.check(results)


def test_streams_that_are_read_at_the_same_time(house: House) -> None:
    async def read(number: int) -> CascadeResult:
        *_, last = [event async for event in house.cascade.astream(str(number))]
        assert isinstance(last, CascadeResult)
        return last

    async def ask() -> dict[int, CascadeResult]:
        numbers = range(1, 65)
        answers = await asyncio.gather(*map(read, numbers))
        return dict(zip(numbers, answers, strict=True))

    results = asyncio.run(ask())
    run_sync(house.cascade.aclose())
    house.check(results)


def test_two_hundred_questions_of_which_many_are_given_up(house: House) -> None:
    """At any moment: before a call is written down, before it is sent, while it is answered."""

    async def ask() -> list[BaseException | CascadeResult]:
        before, chance = asyncio.all_tasks(), random.Random(5)
        asking = [
            asyncio.create_task(house.cascade.ainvoke(str(number)))
            for number in range(1, AT_ONCE + 1)
        ]
        for task in asking:
            asyncio.get_running_loop().call_later(2.0 * chance.random(), task.cancel)
        ended = await asyncio.gather(*asking, return_exceptions=True)
        await house.cascade.audits_done()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        return ended

    ended = asyncio.run(ask())
    run_sync(house.cascade.aclose())
    kinds = Counter(type(each) for each in ended)
    assert set(kinds) <= {asyncio.CancelledError, CascadeResult}
    assert kinds[asyncio.CancelledError] > 0
    assert house.runs.open == {}
    entries = run_sync(house.ledger.query())
    calls = [entry for entry in entries if entry.model is not None]
    assert run_sync(house.ledger.unfinished()) == []
    # One that was cancelled just before it was sent is in the ledger, and never arrived.
    answered = sum(entry.outcome == "ok" for entry in calls)
    assert answered <= len(house.server.received) <= len(calls)
