"""Wires the agents into a LangGraph StateGraph.

START → draft → self_check → verify ─┬→ END      (accept)
  │       ↑                          ├→ draft    (escalate to the next tier)
  └→ route┴→ expert → END            ├→ expert   (escalate to the last tier)
                                     └→ ask      (a person decides)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import Command, RetryPolicy

from cascade._portal import run_sync
from cascade.agents import (
    AgentRuntime,
    Caller,
    Drafter,
    Expert,
    Judge,
    Person,
    Route,
    Router,
    SelfChecker,
    Task,
    Verifier,
)
from cascade.agents.base import MAX_WAIT_S
from cascade.confidence.signals import Signal
from cascade.errors import ModelError, RateLimitError
from cascade.ledger import Recorder
from cascade.policies import Policy
from cascade.state import CascadeInput, CascadeState, StateUpdate
from cascade.tiers import OpenTier, open_tier

Agent = Callable[[CascadeState, AgentRuntime], Awaitable["StateUpdate | Command[str]"]]
"""The logic of a node."""


def is_retryable(error: BaseException) -> bool:
    """Whether LangGraph should try a failed node again: not after 400, 401 or 404."""
    if isinstance(error, RateLimitError) and (error.retry_after or 0) > MAX_WAIT_S:
        return False
    return isinstance(error, ModelError) and error.retryable


DEFAULT_RETRY = RetryPolicy(
    initial_interval=0.5,
    backoff_factor=2.0,
    max_interval=8.0,
    max_attempts=3,
    retry_on=is_retryable,
)
"""Three attempts within some seconds: longer than a hiccup, shorter than a person's patience."""


class _Node(Runnable[CascadeState, Any]):
    """An agent as a node: one coroutine serves LangGraph's asynchronous and synchronous runs."""

    def __init__(self, name: str, agent: Agent) -> None:
        self.name = name
        self._agent = agent

    async def ainvoke(
        self,
        input: CascadeState,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return await self._agent(input, get_runtime())

    def invoke(
        self,
        input: CascadeState,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return run_sync(self.ainvoke(input, config))


def build_graph(
    tiers: Sequence[OpenTier],
    policy: Policy,
    *,
    recorder: Recorder | None = None,
    task: Task | None = None,
    signals: Sequence[Signal] = (),
    judge: Judge | None = None,
    route: Route | None = None,
    retry_policy: RetryPolicy = DEFAULT_RETRY,
) -> StateGraph[CascadeState, None, CascadeInput, CascadeState]:
    """The uncompiled graph, for those who want to rewire it; `Cascade.graph` is compiled.

    Args:
        tiers: from small to large; with a single one there is only an expert.
        policy: decides about drafts.
        recorder: receives each ledger entry the moment it arises.
        task: tools and schema of every question.
        signals: what the self-check takes; empty for the cheapest possible.
        judge: a verifier of the user's, asked before the policy.
        route: chooses the first tier before anything is drafted; None always drafts.
        retry_policy: LangGraph's retries for the nodes that call models.
    """
    tiers, task, recorder = tuple(tiers), task or Task(), recorder or Recorder()
    caller = Caller(recorder, max_attempts=retry_policy.max_attempts)
    builder = StateGraph(CascadeState, input_schema=CascadeInput)

    def add(name: str, agent: Any, goes_to: Sequence[str] = (), *, asks: bool = False) -> None:
        # LangGraph's types know no error handler with a runtime, though it passes one.
        handler: Any = agent.on_error if asks else None
        builder.add_node(
            name,
            _Node(name, agent),
            retry_policy=retry_policy if asks else None,
            error_handler=handler,
            destinations=tuple(goes_to) or None,
        )

    add("expert", Expert(tiers[-1], caller, task), (END,), asks=True)
    if len(tiers) == 1:
        builder.add_edge(START, "expert")
        return builder
    onwards = ("draft", "expert") if len(tiers) > 2 else ("expert",)
    add("draft", Drafter(tiers, caller, task), asks=True)
    helpers = {s.name: open_tier(s.model, s.name) for s in signals if s.model is not None}
    add("self_check", SelfChecker(tiers, caller, task, signals, helpers), asks=True)
    add("verify", Verifier(tiers, policy, recorder, judge), (*onwards, "ask", END))
    add("ask", Person(tiers, recorder), (*onwards, END))
    builder.add_edge("draft", "self_check")
    builder.add_edge("self_check", "verify")
    if route is None:
        builder.add_edge(START, "draft")
    else:
        add("route", Router(route, tiers, recorder), ("draft", "expert"))
        builder.add_edge(START, "route")
    return builder
