"""Walks over the nodes of a graph, where nothing asks for LangGraph's loop.

LangGraph prepares, runs and commits every step so that it can be saved, interrupted, resumed,
watched and traced. A run without a checkpointer, a graph around it, callbacks and a tracer has no
use for that. It goes from node to node by the same `Command`s, with the same reducers, the same
retries and the same surroundings (`get_runtime`, `get_config`, `interrupt`), and ends in the same
state. The nodes cannot tell the difference, and this module knows nothing of what they do.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextvars import Context
from itertools import count
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._config import DEFAULT_RECURSION_LIMIT
from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_TASK_ID,
)
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph.channels import BinaryOperatorAggregate
from langgraph.checkpoint.base.id import uuid6
from langgraph.errors import (
    GraphBubbleUp,
    GraphInterrupt,
    GraphRecursionError,
    NodeCancelledError,
)
from langgraph.graph import END, START
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import ExecutionInfo, Runtime
from langgraph.types import Command

from cascade.graph import will_retry

logger = logging.getLogger("cascade")

State = dict[str, Any]
Write = Callable[[Any], None]
PLAIN = frozenset({"configurable", "metadata", "tags", "callbacks", "run_name", "run_id"})
"""Keys of a configuration that a walk can honour; where there is another, LangGraph runs."""

_DONE = object()
_EMPTY = RunnableConfig(metadata={}, callbacks=None)
"""What is in every configuration that LangGraph gives to a node."""


def needs_loop(config: RunnableConfig | None) -> bool:
    """Whether a run has to be LangGraph's: something around it, or in its configuration, asks."""
    given = config or {}
    if var_child_runnable_config.get() is not None or not PLAIN.issuperset(given):
        return True
    for key in given.get("configurable") or ():
        if not isinstance(key, str) or key.startswith(("__", "checkpoint")):
            return True
    return bool(AsyncCallbackManager.configure(given.get("callbacks")).handlers)


