"""Asks the rows of a job: so many at once, within a budget, until all are done or it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Generic, TypeVar

from cascade._together import together
from cascade.api import Cascade
from cascade.caching import identity
from cascade.collect.examples import Example, expected_cost
from cascade.errors import CascadeError, ConfigurationError
from cascade.jobs.journal import Journal, Record
from cascade.jobs.rows import Row
from cascade.ledger import LedgerView
from cascade.ledger.tags import tagged
from cascade.questions import to_messages
from cascade.result import CascadeResult
from cascade.tiers import OpenTier

__all__ = ["Done", "made_with", "run_job"]

GIVE_UP_AFTER = 50
"""Rows that fail one after the other, with no answer between: something is wrong with all."""

CONCURRENCY = 16

BREATH = 1000
"""Rows of a loop that asks nobody, between two turns of others."""


@dataclass(slots=True)
class Done:
    """How far a job is.

    Attributes:
        resumed: rows that an earlier run of the job has answered.
        answered, failed: by this one.
        escalated: answered by a tier above the first, in this run.
        spent_usd: what this run spent, as far as it is known or assumed.
        before_usd: what earlier runs spent.
        saved_usd: against the large model alone, in this run; None where nobody knows of a row.
        unknown: rows of this run whose cost nobody knows.
        lost: runs of rows that a killed process had under way; the rows were asked again.
        stopped: why rows were left; None where all were asked.
    """

    resumed: int = 0
    answered: int = 0
    failed: int = 0
    escalated: int = 0
    spent_usd: Decimal = Decimal(0)
    before_usd: Decimal = Decimal(0)
    saved_usd: Decimal | None = Decimal(0)
    unknown: int = 0
    lost: int = 0
    stopped: str | None = None

    @property
    def rows(self) -> int:
        """Rows that were looked at."""
        return self.resumed + self.answered + self.failed


D = TypeVar("D", bound=Done)


async def run_job(
    cascade: Cascade,
    rows: Iterable[Row],
    journal: Journal,
    *,
    name: str = "batch",
    concurrency: int = CONCURRENCY,
    budget_usd: Decimal | None = None,
    progress: Callable[[Done], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Done:
    """Answer all rows that the journal has no answer to.

    Rows of an earlier run that failed, or whose question has changed, are asked again.

    Args:
        cascade: whom to ask.
        rows: what to ask; read as they are needed.
        journal: knows what is done, and is told.
        name: tags the ledger's entries as `job`, with the number of the row as `row`.
        concurrency: rows under way at once.
        budget_usd: dollars of the whole job, with what earlier runs spent. A row is begun only
            if what it may cost fits beside what the others under way may cost.
        progress: called after each row.
        stop: set it to begin no more rows; those under way are ended.

    Raises:
        ConfigurationError: the concurrency is below 1, or a budget is given and a tier has no
            price.
        LedgerError: the journal cannot be written.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    purse = Purse(budget_usd, journal.spent_usd)
    done = Done(before_usd=journal.spent_usd)
    job = Job(cascade, iter(rows), journal, name, purse, progress, stop or asyncio.Event(), done)
    await together(job.work() for _ in range(concurrency))
    return done


def made_with(cascade: Cascade) -> dict[str, Any]:
    """What the answers of a cascade depend on besides the questions, for a journal."""
    set_up = identity(
        cascade.options,
        cascade.tiers,
        cascade.policy,
        cascade.task,
        cascade.signals,
        cascade.calibration,
    )
    return {"models": [tier.model.name for tier in cascade.tiers], "settings": set_up[:16]}


