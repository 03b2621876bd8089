"""A model server as a queue: the small model has slots, answers take as long as they take.

    python benchmarks/_slots.py [--slots 4] [--small-ms 150] [--small-cv 0.7] [--large-ms 300]

As `_upstream.py`, but an answer of `small` waits for one of the slots, first come, first served,
and takes a random (lognormal) time then; those of other models take theirs without a queue.
`GET /figures` tells what happened since it was asked last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import uvloop
from _children import child_process
from _upstream import Connection, serve

from cascade.fleet import LognormalTime


class Slots:
    """Who computes, who waits, and for how long."""

    def __init__(self, slots: int, small: LognormalTime, large: LognormalTime, seed: int) -> None:
        self.slots, self.small, self.large = slots, small, large
        self._random = Random(seed)
        self._free = slots
        self._queue: deque[tuple[float, Connection, bytes]] = deque()
        self._clear()

    def ask(self, model: str, connection: Connection, answer: bytes) -> None:
        """Answer in time."""
        if model != "small":
            seconds = self.large.draw(self._random)
            self.large_s.append(seconds)
            asyncio.get_running_loop().call_later(seconds, connection.late, answer)
        elif self._free:
            self._free -= 1
            self._begin(0.0, connection, answer)
        else:
            self._queue.append((time.perf_counter(), connection, answer))

    def _begin(self, waited_s: float, connection: Connection, answer: bytes) -> None:
        seconds = self.small.draw(self._random)
        self.waits_s.append(waited_s)
        self.small_s.append(seconds)
        asyncio.get_running_loop().call_later(seconds, self._end, connection, answer)

    def _end(self, connection: Connection, answer: bytes) -> None:
        connection.late(answer)
        if self._queue:
            since, following, its_answer = self._queue.popleft()
            self._begin(time.perf_counter() - since, following, its_answer)
        else:
            self._free += 1

    def _clear(self) -> None:
        self.waits_s: list[float] = []
        self.small_s: list[float] = []
        self.large_s: list[float] = []

    def figures(self) -> dict[str, Any]:
        """Since they were asked for last."""
        found = {"waits_s": self.waits_s, "small_s": self.small_s, "large_s": self.large_s}
        self._clear()
        return found


class _Queued(Connection):
    """One client of it."""

    server: ClassVar[Slots]

    def _deliver(self, head: bytes, body: bytes, answer: bytes) -> None:
        if head.startswith(b"get /figures"):
            figures = json.dumps(self.server.figures()).encode()
            start = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            self._transport.write(start % len(figures) + figures)
        elif head.startswith(b"post "):
            self.server.ask(str(json.loads(body)["model"]), self, answer)
        else:
            self._transport.write(answer)


@contextmanager
def slots_server(
    slots: int, small: LognormalTime, large: LognormalTime, seed: int = 1
) -> Iterator[int]:
    """A server in a process of its own; gives its port."""
    command = [sys.executable, str(Path(__file__).resolve()), "--slots", str(slots)]
    command += ["--seed", str(seed)]
    for name, each in (("small", small), ("large", large)):
        command += [f"--{name}-ms", str(1000 * each.mean_s), f"--{name}-cv", str(each.cv)]
    with child_process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[1])


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--small-ms", type=float, default=150)
    parser.add_argument("--small-cv", type=float, default=0.7)
    parser.add_argument("--large-ms", type=float, default=300)
    parser.add_argument("--large-cv", type=float, default=0.7)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    small = LognormalTime(mean_s=given.small_ms / 1000, cv=given.small_cv)
    large = LognormalTime(mean_s=given.large_ms / 1000, cv=given.large_cv)
    _Queued.server = Slots(given.slots, small, large, given.seed)
    uvloop.run(serve(0, given.seconds, _Queued))


if __name__ == "__main__":
    main()
