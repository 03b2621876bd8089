"""The one place that knows which edition of the project is tested.

An optional feature is an option of `Cascade` in the first edition and middleware in the second;
fields of the ledger and names of nodes differ. Tests say what they want in the words of this
module, and in those of the contract for everything else.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import cascade as package
from cascade import Cascade, ThresholdPolicy

ROOT = Path(str(package.__file__)).parents[1]
"""The folder of the repository whose package is tested."""


def first_edition() -> bool:
    """Whether the package is the first edition, which has no middleware."""
    return find_spec("cascade.middleware") is None


def fails_on_first(reason: str, *, strict: bool = True) -> pytest.MarkDecorator:
    """Marks what the first edition does wrong and the second has to do right."""
    return pytest.mark.xfail(first_edition(), strict=strict, reason=reason)


_FIRST_NODES = {"router": "route", "person": "ask"}


def node_name(node: str) -> str:
    """The name of a node of the graph, given the second edition's."""
    return _FIRST_NODES.get(node, node) if first_edition() else node


def node_of(node: str) -> str:
    """The second edition's name of a node of this edition."""
    return {first: second for second, first in _FIRST_NODES.items()}.get(node, node)


def cascade(
    small: Any = None,
    large: Any = None,
    *,
    threshold: float | None = None,
    cache: Any = None,
    cache_ttl_s: int | None = None,
    retries: int | None = None,
    breaker: Mapping[str, Any] | None = None,
    abort: bool | float = False,
    tool_risks: Mapping[str, str] | None = None,
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
    **options: Any,
) -> Cascade:
    """A cascade with optional features, whichever way the edition spells them.

    Args:
        threshold: accept at this confidence and above.
        cache, cache_ttl_s: a cache of LangGraph's, and for how long.
        retries: attempts of each call, without waits in between.
        breaker: settings of the circuit breaker, such as `{"in_a_row": 2, "open_s": 60}`.
        abort: stop hopeless drafts while they are written.
        tool_risks, approve: risks by the tools' names; whether a person approves of irreversible
            calls, instead of the last tier.
        fallback: the tier that is asked where the large model cannot be had.
        shadow, canary: the large model answers all; the share that is live all the same.
        audits: options of audits, such as `{"rate": 1.0}`.
        drift: options of drift, such as `{"escalations": "warn"}`.
        lessons, memory, observers: what keeps, shows, or looks on.
        private: rule that says of messages whether they stay on this machine.
        tags: of every ledger entry.
        options: of the contract.
    """
    given = dict(options)
    if first_edition():
        _first(given, locals())
    else:
        _second(given, locals())
    return Cascade(small, large, **given)


def pair(upstream: Any, p: float | None = 0.95, **options: Any) -> Cascade:
    """A cascade of two models of a server: `small`, so sure of its drafts, and `large`."""
    upstream.echoes("small", p)
    return cascade(upstream.tier("small"), upstream.tier("large"), **options)


