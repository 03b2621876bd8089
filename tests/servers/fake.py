"""A real HTTP server whose every answer is chosen by the test.

It speaks OpenAI chat completions (`/v1/chat/completions`, `/v1/models`), Anthropic's messages
(`/v1/messages`) and Ollama (`/api/chat`, `/api/show`, `/api/tags`). Without a script it answers
with the last message, upper-cased.

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


@dataclass
class Received:
    """One request as the server saw it."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the client went away before the answer was complete."""


Behaviour = replies.Reply | Callable[[Mapping[str, Any]], replies.Reply]


class FakeServer:
    """A server in a thread of its own, so that any event loop of a test can call it."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._script: deque[Behaviour] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

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
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> web.AppRunner:
        app = web.Application(client_max_size=2**24)
        self._add_routes(app.router)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._openai)
        router.add_get("/v1/models", self._models)
        router.add_post("/v1/messages", self._anthropic)
        router.add_post("/api/chat", self._ollama)
        router.add_post("/api/show", self._show)
        router.add_get("/api/tags", self._tags)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    async def has_closed_connections(self) -> None:
        """Wait until no client is connected."""
        for _ in range(500):
            if not self._runner.server.connections:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(self._runner.server.connections)} connections are open")

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

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, replies.openai_echo)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, replies.json_reply({"object": "list", "data": []}))

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, replies.anthropic_echo)

    async def _ollama(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, replies.ollama_echo)

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, replies.ollama_show)

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, replies.ollama_tags)

    async def _answer(self, request: web.Request, default: Behaviour) -> web.StreamResponse:
        raw = await request.read()
        received = Received(request.path, json.loads(raw or b"{}"), _headers(request))
        self.received.append(received)
        behaviour = self._script.popleft() if self._script else default
        reply = behaviour if isinstance(behaviour, replies.Reply) else behaviour(received.body)
        try:
            return await send_reply(request, reply)
        except (asyncio.CancelledError, ConnectionResetError):
            received.left.set()
            raise


def _headers(request: web.Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


async def send_reply(request: web.Request, reply: replies.Reply) -> web.StreamResponse:
    await asyncio.sleep(reply.delay_s)
    if reply.raw:
        return await _send_raw(request, reply)
    headers = {"content-type": reply.content_type, **reply.headers}
    if reply.ending == "end" and len(reply.parts) == 1 and not reply.endless:
        return web.Response(status=reply.status, body=reply.parts[0], headers=headers)
    if reply.parts or reply.endless:
        response = web.StreamResponse(status=reply.status, headers=headers)
        await response.prepare(request)
        for part in reply.parts:
            await response.write(part)
            await asyncio.sleep(reply.pause_s)
        while reply.endless:
            await response.write(reply.endless)
            await asyncio.sleep(reply.pause_s)
    else:
        response = web.Response(status=reply.status, headers=headers)
    return await _end(request, response, reply.ending)


async def _send_raw(request: web.Request, reply: replies.Reply) -> web.StreamResponse:
    """What stands in the parts, as it is; the connection ends with it."""
    assert request.transport is not None
    for part in reply.parts:
        request.transport.write(part)
        await asyncio.sleep(reply.pause_s)
    while reply.endless and not request.transport.is_closing():
        if request.transport.get_write_buffer_size() < len(reply.endless):
            request.transport.write(reply.endless)
        await asyncio.sleep(reply.pause_s)
    if reply.ending == "end":
        request.transport.close()
    return await _end(request, web.Response(), reply.ending)


async def _end(
    request: web.Request, response: web.StreamResponse, ending: replies.Ending
) -> web.StreamResponse:
    if ending == "hang":
        await asyncio.sleep(3600)
    if ending in ("drop", "reset") and request.transport is not None:
        if ending == "reset":
            connection = request.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    with suppress(ConnectionResetError, RuntimeError):
        if response.prepared:
            await response.write_eof()
    return response
