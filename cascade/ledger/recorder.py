"""Where entries go the moment they arise, before any state of the graph is written.

LangGraph writes no state for a failed attempt, so its spend would be lost with it. Each entry
is handed to the store at once, and kept here until the run takes it into its state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Protocol, runtime_checkable

from cascade.observing import Observers
from cascade.state import LedgerEntry

MAX_PENDING_RUNS = 10_000
"""Runs whose entries nobody takes (a graph that was abandoned) are forgotten here after so many
others; the store has had their entries already."""


class LedgerStore(Protocol):
    """What `Cascade(ledger=…)` takes: anything that can append entries."""

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Keep the entries. Called from the event loop: must not block for long."""
        ...


@runtime_checkable
class CrashSafeStore(LedgerStore, Protocol):
    """A store that knows of a call before it is sent, so that a killed process leaves a trace."""

    async def begin(
        self, *, run_id: str, node: str, tier: str | None, model: str | None
    ) -> str | None:
        """Return once the call is written down, with the id for its entry's `attempt_id`."""
        ...

    def withdraw(self, attempt_id: str) -> None:
        """Forget the call: it was not sent."""
        ...


class MemoryLedger:
    """A store that keeps its entries in a list, for tests and short scripts."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Keep the entries in memory."""
        self.entries.extend(entries)


_collected: ContextVar[list[LedgerEntry] | None] = ContextVar("collected", default=None)


def collect() -> list[LedgerEntry]:
    """A list that receives every entry recorded in this context from now on."""
    entries: list[LedgerEntry] = []
    _collected.set(entries)
    return entries


@contextmanager
def collecting() -> Iterator[list[LedgerEntry]]:
    """A list that receives every entry recorded from within, also by tasks started within."""
    before = _collected.get()
    try:
        yield collect()
    finally:
        _collected.set(before)


class Recorder:
    """Passes entries on to the store and keeps them until their run takes them into its state.

    Args:
        store: receives each entry the moment it arises.
        observers: are told of each entry, and by the agents of all else.
    """

    def __init__(
        self, store: LedgerStore | None = None, observers: Observers | None = None
    ) -> None:
        self._store = store
        self.observers = observers or Observers()
        self._pending: OrderedDict[str, list[LedgerEntry]] = OrderedDict()
        self._lock = Lock()

    async def begin(self, run_id: str, node: str, tier: str, model: str) -> str | None:
        """Make a call known to the store before it is sent, where the store can do that.

        Raises:
            LedgerError: the store cannot write it down, so that it must not be sent.
        """
        if not isinstance(self._store, CrashSafeStore):
            return None
        return await self._store.begin(run_id=run_id, node=node, tier=tier, model=model)

    def withdraw(self, attempt_id: str | None) -> None:
        """Say that a call that was begun has not been sent."""
        if attempt_id is not None and isinstance(self._store, CrashSafeStore):
            self._store.withdraw(attempt_id)

    def record(self, entry: LedgerEntry) -> LedgerEntry:
        """Hand an entry to the store at once, and keep it for `take`."""
        if self._store is not None:
            self._store.append([entry])
        collected = _collected.get()
        if collected is not None:
            collected.append(entry)
        if self.observers:
            self.observers.recorded(entry)
        with self._lock:
            self._pending.setdefault(entry.run_id, []).append(entry)
            while len(self._pending) > MAX_PENDING_RUNS:
                self._pending.popitem(last=False)
        return entry

    def take(self, run_id: str) -> list[LedgerEntry]:
        """The entries of a run that are not in its state yet, oldest first.

        Among them are those of attempts that failed: a node that succeeds takes them along.
        """
        with self._lock:
            return self._pending.pop(run_id, [])
