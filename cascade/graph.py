"""Wires the agents into a LangGraph StateGraph.

START → draft → self_check → verify ─┬→ END      (accept)
  │       ↑                          ├→ draft    (escalate to the next tier)
  └→ route┴→ expert → END            ├→ expert   (escalate to the last tier)
                                     └→ ask      (a person decides)

Where a person has to approve of irreversible calls, `expert` goes to `approve` with them.

What has to stay on this machine goes to `route` first; where all has to, and the last tier is
elsewhere, there is no `expert`. In shadow the first node goes straight to `expert`, and the draft
is made after the reply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from inspect import isawaitable
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp, NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import Command, RetryPolicy

from cascade._portal import run_sync
from cascade.agents import (
    AgentRuntime,
    Caller,
    Expert,
    Judge,
    Person,
    Route,
    Router,
    Task,
    Verifier,
)
from cascade.agents.approving import add_expert
from cascade.agents.around import facts, tags_in, thread_in
from cascade.agents.base import attempt_of, current_run
from cascade.agents.border import Border, LocalOnly, Private, read_local_only
from cascade.agents.deadline import Deadline
from cascade.agents.entries import Accounts
from cascade.agents.fallback import Fallback
from cascade.agents.fallback_steps import Falling
from cascade.agents.foreseeing import drafting
from cascade.agents.gate import Beside, Gate
from cascade.agents.hedging import Hedging
from cascade.agents.latch import Latch, Latching, looked_after
from cascade.agents.outlook import Outlook
from cascade.agents.recall import Recall
from cascade.agents.remembering import Remembers
from cascade.agents.retrying import MAX_WAIT_S
from cascade.agents.reusing import Reusing
from cascade.agents.sending import annotate
from cascade.agents.shedding import Pressure
from cascade.agents.stopping import Abort
from cascade.agents.watching import Watcher
from cascade.confidence import Calibrator
from cascade.confidence.signals import Signal
from cascade.errors import ModelError
from cascade.ledger import Recorder
from cascade.ledger.tags import NO_TAGS, current_tags, tagged
from cascade.observing import ObservedNode, Observers, after
from cascade.policies import Policy, promises, with_risks
from cascade.policies.reuse import Reuse, Wanted
from cascade.resilience import Doors
from cascade.state import CascadeInput, CascadeState, StateUpdate
from cascade.tiers import OpenTier, keep_local

Agent = Callable[[CascadeState, AgentRuntime], Awaitable["StateUpdate | Command[str]"]]
"""The logic of a node."""


def is_retryable(error: BaseException) -> bool:
    """Whether LangGraph should try a failed node again: not after 400, 401 or 404."""
    if not isinstance(error, ModelError) or (error.retry_after or 0) > MAX_WAIT_S:
        return False
    return error.retryable


DEFAULT_RETRY = RetryPolicy(
    initial_interval=0.5,
    backoff_factor=2.0,
    max_interval=8.0,
    max_attempts=3,
    retry_on=is_retryable,
)
"""Three attempts within some seconds: what to begin with for a `retry_policy` of one's own."""


def will_retry(policy: RetryPolicy, error: Exception, attempt: int) -> bool:
    """Whether LangGraph tries a node again that failed at this attempt."""
    return _is_tried_again(policy, error) and attempt < policy.max_attempts


def _is_tried_again(policy: RetryPolicy, error: Exception) -> bool:
    if isinstance(error, ModelError) and error.given_up:
        return False
    on = policy.retry_on
    if callable(on) and not isinstance(on, type):
        return on(error)
    return isinstance(error, on if isinstance(on, type) else tuple(on))


def retries(given: RetryPolicy | None, doors: Doors) -> RetryPolicy:
    """What LangGraph is told: the user's policy, or as many attempts as the settings of the tiers
    have, at once, since whoever asked has waited already. Neither tries what was given up.
    """
    at_once = RetryPolicy(0.0, 1.0, 0.0, doors.settings.attempts, False, is_retryable)
    policy = at_once if given is None else given
    return policy._replace(retry_on=partial(_is_tried_again, policy))


def pause_s(policy: RetryPolicy, error: ModelError, attempt: int) -> float | None:
    """Seconds until a call that no node makes is tried again; None for no other attempt."""
    if not will_retry(policy, error, attempt):
        return None
    return min(
        policy.max_interval, policy.initial_interval * policy.backoff_factor ** (attempt - 1)
    )


