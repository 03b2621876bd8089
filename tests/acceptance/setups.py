"""Set-ups of acceptance tests: cascades, stores, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import cascade as package
from cascade import Cascade, CascadeResult, LedgerEntry, Price, Provisional, Retracted, Token
from cascade.ledger.store import open_store
from cascade.middleware import Retries
from cascade.teaching import Lessons, LessonSelection, Terms, open_lessons
from tests.acceptance.upstream import Seen, Upstream

ROOT = Path(str(package.__file__)).parents[1]
"""The folder of the repository whose package is tested."""

CHEAP, DEAR = Price(input="0.1", output="0.4"), Price(input="1.25", output=10)


def pair(
    upstream: Upstream,
    p: float | None = 0.95,
    *middleware: Any,
    says: tuple[str, str] | None = None,
    tokens: tuple[int, int] | None = None,
    remote: bool = False,
    **options: Any,
) -> Cascade:
    """A cascade of two priced models, `small`, so sure of its drafts, and `large`.

    They answer `<model>: <question>`, or what each `says`. The large one may pass for one that is
    not on this machine.
    """
    upstream.echoes("small", p, says and says[0], tokens=tokens)
    if says is not None or tokens is not None:
        upstream.echoes("large", 0.95, says and says[1], tokens=tokens)
    where: dict[str, Any] = {"local": False} if remote else {}
    large = upstream.tier("large", price=DEAR, **where)
    return Cascade(upstream.tier("small", price=CHEAP), large, middleware=middleware, **options)


def tries(attempts: int) -> Retries:
    """So many attempts of each call, without waits in between."""
    return Retries(attempts=attempts, base_s=0.0)


WAYS = ("invoke", "ainvoke", "abatch", "stream", "graph", "sync graph", "chat model")


async def ask(made: Cascade, how: str, question: str = "?", config: Any = None) -> str:
    """The answer by one way of asking, in this very context; a stream has to show it alone."""
    asked: Any = {"messages": [("human", question)]}
    answer: Any
    match how:
        case "invoke":
            answer = made.invoke(question, config).message
        case "ainvoke":
            answer = (await made.ainvoke(question, config)).message
        case "abatch":
            answer = (await made.abatch([question], config))[0].message
        case "stream":
            *events, last = [event async for event in made.astream(question, config)]
            assert isinstance(last, CascadeResult)
            assert "".join(e.text for e in events if isinstance(e, Token)) == last.answer
            answer = last.message
        case "graph":
            answer = (await made.graph.ainvoke(asked, config))["messages"][-1]
        case "sync graph":
            answer = made.graph.invoke(asked, config)["messages"][-1]
        case _:
            answer = await made.as_chat_model().ainvoke(question, config)
    return str(answer.text)


def shown(events: Iterable[Any]) -> str:
    """What the reader of a stream has before their eyes in the end."""
    text = ""
    for event in events:
        if isinstance(event, Token | Provisional):
            text += event.text
        elif isinstance(event, Retracted):
            text = ""
    return text


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


async def booked(url: str) -> tuple[list[LedgerEntry], list[tuple[str, str]]]:
    """The calls in a ledger, and those that are `unfinished`."""
    async with open_store(url) as ledger:
        kept = [entry for entry in await stored(ledger) if entry.model]
        return kept, await unfinished(ledger)


async def check_booked(url: str, asked: Sequence[Seen], under_way: int) -> None:
    """After a kill each request to a model is in the ledger once, or a call that never ended.

    Requests are told apart by the tokens that their answers said.
    """
    kept, unknown = await booked(url)
    assert len({entry.id for entry in kept}) == len(kept)
    told = Counter((seen.model, *(seen.usage or ())) for seen in asked)
    paid = Counter((e.tier, e.input_tokens, e.output_tokens) for e in kept if e.outcome == "ok")
    assert paid <= told
    for node, model in (("draft", "small"), ("expert", "large")):
        ended = sum(entry.node == node for entry in kept)
        begun = sum(name == node for _, name in unknown)
        assert ended <= sum(seen.model == model for seen in asked) <= ended + begun
    assert len(unknown) <= under_way


@dataclass(frozen=True)
class Taught:
    """Lessons: what keeps them, and their store."""

    store: Any
    keeper: Any

    async def all(self) -> list[Any]:
        """The lessons there are, oldest first, once all that waits was written."""
        await self.keeper.aclose()
        return [each async for each in self.store.lessons(LessonSelection())]


def lessons(url: str, *, may_train: bool | None = None) -> Taught:
    """A place for lessons; what it says of models' terms holds for all of `openai:`."""
    store = open_lessons(url)
    stated = {"openai:*": Terms(may_train=may_train, source="our own model")}
    return Taught(store, Lessons(store, terms={} if may_train is None else stated))


# --- processes


def environment(**more: str) -> dict[str, str]:
    """Of a process that tests this package, and reaches servers of this machine."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "NO_PROXY": "127.0.0.1", **more}


PAIR = """
import asyncio, gc, os, sys, threading
from cascade import Cascade, CascadeResult, LedgerEntry, Price, Token, Tier
from cascade.ledger.store import open_store

def pair(url, provider="openai", **options):
    key, price = None if provider == "ollama" else "k", Price(input=1, output=2)
    tiers = [Tier(f"{provider}:{n}", name=n, base_url=url, api_key=key, price=price)
             for n in ("small", "large")]
    return Cascade(*tiers, **options)
"""
"""The beginning of a script that asks models of a server."""


def start(code: str, *arguments: object, **env: str) -> subprocess.Popen[str]:
    """A Python process of its own that runs `code`."""
    command, pipe = [sys.executable, "-c", code, *map(str, arguments)], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(**env))


def run(code: str, *arguments: str) -> str:
    """What such a process prints; it fails where it hangs, exits otherwise or complains."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment(), check=False, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return done.stdout.strip()
