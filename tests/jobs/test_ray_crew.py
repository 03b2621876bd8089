"""The job's side of a job on Ray, with blocks that are handed on in this process: no row waits for
ever, whatever cannot be written, sent or read."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from cascade.errors import CascadeError, LedgerError
from cascade.jobs import Record, Row
from cascade.jobs.ray_crew import Crew
from cascade.jobs.ray_replica import to_bytes

pytest.importorskip("ray", reason="the extra ray is not installed")

LONG_S = 20
"""Of what has to come at once, and otherwise never does."""


class Blocks:
    """In the place of Ray, its actor and its replicas: what is to be heard is put into `said`."""

    def __init__(self) -> None:
        self.said: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self.begun = asyncio.Event()
        self.ended = 0
        self.put = SimpleNamespace(remote=lambda *_: self.begun.set())
        self.settle = SimpleNamespace(remote=lambda _: None)
        self.end = SimpleNamespace(remote=self._end)

    def _end(self) -> None:
        self.ended += 1
        self.said.put(None)

    def remote(self, **_: object) -> Any:
        return lambda _: SimpleNamespace(remote=lambda: self)

    def answers(self, *_: object) -> Iterator[tuple[int, bytes]]:
        yield from iter(self.said.get, None)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Blocks:
    made = Blocks()
    monkeypatch.setattr("cascade.jobs.ray_crew.cluster", lambda *_: nullcontext(made))
    monkeypatch.setattr("cascade.jobs.ray_feed.answers_of", made.answers)
    return made


class Run:
    """A crew, and the folder of its run once it has begun."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path
        self.stop = asyncio.Event()
        self.crew = Crew(self._work, tmp_path / "j", {}, 1, 1.0, 4, None, self.stop)

    def _work(self, folder: Path) -> Any:
        self.folder = folder

    def asks(self, question: Any = "?", number: int = 0) -> asyncio.Task[Record | None]:
        return asyncio.ensure_future(self.crew.ask(Row(number, {}, question)))


async def fails(asked: asyncio.Task[Record | None]) -> None:
    """Wait for a row that must not be answered."""
    await asyncio.wait_for(asked, LONG_S)
    pytest.fail("it was answered")


async def test_a_row_is_answered_by_what_replicas_say(blocks: Blocks, tmp_path: Path) -> None:
    run, record = Run(tmp_path), Record(0, "k", "ok", answer="yes")
    async with run.crew as crew:
        asked = run.asks()
        await asyncio.wait_for(blocks.begun.wait(), LONG_S)
        blocks.said.put((0, to_bytes({0: record})))
        assert await asyncio.wait_for(asked, LONG_S) == record
        crew.written(0)
    assert blocks.ended == 1
    assert not run.folder.exists()


async def test_a_folder_that_cannot_be_written_ends_all_rows(
    blocks: Blocks, tmp_path: Path
) -> None:
    run = Run(tmp_path)

    async def job() -> None:
        async with run.crew:
            first = run.asks(number=0)
            await asyncio.wait_for(blocks.begun.wait(), LONG_S)
            shutil.rmtree(run.folder)
            second = run.asks(number=1)
            with pytest.raises(LedgerError):
                await fails(first)
            await fails(second)

    with pytest.raises(LedgerError, match=r"1\.part cannot be written: No such file"):
        await job()
    assert blocks.ended == 1


async def test_a_question_that_cannot_be_sent_ends_all_rows(blocks: Blocks, tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def job() -> None:
        async with run.crew:
            await fails(run.asks({"messages": threading.Lock()}))

    with pytest.raises(TypeError, match="pickle"):
        await job()
    assert blocks.ended == 1
    assert not blocks.begun.is_set()


async def test_a_stop_that_cannot_be_told_ends_all_rows(blocks: Blocks, tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def job() -> None:
        async with run.crew:
            asked = run.asks()
            await asyncio.wait_for(blocks.begun.wait(), LONG_S)
            shutil.rmtree(run.folder)
            run.stop.set()
            await fails(asked)

    with pytest.raises(LedgerError, match="stop cannot be written"):
        await job()
    assert blocks.ended == 1


async def test_an_answer_that_cannot_be_read_ends_all_rows(blocks: Blocks, tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def job() -> None:
        async with run.crew:
            asked = run.asks()
            await asyncio.wait_for(blocks.begun.wait(), LONG_S)
            blocks.said.put((0, b"no json"))
            await fails(asked)

    with pytest.raises(CascadeError, match="Ray has ended the replicas"):
        await job()


def test_what_is_said_after_the_job_has_ended_is_heard_by_nobody(
    blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("threading.excepthook", told.append)
    monkeypatch.setattr(blocks, "end", SimpleNamespace(remote=lambda: None))

    async def begin() -> threading.Thread:
        run = Run(tmp_path)
        with suppress(ZeroDivisionError):
            async with run.crew:
                asked = run.asks()
                await asyncio.wait_for(blocks.begun.wait(), LONG_S)
                asked.cancel()
                raise ZeroDivisionError
        return next(each for each in threading.enumerate() if each.name == "cascade-ray")

    hearing = asyncio.run(begin())
    blocks.said.put((0, to_bytes({})))
    hearing.join(LONG_S)
    assert not hearing.is_alive()
    assert told == []
