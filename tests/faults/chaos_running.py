"""A chaos run: requests in all ways, an upstream that fails, and what must hold all the same."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cascade.ledger.store import open_store
from tests.faults.chaos_asking import Asker
from tests.faults.chaos_books import Audited, Begun, Notes, audited
from tests.faults.chaos_leaks import Held, Pulse, complaints, left_behind
from tests.faults.chaos_plans import Plan, cascades, plans
from tests.faults.chaos_upstream import Seen, Upstream, upstream
from tests.faults.chaos_verdicts import Outcome, problem

WHOSE = re.compile(r"request (\d+)")
EXAMPLES = 3
"""Of each kind of problem so many are shown."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        faulty: share of the replies that are.
        groups: of the faults; all where there are none.
        deadline_s: of each request; `slack_s` is what it may take beyond.
        grows_mb: by which memory may grow from the second third of the run to the last: by
            default one reply of the largest size that is read.
        ledger: address of a store; None for SQLite in a temporary file.
    """

    requests: int
    faulty: float = 0.3
    groups: tuple[str, ...] = ()
    at_once: int = 64
    deadline_s: float = 2.0
    slack_s: float = 1.0
    grows_mb: float = 64.0
    ledger: str | None = None


@dataclass
class Found:
    """What a run has found.

    Attributes:
        outcomes: requests by what became of them; `ways` by how they were asked.
        sent: replies of the upstream by fault.
        books: the ledger.
        took_s: of the whole run.
        slowest_s: the longest that a request took, without the time in which the process was
            behind, and how it was asked.
        behind_s: the time in which the process did not come to what was due.
        computed_s: the longest that an event loop has computed without a pause.
        memory_mb: the least in each of three parts of the run.
        left: what was left behind.
        problems: by kind, with some examples.
    """

    seed: int
    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    books: Audited = field(default_factory=Audited)
    took_s: float = 0.0
    slowest_s: tuple[float, str] = (0.0, "")
    behind_s: float = 0.0
    computed_s: float = 0.0
    memory_mb: tuple[float, float, float] = (0.0, 0.0, 0.0)
    left: dict[str, int] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """One more request."""
        self.requests += 1
        self.outcomes[outcome.kind] += 1
        self.ways[outcome.way] += 1
        self.slowest_s = max(self.slowest_s, (outcome.took_s, outcome.way))
        for wrong in outcome.wrong:
            self.object_to(wrong, f"request {outcome.number}, {outcome.way}: ")

    def object_to(self, wrong: str, whose: str = "") -> None:
        """Count a problem."""
        kind, _, about = wrong.partition(": ")
        self.problems[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(whose + about)

    def explain(self, seen: Seen) -> None:
        """Say with each example what the calls of its request had met."""
        met: dict[str, list[str]] = {}
        for (number, model), faults in seen.met.items():
            met.setdefault(number, []).append(f"{model} {faults}")
        for examples in self.examples.values():
            for i, example in enumerate(examples):
                if number := WHOSE.match(example):
                    examples[i] += f"; met: {', '.join(met.get(number[1], ['nothing']))}"


async def run(seed: int, settings: Settings) -> Found:
    """One run, with an upstream and a ledger of its own."""
    found = Found(seed)
    failing = upstream(seed, settings.faulty, settings.groups)
    with tempfile.TemporaryDirectory() as folder, failing as behind:
        await _asked(Found(seed), 2 * settings.at_once, Path(folder) / "warm", behind, settings)
        before = Held.now()
        with complaints() as heard:
            began = time.monotonic()
            await _asked(found, settings.requests, Path(folder) / "run", behind, settings)
            found.took_s = time.monotonic() - began
            found.left = await left_behind(before)
        for wrong in (*heard, *found.books.wrong):
            found.object_to(wrong)
    for what, n in found.left.items():
        found.object_to(problem("left behind", f"{n} of {what}"))
    if found.computed_s > settings.slack_s:
        about = f"{found.computed_s:.2f} s of computing without a pause"
        found.object_to(problem("an event loop was held up", about))
    _, second, third = found.memory_mb
    if third - second > settings.grows_mb:
        about = f"{second:.0f} MB, then {third:.0f}"
        found.object_to(problem("memory grows", about))
    return found


async def _asked(
    found: Found, requests: int, folder: Path, behind: Upstream, settings: Settings
) -> None:
    """Ask so many, close all that was opened, and look into the books."""
    await asyncio.to_thread(folder.mkdir)
    before = behind.seen()
    address = settings.ledger or f"sqlite:///{folder / 'ledger.db'}"
    async with open_store(address) as store:
        await store.delete(everything=True)
        begun, notes = Begun(store), Notes(folder / "notes.jsonl")
        asked = cascades(behind.urls, store, settings.deadline_s)
        pulse, deadline_s = Pulse(), settings.deadline_s
        async with pulse.beating():
            with ThreadPoolExecutor(settings.at_once) as pool:
                slack_s = settings.slack_s
                asker = Asker(asked, pool, pulse, deadline_s=deadline_s, slack_s=slack_s)
                each = plans(found.seed, requests, list(asked), deadline_s)
                workers = (_work(asker, each, found, notes) for _ in range(settings.at_once))
                await asyncio.gather(*workers)
        for cascade in asked.values():
            await cascade.aclose()
        seen = behind.seen().since(before)
        found.sent = seen.sent
        found.explain(seen)
        found.behind_s, found.computed_s = pulse.behind_s, pulse.computed_s
        found.memory_mb = pulse.thirds()
        found.books = await audited(store, seen, begun, notes)


async def _work(asker: Asker, each: Iterator[Plan], found: Found, notes: Notes) -> None:
    for plan in each:
        for outcome in await asker.ask(plan):
            found.add(outcome)
            notes.add(outcome)
