"""A load generator that costs little: raw HTTP/1.1 over kept connections, one loop.

Requests go to loopback only, their number and time are bounded.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

HOST = "127.0.0.1"


@dataclass(slots=True)
class Load:
    """What one run of a load found.

    Attributes:
        seconds: from the first request to the last answer.
        taken_s: of each answer.
        first_s: of each answer until its first byte.
        statuses: how often each HTTP status came; 0 for a connection that broke.
    """

    seconds: float = 0.0
    taken_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses.get(200, 0) / self.seconds

    def ms(self, percent: int) -> float:
        """A percentile of the time that an answer takes."""
        if len(self.taken_s) < 2:
            return 1000 * sum(self.taken_s)
        return 1000 * statistics.quantiles(self.taken_s, n=100, method="inclusive")[percent - 1]

    def saw(self, status: int) -> None:
        """Count an answer."""
        self.statuses[status] = self.statuses.get(status, 0) + 1


async def load(
    port: int,
    path: str,
    *,
    model: str,
    requests: int,
    concurrency: int,
    stream: bool = False,
    headers: Mapping[str, str] | None = None,
    max_seconds: float = 120.0,
) -> Load:
    """Put so many questions, so many at a time, each one different."""
    found, numbers = Load(), iter(range(requests))
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    start = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n{lines}"
    begun = time.perf_counter()

    async def worker() -> None:
        reader = writer = None
        for number in numbers:
            if time.perf_counter() - begun > max_seconds:
                return
            messages = [{"role": "user", "content": f"Question {number}: which city is it?"}]
            body = json.dumps({"model": model, "messages": messages, "stream": stream}).encode()
            sent = time.perf_counter()
            try:
                if writer is None or reader is None:
                    reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(f"{start}content-length: {len(body)}\r\n\r\n".encode() + body)
                status, first = await answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                found.saw(0)
                reader = writer = None
                continue
            found.saw(status)
            found.first_s.append(first - sent)
            found.taken_s.append(time.perf_counter() - sent)
        if writer is not None:
            writer.close()

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    found.seconds = time.perf_counter() - begun
    return found


async def answer(reader: asyncio.StreamReader) -> tuple[int, float]:
    """Read one answer to its end: its status, and when its head was there."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    first = time.perf_counter()
    status = int(head.split(b" ", 2)[1])
    at = head.find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
    elif b"transfer-encoding: chunked" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return status, first
