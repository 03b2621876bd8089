"""The ledger's store in a database: SQLite by default, PostgreSQL for several machines.

store = open_store("sqlite:///ledger.db")
cascade = Cascade(small=..., large=..., ledger=store)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cascade.ledger.base import (
    EVERYTHING,
    LEASE,
    NO_TAGS,
    Amounts,
    Grouping,
    Job,
    LedgerStore,
    Selection,
    Total,
    UnavailableError,
)
from cascade.state import LedgerEntry

__all__ = ["Selection", "SqlLedger", "UnavailableError", "open_store"]


def open_store(
    url: str,
    *,
    read_only: bool = False,
    crash_safe: bool = True,
    durable: bool = False,
    jobs: bool = False,
    tags: Mapping[str, str] = NO_TAGS,
) -> SqlLedger:
    """A store for `Cascade(ledger=…)`. It connects with its first entry, not here.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://…`, or `memory://`.
        read_only: read what is there, and change nothing.
        crash_safe: write down each call before it is sent, so that a killed process leaves a list
            of the calls whose outcome is unknown.
        durable: survive a loss of power: each commit waits for the disk.
        jobs: keep background jobs, so that a restart loses none. They hold prompts and answers.
        tags: of every entry of this store.

    Raises:
        ConfigurationError: the address has none of these forms.
        MissingDependencyError: the database's driver is not installed.
    """
    raise NotImplementedError


class SqlLedger(LedgerStore):
    """Store of ledger entries in SQLite or PostgreSQL; made by `open_store`.

    What is read has in it all that was appended before.
    """

    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        """Hand over entries, to be written soon."""

    async def entries(
        self, selection: Selection = EVERYTHING, *, limit: int | None = None
    ) -> list[LedgerEntry]:
        """Entries ordered by time, then id; the oldest `limit` of them. Calls that were begun and
        not completed are not among them, see `unfinished`."""
        raise NotImplementedError

    def pages(
        self, selection: Selection = EVERYTHING, *, size: int = 1_000
    ) -> AsyncIterator[list[tuple[LedgerEntry, Mapping[str, str]]]]:
        """Entries with their tags, so many at a time: a million of them with flat memory."""
        raise NotImplementedError

    async def rows(
        self, selection: Selection, columns: Sequence[str], *, limit: int | None = None
    ) -> list[tuple[Any, ...]]:
        """Columns of entries as plain tuples, ordered by time: for reports over many entries.

        Args:
            selection: which entries.
            columns: names of fields of `LedgerEntry`, `tags`, a tag as `tags.user`, or a field of
                the decision as `decision.action`, `decision.confidence`, `decision.calibrated`,
                `decision.audit_rate`, `decision.signals`, …
        """
        raise NotImplementedError

    async def unfinished(
        self, selection: Selection = EVERYTHING, *, older_than: timedelta = timedelta()
    ) -> list[LedgerEntry]:
        """Calls with an unknown outcome: begun, and never completed.

        Their process was killed, or is still at it; with `older_than` longer than any call takes,
        only the killed ones are left. What they cost is unknown.
        """
        raise NotImplementedError

    async def totals(
        self, selection: Selection = EVERYTHING, *, by: Grouping = "node"
    ) -> dict[str, Total]:
        """What was spent and saved, exactly, by node, tier, model, run or day; an entry without a
        tier or model is in the group `""`."""
        raise NotImplementedError

    async def spent(self, node: str, since: datetime) -> Amounts:
        """Cost of a node's entries since a time, an unknown cost as what is assumed."""
        raise NotImplementedError

    async def cost(self, selection: Selection = EVERYTHING) -> Amounts:
        """Cost of entries, an unknown one as what is assumed."""
        raise NotImplementedError

    async def jobs(self, selection: Selection = EVERYTHING) -> list[Job]:
        """The jobs that are not done, claimed or not, oldest first."""
        raise NotImplementedError

    async def claim_jobs(
        self, kind: str, older_than: timedelta = timedelta(), *, lease: timedelta = LEASE
    ) -> list[Job]:
        """Take on jobs; of several processes each gets others."""
        raise NotImplementedError

    async def delete(
        self,
        selection: Selection | None = None,
        *,
        older_than: timedelta | None = None,
        everything: bool = False,
    ) -> int:
        """Delete entries, begun calls and jobs; returns how many entries."""
        raise NotImplementedError

    async def export(self, path: str | Path, selection: Selection = EVERYTHING) -> int:
        """Write entries to a file: `.jsonl`, `.csv` or `.parquet`; returns how many."""
        raise NotImplementedError
