"""Kernel: takes a run one step further, and drives it, by a loop or by LangGraph; both drivers call
only `advance`.

It holds the tiers, the agents, the stack of middleware and the ledger, and names no middleware.
LangGraph is loaded only when it drives: where callbacks, a tracer or a graph with a checkpointer
around ours ask for it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from langchain_core.messages import AnyMessage

from cascade import agents
from cascade.calling import CompositeModel, send
from cascade.errors import (
    CascadeError,
    ConfigurationError,
    ExtensionError,
    NotSentError,
    is_control_flow,
)
from cascade.events import Event
from cascade.ledger.entries import LedgerView
from cascade.ledger.ledger import Ledger
from cascade.ledger.outlook import Outlook
from cascade.middleware.base import Advance, Ask, CascadeMiddleware, Slot
from cascade.policies.base import Situation, within
from cascade.run import (
    Answer,
    Call,
    CascadeRuntime,
    Kind,
    Parts,
    Reader,
    Run,
    Settings,
    Show,
    Step,
    known_cost,
)
from cascade.state import Action, Completion, Decision, new_id
from cascade.tiers import open_tier

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph.state import CompiledStateGraph

    Graph = CompiledStateGraph[Any, Any, Any, Any]

T = TypeVar("T")

logger = logging.getLogger("cascade")

Agent = Callable[[Run, CascadeRuntime], Awaitable[Step]]

_ACTIONS = get_args(Action)

_METADATA = ("thread_id", "checkpoint_id", "checkpoint_ns", "run_id", "assistant_id", "graph_id")
"""Fields that LangGraph copies from `configurable` into the metadata that the user's code finds."""


@dataclass(slots=True)
class InCopiedContext(Generic[T]):
    """A coroutine that runs in a context of its own, by default a copy of the present one, within
    the same task.

    A task of its own would do the same at fifty times the cost, and its cancellation would have to
    be handed on.
    """

    coroutine: Coroutine[Any, Any, T]
    context: Context | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        run, coroutine = (self.context or copy_context()).run, self.coroutine
        resume: Callable[[Any], Any] = coroutine.send
        value: Any = None
        try:
            while True:
                try:
                    waits_for = run(resume, value)
                except StopIteration as end:
                    result: T = end.value
                    return result
                try:
                    resume, value = coroutine.send, (yield waits_for)
                except GeneratorExit:
                    run(coroutine.close)
                    raise
                except BaseException as thrown:  # noqa: BLE001 - it is the coroutine's to handle
                    resume, value = coroutine.throw, thrown
        finally:
            value = None  # else the frame and an error's traceback would keep each other