def _first(given: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    resilience = importlib.import_module("cascade.resilience")
    settings: dict[str, Any] = {}
    if wanted["threshold"] is not None:
        given["policy"] = ThresholdPolicy(wanted["threshold"])
    if wanted["cache"] is not None:
        caching = importlib.import_module("cascade").Caching
        given["cache"] = caching(wanted["cache"], ttl_s=wanted["cache_ttl_s"])
    if wanted["retries"] is not None:
        settings["retries"] = resilience.Retries(attempts=wanted["retries"], base_s=0.0)
    if wanted["breaker"] is not None:
        settings["breaker"] = resilience.Breaker(**wanted["breaker"])
    if settings:
        given["resilience"] = resilience.Resilience(**settings)
    if wanted["tool_risks"] is not None:
        risks = importlib.import_module("cascade").ToolRisks
        word = "ask" if wanted["approve"] else "escalate"
        given["tool_risks"] = risks(wanted["tool_risks"], irreversible=word)
    if wanted["shadow"]:
        given["mode"] = "shadow"
    if wanted["canary"] is not None:
        given |= {"mode": "canary", "canary_share": wanted["canary"]}
    if wanted["audits"] is not None:
        given["audit_rate"] = importlib.import_module("cascade").Audits(**wanted["audits"])
    if wanted["drift"] is not None:
        given["drift"] = importlib.import_module("cascade.oversight").Drift(**wanted["drift"])
    for name in ("abort", "fallback", "lessons", "memory", "observers", "private", "tags"):
        if wanted[name]:
            given[name] = wanted[name]


def _second(given: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    ready = importlib.import_module("cascade.middleware")
    stack = list(given.pop("middleware", ()))
    if wanted["threshold"] is not None:
        given["threshold"] = wanted["threshold"]
    if wanted["cache"] is not None:
        stack.append(ready.Cache(wanted["cache"], ttl_s=wanted["cache_ttl_s"]))
    if wanted["retries"] is not None:
        stack.append(ready.Retries(attempts=wanted["retries"], base_s=0.0))
    if wanted["breaker"] is not None:
        stack.append(ready.Breaker(**wanted["breaker"]))
    if wanted["abort"]:
        lost = wanted["abort"]
        stack.append(ready.Abort() if lost is True else ready.Abort(lost))
    if wanted["tool_risks"] is not None:
        word = "ask" if wanted["approve"] else "escalate"
        stack.append(ready.ToolRisks(wanted["tool_risks"], irreversible=word))
    if wanted["fallback"] is not None:
        stack.append(ready.Fallback(wanted["fallback"]))
    if wanted["shadow"] or wanted["canary"] is not None:
        stack.append(ready.Shadow(live_share=wanted["canary"] or 0.0))
    if wanted["audits"] is not None:
        # A judge is asked once, in random order; the first edition asks some of them twice.
        audits = {k: v for k, v in wanted["audits"].items() if k != "judge_repeat"}
        stack.append(ready.Audits(**audits))
    if wanted["drift"] is not None:
        stack.append(ready.Drift(**wanted["drift"]))
    if wanted["private"] is not None:
        stack.append(ready.LocalOnly(private=wanted["private"]))
    if wanted["tags"] is not None:
        stack.append(_tags(ready, wanted["tags"]))
    stack += [each for each in (wanted["lessons"], wanted["memory"]) if each is not None]
    given["middleware"] = [*stack, *wanted["observers"]]


def _tags(ready: Any, tags: Mapping[str, str]) -> Any:
    """Tags are a setting of a question: one middleware adds them to each."""

    class Tags(ready.CascadeMiddleware):  # type: ignore[misc, name-defined]
        name = "tags"

        async def before_run(self, run: Any, runtime: Any) -> None:
            run.settings["tags"] = {**tags, **run.settings.get("tags", {})}

    return Tags()


def with_own_end(made: Cascade, node: Any) -> Any:
    """The builder of a cascade, with a node of the user's between `verify` and the end.

    To be written as the second edition's page says.
    """
    if first_edition():
        raise NotImplementedError("the verifier goes to the end by itself")
    builder = made.build_graph()
    builder.add_node("mine", node)
    builder.add_edge("verify", "mine")
    builder.add_edge("mine", "__end__")
    return builder


# --- the ledger


@dataclass(frozen=True)
class Judged:
    """The decision that an entry holds."""

    action: str
    confidence: float | None
    calibrated: bool
    signals: Mapping[str, float]
    audit_rate: float | None


@dataclass(frozen=True)
class Entry:
    """A ledger entry in the words of the second edition; `raw` is the entry itself."""

    raw: Any
    node: str
    id: str | None
    decision: Judged | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def read_entry(raw: Any) -> Entry:
    """An entry as tests see it."""
    names = {first: second for second, first in _FIRST_NODES.items()}
    if first_edition():
        judged = None
        if raw.action is not None:
            judged = Judged(
                raw.action, raw.confidence, raw.calibrated, raw.signals or {}, raw.audit_rate
            )
        return Entry(raw, names.get(raw.node, raw.node), raw.attempt_id, judged)
    made, judged = raw.decision, None
    if made is not None:
        judged = Judged(
            made.action, made.confidence, made.calibrated, made.signals or {}, made.audit_rate
        )
    return Entry(raw, raw.node, raw.id, judged)


def entries_of(source: Any) -> list[Entry]:
    """The entries of a result, an error, a view or a memory ledger, in order."""
    found: Iterable[Any] = getattr(source, "ledger", source)
    return [read_entry(raw) for raw in getattr(found, "entries", found)]


def calls_of(source: Any) -> list[tuple[str, str]]:
    """(node, outcome) of each entry that is a call of a model."""
    return [(entry.node, entry.outcome) for entry in entries_of(source) if entry.model]


def total(entries: Iterable[Entry], field: str) -> Decimal:
    """The exact sum of a money field that is known in every entry."""
    return sum((getattr(entry, field) for entry in entries), Decimal(0))


def open_ledger(url: str, **options: Any) -> Any:
    """The store of an address, `sqlite:///…` or `postgresql://…`."""
    for home in ("cascade.ledger.store", "cascade.ledger"):
        opened = getattr(importlib.import_module(home), "open_store", None)
        if opened is not None:
            return opened(url, **options)
    raise AssertionError("no open_store")


async def stored(store: Any) -> list[Entry]:
    """All entries of a store that ended, oldest first, after what waits was written."""
    if hasattr(store, "flush"):
        await store.flush()
    found = await store.query() if hasattr(store, "query") else store.entries()
    found = await found if inspect.isawaitable(found) else found
    if hasattr(found, "__aiter__"):
        found = [each async for each in found]
    read = [read_entry(getattr(each, "entry", each)) for each in found]
    return [each for each in read if each.outcome != "begun"]


async def unfinished(store: Any) -> list[tuple[str, str]]:
    """(run id, node) of each call that was begun and whose end nobody wrote down."""
    found = await store.unfinished()
    return [(each.run_id, each.node) for each in found]


def signal(name: str, *given: Any, **options: Any) -> Any:
    """A built-in signal with settings of its own, such as `signal("Agreement", tier)`."""
    for home in ("cascade.confidence.signals", "cascade.confidence"):
        if find_spec(home) and hasattr(importlib.import_module(home), name):
            return getattr(importlib.import_module(home), name)(*given, **options)
    raise AssertionError(f"no signal {name}")


def budget(dollars: float) -> Any:
    """A policy that keeps the mean cost of a request at a budget."""
    policies = importlib.import_module("cascade.policies")
    if first_edition():
        return policies.DollarBudget(policies.DollarBudgetPolicy(budget_usd=dollars))
    return policies.BudgetPolicy(dollars)


def settings(local_only: bool | str | None = None) -> dict[str, Any]:
    """Arguments of `invoke`, `stream` and the like for one question's own settings."""
    if local_only is None:
        return {}
    if first_edition():
        return {"config": {"configurable": {"local_only": local_only}}}
    return {"local_only": local_only}


def looks_personal() -> Any:
    """The rule for private questions that comes with the package."""
    for home in ("cascade.privacy", "cascade.middleware.local_only", "cascade.middleware"):
        if find_spec(home) and hasattr(importlib.import_module(home), "looks_personal"):
            return importlib.import_module(home).looks_personal
    raise AssertionError("no looks_personal")


@dataclass(frozen=True)
class Taught:
    """Lessons: what keeps them, and their store."""

    store: Any
    keeper: Any

    async def all(self) -> list[Any]:
        """The lessons there are, oldest first, once all that waits was written."""
        await self.keeper.aclose()
        selected = importlib.import_module("cascade.teaching").LessonSelection()
        found = self.store.lessons(selected)
        return [each async for each in found] if hasattr(found, "__aiter__") else await found

    def memory(self, **options: Any) -> Any:
        """A memory of them."""
        for home in ("cascade.teaching.memory", "cascade.teaching"):
            if find_spec(home) and hasattr(importlib.import_module(home), "Memory"):
                made = importlib.import_module(home).Memory
                return made(self.store, patience_s=60, **options)
        raise AssertionError("no Memory")

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
    teaching = importlib.import_module("cascade.teaching")
    store = teaching.open_lessons(url)
    stated = {"openai:*": teaching.Terms(may_train=may_train, source="our own model")}
    return Taught(store, teaching.Lessons(store, terms={} if may_train is None else stated))


def integration(name: str) -> Any:
    """`Telemetry`, `PrometheusMetrics`, `RunLog` and the like."""
    homes = ("", ".opentelemetry", ".prometheus", ".logs", ".telemetry")
    for home in (f"cascade.integrations{end}" for end in homes):
        if find_spec(home) and hasattr(importlib.import_module(home), name):
            return getattr(importlib.import_module(home), name)
    raise AssertionError(f"no {name}")


# --- recordings


def recorder(spec: str, path: Path, **where: Any) -> Any:
    """A model that writes down what another one answers, for `replay:`."""
    models = importlib.import_module("cascade.models")
    return models.Recorder(models.open_model(spec, **where), path)


def selection(**conditions: Any) -> Any:
    """What is read, summed or deleted of a store."""
    for home in ("cascade.ledger.store", "cascade.ledger"):
        found = getattr(importlib.import_module(home), "Selection", None)
        if found is not None:
            return found(**conditions)
    raise AssertionError("no Selection")


def append(store: Any, entries: Sequence[Any], **tags: str) -> None:
    """Hand entries with tags to a store."""
    if first_edition():
        with importlib.import_module("cascade.ledger").tagged(**tags):
            store.append(entries)
    else:
        store.append(entries, tags)


def conformance(fixture: str, *, durable: bool = True) -> type:
    """The published suite of what a ledger has to do, for the addresses that a fixture gives."""
    home = importlib.import_module("cascade.testing.ledger_conformance")

    def backend(url: str) -> Any:
        sql = importlib.import_module("cascade.ledger.store.sql").SqlBackend
        drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
        scheme, _, rest = url.partition(":")
        return sql(f"{drivers[scheme]}:{rest}")

    class Suite(home.LedgerConformance):  # type: ignore[misc, name-defined]
        @pytest.fixture
        def make_backend(self, request: pytest.FixtureRequest) -> Any:
            url = request.getfixturevalue(fixture)
            return lambda: backend(url)

        @pytest.fixture
        def make_store(self, request: pytest.FixtureRequest) -> Any:
            url = request.getfixturevalue(fixture)
            return lambda: open_ledger(url)

    Suite.durable = durable
    return Suite


def spawn(coroutine: Any) -> asyncio.Task[Any]:
    """Let something go on beside the test."""
    return asyncio.get_running_loop().create_task(coroutine)


async def settled(task: asyncio.Task[Any]) -> None:
    """Wait until a task has ended, however."""
    await asyncio.wait([task])


# --- processes


def environment(**more: str) -> dict[str, str]:
    """Of a process that tests the same edition, and reaches servers of this machine."""
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


def agent_middleware(small: Any, **options: Any) -> Any:
    """Middleware for `create_agent`: `small` drafts for the agent's own model."""
    made = importlib.import_module("cascade.integrations.middleware").CascadeMiddleware
    return made(small, **options)
