"""Fast, deterministic model server on loopback, so that a benchmark measures what asks it.

    python benchmarks/_upstream.py [--port 0] [--seconds 3600] [--late-ms 0]

It speaks OpenAI's chat completions, plain and streamed, with log-probs and usage, in raw asyncio,
and prints `READY PORT`. The model `small` is unsure of 30 % of the prompts, by their checksum;
every other model is sure of all. `GET /stats` counts the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import uvloop

UNSURE_PERCENT = 30
TEXT = (
    "The city is named in the official record, and every atlas lists it;"
    " in short, the answer is Springfield, as stated in the table above."
)
TOKENS = re.findall(r" ?\S+", TEXT)
USAGE = {"prompt_tokens": 20, "completion_tokens": len(TOKENS), "total_tokens": 20 + len(TOKENS)}


def unsure(model: str, prompt: str) -> bool:
    """Whether the model has low log-probs for this prompt."""
    return model == "small" and zlib.crc32(prompt.encode()) % 100 < UNSURE_PERCENT


def _token(text: str, low: bool, top: int) -> dict[str, Any]:
    entry = {"token": text, "logprob": -2.3 if low else -0.02, "bytes": None}
    others = [{"token": " other", "logprob": -4.0, "bytes": None}] * max(0, top - 1)
    return {**entry, "top_logprobs": [entry, *others] if top else []}


def _packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _framed(body: bytes, kind: bytes = b"application/json") -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (kind, len(body))
    ) + body


@cache
def _whole(model: str, low: bool, top: int | None) -> bytes:
    logprobs = None if top is None else {"content": [_token(t, low, top) for t in TOKENS]}
    message = {"role": "assistant", "content": "".join(TOKENS), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return _framed(_packed({**body, "choices": [choice], "usage": USAGE}))


@cache
def _streamed(model: str, low: bool, top: int | None, usage: bool) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}

    def event(delta: dict[str, str], text: str | None, finish: str | None = None) -> bytes:
        asked = text is not None and top is not None
        logprobs = {"content": [_token(text or "", low, top or 0)]} if asked else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return b"data: " + _packed({**head, "choices": [choice]}) + b"\n\n"

    events = [event({"role": "assistant", "content": ""}, None)]
    events += [event({"content": token}, token) for token in TOKENS]
    events += [event({}, None, "stop")]
    if usage:
        events += [b"data: " + _packed({**head, "choices": [], "usage": USAGE}) + b"\n\n"]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(e), e) for e in [*events, b"data: [DONE]\n\n"])
    head_line = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    return head_line + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Connection of one client."""

    counts: ClassVar[Counter[str]] = Counter()
    late_s: ClassVar[float] = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            self._deliver(head, self._answer(head, body))

    def _deliver(self, head: bytes, answer: bytes) -> None:
        if self.late_s and not head.startswith(b"get "):
            asyncio.get_running_loop().call_later(self.late_s, self._late, answer)
        else:
            self._transport.write(answer)

    def _late(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"head "):  # somebody opens a connection before there is a question
            return b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n"
        if head.startswith(b"get "):
            return _framed(_packed({"data": [], "object": "list", "calls": dict(self.counts)}))
        asked = json.loads(body)
        model = str(asked["model"]).rpartition("/")[2]
        self.counts[model] += 1
        low = unsure(model, str(asked["messages"][-1]["content"]))
        top = int(asked.get("top_logprobs") or 0) if asked.get("logprobs") else None
        if asked.get("stream"):
            options = asked.get("stream_options") or {}
            return _streamed(model, low, top, bool(options.get("include_usage")))
        return _whole(model, low, top)


@contextmanager
def child_process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with this, also when this one is told to end by SIGTERM."""
    if threading.current_thread() is threading.main_thread():
        # By itself SIGTERM ends a process at once, without a `finally`.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def upstream_process(port: int = 0, late_ms: int = 0) -> Iterator[tuple[int, Any]]:
    """A server in a process of its own, which thinks for so long: its port and its process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--port", str(port)]
    command += ["--late-ms", str(late_ms)]
    with child_process(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline().split()[1]), process


@contextmanager
def upstream(late_ms: int = 0) -> Iterator[int]:
    """The same; gives its port."""
    with upstream_process(late_ms=late_ms) as (port, _):
        yield port


async def serve(port: int, seconds: float) -> None:
    """Answer until a signal comes or the time is over."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=1024)
    print(f"READY {server.sockets[0].getsockname()[1]}", flush=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    server.close()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--late-ms", type=float, default=0)
    given = parser.parse_args()
    Connection.late_s = given.late_ms / 1000
    uvloop.run(serve(given.port, given.seconds))


if __name__ == "__main__":
    main()