class Kernel:
    """The kernel, which takes runs from step to step."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.tiers, self.policy = parts.tiers, parts.policy
        self.outlook = Outlook(parts.tiers)
        self.ledger = Ledger(parts.store, self.outlook)
        self.middleware = _in_order(parts.middleware)
        for one in self.middleware:
            one.check(parts)
        for tier in parts.tiers:
            if isinstance(tier.model, CompositeModel):
                tier.model.check(parts)
        own = [signal for signal in parts.signals if signal.model is not None]
        self.helpers = {signal.name: open_tier(signal.model, signal.name) for signal in own}
        self._checker, self._verifier = agents.SelfChecker(), agents.Verifier(parts.judge)
        self._agents: dict[str, Agent] = {
            "router": agents.Router(),
            "draft": agents.Drafter(),
            "self_check": self._checker,
            "verify": self._verifier,
            "person": agents.Person(),
            "expert": agents.Expert(),
            "audit": agents.Auditor(),
        }
        # Guards see a question first, and have the last word on a decision: they stand outermost.
        self._before = _overriding(self.middleware[::-1], "before_run")
        self._decide = _overriding(self.middleware, "wrap_decision")
        self._after = _overriding(self.middleware, "after_run")
        self._ask: Ask = partial(send, ledger=self.ledger)
        for one in reversed(_overriding(self.middleware, "wrap_model_call")):
            self._ask = partial(_asked, one, self._ask)
        self._step: Advance = self._act
        for one in reversed(_overriding(self.middleware, "wrap_step")):
            self._step = partial(_looked_on, one, self._step)

    # --- what agents and middleware ask for

    def begin(
        self,
        messages: Sequence[AnyMessage],
        settings: Settings | None = None,
        kind: Kind = "answer",
    ) -> Run:
        """A new run, with the settings of the cascade where the question has none of its own."""
        merged: Settings = {**self.parts.settings, **(settings or {})}
        about = messages[-1].id or ""
        return Run(new_id(), about, kind=kind, settings=merged, messages=list(messages))

    async def ask(self, call: Call) -> Completion:
        """Ask a model: through all middleware, then the ledger, then the wire."""
        try:
            return await self._ask(call)
        except NotSentError as error:
            told: Any = {"note": str(error), "tags": call.run.settings.get("tags")}
            tier = call.tier.name
            self.ledger.book(call.run.id, call.node, tier=tier, outcome="not_sent", **told)
            raise

    def decide(
        self, run: Run, situation: Situation, policy: Callable[[Situation], Decision]
    ) -> Decision:
        """The decision about a draft: the policy's, as middleware leaves it."""
        handler = policy
        for one in self._decide:
            handler = partial(_decided, one, run, handler)
        return handler(situation)

    async def rehearse(self, run: Run, runtime: CascadeRuntime) -> Decision | None:
        """The decision about a draft by free signals alone. Nothing is asked, booked or shown; None
        where free signals give no decision."""
        trial = run.copy("shadow")
        trial.assessment = await self._checker.glance(trial, runtime)
        return None if trial.assessment is None else self._verifier.foresee(trial, runtime)

    # --- one step

    async def advance(self, run: Run, runtime: CascadeRuntime) -> None:
        """Take a run one step further, in place.

        Raises:
            CascadeError: the step failed; `error.ledger` holds what the run has spent.
        """
        try:
            await self._step(run, runtime)
        except Exception as error:
            if not isinstance(error, CascadeError) or error.ledger is None:  # one that looks on
                self._fail(run, error)
            raise

    async def _act(self, run: Run, runtime: CascadeRuntime) -> None:
        """The agent whose turn it is, with what comes before the first and after the last."""
        try:
            if run.step == "begin":
                await self._open(run, runtime)
            elif run.step != "end":
                run.step = await self._agents[run.step](run, runtime)
            if run.step == "expert" and run.kind == "shadow":
                run.step = "end"  # it shows what would be, and the large model has answered
            if run.step == "person":
                run.paused_at = time.time()
            if run.step == "end":
                await self._close(run, runtime)
            else:
                self._merge(run)
        except Exception as error:  # before a middleware that looks on sees it
            self._fail(run, error)
            raise

    def _fail(self, run: Run, error: Exception) -> None:
        """Note what the run has spent in what a step raised; an error of the user's code is raised
        as one of ours."""
        if is_control_flow(error):
            return
        self._merge(run, spent=True)
        if isinstance(error, CascadeError):
            error.ledger = LedgerView(run.entries)
            return
        failed = ExtensionError(f"{type(error).__name__} in {_culprit(error)}: {error}")
        failed.ledger = LedgerView(run.entries)
        raise failed from error

    # --- drivers

    @cached_property
    def graph(self) -> Graph:
        """The compiled graph, which inherits the checkpointer of a graph around it."""
        from cascade.graph import build_graph  # noqa: PLC0415 - LangGraph takes a second to load

        return build_graph(self).compile(name=self.parts.name)

    @cached_property
    def _detached(self) -> Graph:
        """The same graph, of which nothing is kept."""
        return self.graph.builder.compile(name=self.parts.name, checkpointer=False)

    def runtime(self, config: RunnableConfig | None, show: Show) -> CascadeRuntime:
        """Runtime of a run, with the context and store of a graph around ours."""
        if config is not None and not isinstance(config, dict):
            raise ConfigurationError(
                f"config={config!r}: give LangChain's run configuration, such as "
                "{'callbacks': […]}; settings of a question have names, temperature=0."
            )
        runtime, around = CascadeRuntime(self, show=show, config=config), graph_around()
        if around is not None:
            runtime.context, runtime.store = around.context, around.store
        return runtime

    async def drive(self, run: Run, runtime: CascadeRuntime) -> None:
        """Take a run to its end, or to a person."""
        config: Any = runtime.config
        if not _asks_for_langgraph(config):
            work = self.answer(run, runtime)
            await (InCopiedContext(work, _context_of(config)) if config else work)
            return
        from cascade.graph import drive_kept, drive_seen  # noqa: PLC0415

        if not _keeps_nested_runs():
            await drive_seen(self._detached, run, runtime)
        elif not await drive_kept(self.graph, run, runtime):
            await self.answer(run, runtime)

    async def answer(self, run: Run, runtime: CascadeRuntime) -> None:
        """Take a run to its end, or to a person: the loop that drives without LangGraph.

        Each step runs in a copied context, so that a variable which the user's code sets is seen
        neither by the next step nor by the caller, as in LangGraph.
        """
        try:
            while run.step != "end":
                if run.step == "person" and runtime.said is None:
                    break
                await InCopiedContext(self.advance(run, runtime))
                runtime.said = None
        except asyncio.CancelledError:
            self._merge(run, spent=True)
            raise

    async def aclose(self) -> None:
        """Let middleware finish what is under way, then close models and helpers, all of them."""
        async with AsyncExitStack() as last_first:
            for tier in (*self.helpers.values(), *self.tiers[::-1]):
                last_first.push_async_callback(tier.model.aclose)
            for one in reversed(self.middleware):
                last_first.push_async_callback(one.aclose)

    async def _open(self, run: Run, runtime: CascadeRuntime) -> None:
        """The beginning of a run: middleware first, which may answer it, then the router."""
        if run.kind == "audit":
            run.step = "audit"
            return
        for one in self._before:
            known = await one.before_run(run, runtime)
            if known is None:
                continue
            if not isinstance(known, Answer):
                raise ExtensionError(
                    f"{one.name}.before_run returned {known!r}: return an Answer, or None to go on."
                )
            run.draft, run.decision, run.degraded = known.completion, known.decision, known.degraded
            run.source, run.step = known.source, "end"
            tier = run.draft.tier if run.draft else None
            told: Any = {"note": f"answered by {one.name}", "tags": run.settings.get("tags")}
            once = f"{run.id}-{one.name}"  # executed again after a crash, a hit counts once
            self.ledger.book(run.id, one.name, id=once, tier=tier, **told)
            if run.draft is not None:
                Reader(runtime, tier or one.name).settle(run.draft.text)
            return
        run.step = await self._agents["router"](run, runtime)

    async def _close(self, run: Run, runtime: CascadeRuntime) -> None:
        self._merge(run, spent=run.kind == "answer")
        answer = Answer(run.answer, run.decision, run.source, run.degraded)
        for one in self._after:
            try:
                await one.after_run(run, answer, runtime)
            except Exception as error:
                if is_control_flow(error):
                    raise
                logger.exception("%s.after_run raised; the answer stands", one.name)

    def _merge(self, run: Run, *, spent: bool = False) -> None:
        """Take entries that the run does not have yet, also of attempts whose state LangGraph has
        discarded; tell the policy what it has `spent` in the end."""
        if new := self.ledger.take(run.id):
            run.entries = list({entry.id: entry for entry in (*run.entries, *new)}.values())
        if spent and (learn := within(self.policy, "paid", callable)) is not None:
            learn(known_cost(run.entries))