@dataclass(slots=True)
class Purse:
    """A budget: what was spent, and what is put aside for rows that are under way.

    A row puts aside the largest cost of a row so far, or its guess if that is more: what is
    overspent is what rows cost above that. Where guesses follow the costs (`by_guess`), the guess
    alone is put aside.
    """

    budget_usd: Decimal | None
    spent_usd: Decimal
    by_guess: bool = False
    aside_usd: Decimal = Decimal(0)
    largest_usd: Decimal = Decimal(0)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, guess_usd: Decimal) -> Decimal | None:
        """Put aside what a row may cost; None if that does not fit, whatever the others cost."""
        if self.budget_usd is None or (self.by_guess and not guess_usd):
            return Decimal(0)  # what costs nothing fits, also where the others have overspent
        async with self._changed:
            while True:
                wanted = guess_usd if self.by_guess else max(guess_usd, self.largest_usd)
                if self.spent_usd + self.aside_usd + wanted <= self.budget_usd:
                    self.aside_usd += wanted
                    return wanted
                if not self.aside_usd:
                    return None
                await self._changed.wait()

    async def settle(self, aside_usd: Decimal, cost_usd: Decimal) -> None:
        """A row has ended and has cost so much."""
        async with self._changed:
            self.aside_usd -= aside_usd
            self.spent_usd += cost_usd
            self.largest_usd = max(self.largest_usd, cost_usd)
            self._changed.notify_all()


@dataclass(slots=True)
class Job(Generic[D]):
    """Rows under way: each is asked unless it is done, within the purse, and written down."""

    cascade: Cascade
    rows: Iterator[Row]
    journal: Journal
    name: str
    purse: Purse
    progress: Callable[[D], None]
    stop: asyncio.Event
    done: D
    in_a_row: int = 0

    async def work(self) -> None:
        """Ask row after row, until there is none or the job is stopped."""
        passed = 0
        while self.done.stopped is None and not self.is_told_to_stop():
            row = next(self.rows, None)
            if row is None:
                return
            if self.passes(row):
                self.progress(self.done)
                passed += 1
                await breath(passed)
                continue
            await self._ask(row)
            self.progress(self.done)
            # Models that never wait would hold the loop: no signal, and timers kept for their time.
            await asyncio.sleep(0)

    def passes(self, row: Row) -> bool:
        """Whether there is nothing to ask about a row."""
        before = self.journal.find(row.number)
        if before is None or before.status != "ok" or before.key != row.key:
            return False
        self.done.resumed += 1
        return True

    def guess_usd(self, row: Row) -> Decimal:
        """What asking a row may cost, where there is a budget."""
        return guessed(row, self.cascade.tiers)

    async def answered(self, row: Row) -> Record | None:
        """Ask a row that can be read; None where it was not begun, because the job was stopped."""
        return await ask(self.cascade, row, self.name)

    def written(self, record: Record) -> None:
        """A row is in the journal."""

    def refused(self, row: Row) -> None:
        """The budget does not cover a row."""
        del row
        self.done.stopped = self.done.stopped or (
            f"the budget of ${self.purse.budget_usd} does not cover another row: "
            f"${self.purse.spent_usd:.6f} are spent"
        )

    def waits(self) -> None:
        """A row has a draft, and waits for what becomes of it."""

    def count(self, record: Record) -> None:
        """A row is done, or waits."""
        done = self.done
        done.spent_usd += record.counted_usd or Decimal(0)
        done.lost += record.lost or 0
        if record.status == "error":
            done.failed += 1
            self.in_a_row += record.counted_usd is not None  # a row that cannot be read is its own
            if self.in_a_row >= GIVE_UP_AFTER:
                done.stopped = (
                    f"{self.in_a_row} rows in a row failed, the last one by {record.error}"
                )
            return
        self.in_a_row = 0
        if record.status == "waiting":
            self.waits()
            return
        done.answered += 1
        done.escalated += bool(record.escalated)
        done.unknown += record.cost_usd is None
        if done.saved_usd is not None:
            saved = record.saved_usd
            done.saved_usd = None if saved is None else done.saved_usd + saved

    def is_told_to_stop(self) -> bool:
        """Whether no more is to be begun; the job says so, then."""
        if self.stop.is_set() and self.done.stopped is None:
            self.done.stopped = "it was interrupted"
        return self.stop.is_set()

    async def _ask(self, row: Row) -> None:
        readable = row.problem is None and row.question is not None
        within = readable and self.purse.budget_usd is not None
        aside = await self.purse.take(self.guess_usd(row)) if within else Decimal(0)
        if aside is None:
            self.refused(row)
            return
        if self.is_told_to_stop():  # while it waited for its part of the budget
            await self.purse.settle(aside, Decimal(0))
            return
        cost = aside
        try:
            record = await self.answered(row) if readable else unreadable(row)
            if record is None:
                cost = Decimal(0)
                return
            record = _with_lost(record, aside)
            cost = record.counted_usd or Decimal(0)
            self.journal.add(record)
            self.written(record)
        finally:
            await self.purse.settle(aside, cost)
        self.count(record)


