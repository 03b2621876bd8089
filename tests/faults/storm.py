"""Questions to real cascades whose upstream fails, and what became of them.

The upstream, a server on this machine, fails as `catalogue.py` says, and witnesses each call: the
number of a call is in its reply's usage, so that it is found again in the ledger.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from cascade import Cascade, CascadeResult, LedgerEntry, Price, Tier
from cascade.errors import CascadeError
from cascade.ledger import open_store
from cascade.middleware import Breaker, Retries
from cascade.models import http
from cascade.models.base import guard
from cascade.state import Usage
from tests.acceptance.setups import shown
from tests.acceptance.upstream import Answer, Seen, Upstream
from tests.faults.catalogue import Fault, Form, Protocol
from tests.servers.replies import Reply

Place = Literal["small", "large"]

AT_ONCE = 24
PATIENT_S, IMPATIENT_S = 300.0, 0.5
LIMIT = 2 * 2**20
"""Bytes of a reply here, so that what never ends is soon too large."""
PRICES = {"small": Price(input=1, output=2), "large": Price(input=10, output=30)}
SECRET = "sk-very-secret"
WAITS = frozenset({"silent", "headers byte by byte", "body byte by byte"})
"""Faults that end only with the patience of the caller."""
BREAKS_LATER = frozenset({"reset after", "Content-Length short"})
"""With these a connection is in its pool again before it breaks."""
LOSES_CONNECTIONS = WAITS | BREAKS_LATER | {"refused"}
"""With these an attempt may fail before the server has seen it."""
SET_UP = ("status 400", "status 401", "status 403", "status 404", "status 422", "redirect")
"""Beginnings of the faults that say that the set-up is wrong: no other model would help."""


@dataclass
class Question:
    """A question, the fault that it meets, and what became of it.

    Attributes:
        fault: of all replies of the model at its place; None for none.
        leaves_s: the caller goes away after so long.
        shown: what a reader of the stream saw in the end.
    """

    number: int
    fault: Fault | None
    place: Place
    protocol: Protocol
    form: Form
    leaves_s: float | None = None
    result: CascadeResult | None = None
    error: BaseException | None = None
    shown: str = ""

    @property
    def name(self) -> str:
        """Its fault, place and form, and the beginning of its text."""
        fault = "fine" if self.fault is None else self.fault.name
        return f"{self.number}: {fault} at {self.place}, {self.protocol} {self.form}"

    @property
    def text(self) -> str:
        """What is asked; the server knows the question by it."""
        return f"{self.name}. What is the capital of Australia?"


@dataclass(frozen=True)
class Call:
    """One call that the server has seen, and what is answered where nothing is wrong."""

    seen: Seen
    fault: str
    answer: Answer

    @property
    def number(self) -> int:
        """From 1 on."""
        return self.seen.number + 1


@dataclass
class World:
    """All that became of a storm: its ledger's entries and the server's calls by question."""

    questions: Sequence[Question]
    entries: dict[int, list[LedgerEntry]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))
    unfinished: int = 0
    left: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def problems(self) -> Counter[str]:
        """Broken promises, each with the question."""
        found = [f"{what}: {q.name}" for q in self.questions for what in self._broken(q)]
        found += [f"left behind: {what}" for what in self.left]
        found += [f"a secret was told: {what}" for what in self.secrets]
        found += ["calls are listed as unfinished"] * bool(self.unfinished)
        return Counter(found)

    def _broken(self, q: Question) -> list[str]:
        found = []
        if q.result is None and not isinstance(q.error, CascadeError | asyncio.CancelledError):
            found.append(f"{type(q.error).__name__} is no CascadeError")
        if q.leaves_s is None and q.result is None and not _set_up_is_wrong(q):
            found.append(f"no answer, but {q.error!r}")
        if q.result is not None and q.form == "stream" and q.shown != q.result.answer:
            found.append("the stream shows something else than the answer")
        for tier in PRICES:
            found += self._misbooked(q, tier)
        if q.result is not None:
            unknown = any(entry.cost_usd is None for entry in q.result.ledger)
            if (q.result.ledger.cost_usd is None) != unknown:
                found.append("a sum with an unknown part is known")
            kept = sorted(entry.id for entry in self.entries[q.number])
            if kept != sorted(entry.id for entry in q.result.ledger):
                found.append("the store and the result hold other entries")
        return found

    def _misbooked(self, q: Question, tier: str) -> list[str]:
        calls = {c.number: c for c in self.calls[q.number] if c.seen.model == tier}
        asked = [e for e in self.entries[q.number] if e.tier == tier and e.model is not None]
        counts, found = [e.input_tokens for e in asked if e.input_tokens], list[str]()
        # An attempt may have failed before the server saw it: on a connection that broke before.
        if not sum(e.outcome == "ok" for e in asked) <= len(calls) <= len(asked):
            found.append(f"{len(calls)} calls, {len(asked)} entries of {tier}")
        if len(set(counts)) < len(counts):
            found.append(f"a call of {tier} is booked twice")
        for entry in asked:
            if entry.outcome != "ok" and not entry.note:
                found.append("a failed call without a word why")
            if not entry.cost_usd:  # unknown, or nothing was billed
                if entry.outcome == "ok" and entry.cost_usd is not None:
                    found.append(f"an answer of {tier} for nothing")
                continue
            call = calls.get(entry.input_tokens or 0)
            if call is None or entry.cost_usd != _price(tier, call):
                found.append(f"{entry.cost_usd} is not what {tier} was paid")
        return found


def _set_up_is_wrong(q: Question) -> bool:
    fault = "" if q.fault is None else q.fault.name
    return q.place == "small" and fault.startswith(SET_UP)


def _price(tier: str, call: Call) -> Decimal | None:
    return PRICES[tier].cost(Usage(input_tokens=call.number, output_tokens=6))


def storm(questions: Sequence[Question], folder: Path) -> World:
    """Ask all, with a ledger in SQLite, and look."""
    real, small = (guard, "forbidden", False), (http, "LARGEST_REPLY", LIMIT)
    with mock.patch.object(*real), mock.patch.object(*small):
        return asyncio.run(_storm(questions, folder))


async def _storm(questions: Sequence[Question], folder: Path) -> World:
    world, before = World(questions), _sockets()
    by_text = {q.text: q for q in questions}

    def say(seen: Seen) -> Answer | Reply:
        q = by_text[seen.texts[0]]
        met = q.fault is not None and seen.model == q.place and q.fault.exists(seen)
        answer = Answer("It is Canberra, surely.", tokens=(seen.number + 1, 6))
        if seen.model == "small":
            p = 0.98 if q.place == "small" else 0.13
            answer = replace(answer, text="Canberra is the capital.", p=p)
        world.calls[q.number].append(Call(seen, q.fault.name if met else "fine", answer))
        return q.fault.make(seen, answer) if met else answer

    refused = socket.socket()  # where nobody listens
    with Upstream() as server, refused:
        refused.bind(("127.0.0.1", 0))
        for tier in PRICES:
            server.says(tier, say)
        async with open_store(f"sqlite:///{folder}/ledger.db") as store:
            cascades: dict[Any, Cascade] = {}
            turns = asyncio.Semaphore(AT_ONCE)

            async def ask(q: Question) -> None:
                name = None if q.fault is None else q.fault.name
                nowhere = q.place if name == "refused" else None
                impatient = q.place if name in WAITS else None
                # No other question meets connections that are broken.
                alone = q.number if name in BREAKS_LATER else None
                key = (q.protocol, nowhere, impatient, alone)
                if key not in cascades:
                    refusing_url = f"http://127.0.0.1:{refused.getsockname()[1]}"
                    urls = dict.fromkeys(PRICES, server.url)
                    urls |= {} if nowhere is None else {nowhere: refusing_url}
                    cascades[key] = _cascade(urls, store, q.protocol, impatient)
                async with turns:
                    await _ask(cascades[key], q)

            await asyncio.gather(*map(ask, questions))
            for cascade in cascades.values():
                await cascade.aclose()
            await _until(lambda: all(seen.done.is_set() for seen in server.asked()))
            await store.flush()
            world.unfinished = len(await store.unfinished())
            async for page in store.pages():
                for entry, tags in page:
                    world.entries[int(tags["question"])].append(entry)
                    if SECRET in entry.model_dump_json():
                        world.secrets.append(entry.note)
        world.secrets += [q.name for q in questions if SECRET in str(q.error)]
        world.left += [f"a call of {c.last}" for c in server.asked() if not c.done.is_set()]
        world.left += [f"a request at {path} elsewhere" for path in server.elsewhere]
        await _until(lambda: len(asyncio.all_tasks()) == 1)
        world.left += [str(t) for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    more = _sockets() - before
    world.left += [f"{more} sockets"] if more > 0 else []
    return world


def _cascade(
    urls: dict[str, str], store: Any, protocol: Protocol, impatient: Place | None
) -> Cascade:
    def tier(name: Place) -> Tier:
        base = f"{urls[name]}/v1" if protocol == "openai" else urls[name]
        patience: Any = {"timeout_s": IMPATIENT_S if name == impatient else PATIENT_S}
        given: Any = {"base_url": base, "api_key": SECRET, "price": PRICES[name], **patience}
        return Tier(f"{protocol}:{name}", name=name, **given)

    # Retries at once, and no breaker: each question meets its own fault.
    stack = [Retries(2, base_s=0.0, reserve=10**6), Breaker(10**6)]
    return Cascade(tier("small"), tier("large"), ledger=store, middleware=stack)


async def _ask(cascade: Cascade, q: Question) -> None:
    settings: dict[str, Any] = {"tags": {"question": str(q.number)}}

    async def asking() -> None:
        if q.form == "plain":
            q.result = await cascade.ainvoke(q.text, **settings)
            return
        events = [e async for e in cascade.astream(q.text, show="optimistic", **settings)]
        q.shown, q.result = shown(events), events[-1]

    task = asyncio.create_task(asking())
    if q.leaves_s is not None:
        asyncio.get_running_loop().call_later(q.leaves_s, task.cancel)
    await asyncio.wait([task])
    q.error = asyncio.CancelledError() if task.cancelled() else task.exception()


async def _until(true: Any) -> None:
    """Wait until it is true, or for five minutes."""
    for _ in range(30_000):
        if true():
            return
        await asyncio.sleep(0.01)


def _sockets() -> int:
    """Sockets that this process has open, where the system says."""
    found = 0
    with suppress(FileNotFoundError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                found += str(entry.readlink()).startswith("socket:")
    return found
