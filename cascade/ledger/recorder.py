"""Where entries go the moment they arise, before any state of the graph is written.

LangGraph writes no state for a failed attempt, so its spend would be lost with it. Each entry
is handed to the store at once, and kept here until the run takes it into its state.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from threading import Lock
from typing import Protocol, runtime_checkable

from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.amounts import Amounts
from cascade.ledger.texts import KeptTexts, Pending, Texts, with_hashes
from cascade.observing import Observers
from cascade.state import LedgerEntry

logger = logging.getLogger("cascade")

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


@runtime_checkable
class AuditStore(LedgerStore, Protocol):
    """A store in which audits outlive the process, and which knows what they have cost."""

    @property
    def texts(self) -> KeptTexts:
        """Which prompts and answers are kept."""
        ...

    def keep(self, entry: LedgerEntry, texts: Texts) -> LedgerEntry:
        """Append the entry of a call with the hashes of its texts, and return it.

        The texts themselves are kept where the store keeps those of all calls.
        """
        ...

    def put_pending(self, pending: Pending) -> None:
        """Keep an audit until it is dropped; not where no texts are kept. Must not block."""
        ...

    def drop_pending(self, run_id: str) -> None:
        """Forget a pending audit: it is done, or never will be. Must not block."""
        ...

    async def pending(self) -> Sequence[Pending]:
        """The audits that are not done, oldest first."""
        ...

    async def claim_pending(self, older_than: timedelta) -> Sequence[Pending]:
        """Take on audits that were drawn so long ago; other processes do not get them then."""
        ...

    async def spent(self, node: str, since: datetime) -> Amounts:
        """What the entries of a node cost since a time, unknown costs as what is assumed."""
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


_charged: ContextVar[list[LedgerEntry] | None] = ContextVar("charged", default=None)


@contextmanager
def charging() -> Iterator[list[LedgerEntry]]:
    """A list that receives every entry recorded from within, whoever else collects it.

    It is for who has to know what a run has cost that may be given up at any moment.
    """
    entries: list[LedgerEntry] = []
    before = _charged.get()
    _charged.set(entries)
    try:
        yield entries
    finally:
        _charged.set(before)


class Recorder:
    """Passes entries on to the store and keeps them until their run takes them into its state.

    Args:
        store: receives each entry the moment it arises.
        observers: are told of each entry, and by the agents of all else.

    Raises:
        ConfigurationError: the store is none.
    """

    def __init__(
        self, store: LedgerStore | None = None, observers: Observers | None = None
    ) -> None:
        if store is not None and not callable(getattr(store, "append", None)):
            raise ConfigurationError(
                f"ledger={store!r} is no store: give open_store('sqlite:///ledger.db') or "
                "MemoryLedger()."
            )
        self.store = store
        # Once: such a question looks at every member of the protocol.
        self._texts = store if isinstance(store, AuditStore) else None
        self._crash_safe = store if isinstance(store, CrashSafeStore) else None
        self.observers = Observers() if observers is None else observers
        self._pending: OrderedDict[str, list[LedgerEntry]] = OrderedDict()
        self._lock = Lock()

    async def begin(self, run_id: str, node: str, tier: str, model: str) -> str | None:
        """Make a call known to the store before it is sent, where the store can do that.

        Raises:
            LedgerError: the store cannot write it down, so that it must not be sent.
        """
        if self._crash_safe is None:
            return None
        return await self._crash_safe.begin(run_id=run_id, node=node, tier=tier, model=model)

    def withdraw(self, attempt_id: str | None) -> None:
        """Say that a call that was begun has not been sent."""
        if attempt_id is not None and self._crash_safe is not None:
            self._crash_safe.withdraw(attempt_id)

    def record(self, entry: LedgerEntry, texts: Texts | None = None) -> LedgerEntry:
        """Hand an entry to the store at once, and keep it for `take`.

        Args:
            entry: what happened.
            texts: what was asked and answered, where the entry is that of a call. Where there
                is a store, the entry that is returned has their hashes.
        """
        entry = self._stored(entry, texts)
        collected = _collected.get()
        if collected is not None:
            collected.append(entry)
        charged = _charged.get()
        if charged is not None:
            charged.append(entry)
        if self.observers:
            self.observers.recorded(entry)
        with self._lock:
            self._pending.setdefault(entry.run_id, []).append(entry)
            while len(self._pending) > MAX_PENDING_RUNS:
                self._pending.popitem(last=False)
        return entry

    def _stored(self, entry: LedgerEntry, texts: Texts | None) -> LedgerEntry:
        """Hand an entry to the store. Where that fails, the log has it instead.

        What was asked is paid for, so whoever asked gets the answer all the same. A crash-safe
        store refuses the next call before it is sent.
        """
        if self.store is None:
            return entry
        try:
            if texts is not None and self._texts is not None:
                return self._texts.keep(entry, texts)
            entry = entry if texts is None else with_hashes(entry, texts)
            self.store.append([entry])
        except LedgerError as error:
            lost = entry.model_dump_json(exclude_defaults=True, exclude={"note", "signals"})
            logger.error("the ledger's store did not take an entry (%s): %s", error, lost)
        return entry

    def take(self, run_id: str) -> list[LedgerEntry]:
        """The entries of a run that are not in its state yet, oldest first.

        Among them are those of attempts that failed: a node that succeeds takes them along.
        """
        with self._lock:
            return self._pending.pop(run_id, [])