class Walk:
    """A way through the nodes of a compiled graph, each of which says by `Command` what is next.

    Args:
        graph: whose nodes they are; without a checkpointer of its own.
    """

    def __init__(self, graph: CompiledStateGraph[Any, None, Any, Any]) -> None:
        self.graph = graph
        builder: Any = graph.builder
        self._nodes = {
            name: (node.runnable, node.retry_policy) for name, node in builder.nodes.items()
        }
        (self._first,) = (end for start, end in builder.edges if start == START)
        self._reducers = {
            name: channel.operator
            for name, channel in builder.channels.items()
            if isinstance(channel, BinaryOperatorAggregate)
        }

    async def ainvoke(self, given: Mapping[str, Any], config: RunnableConfig | None) -> State:
        """The state in which a run ends, as LangGraph's `ainvoke` gives it."""
        state, _ = await self.until(given, config)
        return state

    async def until(
        self,
        given: Mapping[str, Any],
        config: RunnableConfig | None,
        *,
        start: str | None = None,
        before: Collection[str] = (),
    ) -> tuple[State, str]:
        """The state before a run comes to one of these nodes, and which one; END where it ended.

        Args:
            given: the question; or with a `start` the state of a run that goes on there.
            config: of the run.
            start: the node to begin with, whatever is in `before`; by default the graph's first.
            before: nodes that are not entered.
        """
        run, state, name = _Run(config, _nowhere), self._begin(given), start or self._first
        while name != END:
            try:
                command = await self._at(name, state, run)
            except GraphInterrupt as interrupt:
                return {**state, "__interrupt__": list(interrupt.args[0])}, END
            state, name = self._merged(state, command.update), str(command.goto)
            if name in before:
                break
        return state, name

    async def astream(
        self, given: Mapping[str, Any], config: RunnableConfig | None, context: Context
    ) -> AsyncGenerator[tuple[str, Any]]:
        """What nodes write, as LangGraph's stream of the mode `custom`, and the state at the end.

        A node is not begun before whoever reads has taken all that those before it wrote. Nodes
        run in the given context, whoever reads in his own.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Any] = asyncio.Queue()
        run, state, name = _Run(config, events.put_nowait), self._begin(given), self._first
        while name != END:
            task = loop.create_task(self._at(name, state, run), context=context)
            task.add_done_callback(lambda _: events.put_nowait(_DONE))
            try:
                while (event := await events.get()) is not _DONE:
                    yield "custom", event
                command = task.result()
            except GraphInterrupt as interrupt:
                yield "values", {**state, "__interrupt__": interrupt.args[0]}
                return
            finally:
                if not task.done():
                    task.cancel()
                    await asyncio.wait([task])
                if task.done() and not task.cancelled():
                    task.exception()  # whoever has left does not hear of it
            state, name = self._merged(state, command.update), str(command.goto)
        yield "values", state

    def _begin(self, given: Mapping[str, Any]) -> State:
        state: State = {name: [] for name in self._reducers}
        return self._merged(state, given)

    def _merged(self, state: State, update: Any) -> State:
        update = update or {}
        merged = {**state, **update}
        for name, reduce in self._reducers.items():
            if name in update:
                merged[name] = reduce(state[name], update[name])
        return merged

    async def _at(self, name: str, state: State, run: _Run) -> Command[str]:
        """One node, tried again as its policy says."""
        run.step(name)
        node, policy = self._nodes[name]
        attempt, begun_at = 1, time.time()
        while True:
            config = run.config(attempt, begun_at)
            around = var_child_runnable_config.set(config)
            try:
                command: Command[str] = await node.ainvoke(state, config)
                return command
            except GraphBubbleUp:
                raise
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise NodeCancelledError(name) from error  # nobody cancelled: the node raised it
            except Exception as error:
                error.add_note(f"During task with name '{name}' and id '{run.task_id}'")
                if policy is None or not will_retry(policy, error, attempt):
                    raise
                grown = policy.initial_interval * policy.backoff_factor ** (attempt - 1)
                jitter = random.uniform(0, 1) if policy.jitter else 0.0  # noqa: S311 - no secret
                seconds = min(policy.max_interval, grown) + jitter
                logger.info("%s is tried again in %.2f s: %r", name, seconds, error)
                await asyncio.sleep(seconds)
                attempt += 1
            finally:
                var_child_runnable_config.reset(around)


class _Run:
    """What the nodes of one run find around them."""

    def __init__(self, config: RunnableConfig | None, write: Write) -> None:
        self.task_id = ""
        self._given: Mapping[str, Any] = config or {}
        self._configurable = self._given.get("configurable") or {}
        self._write = write
        self._id = str(uuid6(clock_seq=-2))
        self._steps = 0
        self._namespace = ""

    def step(self, name: str) -> None:
        """Begin another node.

        Raises:
            GraphRecursionError: there were more of them than LangGraph allows.
        """
        self._steps += 1
        if self._steps > DEFAULT_RECURSION_LIMIT:
            raise GraphRecursionError(
                f"Recursion limit of {DEFAULT_RECURSION_LIMIT} reached without hitting a stop "
                "condition."
            )
        self.task_id = f"{self._id}-{self._steps}"
        self._namespace = f"{name}:{self.task_id}"

    def config(self, attempt: int, begun_at: float) -> RunnableConfig:
        """What `get_config` finds in a node."""
        thread, run_id = self._configurable.get("thread_id"), self._given.get("run_id")
        info = ExecutionInfo(
            checkpoint_id=self._id,
            checkpoint_ns=self._namespace,
            task_id=self.task_id,
            thread_id=None if thread is None else str(thread),
            run_id=None if run_id is None else str(run_id),
            node_attempt=attempt,
            node_first_attempt_time=begun_at,
        )
        runtime: Runtime[None] = Runtime(stream_writer=self._write, execution_info=info)
        scratchpad = PregelScratchpad(
            step=self._steps,
            stop=DEFAULT_RECURSION_LIMIT,
            call_counter=count().__next__,
            interrupt_counter=count().__next__,
            get_null_resume=_no_resume,
            resume=[],
            subgraph_counter=count().__next__,
        )
        configurable = {
            **self._configurable,
            CONFIG_KEY_RUNTIME: runtime,
            CONFIG_KEY_SCRATCHPAD: scratchpad,
            CONFIG_KEY_CHECKPOINT_NS: self._namespace,
            CONFIG_KEY_TASK_ID: self.task_id,
        }
        return {**_EMPTY, **self._given, "configurable": configurable}  # type: ignore[typeddict-item]


def _nowhere(event: Any) -> None:
    """Where nobody reads a stream."""


def _no_resume(consume: bool) -> None:
    """There is nothing to resume."""
