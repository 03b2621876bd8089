"""Tells observers what happens, and knows which runs are under way."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError
from cascade.observing.records import (
    ObservedCall,
    ObservedNode,
    ObservedRun,
    Outcome,
    TierEvent,
)
from cascade.state import Completion, LedgerEntry

ABANDONED_AFTER_S = 60.0
"""A run that stands still between two nodes for so long was given up by whoever ran it."""

EVENTS = (
    "run_began",
    "run_ended",
    "node_began",
    "node_ended",
    "call_began",
    "call_ended",
    "recorded",
    "tier_event",
)
"""The methods of an `Observer`."""

logger = logging.getLogger("cascade")

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

    def tier_event(self, event: TierEvent) -> None:
        """A circuit breaker has changed, or a call was refused or is tried again.

        Where cascades share what they know of a server, it is told in the loop of the one that met
        it.
        """


class Observers:
    """Tells several observers, and knows which runs are under way.

    Args:
        observers: whom to tell.
        cascade: name of the cascade that they look at.

    Raises:
        ConfigurationError: one of them is no observer.
    """

    def __init__(self, observers: Sequence[Observer] = (), cascade: str = "cascade") -> None:
        if isinstance(observers, Observer):
            raise ConfigurationError(
                f"observers={observers!r}: give a list, observers=[{type(observers).__name__}(…)]."
            )
        for observer in observers:
            if not isinstance(observer, Observer):
                raise ConfigurationError(
                    f"observers=[{observer!r}]: an observer is an object of a subclass of "
                    "cascade.observing.Observer, such as Telemetry() of "
                    "cascade.integrations.opentelemetry."
                )
        self._observers = tuple(observers)
        self._listeners: Mapping[str, Sequence[tuple[Observer, Callable[..., None]]]] = {
            event: _listeners(self._observers, event) for event in EVENTS
        }
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
        if call.within is not None:
            call.run_id = call.within.run_id
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
        if node is not None and node.run_id == entry.run_id:
            node.entries.append(entry)
        self._tell("recorded", self.cascade, entry)

    def tier_event(self, event: TierEvent) -> None:
        """Something concerns a tier."""
        node = _at_work.get()
        # Where cascades share what they know of a server, the node may be another one's.
        event.within = node if node is not None and node.cascade == self.cascade else None
        self._tell("tier_event", event)

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
                if run.id in self._open:
                    self._between[run.id] = time.monotonic()
            return
        run.ending = node.ending
        run.error = node.error
        self._end(run, outcome)

    def _end(self, run: ObservedRun, outcome: Outcome) -> None:
        with self._lock:
            self._between.pop(run.id, None)
            if self._open.pop(run.id, None) is None:
                return
        self._ended(run, outcome)

    def _sweep(self, idle_s: float) -> None:
        before = time.monotonic() - idle_s
        abandoned = []
        with self._lock:
            while self._between and next(iter(self._between.values())) <= before:
                abandoned.append(self._open.pop(self._between.popitem(last=False)[0]))
        for run in abandoned:
            self._ended(run, "abandoned")

    def _ended(self, run: ObservedRun, outcome: Outcome) -> None:
        run.outcome, run.seconds = outcome, time.perf_counter() - run.begun_s
        self._tell("run_ended", run)

    def _tell(self, event: str, *about: Any) -> None:
        for observer, hear in self._listeners[event]:
            try:
                hear(*about)
            except Exception:
                logger.exception("%s failed in %s", type(observer).__name__, event)


class Aside(Observers):
    """Tells the observers of another of calls alone, as calls of the node that is at work.

    For agents that run once more beside a run, such as those of a shadow start: what they do is
    no run, and their ledger entries are told by whoever books them.

    Args:
        observers: of the cascade.
        unseen: a node whose calls are none, since its answer is there already.
    """

    def __init__(self, observers: Observers, unseen: str) -> None:
        super().__init__((), observers.cascade)
        self._other = observers
        self._unseen = unseen

    def __bool__(self) -> bool:
        return bool(self._other)

    @contextmanager
    def node(
        self,
        name: str,
        run_id: str,
        messages: Sequence[BaseMessage],
        tags: Mapping[str, str],
        conversation: str | None = None,
    ) -> Iterator[ObservedNode]:
        """Nobody is told."""
        yield ObservedNode(name, run_id, self.cascade)

    def call_began(self, call: ObservedCall) -> None:
        """A model is asked."""
        if call.node != self._unseen:
            self._other.call_began(call)

    def call_ended(
        self,
        call: ObservedCall | None,
        entry: LedgerEntry | None,
        outcome: Completion | BaseException,
    ) -> None:
        """The call is over."""
        if call is not None and call.node != self._unseen:
            self._other.call_ended(call, entry, outcome)


def _listeners(
    observers: Sequence[Observer], event: str
) -> Sequence[tuple[Observer, Callable[..., None]]]:
    """Those who do something at this event, with what they do."""
    nothing = getattr(Observer, event)
    heard = ((observer, getattr(observer, event)) for observer in observers)
    return [(who, hear) for who, hear in heard if getattr(hear, "__func__", None) is not nothing]


def _outcome(node: ObservedNode) -> Outcome | None:
    """How the run ended with this node; None where it goes on."""
    if node.interrupted:
        return "interrupted"
    if node.error is not None:
        if node.retried:
            return None
        return "failed" if isinstance(node.error, Exception) else "cancelled"
    return None if node.ending is None else node.ending.outcome
