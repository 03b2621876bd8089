"""Each fault at each tier, in each protocol and form, through a real cascade."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from unittest import mock

from langgraph.types import RetryPolicy

from cascade import Cascade, CascadeResult, Price, Tier
from cascade.confidence.signals import PTrueSignal, Signal
from cascade.errors import CascadeError
from cascade.events import Provisional, Retracted, Token
from cascade.graph import is_retryable
from cascade.models import Model, bounds
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from cascade.state import LedgerEntry
from tests.servers.fake import Received
from tests.servers.faults import FAULTS, Fault
from tests.servers.faulty import Call, FaultyServer
from tests.servers.saying import Asked, Form, Protocol, Said

Place = Literal["small", "large", "check"]
PLACES: tuple[Place, ...] = ("small", "large", "check")

PRICES = {
    "small": Price(input=1, output=2),
    "large": Price(input=10, output=30),
    "check": Price(input=3, output=4),
}
ATTEMPTS = 2
PATIENT_S, IMPATIENT_S = 60.0, 0.4
RETRIES = RetryPolicy(
    initial_interval=0.01, max_interval=0.01, max_attempts=ATTEMPTS, retry_on=is_retryable
)
LIMIT = 2 * 2**20
"""Bytes of a reply here: an answer of a megabyte fits, and what never ends is soon too large."""

AT_ONCE = 12
"""Cells that run at a time: more would wait for each other, and none for the server."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SMALL, LARGE = "Canberra is the capital.", "It is Canberra, since 1913."
WAITS = frozenset({"silent", "headers byte by byte", "body byte by byte"})
"""Faults that end only with the patience of whoever waits."""

SPOILS = frozenset({"reset after", "Content-Length short"})
"""Faults that leave a connection behind which breaks under the next who uses it."""


@dataclass(frozen=True)
class Cell:
    """One fault at one place, in one protocol and form."""

    fault: Fault
    place: Place
    protocol: Protocol
    form: Form

    @property
    def name(self) -> str:
        """How a failing test calls it, and the beginning of its question."""
        return f"{self.fault.name} at {self.place}, {self.protocol} {self.form}"

    @property
    def question(self) -> str:
        """Its own, by which the server knows it."""
        return f"{self.name}: What is the capital of Australia?"


def cells(faults: Sequence[Fault] = FAULTS) -> list[Cell]:
    """All that there are. Checks are not streamed."""
    return [
        Cell(fault, place, protocol, form)
        for fault in faults
        for protocol in fault.protocols
        for form in fault.forms
        for place in PLACES
        if place != "check" or form == "plain"
    ]


@dataclass
class Seen:
    """What became of a cell.

    Attributes:
        result: what the user got, or
        error: what was raised instead.
        shown: what a reader of the stream saw in the end.
        entries: of the ledger.
        calls: that the server saw.
    """

    cell: Cell
    result: CascadeResult | None = None
    error: CascadeError | None = None
    shown: str = ""
    entries: tuple[LedgerEntry, ...] = ()
    calls: list[Call] = field(default_factory=list)

    @property
    def met(self) -> int:
        """How often the server gave the fault."""
        return sum(call.fault == self.cell.fault.name for call in self.calls)

    def calls_of(self, tier: str) -> list[Call]:
        """Those that came for a tier, in order."""
        return [call for call in self.calls if call.asked.model == tier]

    @property
    def user(self) -> str:
        """What the user saw, in a word or two."""
        if self.error is not None:
            return type(self.error).__name__
        assert self.result is not None
        return f"{self.result.tier}, degraded" if self.result.degraded else self.result.tier

    def of(self, tier: str) -> list[LedgerEntry]:
        """The entries of calls to a tier, in order."""
        return [entry for entry in self.entries if entry.tier == tier and entry.model is not None]


class Bench:
    """Runs cells against one server; models, and so connections, are shared."""

    def __init__(self, server: FaultyServer) -> None:
        self._server = server
        self._models: dict[tuple[str, Protocol, bool, str], Model] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self, wanted: Sequence[Cell]) -> list[Seen]:
        """What becomes of these."""
        return list(await asyncio.gather(*map(self._one, wanted)))

    async def _one(self, cell: Cell) -> Seen:
        async with self._turns:
            seen = Seen(cell)
            cascade = self._cascade(cell)
            try:
                if cell.form == "plain":
                    seen.result = await cascade.ainvoke(cell.question)
                else:
                    await _streamed(cascade, seen)
            except CascadeError as error:
                seen.error = error
            seen.entries = _entries(seen)
            return seen

    def _cascade(self, cell: Cell) -> Cascade:
        check: Signal = PTrueSignal()
        check.model = self._tier("check", cell)
        return Cascade(
            small=self._tier("small", cell),
            large=self._tier("large", cell),
            signals=[check] if cell.place == "check" else [],
            tools=[WEATHER] if cell.fault.name.startswith("arguments") else [],
            retry_policy=RETRIES,
        )

    def _tier(self, place: Place, cell: Cell) -> Tier:
        hit = place == cell.place
        impatient = hit and cell.fault.name in WAITS
        alone = cell.name if hit and cell.fault.name in SPOILS else ""
        reachable = not hit or cell.fault.listens
        return Tier(
            self._model(place, cell.protocol, reachable=reachable, alone=alone),
            name=place,
            price=PRICES[place],
            timeout_s=IMPATIENT_S if impatient else PATIENT_S,
        )

    def _model(self, place: Place, protocol: Protocol, *, reachable: bool, alone: str) -> Model:
        key = (place, protocol, reachable, alone)
        if key not in self._models:
            url = self._server.url if reachable else self._server.refusing_url
            kind = OpenAIModel if protocol == "openai" else OllamaModel
            base_url = f"{url}/v1" if protocol == "openai" else url
            self._models[key] = kind(place, base_url=base_url, api_key="secret")
        return self._models[key]

    async def aclose(self) -> None:
        """Close all connections."""
        for model in self._models.values():
            await model.aclose()


