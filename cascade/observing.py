"""Who looks on while a cascade runs: traces, metrics, logs. When nobody looks on, it costs nothing.

A run is seen from its first node to its last, also where `cascade.graph` is a part of a larger
graph. A run that waits for a person and is resumed later is seen as two, with the same id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

from cascade.errors import ConfigurationError
from cascade.state import Completion, Decision, LedgerEntry

Outcome = Literal[
    "accepted",
    "escalated",
    "degraded",
    "abstained",
    "interrupted",
    "failed",
    "cancelled",
    "abandoned",
]
"""How a run ended: the first tier's answer stood, or a larger tier's; the draft was returned
because the large model could not be had; no answer on purpose; a person was asked; an error; the
caller gave up; the caller went away between two nodes."""

ABANDONED_AFTER_S = 60.0
"""A run that stands still between two nodes for so long was given up by whoever ran it."""

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class Ending:
    """What a finished state says of its run.

    Attributes:
        outcome: accepted, escalated, degraded or abstained.
        tier: who answered; None where nobody did.
        escalated: whether a tier above the first was needed.
        confidence: of the last draft that was judged; None where none could be.
        calibrated: whether `confidence` is a probability or a raw score.
        decision: the last one.
        answer: None where the policy abstained.
    """

    outcome: Outcome
    tier: str | None
    escalated: bool
    confidence: float | None
    calibrated: bool
    decision: Decision
    answer: AIMessage | None


def ending_of(state: Mapping[str, Any]) -> Ending:
    """Read the ending of a run from its finished state."""
    decision, escalated = state["decision"], state["run"].tier > 0
    assessment, last = state.get("assessment"), state["messages"][-1]
    abstained = decision.action == "abstain"
    answer = last if isinstance(last, AIMessage) and not abstained else None
    outcome: Outcome = "escalated" if escalated else "accepted"
    if abstained:
        outcome = "abstained"
    elif state.get("degraded", False):
        outcome = "degraded"
    return Ending(
        outcome=outcome,
        tier=answer.response_metadata.get("tier") if answer is not None else None,
        escalated=escalated,
        confidence=assessment.confidence if assessment else None,
        calibrated=assessment.calibrated if assessment else False,
        decision=decision,
        answer=answer,
    )


def after(state: Mapping[str, Any], update: Mapping[str, Any] | None) -> dict[str, Any]:
    """The state that a node leaves: `messages` and `ledger` grow, the rest is replaced."""
    update = update or {}
    grown = {key: [*state.get(key, ()), *update.get(key, ())] for key in ("messages", "ledger")}
    return {**state, **update, **grown}


@dataclass(eq=False, slots=True)
class ObservedRun:
    """One question on its way through a cascade.

    Attributes:
        id: of the run in the ledger.
        cascade: name of the cascade.
        messages: the conversation when the run began.
        conversation: `thread_id` of a graph with a checkpointer.
        entries: ledger entries of the run so far, those of failed attempts among them.
        outcome: once it has ended.
        ending: once it has ended with an answer or on purpose without one.
        error: what it failed with.
        seconds: how long it took, once it has ended.
    """

    id: str
    cascade: str
    messages: Sequence[BaseMessage]
    tags: Mapping[str, str]
    conversation: str | None
    entries: list[LedgerEntry] = field(default_factory=list)
    outcome: Outcome | None = None
    ending: Ending | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    begun_s: float = field(default_factory=time.perf_counter)


@dataclass(eq=False, slots=True)
class ObservedNode:
    """A node at work.

    Attributes:
        run: the run that is under way; None for work after the reply.
        entries: what it wrote into the ledger so far.
        decision: what the node decided.
        error: what it failed with.
        retried: whether another attempt follows the error.
        interrupted: whether it is no error, and a person is asked.
    """

    name: str
    run_id: str
    cascade: str
    run: ObservedRun | None = None
    entries: list[LedgerEntry] = field(default_factory=list)
    decision: Decision | None = None
    error: BaseException | None = None
    retried: bool = False
    interrupted: bool = False
    _ending: Ending | None = None

    def returned(
        self, state: Mapping[str, Any], update: Mapping[str, Any] | None, *, last: bool
    ) -> None:
        """The node has done its work.

        Args:
            state: what it was given.
            update: what it returned.
            last: whether the run ends with it.
        """
        self.decision = (update or {}).get("decision")
        if last:
            self._ending = ending_of(after(state, update))

    @property
    def ending(self) -> Ending | None:
        """How the run ended, after its last node."""
        return self._ending


@dataclass(eq=False, slots=True)
class ObservedCall:
    """One request to a model.

    Attributes:
        model: the model as the cascade names it, without its provider.
        within: the node at work that asks; None after the reply.
        completion: what it answered.
        error: what the request failed with.
        entry: its ledger entry; None where nothing was sent.
    """

    run_id: str
    cascade: str
    node: str
    tier: str
    provider: str
    model: str
    messages: Sequence[BaseMessage]
    max_tokens: int | None = None
    temperature: float | None = None
    within: ObservedNode | None = None
    completion: Completion | None = None
    error: BaseException | None = None
    entry: LedgerEntry | None = None
    begun_s: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """How long the request took, as the ledger has it."""
        if self.entry is not None:
            return self.entry.latency_ms / 1000
        return time.perf_counter() - self.begun_s


_at_work: ContextVar[ObservedNode | None] = ContextVar("node_at_work", default=None)


class Observer:
    """Looks on; override what you want to see.

    All methods are called from the event loop in which the cascade runs, `…_began` and `…_ended`
    of one node or call in the same task, so none may block. What they raise is logged and
    reaches no caller.
    """

    def run_began(self, run: ObservedRun) -> None:
        """A question is on its way."""

    def run_ended(self, run: ObservedRun) -> None:
        """It is answered, or will not be."""

    def node_began(self, node: ObservedNode) -> None:
        """A node starts an attempt."""

    def node_ended(self, node: ObservedNode) -> None:
        """The attempt is over."""

    def call_began(self, call: ObservedCall) -> None:
        """A model is asked."""

    def call_ended(self, call: ObservedCall) -> None:
        """It answered, or failed; the ledger entry is written."""

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """An entry is in the ledger of that cascade; also after the reply."""


class Observers:
    """Tells several observers, and knows which runs are under way.

    Args:
        observers: whom to tell.
        cascade: name of the cascade that they look at.

    Raises:
        ConfigurationError: one of them is no observer.
    """

    def __init__(self, observers: Sequence[Observer] = (), cascade: str = "cascade") -> None:
        for observer in observers:
            if not isinstance(observer, Observer):
                raise ConfigurationError(
                    f"observers=[{observer!r}]: an observer is an object of a subclass of "
                    "cascade.observing.Observer, such as Telemetry() of "
                    "cascade.integrations.opentelemetry."
                )
        self._observers = tuple(observers)
        self.cascade = cascade
        self._open: dict[str, ObservedRun] = {}
        self._between: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._observers)

    @contextmanager
    def node(
        self,
        name: str,
        run_id: str,
        messages: Sequence[BaseMessage],
        tags: Mapping[str, str],
        conversation: str | None = None,
    ) -> Iterator[ObservedNode]:
        """A node of a run at work; the run begins with its first node."""
        run = self._enter(run_id, messages, tags, conversation)
        node = ObservedNode(name, run_id, self.cascade, run)
        try:
            with self._told(node):
                yield node
        finally:
            self._leave(run, node)

    @contextmanager
    def work_after(self, name: str, run_id: str) -> Iterator[ObservedNode]:
        """Work for a run after its reply, such as an audit."""
        with self._told(ObservedNode(name, run_id, self.cascade)) as node:
            yield node

    def call_began(self, call: ObservedCall) -> None:
        """A model is asked."""
        call.within = _at_work.get()
        self._tell("call_began", call)

    def call_ended(
        self,
        call: ObservedCall | None,
        entry: LedgerEntry | None,
        outcome: Completion | BaseException,
    ) -> None:
        """The call is over; None for a call that nobody looks at."""
        if call is None:
            return
        call.entry = entry
        if isinstance(outcome, BaseException):
            call.error = outcome
        else:
            call.completion = outcome
        self._tell("call_ended", call)

    def recorded(self, entry: LedgerEntry) -> None:
        """An entry is in the ledger."""
        run = self._open.get(entry.run_id)
        if run is not None:
            run.entries.append(entry)
        node = _at_work.get()
        if node is not None:
            node.entries.append(entry)
        self._tell("recorded", self.cascade, entry)

    def finish(self) -> None:
        """End the runs that stand between two nodes: nobody goes on with them."""
        self._sweep(idle_s=0.0)

    @contextmanager
    def _told(self, node: ObservedNode) -> Iterator[ObservedNode]:
        self._tell("node_began", node)
        token = _at_work.set(node)
        try:
            yield node
        except BaseException as error:
            node.error = None if node.interrupted else error
            raise
        finally:
            _at_work.reset(token)
            self._tell("node_ended", node)

    def _enter(
        self,
        run_id: str,
        messages: Sequence[BaseMessage],
        tags: Mapping[str, str],
        conversation: str | None,
    ) -> ObservedRun:
        with self._lock:
            self._between.pop(run_id, None)
            run = self._open.get(run_id)
            if run is not None:
                return run
            run = ObservedRun(run_id, self.cascade, messages, tags, conversation)
            self._open[run_id] = run
        self._sweep(ABANDONED_AFTER_S)
        self._tell("run_began", run)
        return run

    def _leave(self, run: ObservedRun, node: ObservedNode) -> None:
        outcome = _outcome(node)
        if outcome is None:
            with self._lock:
                self._between[run.id] = time.monotonic()
            return
        run.ending = node.ending
        run.error = node.error
        self._end(run, outcome)

    def _end(self, run: ObservedRun, outcome: Outcome) -> None:
        with self._lock:
            if self._open.pop(run.id, None) is None:
                return
        run.outcome, run.seconds = outcome, time.perf_counter() - run.begun_s
        self._tell("run_ended", run)

    def _sweep(self, idle_s: float) -> None:
        before = time.monotonic() - idle_s
        abandoned = []
        with self._lock:
            while self._between and next(iter(self._between.values())) <= before:
                abandoned.append(self._between.popitem(last=False)[0])
        for run_id in abandoned:
            self._end(self._open[run_id], "abandoned")

    def _tell(self, event: str, *about: Any) -> None:
        for observer in self._observers:
            try:
                getattr(observer, event)(*about)
            except Exception:
                logger.exception("%s failed in %s", type(observer).__name__, event)


def _outcome(node: ObservedNode) -> Outcome | None:
    """How the run ended with this node; None where it goes on."""
    if node.interrupted:
        return "interrupted"
    if node.error is not None:
        if node.retried:
            return None
        return "failed" if isinstance(node.error, Exception) else "cancelled"
    return None if node.ending is None else node.ending.outcome
