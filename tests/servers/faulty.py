"""An upstream whose replies fail as it is told to: by chance, by a script, or always.

Every reply is counted by model and fault, and the last ones are kept. The numbers of a call are in
its reply's usage, so that a test finds it again in the ledger: `input_tokens` is `Call.number`.

    with FaultyServer(seed=7, shares={"small": 0.1}) as server:
        Tier("openai:small", base_url=server.openai_url, api_key="none")
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from aiohttp import web

from tests.servers import replies
from tests.servers.fake import FakeServer, Received, send_reply
from tests.servers.faults import FAULTS, Fault
from tests.servers.saying import Asked, Protocol, Said, reply

KEPT = 2000
"""So many of the last calls are kept."""

FINE = "fine"
"""Under this name replies without a fault are counted."""


@dataclass(frozen=True)
class Latency:
    """A lognormal waiting time before a reply.

    `sigma` is the standard deviation of its logarithm; 0 always waits the median. None is longer
    than `longest_s`.
    """

    median_s: float
    sigma: float = 0.5
    longest_s: float = 30.0

    def draw(self, chance: random.Random) -> float:
        """One waiting time, in seconds."""
        return min(self.longest_s, self.median_s * math.exp(chance.gauss(0.0, self.sigma)))


@dataclass
class Call:
    """One call that the server has seen.

    `left` is set when the client went away before the reply was complete, `done` when the server
    is through with it.
    """

    number: int
    asked: Asked
    fault: str
    said: Said
    wait_s: float
    authorization: str | None
    left: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


Answering = Callable[[Asked], Said]
Choosing = Callable[[Asked], Fault | None]


def oblige(asked: Asked) -> Said:
    """A sure answer to any question; the number of the call is its input tokens."""
    text = "True" if asked.is_check else "Canberra is the capital."
    return Said.of(text, input_tokens=asked.number)


class FaultyServer(FakeServer):
    """A server of both protocols with faults.

    Args:
        seed: of all chance; equal calls of a model in equal order meet equal faults.
        shares: by model, the share of its replies that are faulty, from 0 to 1.
        faults: which of them, each as likely as any other; those that a call cannot meet are not
            drawn for it, and those where nobody listens never.
        latency: by model, how long its replies take; at once by default.
        answering: what is answered where nothing is wrong, or before it goes wrong.
        choosing: chooses the fault of each call, or None, instead of all chance and scripts.
        kept: how many of the last calls are kept.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        shares: Mapping[str, float] | None = None,
        faults: Sequence[Fault] = FAULTS,
        latency: Mapping[str, Latency] | None = None,
        answering: Answering = oblige,
        choosing: Choosing | None = None,
        kept: int = KEPT,
    ) -> None:
        super().__init__()
        self.always: dict[str, Fault] = {}
        """By model, the fault of all its replies."""
        self.scripts: dict[str, deque[Fault | None]] = {}
        """By model, the faults of its next replies, None for none; then `always`, then chance."""
        self.sent: Counter[tuple[str, str]] = Counter()
        """Replies by (model, fault), `FINE` for those without."""
        self.calls: deque[Call] = deque(maxlen=kept)
        self.elsewhere: list[Received] = []
        """What came to the other server, to which redirects lead."""
        self._seed = seed
        self._shares = dict(shares or {})
        self._faults = tuple(fault for fault in faults if fault.listens)
        self._latency = dict(latency or {})
        self._answering = answering
        self._choosing = choosing
        self._chances: dict[str, random.Random] = {}
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

    @property
    def elsewhere_url(self) -> str:
        """Where redirects lead."""
        return f"http://localhost:{self._other.addresses[0][1]}"

    def url_for(self, protocol: Protocol, fault: Fault | None = None) -> str:
        """The base URL of a tier that is to meet a fault."""
        url = self.url if fault is None or fault.listens else self.refusing_url
        return f"{url}/v1" if protocol == "openai" else url

    def seen(self, model: str) -> list[Call]:
        """The kept calls of a model."""
        return [call for call in list(self.calls) if call.asked.model == model]

    @property
    def n_sent(self) -> int:
        """How many replies were begun."""
        return self.sent.total()

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        return await self._meet(request, "openai")

    async def _ollama(self, request: web.Request) -> web.StreamResponse:
        return await self._meet(request, "ollama")

    async def _meet(self, request: web.Request, protocol: Protocol) -> web.StreamResponse:
        body = json.loads(await request.read())
        asked = Asked.of(self.n_sent + 1, protocol, body, self.elsewhere_url)
        chance = self._chance(asked.model)
        fault = self._next(asked, chance)
        delay = self._latency.get(asked.model)
        said = self._answering(asked)
        name = FINE if fault is None else fault.name
        wait_s = 0.0 if delay is None else delay.draw(chance)
        call = Call(asked.number, asked, name, said, wait_s, request.headers.get("authorization"))
        self.sent[asked.model, name] += 1
        self.calls.append(call)
        given = (reply if fault is None else fault.make)(asked, said)
        try:
            return await send_reply(request, replace(given, delay_s=given.delay_s + wait_s))
        except ConnectionResetError:
            call.left.set()
            return web.Response()
        except asyncio.CancelledError:
            call.left.set()
            raise
        finally:
            call.done.set()

    def _chance(self, model: str) -> random.Random:
        return self._chances.setdefault(model, random.Random(f"{self._seed}/{model}"))

    def _next(self, asked: Asked, chance: random.Random) -> Fault | None:
        if self._choosing is not None:
            return self._choosing(asked)
        script = self.scripts.get(asked.model)
        if script:
            return script.popleft()
        if asked.model in self.always:
            return self.always[asked.model]
        # Both numbers are drawn for each call: what one meets does not depend on the one before.
        drawn, place = chance.random(), chance.random()
        possible = [f for f in self._faults if f.exists(asked.protocol, asked.form)]
        if drawn >= self._shares.get(asked.model, 0.0) or not possible:
            return None
        return possible[int(place * len(possible))]

    async def _arrived_elsewhere(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = json.loads(raw) if raw else {}
        self.elsewhere.append(Received(request.path, body, headers))
        return web.json_response(replies.openai_body("From elsewhere"))
