"""Driving: a run is driven by the loop, or by LangGraph where callbacks, a tracer or a graph with a
checkpointer around ours ask for it.

LangGraph is loaded only when it drives.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from contextvars import Context
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigurationError
from cascade.events import Event, Reader
from cascade.kernel import InCopiedContext, Kernel
from cascade.run import CascadeRuntime, Run, Show

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import StateGraph
    from langgraph.graph.state import CompiledStateGraph

_METADATA = ("thread_id", "checkpoint_id", "checkpoint_ns", "run_id", "assistant_id", "graph_id")
"""What LangGraph copies from `configurable` into the metadata that the user's code finds."""


class Driver:
    """Driver of the runs of a cascade, by the loop or by LangGraph.

    Args:
        kernel: of the cascade.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._graph: CompiledStateGraph[Any, Any, Any, Any] | None = None
        self._detached: Any = None

    @property
    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The compiled graph, which inherits the checkpointer of a graph around it."""
        if self._graph is None:
            self._graph = self.build_graph().compile(name=self._kernel.parts.name)
        return self._graph

    def build_graph(self) -> StateGraph[Any, Any, Any, Any]:
        """A fresh, uncompiled graph."""
        from cascade.graph import build_graph  # noqa: PLC0415 - LangGraph takes a second to load

        return build_graph(self._kernel)

    def runtime(self, config: RunnableConfig | None, show: Show) -> CascadeRuntime:
        """Runtime of a run, with the context and store of a graph around ours.

        Raises:
            ConfigurationError: it is no configuration.
        """
        if config is not None and not isinstance(config, dict):
            raise ConfigurationError(
                f"config={config!r}: give LangChain's run configuration, such as "
                "{'callbacks': […]}; settings of a question have names, temperature=0."
            )
        runtime, around = CascadeRuntime(self._kernel, show=show, config=config), graph_around()
        if around is not None:
            runtime.context, runtime.store = around.context, around.store
        return runtime

    async def drive(self, run: Run, runtime: CascadeRuntime) -> None:
        """Take a run to its end, or to a person.

        Raises:
            CascadeError: the run failed; `error.ledger` holds what it has spent.
        """
        config: Any = runtime.config
        if _asks_for_langgraph(config):
            await self._by_langgraph(run, runtime)
        elif config:
            await InCopiedContext(self._kernel.answer(run, runtime), _context_of(config))
        else:
            await self._kernel.answer(run, runtime)

    async def _by_langgraph(self, run: Run, runtime: CascadeRuntime) -> None:
        """The run driven by LangGraph, which reports it to callbacks and tracers.

        In a node of a graph with a checkpointer, LangGraph keeps nested runs by the position of
        their call: what was paid before an interrupt is not paid again, but the second question may
        find the first one's answer, or that of another cascade. What was kept for another question
        is left alone, and this one is asked.
        """
        given: Any = dict(runtime.config or {})
        given["configurable"] = {**(given.get("configurable") or {}), "show": runtime.show}
        identity = self._identity(run)
        asked = {"messages": run.messages, "settings": {**run.settings, "of": identity}}
        if _keeps_nested_runs():
            state: Any = await self.graph.ainvoke(asked, given)
            done = Run.from_json(state["run"], state["messages"])
            if done.settings.get("of") != identity:
                await self._kernel.answer(run, runtime)
                return
            Reader(runtime.emit, done.source).settle(done.draft.text if done.draft else "")
        else:
            if self._detached is None:
                name = self._kernel.parts.name
                self._detached = self.build_graph().compile(name=name, checkpointer=False)
            state = None
            steps = self._detached.astream(asked, given, stream_mode=["custom", "values"])
            async with aclosing(steps) as pieces:
                async for mode, value in pieces:
                    if mode == "custom":
                        runtime.emit(value)
                    else:
                        state = value
            assert state is not None, "a graph ends with its values"
            done = Run.from_json(state["run"], state["messages"])
        for field in fields(Run):
            setattr(run, field.name, getattr(done, field.name))

    def _identity(self, run: Run) -> str:
        """Hash that tells a question to this cascade from others."""
        parts = self._kernel.parts
        texts = [[message.type, message.content] for message in run.messages]
        chain = [f"{tier.name}={tier.model.name}@{tier.model.server}" for tier in parts.tiers]
        plain = {k: v for k, v in run.settings.items() if k != "of"}
        held = json.dumps([parts.name, chain, texts, plain], sort_keys=True, default=repr)
        return hashlib.sha256(held.encode()).hexdigest()


@asynccontextmanager
async def watched(
    work: Callable[[], Coroutine[Any, Any, None]],
    runtime: CascadeRuntime,
    context: Context | None = None,
) -> AsyncIterator[asyncio.Queue[Event | None]]:
    """The events of a run while `work` drives it, and None at its end; leaving early ends it."""
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    runtime.emit, runtime.streams = events.put_nowait, True

    def ended(task: asyncio.Task[None]) -> None:
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
    """Whether this is a node of a graph with a checkpointer: those have threads."""
    around = graph_around()
    info = None if around is None else around.execution_info
    return info is not None and info.thread_id is not None


def _asks_for_langgraph(config: RunnableConfig | None) -> bool:
    """Whether callbacks or a tracer want to see the run, also those of a graph around it."""
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
