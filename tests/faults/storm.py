"""Questions to real cascades whose upstream fails, and what became of them.

The upstream, a server on this machine, fails as `catalogue.py` says, and witnesses each call: the
number of a call is in its reply's usage, so that it is found again in the ledger.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from cascade import Cascade, CascadeResult, LedgerEntry, Price, Tier
from cascade.errors import CascadeError
from cascade.ledger import open_store
from cascade.ledger.database import background
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
        entries: of the ledger's store.
        calls: that the server saw; `met` of them met the fault.
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
    entries: list[LedgerEntry] = field(default_factory=list)
    calls: list[Seen] = field(default_factory=list)
    met: int = 0

    @property
    def name(self) -> str:
        """Its fault, place and form, and the beginning of its text."""
        fault = "fine" if self.fault is None else self.fault.name
        return f"{self.number}: {fault} at {self.place}, {self.protocol} {self.form}"

    @property
    def text(self) -> str:
        """What is asked; the server knows the question by it."""
        return f"{self.name}. What is the capital of Australia?"

    def answered(self, seen: Seen) -> Answer | Reply:
        """What the server answers to a call; the call's number is its input tokens."""
        met = self.fault is not None and seen.model == self.place and self.fault.exists(seen)
        self.calls.append(seen)
        self.met += met
        answer = Answer("It is Canberra, surely.", tokens=(seen.number + 1, 6))
        if seen.model == "small":
            p = 0.98 if self.place == "small" else 0.13
            answer = replace(answer, text="Canberra is the capital.", p=p)
        return self.fault.make(seen, answer) if self.fault and met else answer

    def broken(self) -> Iterator[str]:
        """Promises that were not kept."""
        fault = "" if self.fault is None else self.fault.name
        set_up_is_wrong = self.place == "small" and fault.startswith(SET_UP)
        if self.result is None:
            if not isinstance(self.error, CascadeError | asyncio.CancelledError):
                yield f"{type(self.error).__name__} is no CascadeError"
            if self.leaves_s is None and not set_up_is_wrong:
                yield f"no answer, but {self.error!r}"
        else:
            if self.form == "stream" and self.shown != self.result.answer:
                yield "the stream shows something else than the answer"
            unknown = any(entry.cost_usd is None for entry in self.result.ledger)
            if (self.result.ledger.cost_usd is None) != unknown:
                yield "a sum with an unknown part is known"
            if sorted(e.id for e in self.entries) != sorted(e.id for e in self.result.ledger):
                yield "the store and the result hold other entries"
        for tier in PRICES:
            yield from self._misbooked(tier)
        if SECRET in f"{self.error} {[entry.model_dump_json() for entry in self.entries]}":
            yield "a secret was told"

    def _misbooked(self, tier: str) -> Iterator[str]:
        calls = {seen.number + 1 for seen in self.calls if seen.model == tier}
        asked = [e for e in self.entries if e.tier == tier and e.model is not None]
        counts = [e.input_tokens for e in asked if e.input_tokens]
        # An attempt may have failed before the server saw it: on a connection that broke before.
        if not sum(e.outcome == "ok" for e in asked) <= len(calls) <= len(asked):
            yield f"{len(calls)} calls, {len(asked)} entries of {tier}"
        if len(set(counts)) < len(counts):
            yield f"a call of {tier} is booked twice"
        for entry in asked:
            number, cost = entry.input_tokens or 0, entry.cost_usd
            if entry.outcome != "ok" and not entry.note:
                yield "a failed call without a word why"
            if entry.outcome == "ok" and cost == 0:
                yield f"an answer of {tier} for nothing"
            due = PRICES[tier].cost(Usage(input_tokens=number, output_tokens=6))
            if cost and (number not in calls or cost != due):
                yield f"{cost} is not what {tier} was paid"


def storm(questions: Sequence[Question], folder: Path) -> Counter[str]:
    """Ask all, with a ledger in SQLite; the promises that were broken."""
    real, small = (guard, "forbidden", False), (http, "LARGEST_REPLY", LIMIT)
    with mock.patch.object(*real), mock.patch.object(*small):
        left = asyncio.run(_storm(questions, folder))
    return Counter(left + [f"{what}: {q.name}" for q in questions for what in q.broken()])


async def _storm(questions: Sequence[Question], folder: Path) -> list[str]:
    """What is left behind."""
    background.loop(waits=False)  # of the ledger's writers, which stays
    left, before = list[str](), _sockets()
    by_text = {q.text: q for q in questions}
    refused = socket.socket()  # where nobody listens
    with Upstream(lambda seen: by_text[seen.texts[0]].answered(seen)) as server, refused:
        refused.bind(("127.0.0.1", 0))
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
            left += ["a call that is listed as unfinished" for _ in await store.unfinished()]
            by_number = {q.number: q for q in questions}
            numbers = dict(await store.rows(columns=["id", "tags.question"]))
            for entry in await store.entries():
                by_number[int(numbers[entry.id])].entries.append(entry)
        left += [f"a call of {c.last}" for c in server.asked() if not c.done.is_set()]
        left += [f"a request at {path} elsewhere" for path in server.elsewhere]
        await _until(lambda: len(asyncio.all_tasks()) == 1)
        left += [str(t) for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    more = _sockets() - before
    left += [f"{more} sockets"] if more > 0 else []
    return [f"left behind: {what}" for what in left]


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
        events: list[Any] = [
            e async for e in cascade.astream(q.text, show="optimistic", **settings)
        ]
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
