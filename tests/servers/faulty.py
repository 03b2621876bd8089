"""An upstream whose replies fail as it is told to.

The last calls are kept, each with its fault. The numbers of a call are in its reply's usage, so
that a test finds it again in the ledger: `input_tokens` is `Call.number`.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from aiohttp import web

from tests.servers import replies
from tests.servers.fake import FakeServer, Received, send_reply
from tests.servers.faults import Fault
from tests.servers.saying import Asked, Protocol, Said, reply


@dataclass
class Call:
    """One call that the server has seen; `done` is set when the server is through with it."""

    number: int
    asked: Asked
    fault: str
    said: Said
    done: threading.Event = field(default_factory=threading.Event)


class FaultyServer(FakeServer):
    """A server of both protocols with faults.

    Args:
        answering: what is answered where nothing is wrong, or before it goes wrong.
        choosing: the fault of each call, or None.
        median_s: median of a lognormal waiting time before each reply.
        kept: how many of the last calls are kept.
    """

    def __init__(
        self,
        *,
        answering: Callable[[Asked], Said],
        choosing: Callable[[Asked], Fault | None] = lambda asked: None,
        median_s: float = 0.0,
        kept: int,
    ) -> None:
        super().__init__()
        self.n_sent = 0
        """How many replies were begun."""
        self.calls: deque[Call] = deque(maxlen=kept)
        self.elsewhere: list[Received] = []
        """What came to the other server, to which redirects lead."""
        self._answering, self._choosing = answering, choosing
        self._median_s, self._chance = median_s, random.Random(0)
        self._refusing = socket.socket()

    def __enter__(self) -> Self:
        super().__enter__()
        self._refusing.bind(("127.0.0.1", 0))
        return self

    def __exit__(self, *exc: object) -> None:
        self._refusing.close()
        self._run(self._other.cleanup())
        super().__exit__(*exc)

    async def _start(self) -> web.AppRunner:
        runner = await super()._start()
        other = web.Application()
        other.router.add_route("*", "/{path:.*}", self._arrived_elsewhere)
        self._other = web.AppRunner(other, shutdown_timeout=0.1)
        await self._other.setup()
        await web.TCPSite(self._other, "127.0.0.1", 0).start()
        return runner

    @property
    def refusing_url(self) -> str:
        """An address at which nobody listens for as long as the server runs."""
        return f"http://127.0.0.1:{self._refusing.getsockname()[1]}"

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._meet(request, "openai")

    async def _ollama(self, request: web.Request) -> web.StreamResponse:
        return await self._meet(request, "ollama")

    async def _meet(self, request: web.Request, protocol: Protocol) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.n_sent += 1
        elsewhere = f"http://localhost:{self._other.addresses[0][1]}"
        asked = Asked.of(self.n_sent, protocol, body, elsewhere)
        fault, said = self._choosing(asked), self._answering(asked)
        call = Call(asked.number, asked, "fine" if fault is None else fault.name, said)
        self.calls.append(call)
        wait_s = self._median_s * self._chance.lognormvariate(0.0, 0.5)
        given = (reply if fault is None else fault.make)(asked, said)
        try:
            return await send_reply(request, replace(given, delay_s=given.delay_s + wait_s))
        except ConnectionResetError:
            return web.Response()
        finally:
            call.done.set()

    async def _arrived_elsewhere(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"{}")
        self.elsewhere.append(Received(request.path, body, dict(request.headers)))
        return web.json_response(replies.openai_body("From elsewhere"))
