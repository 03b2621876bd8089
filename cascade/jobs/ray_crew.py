"""The replicas of a job, as the job sees them: a row goes in, and what became of it comes out."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import pickle
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cascade.errors import CascadeError, LedgerError
from cascade.jobs.parts import lock, new_run, parts_of
from cascade.jobs.ray_cluster import cluster
from cascade.jobs.ray_replica import STOP, Answers, Problem, Replica, Work, from_bytes
from cascade.jobs.records import Record
from cascade.jobs.rows import Row

__all__ = ["Crew", "pids"]

logger = logging.getLogger("cascade")

BLOCKS_PER_S = 10
"""Rows that come faster go several in a block. Well below what Ray Data moves (80 on two cores that
have nothing else to do), or a busy machine would not get to larger blocks."""

MOST_CALLS = 32
"""Blocks at once in a replica; each takes a thread there."""

PAUSE_S = 0.02
PATIENCE_S = 60.0
"""For replicas that end audits and close their connections."""


@dataclass(slots=True)
class _Block:
    """Rows that were sent together.

    Attributes:
        waiting: who waits for which row.
        unwritten: rows that are not in the journal yet.
    """

    waiting: dict[int, asyncio.Future[Record | None]]
    unwritten: set[int]


class Crew:
    """Replicas that come up with the first row, and are gone at the end of an `async with`.

    Args:
        work: what a replica is told, by the folder of the run.
        journal: beside which that folder is.
        made_with: as in the journal's head.
        replicas: how many.
        cpus: that Ray keeps for each.
        concurrency: rows under way at once in each.
        address: of a cluster; see `cluster`.
        stop: when it is set, no more rows are begun.
    """

    def __init__(
        self,
        work: Callable[[Path], Work],
        journal: Path,
        made_with: Mapping[str, Any],
        replicas: int,
        cpus: float,
        concurrency: int,
        address: str | None,
        stop: asyncio.Event,
    ) -> None:
        self._work, self._made_with = work, made_with
        self._journal = journal.absolute()
        self._replicas, self._cpus, self._concurrency = replicas, cpus, concurrency
        self._address, self._stop = address, stop
        self._opened = ExitStack()
        self._starting = asyncio.Lock()
        self._feeder: Any = None
        self._received = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._to_send: deque[tuple[Row, asyncio.Future[Record | None]]] = deque()
        self._blocks: dict[int, _Block] = {}
        self._block_of: dict[int, int] = {}
        self._sent = 0
        self._pace = _Pace(math.ceil(concurrency / MOST_CALLS), concurrency)
        self._problem: BaseException | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._feeder is not None:
                await self._end(hurried=kind is not None)
        finally:
            self._opened.close()
            with suppress(OSError):  # what a job that failed has left is for the next one
                parts_of(self._journal).rmdir()

    async def ask(self, row: Row) -> Record | None:
        """What became of a row; None where it was not begun because the job was stopped.

        Raises:
            CascadeError: the replicas cannot work.
        """
        loop = asyncio.get_running_loop()
        async with self._starting:
            if self._feeder is None and self._problem is None:
                try:
                    await self._start()
                except Exception as error:  # noqa: BLE001 - raised below, to all who ask
                    self._problem = error
        if self._problem is not None:
            raise self._problem
        if self._stop.is_set():
            return None
        if not self._to_send:
            loop.call_soon(self._send)
        future: asyncio.Future[Record | None] = loop.create_future()
        self._to_send.append((replace(row, columns={}), future))
        return await future

    def written(self, number: int) -> None:
        """The journal has a row."""
        index = self._block_of.pop(number, None)
        if index is None:
            return
        block = self._blocks[index]
        block.unwritten.discard(number)
        if not block.unwritten:
            self._settle(index)

    async def _start(self) -> None:
        connecting = cluster(self._address, self._replicas * self._cpus)
        # In a thread, in which Ray leaves SIGTERM to whoever handles it now.
        ray = await asyncio.to_thread(self._opened.enter_context, connecting)
        # Imported with Ray, which is an extra.
        from cascade.jobs.ray_feed import Feeder, answers_of  # noqa: PLC0415

        self._folder = new_run(self._journal, self._made_with)
        self._feeder = ray.remote(num_cpus=0)(Feeder).remote()
        calls = min(self._concurrency, MOST_CALLS)
        answers = answers_of(
            self._feeder, Replica, self._work(self._folder), self._replicas, self._cpus, calls
        )
        loop = asyncio.get_running_loop()

        def receive() -> None:
            with suppress(RuntimeError):  # the loop has ended without waiting
                try:
                    for index, said in answers:
                        loop.call_soon_threadsafe(self._arrived, index, from_bytes(said))
                except Exception as error:  # noqa: BLE001 - whoever waits for rows is told
                    loop.call_soon_threadsafe(self._fail, _as_ours(error))
                loop.call_soon_threadsafe(self._received.set)

        threading.Thread(target=receive, name="cascade-ray", daemon=True).start()
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await self._stop.wait()
        try:
            self._touch(STOP)
        except LedgerError as error:
            self._fail(error)
        while self._to_send:
            _settle(self._to_send.popleft()[1], None)

    def _send(self) -> None:
        try:
            while self._to_send:
                self._send_block()
        except Exception as error:  # noqa: BLE001 - also of a question that cannot be pickled
            self._fail(error)

    def _send_block(self) -> None:
        n = min(len(self._to_send), self._pace.rows)
        taken = [self._to_send.popleft() for _ in range(n)]
        index, self._sent = self._sent, self._sent + 1
        numbers = [row.number for row, _ in taken]
        waiting = {row.number: future for row, future in taken}
        self._blocks[index] = _Block(waiting, set(numbers))
        self._block_of.update(dict.fromkeys(numbers, index))
        self._touch(f"{index}.part")
        self._feeder.put.remote(index, pickle.dumps([row for row, _ in taken]))

    def _touch(self, name: str) -> None:
        path = self._folder / name
        try:
            path.touch()
        except OSError as error:
            raise LedgerError(f"{path} cannot be written: {error.strerror}.") from error

    def _arrived(self, index: int, answers: Answers | Problem) -> None:
        block = self._blocks.get(index)
        if block is None:
            return  # a block that was given to a replica twice
        if isinstance(answers, Problem):
            self._fail(answers.error())
            return
        self._pace.came(len(answers))
        for number, future in block.waiting.items():
            record = answers.get(number)
            _settle(future, record)
            if record is None:  # it was not begun, and the journal will not have it
                self._block_of.pop(number, None)
                block.unwritten.discard(number)
        if not block.unwritten:
            self._settle(index)

    def _settle(self, index: int) -> None:
        """Nobody needs the rows of a block any more, wherever they still are."""
        (self._folder / f"{index}.part").unlink(missing_ok=True)
        self._feeder.settle.remote(index)
        del self._blocks[index]

    def _fail(self, problem: BaseException) -> None:
        self._problem = self._problem or problem
        for block in self._blocks.values():
            for future in block.waiting.values():
                if not future.done():
                    future.set_exception(problem)
        for _, future in self._to_send:
            if not future.done():
                future.set_exception(problem)
        self._to_send.clear()

    async def _end(self, *, hurried: bool) -> None:
        assert self._watching is not None, "it is there since the start"
        self._watching.cancel()
        if hurried:  # what replicas still make of their rows is for the next run
            with suppress(LedgerError):  # it may be what has ended the job
                self._touch(STOP)
            self._feeder.end.remote()
            return
        self._feeder.end.remote()
        await self._received.wait()
        until = time.monotonic() + PATIENCE_S
        while pids(self._folder):
            if time.monotonic() > until:
                logger.warning("replicas have not ended within %s s: they are killed", PATIENCE_S)
                break
            await asyncio.sleep(PAUSE_S)
        shutil.rmtree(self._folder)


class _Pace:
    """How many rows go in a block: one where they take long, more where they come fast.

    Args:
        least: rows of a block.
        most: rows of a block.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self._last = time.monotonic()
        self._row_s = 1.0

    @property
    def rows(self) -> int:
        """Of the next block."""
        wanted = 1 / (self._row_s * BLOCKS_PER_S)
        return min(self._most, max(self._least, math.ceil(wanted)))

    def came(self, n: int) -> None:
        """So many rows have come."""
        now = time.monotonic()
        for _ in range(n):
            self._row_s += ((now - self._last) / n - self._row_s) / 50
        self._last = now if n else self._last
        self._row_s = max(self._row_s, 1e-6)


def pids(folder: Path) -> list[int]:
    """The processes of the replicas that live, as they are numbered on their machines."""
    found = []
    for path in folder.glob("*.replica"):
        with suppress(FileNotFoundError, ValueError), path.open("r+") as file:
            if not lock(file):
                found.append(int(json.load(file)["pid"]))
    return found


def _settle(future: asyncio.Future[Record | None], record: Record | None) -> None:
    if not future.done():
        future.set_result(record)


def _as_ours(error: Exception) -> CascadeError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return CascadeError(
        f"Ray has ended the replicas: {said[-1]} What is done is kept: run the same command again."
    )
