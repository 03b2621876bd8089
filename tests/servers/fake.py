"""A real HTTP server in a thread of its own, and how it sends what a test says."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from aiohttp import web

from tests.servers import replies

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
            method, path = route.split()
            app.router.add_route(method, path, handler)
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


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


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
    transport = request.transport
    assert transport is not None
    for part in reply.parts:
        transport.write(part)
        await asyncio.sleep(reply.pause_s)
    while reply.endless and not transport.is_closing():
        if transport.get_write_buffer_size() < len(reply.endless):
            transport.write(reply.endless)
        await asyncio.sleep(reply.pause_s)
    if reply.ending == "end":
        transport.close()
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