def _overriding(middleware: Sequence[CascadeMiddleware], hook: str) -> list[CascadeMiddleware]:
    """Middleware with a hook of its own."""
    plain = getattr(CascadeMiddleware, hook)
    return [one for one in middleware if getattr(type(one), hook) is not plain]


async def _asked(one: CascadeMiddleware, handler: Ask, call: Call) -> Completion:
    completion: object = await one.wrap_model_call(call, handler)
    if not isinstance(completion, Completion):
        raise ExtensionError(
            f"{one.name}.wrap_model_call returned {completion!r}: return a Completion, as in "
            "`return await handler(call)`."
        )
    return completion


def _decided(
    one: CascadeMiddleware, run: Run, handler: Callable[[Situation], Decision], situation: Situation
) -> Decision:
    decision: object = one.wrap_decision(run, situation, handler)
    if not isinstance(decision, Decision) or decision.action not in _ACTIONS:
        raise ExtensionError(
            f"{one.name}.wrap_decision returned {decision!r}: return a Decision with one of "
            f"{', '.join(_ACTIONS)}, as in `return handler(situation)`."
        )
    return decision


async def _looked_on(
    one: CascadeMiddleware, handler: Advance, run: Run, runtime: CascadeRuntime
) -> None:
    """A step that is left out would be tried for ever."""
    taken: list[str] = []

    async def take(run: Run, runtime: CascadeRuntime) -> None:
        taken.append(run.step)
        await handler(run, runtime)

    await one.wrap_step(run, runtime, take)
    if not taken:
        raise ExtensionError(f"{one.name}.wrap_step: `await handler(run, runtime)` is missing.")