async def breath(n: int) -> None:
    """In a loop over rows, now and then let others have their turn: a million rows that ask nobody
    would hold the event loop, and nobody would hear a stop.

    Args:
        n: how often the loop has been here.
    """
    if n % BREATH == 0:
        await asyncio.sleep(0)


async def ask(cascade: Cascade, row: Row, job: str) -> Record:
    """Ask a row that can be read; its entries in the ledger have the tags `job` and `row`."""
    assert row.question is not None, "a row that cannot be read is not asked"
    try:
        with tagged(job=job, row=str(row.number)):
            result = await cascade.ainvoke(row.question)
    except CascadeError as error:
        return failed(row, error)
    return record_of(row, result)


def guessed(row: Row, tiers: Sequence[OpenTier]) -> Decimal:
    """Dollars that asking these tiers may cost, by the row's length and their prices.

    Raises:
        ConfigurationError: one of them has no price.
    """
    guess = guess_of(row, tiers)
    if guess is None:
        raise ConfigurationError(
            "a budget needs the price of every tier, and one has none: "
            + ", ".join(f"{t.name}: {t.pricing.source}" for t in tiers)
        )
    return guess


def guess_of(row: Row, tiers: Sequence[OpenTier]) -> Decimal | None:
    """The same, and None where one of them has no price."""
    assert row.question is not None, "a row that cannot be read costs nothing"
    return expected_cost([Example("", to_messages(row.question))], tiers)


def unreadable(row: Row) -> Record:
    """What becomes of a row that cannot be asked."""
    return Record(row.number, row.key, "error", error=f"InputError: {row.problem}")


def failed(row: Row, error: CascadeError) -> Record:
    """What becomes of a row whose run failed."""
    ledger = error.ledger or LedgerView(())
    return Record(
        row.number,
        row.key,
        "error",
        cost_usd=ledger.cost_usd,
        counted_usd=counted(ledger),
        run_id=ledger.entries[0].run_id if ledger.entries else None,
        error=f"{type(error).__name__}: {error}",
    )


def record_of(row: Row, result: CascadeResult) -> Record:
    """What became of a row that was answered."""
    ledger = result.ledger
    return Record(
        row.number,
        row.key,
        "ok",
        answer=result.answer,
        tier=result.tier,
        confidence=result.confidence,
        calibrated=result.calibrated,
        escalated=result.escalated,
        degraded=result.degraded,
        cost_usd=ledger.cost_usd,
        counted_usd=counted(ledger),
        saved_usd=ledger.saved_usd,
        saved_basis=ledger.saved_basis,
        run_id=result.run_id,
    )


def counted(ledger: LedgerView) -> Decimal:
    """What a budget counts: the cost, or what an unknown one is assumed to be."""
    return ledger.known_cost_usd + ledger.assumed_usd


def _with_lost(record: Record, aside_usd: Decimal) -> Record:
    """What a killed process has spent on a row is not known: all that was put aside counts."""
    if not record.lost:
        return record
    assumed = (record.counted_usd or Decimal(0)) + record.lost * aside_usd
    return replace(record, counted_usd=assumed)
