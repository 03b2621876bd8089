"""Requests that arrive when they arrive, whether or not the ones before are answered.

A load of clients that wait for their answers asks less of a server that has become slow, and hides
it. Here each request has its time, drawn at random at a given rate, and its latency counts from
that time. Raw HTTP/1.1 over kept connections, to loopback only.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping

from _load import HOST, Load, answer

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]
REUSED_S = 2.0
"""A connection that was idle for longer is closed: servers close it too, some after 5 s, and a
request that meets that moment would count as broken."""

MOST_OPEN = 2_000
"""Requests under way at once: beyond it a server has long been lost, and the run says so."""


class Arrivals:
    """An endless load at a rate.

    Args:
        port: where to.
        path: of the requests.
        model: that is asked for.
        headers: of every request.
        streamed: share of the requests that want a stream.
        seed: of the times and of who wants a stream.
    """

    def __init__(
        self,
        port: int,
        path: str,
        *,
        model: str,
        headers: Mapping[str, str],
        streamed: float = 0.0,
        seed: int = 0,
    ) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        kind = "content-type: application/json\r\n"
        self._start = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\n{kind}{lines}"
        self._port, self._model, self._streamed = port, model, streamed
        self._random = random.Random(seed)
        self._idle: list[tuple[float, Link]] = []
        self._open: set[asyncio.Task[None]] = set()
        self._number = 0
        self.found = Load()

    async def run(self, per_second: float, seconds: float) -> None:
        """Let requests arrive for so long, at this rate on average; then wait for their answers.

        Raises:
            RuntimeError: so many are open that nothing will be answered any more.
        """
        due = time.perf_counter()
        end = due + seconds
        while (due := due + self._random.expovariate(per_second)) < end:
            ahead = due - time.perf_counter()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if len(self._open) >= MOST_OPEN:
                raise RuntimeError(f"{MOST_OPEN} requests are open: this rate is too high")
            task = asyncio.create_task(self._ask(due))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        await asyncio.gather(*self._open)
        self._close_idle(0.0)

    def taken(self) -> Load:
        """What was found since this was asked last; `seconds` is left to who knows them."""
        found, self.found = self.found, Load()
        return found

    async def _ask(self, due: float) -> None:
        self._number += 1
        content = f"Question {self._number}: which city is it?"
        messages = [{"role": "user", "content": content}]
        stream = self._random.random() < self._streamed
        body = json.dumps({"model": self._model, "messages": messages, "stream": stream}).encode()
        try:
            reader, writer = await self._link()
            writer.write(f"{self._start}content-length: {len(body)}\r\n\r\n".encode() + body)
            status, first = await answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.found.saw(0)
            return
        self._idle.append((time.perf_counter(), (reader, writer)))
        self.found.saw(status)
        self.found.first_s.append(first - due)
        self.found.taken_s.append(time.perf_counter() - due)

    async def _link(self) -> Link:
        self._close_idle(REUSED_S)
        if self._idle:
            return self._idle.pop()[1]
        return await asyncio.open_connection(HOST, self._port)

    def _close_idle(self, longer_s: float) -> None:
        until = time.perf_counter() - longer_s
        while self._idle and self._idle[0][0] <= until:
            self._idle.pop(0)[1][1].close()
