"""Drivers of a run: the loop, or LangGraph where callbacks, a tracer or a graph with a checkpointer
around ours ask for it.

LangGraph is loaded only when it drives.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigurationError
from cascade.events import Event
from cascade.kernel import InCopiedContext, Kernel
from cascade.run import CascadeRuntime, Run, Show

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph.state import CompiledStateGraph

    Graph = CompiledStateGraph[Any, Any, Any, Any]


_METADATA = ("thread_id", "checkpoint_id", "checkpoint_ns", "run_id", "assistant_id", "graph_id")
"""Fields that LangGraph copies from `configurable` into the metadata that the user's code finds."""


class Driver:
    """Driver of the runs of a cascade, by the loop or by LangGraph.

    Args:
        kernel: of the cascade.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    @cached_property
    def graph(self) -> Graph:
        """The compiled graph, which inherits the checkpointer of a graph around it."""
        from cascade.graph import build_graph  # noqa: PLC0415 - LangGraph takes a second to load

        return build_graph(self._kernel).compile(name=self._kernel.parts.name)

    @cached_property
    def _detached(self) -> Graph:
        """The same graph, of which nothing is kept."""
        from cascade.graph import build_graph  # noqa: PLC0415

        return build_graph(self._kernel).compile(name=self._kernel.parts.name, checkpointer=False)

    def runtime(self, config: RunnableConfig | None, show: Show) -> CascadeRuntime:
        """Runtime of a run, with the context and store of a graph around ours."""
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
        """Take a run to its end, or to a person."""
        config: Any = runtime.config
        if not _asks_for_langgraph(config):
            work = self._kernel.answer(run, runtime)
            await (InCopiedContext(work, _context_of(config)) if config else work)
            return
        from cascade.graph import drive_kept, drive_seen  # noqa: PLC0415

        if not _keeps_nested_runs():
            await drive_seen(self._detached, run, runtime)
        elif not await drive_kept(self.graph, run, runtime):
            await self._kernel.answer(run, runtime)


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
