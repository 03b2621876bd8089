"""Stores of a ledger: their interface, the one in memory, tags and selections."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Self

from typing_extensions import override

from cascade.errors import ConfigurationError
from cascade.ledger.entries import LedgerEntry

NO_TAGS: Mapping[str, str] = MappingProxyType({})


_tags: ContextVar[Mapping[str, str]] = ContextVar("cascade_tags", default=NO_TAGS)
current_tags = _tags.get


@contextmanager
def tagged(**tags: str) -> Iterator[None]:
    """Tags of every entry of the runs within: `with tagged(user="42"): ...`; they add up.

    Raises:
        ConfigurationError: a value is no text; 42 and "42" would be found and summed apart.
    """
    if not all(isinstance(value, str) for value in tags.values()):
        raise ConfigurationError(f"tagged(**{tags!r}): give values as text, {{'user': '42'}}.")
    token = _tags.set({**_tags.get(), **tags})
    try:
        yield
    finally:
        _tags.reset(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Conditions on entries, joined by "and"; `until` is the time before which they are."""

    run_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


EVERYTHING = Selection()


class LedgerStore(ABC):
    """Store of ledger entries, for `Cascade(ledger=…)`. A subclass has to give `append` alone.

    Methods without `async` are called from event loops and must not block for long. What cannot be
    written or read raises a `LedgerError`.
    """

    @abstractmethod
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        """Keep entries with their tags. One that has begun under the same id is replaced, any other
        repetition left as it is."""

    async def begin(self, entry: LedgerEntry, tags: Mapping[str, str] = NO_TAGS) -> None:
        """Write down a call that is about to be sent, as an entry with the outcome `begun`, which
        `append` completes. A store that is not safe against crashes does nothing.

        Raises:
            LedgerError: it cannot be written within a second: the call must not be sent.
        """
        return

    def withdraw(self, entry_id: str) -> None:
        """Forget a call that was begun and not sent."""
        return

    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        """The entries of a run, oldest first; empty where a store cannot read."""
        return []

    async def spent(self, node: str, since: datetime) -> Decimal | None:
        """Dollars of a node's entries since a time, an unknown cost at what is assumed; None where
        a store cannot say."""
        return None

    async def flush(self) -> None:
        """Return once everything appended so far is durable."""
        return

    def close(self) -> None:
        """Write what is left and give back what is held; it may be used again."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


class MemoryLedger(LedgerStore):
    """Store that keeps its entries in a list, and their tags by id: for tests and short scripts."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.tags: dict[str, Mapping[str, str]] = {}

    @override
    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        for entry in entries:
            if entry.id not in self.tags:
                self.tags[entry.id] = tags
                self.entries.append(entry)

    @override
    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        return [entry for entry in self.entries if entry.run_id == run_id]
