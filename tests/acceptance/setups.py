"""Set-ups of acceptance tests: cascades with optional features, stores, processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import cascade as package
from cascade import Cascade, LedgerEntry
from cascade.ledger.store import open_store
from cascade.middleware import (
    Abort,
    Audits,
    Breaker,
    Cache,
    CascadeMiddleware,
    Drift,
    Fallback,
    LocalOnly,
    Retries,
    Shadow,
    ToolRisks,
)
from cascade.teaching import Lessons, LessonSelection, Memory, Terms, open_lessons
from cascade.testing.ledger_conformance import LedgerConformance

ROOT = Path(str(package.__file__)).parents[1]
"""The folder of the repository whose package is tested."""


def cascade(
    small: Any = None,
    large: Any = None,
    *,
    cache: Any = None,
    retries: int | None = None,
    breaker: Mapping[str, Any] | None = None,
    abort: bool | float = False,
    tool_risks: Mapping[str, Any] | None = None,
    approve: bool = False,
    fallback: Any = None,
    shadow: bool = False,
    canary: float | None = None,
    audits: Mapping[str, Any] | None = None,
    drift: Mapping[str, Any] | None = None,
    lessons: Any = None,
    memory: Any = None,
    observers: Sequence[Any] = (),
    private: Any = None,
    tags: Mapping[str, str] | None = None,
    middleware: Sequence[Any] = (),
    **options: Any,
) -> Cascade:
    """A cascade with optional features.

    Args:
        cache: of LangGraph's.
        retries: attempts of each call, without waits in between.
        breaker: settings of the circuit breaker, such as `{"in_a_row": 2, "open_s": 60}`.
        abort: stop hopeless drafts while they are written.
        tool_risks, approve: risks by the tools' names; whether a person approves of irreversible
            calls, instead of the last tier.
        fallback: the tier that is asked where the large model cannot be had.
        shadow, canary: the large model answers all; the share that is live all the same.
        audits, drift: options of theirs.
        lessons, memory, observers: what keeps, shows, or looks on.
        private: rule that says of messages whether they stay on this machine.
        tags: of every ledger entry.
        options: of the contract.
    """
    word: Any = "ask" if approve else "escalate"
    features = [
        cache is not None and Cache(cache),
        retries is not None and Retries(attempts=retries, base_s=0.0),
        breaker is not None and Breaker(**breaker),
        abort and (Abort() if abort is True else Abort(abort)),
        tool_risks is not None and ToolRisks(tool_risks, irreversible=word),
        fallback is not None and Fallback(fallback),
        (shadow or canary is not None) and Shadow(live_share=canary or 0.0),
        audits is not None and Audits(**audits),
        drift is not None and Drift(**drift),
        private is not None and LocalOnly(private=private),
        tags is not None and Tags(tags),
        lessons,
        memory,
    ]
    stack = [*middleware, *(each for each in features if each), *observers]
    return Cascade(small, large, middleware=stack, **options)


def pair(upstream: Any, p: float | None = 0.95, **options: Any) -> Cascade:
    """A cascade of two models of a server: `small`, so sure of its drafts, and `large`."""
    upstream.echoes("small", p)
    return cascade(upstream.tier("small"), upstream.tier("large"), **options)


class Tags(CascadeMiddleware):
    """Tags are a setting of a question: it adds some to each."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        self.name, self.tags = "tags", tags

    async def before_run(self, run: Any, runtime: Any) -> None:
        run.settings["tags"] = {**self.tags, **run.settings.get("tags", {})}


# --- the ledger


def entries_of(source: Any) -> list[LedgerEntry]:
    """The entries of a result, an error, a view or a memory ledger, in order."""
    found: Any = getattr(source, "ledger", source)
    return list(getattr(found, "entries", found))


def calls_of(source: Any) -> list[tuple[str, str]]:
    """(node, outcome) of each entry that is a call of a model."""
    return [(entry.node, entry.outcome) for entry in entries_of(source) if entry.model]


def total(entries: Iterable[Any], field: str) -> Decimal:
    """The exact sum of a money field that is known in every entry."""
    return sum((getattr(entry, field) for entry in entries), Decimal(0))


async def stored(store: Any) -> list[LedgerEntry]:
    """All entries of a store that ended, oldest first, after what waits was written."""
    await store.flush()
    return [each for each in await store.entries() if each.outcome != "begun"]


async def unfinished(store: Any) -> list[tuple[str, str]]:
    """(run id, node) of each call that was begun and whose end nobody wrote down."""
    return [(each.run_id, each.node) for each in await store.unfinished()]


def conformance(fixture: str) -> type:
    """The published suite of what a ledger has to do, for the addresses that a fixture gives."""

    class Suite(LedgerConformance):
        @pytest.fixture
        def make_store(self, request: pytest.FixtureRequest) -> Any:
            url = request.getfixturevalue(fixture)
            return lambda: open_store(url)

    Suite.durable = True
    return Suite


@dataclass(frozen=True)
class Taught:
    """Lessons: what keeps them, and their store."""

    store: Any
    keeper: Any

    async def all(self) -> list[Any]:
        """The lessons there are, oldest first, once all that waits was written."""
        await self.keeper.aclose()
        return [each async for each in self.store.lessons(LessonSelection())]

    def memory(self, **options: Any) -> Any:
        """A memory of them."""
        return Memory(self.store, patience_s=60, **options)

    async def finish(self, memory: Any) -> None:
        """Wait for what happens after a reply."""
        await self.keeper.aclose()
        await memory.finish()

    async def aclose(self) -> None:
        """Give back what is held."""
        await self.keeper.aclose()
        await self.store.aclose()


def lessons(url: str, *, may_train: bool | None = None) -> Taught:
    """A place for lessons; what it says of models' terms holds for all of `openai:`."""
    store = open_lessons(url)
    stated = {"openai:*": Terms(may_train=may_train, source="our own model")}
    return Taught(store, Lessons(store, terms={} if may_train is None else stated))


# --- tasks and processes


def spawn(coroutine: Any) -> asyncio.Task[Any]:
    """Let something go on beside the test."""
    return asyncio.get_running_loop().create_task(coroutine)


async def settled(task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended, however."""
    await asyncio.wait([task])


def environment(**more: str) -> dict[str, str]:
    """Of a process that tests this package, and reaches servers of this machine."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "NO_PROXY": "127.0.0.1", **more}


def start(code: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """A Python process of its own that runs `code`."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        **more,
    )


def run(code: str, *arguments: str, within_s: float = 60) -> str:
    """What such a process prints; it fails where it hangs, exits otherwise or complains."""
    process = start(code, *arguments)
    try:
        out, complaints = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, complaints = process.communicate()
        raise AssertionError(f"still running after {within_s} s: {out}{complaints}") from None
    assert process.returncode == 0, complaints[-2000:]
    assert complaints == "", complaints[-2000:]
    return out.strip()