def _entries(seen: Seen) -> tuple[LedgerEntry, ...]:
    if seen.result is not None:
        return tuple(seen.result.ledger)
    assert seen.error is not None
    return () if seen.error.ledger is None else tuple(seen.error.ledger)


async def _streamed(cascade: Cascade, seen: Seen) -> None:
    async for event in cascade.astream(seen.cell.question, show="optimistic"):
        if isinstance(event, Token | Provisional):
            seen.shown += event.text
        elif isinstance(event, Retracted):
            seen.shown = ""
        elif isinstance(event, CascadeResult):
            seen.result = event


def _choose(by_question: dict[str, Cell], asked: Asked) -> Fault | None:
    cell = by_question[asked.topic]
    met = asked.model == cell.place and cell.fault.exists(asked.protocol, asked.form)
    return cell.fault if met else None


def _answer(by_question: dict[str, Cell], asked: Asked) -> Said:
    """The small model is sure, but where the large one is to be asked."""
    cell = by_question[asked.topic]
    counts = {"input_tokens": asked.number, "output_tokens": 6}
    if asked.model == "check":
        return Said.of("True", **counts)
    if asked.model == "large":
        return Said.of(LARGE, **counts)
    return Said.of(SMALL, logprob=-2.0 if cell.place == "large" else -0.02, **counts)


@asynccontextmanager
async def bench(wanted: Sequence[Cell]) -> AsyncIterator[tuple[Bench, FaultyServer]]:
    """A bench and its server for these cells."""
    by_question = {cell.question: cell for cell in wanted}
    server = FaultyServer(
        choosing=lambda asked: _choose(by_question, asked),
        answering=lambda asked: _answer(by_question, asked),
        kept=50 * len(wanted),
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(server)
        bed = Bench(server)
        stack.push_async_callback(bed.aclose)
        yield bed, server


@dataclass
class World:
    """All that was seen, and what was left behind.

    Attributes:
        all_seen: one for each cell.
        elsewhere: requests that came to another server.
        hanging: calls with which the server was not through when all clients were closed.
        tasks: that were left on the loop of the cascades.
        sockets: open ones more than before.
        seconds: it took.
    """

    all_seen: list[Seen]
    elsewhere: list[Received]
    hanging: list[Call]
    tasks: list[str]
    sockets: int
    seconds: float


def see(wanted: Sequence[Cell]) -> World:
    """What becomes of these cells."""
    begun, before = time.perf_counter(), _sockets()
    with mock.patch.object(bounds, "LARGEST_REPLY", LIMIT):
        world = asyncio.run(_see(wanted))
    world.seconds, world.sockets = time.perf_counter() - begun, _sockets() - before
    return world


async def _see(wanted: Sequence[Cell]) -> World:
    async with bench(wanted) as (bed, server):
        all_seen = await bed.run(wanted)
        await bed.aclose()
        await until(lambda: all(call.done.is_set() for call in list(server.calls)))
        await until(lambda: len(asyncio.all_tasks()) == 1)
        calls = list(server.calls)
        by_question = {seen.cell.question: seen for seen in all_seen}
        for call in calls:
            by_question[call.asked.topic].calls.append(call)
        hanging = [call for call in calls if not call.done.is_set()]
        tasks = [str(t) for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        return World(all_seen, list(server.elsewhere), hanging, tasks, 0, 0.0)


async def until(true: Callable[[], bool]) -> None:
    """Wait until it is true, or for half a minute."""
    for _ in range(3000):
        if true():
            return
        await asyncio.sleep(0.01)


def _sockets() -> int:
    """How many sockets this process has open, where the system says."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return 0
    found = 0
    for entry in folder.iterdir():
        with suppress(OSError):  # it was closed meanwhile
            found += str(entry.readlink()).startswith("socket:")
    return found