class _Node(Runnable[CascadeState, Any]):
    """An agent as a node: one coroutine serves LangGraph's asynchronous and synchronous runs.

    An agent with an `on_error` is asked what to do when its last attempt has failed. It is not
    LangGraph's `error_handler`: a run whose handler raises cannot be resumed, while a failed
    node can, once the model is back.
    """

    def __init__(
        self,
        name: str,
        agent: Agent,
        retry_policy: RetryPolicy,
        then: str,
        tags: Mapping[str, str],
        observers: Observers,
        border: Border,
        hedging: Hedging | None = None,
        recall: Recall | None = None,
        pressure: Pressure | None = None,
    ) -> None:
        self.name = name
        self._agent = agent
        self._retry_policy = retry_policy
        self._then = then
        self._tags = tags
        self._observers = observers
        self._border = border
        self._hedging = hedging
        self._recall = recall
        self._pressure = pressure

    async def ainvoke(
        self,
        input: CascadeState,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        runtime = get_runtime()
        input = self._border.mark(input)  # noqa: A001 - what the node is given
        around, given = current_tags(), tags_in(config)
        tags = {**self._tags, **around, **given} if self._tags or given else around
        pressure = self._pressure
        with (
            nullcontext() if tags is around else tagged(**tags),
            nullcontext() if pressure is None else pressure.at_work(),
        ):
            if not self._observers:
                command = await self._hedged(input, runtime)
            else:
                run, thread = current_run(input, runtime), thread_in(config)
                at_work = self._observers.node(
                    str(self.name), run.id, input["messages"], tags, thread
                )
                with at_work as node:
                    command = await self._hedged(input, runtime, node)
        if command.goto == END:
            if self._recall is not None:
                await self._recall.keep(input["messages"], after(input, command.update))
            name = self._observers.cascade
            annotate(config, lambda: facts(name, after(input, command.update)))
        return command

    async def _hedged(
        self, state: CascadeState, runtime: AgentRuntime, node: ObservedNode | None = None
    ) -> Command[str]:
        work = self._work(state, runtime, node)
        if self._hedging is None:
            return await work
        return await self._hedging.around(
            current_run(state, runtime).id, work, partial(self._is_retried, runtime)
        )

    def _is_retried(self, runtime: AgentRuntime, error: Exception) -> bool:
        handles = getattr(self._agent, "on_error", None) is not None
        return handles and will_retry(self._retry_policy, error, attempt_of(runtime))

    async def _work(
        self, state: CascadeState, runtime: AgentRuntime, node: ObservedNode | None = None
    ) -> Command[str]:
        try:
            result = await self._agent(state, runtime)
        except GraphBubbleUp:
            if node is not None:
                node.interrupted = True
            raise
        except Exception as error:
            on_error = getattr(self._agent, "on_error", None)
            if on_error is None or self._is_retried(runtime, error):
                if node is not None:
                    node.retried = on_error is not None
                raise
            result = on_error(state, runtime, NodeError(str(self.name), error))
            result = await result if isawaitable(result) else result
        command = result if isinstance(result, Command) else Command(goto=self._then, update=result)
        if node is not None:
            node.returned(state, command.update, last=command.goto == END)
        return command

    def invoke(
        self,
        input: CascadeState,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        return run_sync(self.ainvoke(input, config))


@dataclass(frozen=True, slots=True)
class _Nodes:
    """What the nodes of one graph have in common."""

    builder: StateGraph[CascadeState, None, CascadeInput, CascadeState]
    retry_policy: RetryPolicy
    tags: Mapping[str, str]
    observers: Observers
    border: Border
    hedging: Hedging | None
    recall: Recall | None
    pressure: Pressure | None

    def add(self, name: str, agent: Any, *goes_to: str) -> None:
        """A node that goes to the first of these unless its agent says otherwise."""
        common = (self.tags, self.observers, self.border, self.hedging, self.recall, self.pressure)
        node = _Node(name, agent, self.retry_policy, goes_to[0], *common)
        asks = self.retry_policy if getattr(agent, "on_error", None) is not None else None
        self.builder.add_node(name, node, retry_policy=asks, destinations=goes_to)


def build_graph(  # noqa: PLR0913 - one option for each thing that can be rewired
    tiers: Sequence[OpenTier],
    policy: Policy,
    *,
    recorder: Recorder | None = None,
    task: Task | None = None,
    signals: Sequence[Signal] = (),
    calibrators: Mapping[str, Calibrator] | None = None,
    judge: Judge | None = None,
    route: Route | None = None,
    deadline_s: float | Deadline | None = None,
    retry_policy: RetryPolicy | None = None,
    doors: Doors | None = None,
    outlook: Outlook | None = None,
    watchers: Sequence[Watcher] = (),
    beside: Beside | None = None,
    abort: Abort | None = None,
    hedging: Hedging | None = None,
    reuse: Wanted | Reuse | None = None,
    tags: Mapping[str, str] = NO_TAGS,
    local_only: LocalOnly = False,
    private: Private | None = None,
    latch: Latch | None = None,
    recall: Recall | None = None,
    fallback: Fallback | None = None,
    pressure: Pressure | None = None,
    memory: Remembers | None = None,
) -> StateGraph[CascadeState, None, CascadeInput, CascadeState]:
    """The uncompiled graph, for those who want to rewire it; `Cascade.graph` is compiled.

    Args:
        tiers: from small to large; with a single one there is only an expert.
        policy: decides about drafts.
        recorder: receives each ledger entry the moment it arises.
        task: tools and schema of every question.
        signals: what the self-check takes; empty for the cheapest possible.
        calibrators: make probabilities of the signals, by the tier that drafted.
        judge: a verifier of the user's, asked before the policy.
        route: chooses the first tier before anything is drafted; None always drafts.
        deadline_s: seconds for a whole run; calls get no more time than is left. A `Deadline` also
            knows how long tiers take.
        retry_policy: LangGraph's retries for the nodes that call models; by default attempts and
            waits are those of the tiers' doors.
        doors: what stands before each tier; None for the usual.
        outlook: what larger tiers are expected to cost.
        watchers: are told of every decision.
        beside: says which questions the large model answers first, and drafts them afterwards.
        abort: which drafts may be stopped while they are written; None for none.
        hedging: has the large model asked beside a draft where time is short; None for never.
        reuse: which escalated drafts the large model is shown, to approve or correct.
        tags: of every ledger entry; those of a run's `config["metadata"]["ledger_tags"]` and of
            `tagged(…)` around it come on top.
        local_only: leave out all ways to tiers that are not on this machine.
        private: says of each conversation whether it has to stay on this machine.
        latch: which steps of a conversation go straight to the last tier; None for none.
        recall: knows answers that were given before, and keeps new ones.
        fallback: what follows where the last tier cannot be had; by default the draft, if usable.
        pressure: under which audits and paid signals are left out; None for none.
        memory: shows the first tier examples; None for none.

    Raises:
        ConfigurationError: something here cannot work; the message says what.
    """
    border = Border(read_local_only(local_only, "local_only"), private, promises(policy))
    tiers = tuple(tiers) if border.always is None else keep_local(tiers)
    task, recorder, calibrators = task or Task(), recorder or Recorder(), calibrators or {}
    deadline = replace(Deadline.of(deadline_s), hedging=hedging)
    outlook, order = outlook or Outlook(tiers), fallback or Fallback()
    caller, retry_policy = _caller(recorder, deadline, outlook, retry_policy, doors)
    builder = StateGraph(CascadeState, input_schema=CascadeInput)
    watched = (recorder.observers, border, hedging, recall, pressure)
    add = _Nodes(builder, retry_policy, tags, *watched).add
    answering, several = _answering(tiers, border)
    first, routed = answering[0], route is not None or border.looks
    to_route, to_end = () if routed else ("route",), () if recall is None else (END,)
    latching = None if latch is None or first == "expert" else Latching(latch, outlook)

    def opening(name: str, agent: Any) -> Any:
        # behind a gate where questions come to it first
        on_error = getattr(agent, "on_error", None)
        gate = Gate(agent, tiers, beside, on_error, latching=latching, recall=recall)
        return agent if routed or name != first else gate

    builder.add_edge(START, "route" if routed else first)
    router = Router(route, tiers, recorder, border, beside, latching=latching, recall=recall)
    add("route", router, *answering, *to_end)
    if "expert" in answering:
        falling = Falling(order, tiers, caller, task, outlook, partial(pause_s, retry_policy))
        reusing = None if reuse is None else Reusing(reuse, outlook)
        answers = Expert(tiers[-1], caller, task, beside, reusing, falling)
        expert, back = looked_after(answers, latching)
        ways = to_route if first == "expert" else (*back, *(("ask",) if order.asks else ()))
        add_expert(opening("expert", expert), task.risks, recorder, add, ways)
    if first == "expert":
        return builder
    onwards, policy = answering if several else answering[1:], with_risks(policy, task.risks)
    decided = (judge, signals, calibrators, deadline, watchers, task, pressure)
    verifier = Verifier(tiers, policy, recorder, outlook, *decided)
    drafter, checker = drafting(verifier, caller, border.helpers(signals), abort, memory)
    add("draft", opening("draft", drafter), "self_check", *onwards, *to_route, *to_end)
    add("self_check", checker, "verify")
    back = ("self_check",) if calibrators and any(signal.calls for signal in signals) else ()
    add("verify", verifier, END, *onwards, *back, "ask")
    add("ask", Person(tiers, recorder, outlook), END, *onwards)
    return builder


def _caller(
    recorder: Recorder,
    deadline: Deadline,
    outlook: Outlook,
    given: RetryPolicy | None,
    doors: Doors | None,
) -> tuple[Caller, RetryPolicy]:
    """Who asks the models, and what LangGraph does where that fails."""
    doors = doors or Doors(observers=recorder.observers)
    policy, accounts = retries(given, doors), Accounts(outlook)
    caller = Caller(
        recorder,
        policy.max_attempts,
        deadline,
        accounts=accounts,
        doors=doors,
        waits=given is None,
    )
    return caller, policy


def _answering(tiers: Sequence[OpenTier], border: Border) -> tuple[list[str], bool]:
    """The nodes in which tiers answer, and whether there are several that draft."""
    *drafting, last = (border.always is None or tier.local for tier in tiers)
    nodes = ["draft"] if any(drafting) else []
    return [*nodes, "expert"] if last else nodes, sum(drafting) > 1
