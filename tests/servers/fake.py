"""Real HTTP servers whose every answer is chosen by the test, each in a thread of its own.

`FakeServer` speaks OpenAI chat completions, Anthropic's messages and Ollama. Without a script it
answers with the last message, upper-cased.

    with FakeServer() as server:
        server.will(replies.error(429, "slow down"), replies.openai_reply("Paris"))
        Tier("openai:small", base_url=server.openai_url)
        ...
        assert server.last.body["temperature"] == 0
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from tests.servers import replies

Behaviour = replies.Reply | Callable[[Mapping[str, Any]], replies.Reply]
Handler = Callable[[web.Request], Any]


class Server:
    """A server that any event loop, thread or process may call while its block lasts."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    def routes(self) -> Mapping[str, Handler]:
        """Handlers, each by its method (or `*`) and path."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        self._runner = self._run(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _start(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        for route, handler in self.routes().items():
            app.router.add_route(*route.split(), handler)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        return runner

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    async def has_closed_connections(self) -> None:
        """Wait until no client is connected."""
        for _ in range(3000):
            if not self._runner.server.connections:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(self._runner.server.connections)} connections are open")


@dataclass
class Received:
    """One request as the server saw it; `left` is set once the client went before its end."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    left: threading.Event = field(default_factory=threading.Event)


class FakeServer(Server):
    """Answers by a script, and otherwise what stands in `DEFAULTS`."""

    DEFAULTS: Mapping[str, Behaviour] = {
        "/v1/chat/completions": replies.openai_echo,
        "/v1/models": replies.json_reply({"object": "list", "data": []}),
        "/v1/messages": replies.anthropic_echo,
        "/api/chat": replies.ollama_echo,
        "/api/show": replies.ollama_show,
        "/api/tags": replies.ollama_tags,
    }

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Received] = []
        self._script: deque[Behaviour] = deque()

    def routes(self) -> Mapping[str, Handler]:
        return {f"* {path}": self._answer for path in self.DEFAULTS}

    def forget(self) -> None:
        """Begin anew: no script, nothing received."""
        self.received.clear()
        self._script.clear()

    def will(self, *behaviours: Behaviour) -> None:
        """Say what the next requests get, one after the other."""
        self._script.extend(behaviours)

    @property
    def last(self) -> Received:
        return self.received[-1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"{}")
        received = Received(request.path, body, headers_of(request))
        self.received.append(received)
        behaviour = self._script.popleft() if self._script else self.DEFAULTS[request.path]
        reply = behaviour if isinstance(behaviour, replies.Reply) else behaviour(body)
        return await send(request, reply, received.left)


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def headers_of(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


async def send(
    request: web.Request, reply: replies.Reply, left: threading.Event
) -> web.StreamResponse:
    """Send a reply; `left` is set where the client goes before its end."""
    try:
        await asyncio.sleep(reply.delay_s)
        return await (_send_raw if reply.raw else _send)(request, reply)
    except asyncio.CancelledError:
        left.set()
        raise
    except ConnectionResetError:
        left.set()
        return web.Response()  # to a client that has gone


async def _released(reply: replies.Reply) -> None:
    while reply.held is not None and not reply.held.is_set():  # noqa: ASYNC110 - another thread's
        await asyncio.sleep(0.002)


async def _send(request: web.Request, reply: replies.Reply) -> web.StreamResponse:
    headers = {"content-type": reply.content_type, **reply.headers}
    if not reply.first:
        await _released(reply)
    if reply.ending == "end" and len(reply.parts) == 1 and not reply.endless:
        return web.Response(status=reply.status, body=reply.parts[0], headers=headers)
    if not reply.parts and not reply.endless:
        return await _end(request, web.Response(status=reply.status, headers=headers), reply)
    response = web.StreamResponse(status=reply.status, headers=headers)
    await response.prepare(request)
    for number, part in enumerate(reply.parts):
        if number == reply.first:
            await _released(reply)
        await response.write(part)
        await asyncio.sleep(reply.pause_s)
    while reply.endless:
        await response.write(reply.endless)
        await asyncio.sleep(reply.pause_s)
    return await _end(request, response, reply)


async def _send_raw(request: web.Request, reply: replies.Reply) -> web.StreamResponse:
    """What stands in the parts, as it is; the connection ends with it."""
    for part in reply.parts:
        request.transport.write(part)
        await asyncio.sleep(reply.pause_s)
    while reply.endless and not request.transport.is_closing():
        if request.transport.get_write_buffer_size() < len(reply.endless):
            request.transport.write(reply.endless)
        await asyncio.sleep(reply.pause_s)
    if reply.ending == "end":
        request.transport.close()
    return await _end(request, web.Response(), reply)


async def _end(
    request: web.Request, response: web.StreamResponse, reply: replies.Reply
) -> web.StreamResponse:
    if reply.ending == "hang":
        await asyncio.sleep(3600)
    if reply.ending in ("drop", "reset") and request.transport is not None:
        if reply.ending == "reset":
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    with suppress(ConnectionResetError, RuntimeError):
        if response.prepared:
            await response.write_eof()
    return response