def _culprit(error: Exception) -> str:
    """The user's function in which an error arose, for its message."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in ("cascade", "contextlib"):
            return f"{frame.f_code.co_qualname}, code that the cascade calls"
    return "code that the cascade calls"


def _in_order(middleware: Sequence[CascadeMiddleware]) -> tuple[CascadeMiddleware, ...]:
    for one in middleware:
        if not isinstance(one, CascadeMiddleware):
            raise ConfigurationError(
                f"middleware={one!r}: give instances of CascadeMiddleware, such as Retries()."
            )
        for hook, plain in inspect.getmembers(CascadeMiddleware, inspect.isfunction):
            waits = inspect.iscoroutinefunction(plain)
            if inspect.iscoroutinefunction(getattr(one, hook)) != waits:
                wanted = f"{'async ' * waits}def {hook}"
                raise ConfigurationError(f"{type(one).__name__}.{hook}: write it as `{wanted}`.")
        if not isinstance(one.slot, Slot):
            raise ConfigurationError(
                f"{type(one).__name__}.slot={one.slot!r}: give one of Slot, such as Slot.GUARDS."
            )
    names = [one.name for one in middleware]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"two middleware are called {name!r}: leave one out, or set its `name`."
            )
    # By slot, then by name: a stack behaves alike in whichever order it was given.
    return tuple(sorted(middleware, key=lambda one: (one.slot, one.name)))


@asynccontextmanager
async def watched(
    work: Callable[[], Coroutine[Any, Any, object]],
    runtime: CascadeRuntime,
    context: Context | None = None,
) -> AsyncIterator[asyncio.Queue[Event | None]]:
    """The events of a run while `work` drives it, and None at its end; leaving early ends it."""
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    runtime.emit, runtime.streams = events.put_nowait, True

    def ended(task: asyncio.Task[object]) -> None:
        if not task.cancelled():
            task.exception()  # seen, also where the reader has gone
        events.put_nowait(None)

    working = asyncio.get_running_loop().create_task(work(), context=context)
    working.add_done_callback(ended)
    try:
        yield events
        await working
    finally:
        if not working.done():
            working.cancel()
            await asyncio.wait([working])


def graph_around() -> Any:
    """LangGraph's `Runtime` of the node in which this is called; None outside of all graphs."""
    module = sys.modules.get("langgraph.runtime")  # never loaded: then no node is at work
    try:
        return None if module is None else module.get_runtime()
    except (RuntimeError, KeyError):
        return None


def _keeps_nested_runs() -> bool:
    """True if this is a node of a graph with a checkpointer: those have threads."""
    around = graph_around()
    info = None if around is None else around.execution_info
    return info is not None and info.thread_id is not None


def _asks_for_langgraph(config: RunnableConfig | None) -> bool:
    """True if callbacks or a tracer want to see the run, also those of a graph around it."""
    if config is not None and config.get("callbacks"):
        return True
    module = sys.modules.get("langchain_core.runnables.config")
    if module is not None:
        callbacks = module.ensure_config().get("callbacks")
        if getattr(callbacks, "handlers", callbacks) or _keeps_nested_runs():
            return True
    # LangSmith's own word or, before it is loaded, the variables that switch it on.
    module = sys.modules.get("langsmith.utils")
    if module is not None:
        return bool(module.tracing_is_enabled())
    return "true" in (os.environ.get("LANGSMITH_TRACING"), os.environ.get("LANGCHAIN_TRACING_V2"))


def _context_of(config: RunnableConfig) -> Context:
    """A context in which the user's code finds this configuration."""
    from langchain_core.runnables.config import (  # noqa: PLC0415 - a second to load
        ensure_config,
        set_config_context,
    )

    config = ensure_config(config)
    given = config.get("configurable", {})
    known = {name: given[name] for name in _METADATA if given.get(name)}
    config["metadata"] = known | config.get("metadata", {})
    with set_config_context(config) as context:
        return context.copy()
