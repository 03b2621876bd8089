"""Local engine of a job: so many rows at once, within a budget, until all are done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cascade._numbers import to_count
from cascade.api import Cascade
from cascade.confidence.base import digest
from cascade.errors import CascadeError, ConfigurationError, PersonNeededError
from cascade.jobs.files import OF_RESULT, Journal, Row, RowRecord
from cascade.ledger.entries import LedgerView
from cascade.ledger.outlook import CHARACTERS_PER_TOKEN, characters
from cascade.middleware.cache import identity
from cascade.questions import to_messages
from cascade.result import CascadeResult
from cascade.run import known_cost
from cascade.state import Usage
from cascade.tiers import OpenTier

GIVE_UP_AFTER, ANSWER_TOKENS, CONCURRENCY = 50, 256, 16
"""Rows that fail in a row, after which something is wrong with all; length of an answer in a guess,
where a tier has no `max_tokens`; and rows at once."""

INTERRUPTED = "it was interrupted"


@dataclass(slots=True)
class Done:
    """Progress of a run of a job, in rows; `unknown` are those whose cost is.

    Attributes:
        spent_usd: as far as it is known or assumed; `before_usd`, by earlier runs.
        saved_usd: None where a row's is unknown; `estimated`, whether a part is.
        stopped: why rows were left.
    """

    resumed: int = 0
    answered: int = 0
    failed: int = 0
    waiting: int = 0
    escalated: int = 0
    spent_usd: Decimal = Decimal(0)
    before_usd: Decimal = Decimal(0)
    saved_usd: Decimal | None = Decimal(0)
    estimated: bool = False
    unknown: int = 0
    stopped: str | None = None
    last_error: str | None = None

    @property
    def rows(self) -> int:
        """Rows that were looked at."""
        return self.resumed + self.answered + self.failed + self.waiting

    def knows(self, row: Row, journal: Journal) -> bool:
        """True if a row has an answer, or waits for one, which is counted."""
        before = journal.find(row.number)
        if before is None or before.key != row.key or before.status == "error":
            return False
        self.waiting += before.status == "waiting"
        self.resumed += before.status == "ok"
        return True

    def count(self, record: RowRecord) -> None:
        """Add what became of a row."""
        self.spent_usd += record.counted_usd or Decimal(0)
        if record.status == "error":
            self.failed += 1
            if record.run_id or record.counted_usd is not None or self.last_error is None:
                self.last_error = record.error  # rather than of a row without a question
        self.waiting += record.status == "waiting"
        if record.status == "ok":
            self.answered += 1
            self.escalated += bool(record.escalated)
            self.unknown += record.cost_usd is None
            self.estimated |= record.saved_basis == "estimated"
            if self.saved_usd is not None:
                saved = record.saved_usd
                self.saved_usd = None if saved is None else self.saved_usd + saved


@dataclass
class Job:
    """A job under way, with the budget and the progress that its workers share."""

    cascade: Cascade
    journal: Journal
    budget_usd: Decimal | None
    progress: Callable[[Done], None]
    stop: asyncio.Event

    def __post_init__(self) -> None:
        self.tiers: Sequence[OpenTier] = self.cascade.tiers
        self.done = Done(before_usd=self.journal.spent_usd)
        self._aside_usd = self._largest_usd = Decimal(0)
        self._settled, self._failures = asyncio.Event(), 0

    @property
    def spent_usd(self) -> Decimal:
        """Dollars that are spent, or that answers by batch may cost."""
        return self.journal.spent_usd + self.journal.expected_usd

    async def run(self, rows: Iterable[Row], concurrency: int) -> None:
        """Ask all rows, so many at once."""
        left = iter(rows)

        async def work() -> None:
            for row in left:  # which all workers share
                if self.stop.is_set():
                    self.done.stopped = self.done.stopped or INTERRUPTED
                if self.done.stopped is not None:
                    return
                if not self.done.knows(row, self.journal):
                    await self._ask(row)
                self.progress(self.done)
                await asyncio.sleep(0)  # so that a stop is heard, whatever is done already

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            raise first from first.__cause__  # one is told, and most often all are the same

    async def answer(self, row: Row) -> RowRecord:
        """Record of a row that is asked."""
        return await ask(self.cascade, row)

    async def _ask(self, row: Row) -> None:
        """Ask and note a row once the budget has room for its guess and the largest cost so far."""
        budget = self.budget_usd
        guess = Decimal(0) if budget is None else guessed(row, self.tiers)
        while True:
            aside = max(guess, self._largest_usd)
            if budget is None or self.spent_usd + self._aside_usd + aside <= budget:
                break
            if not self._aside_usd:
                self.done.stopped = self.done.stopped or (
                    f"the budget of ${budget} does not cover another row, which may cost "
                    f"${aside:.6f}: ${self.spent_usd:.6f} are spent"
                )
                return
            await self._settled.wait()
        if self.stop.is_set():  # while it waited for its part of the budget
            self.done.stopped = self.done.stopped or INTERRUPTED
            return
        self._aside_usd += aside
        try:
            record = await self.answer(row)
            self.journal.add(record)
        finally:
            self._aside_usd -= aside
            self._settled.set()
            self._settled = asyncio.Event()
        cost = (record.counted_usd or Decimal(0)) + (record.expected_usd or Decimal(0))
        self._largest_usd = max(self._largest_usd, cost)
        self.done.count(record)
        if row.question is not None:  # what cannot be read says nothing of the others
            self._failures = self._failures + 1 if record.status == "error" else 0
        if self._failures >= GIVE_UP_AFTER:
            failed = f"{self._failures} rows in a row failed"
            self.done.stopped = f"{failed}, the last one by {record.error}"


async def run_job(
    cascade: Cascade,
    rows: Iterable[Row],
    journal: Journal,
    *,
    concurrency: int = CONCURRENCY,
    budget_usd: Decimal | None = None,
    progress: Callable[[Done], None] = lambda _: None,
    stop: asyncio.Event | None = None,
    kind: type[Job] = Job,
) -> Done:
    """Answer all rows that the journal has no answer to, also those that failed in an earlier run,
    or whose question has changed since.

    Args:
        rows: read as they are needed, so many under way at once (`concurrency`).
        budget_usd: dollars of the whole job, also of earlier runs. A row is begun only if what it
            may cost fits beside what the others that are under way or wait may cost.
        stop: set it to begin no more rows; those under way are ended.
        kind: `cascade.jobs.provider.BatchJob` asks the large model by its provider's batch API.
    """
    to_count("concurrency", concurrency)
    job = kind(cascade, journal, budget_usd, progress, stop or asyncio.Event())
    await job.run(rows, concurrency)
    return job.done


def made_with(cascade: Cascade, **more: Any) -> dict[str, Any]:
    """Identity of a cascade for a journal: all that its answers depend on besides the questions."""
    settings = digest([identity(cascade.kernel), cascade.settings, more])
    return {"models": [tier.model.name for tier in cascade.tiers], "settings": settings}


async def ask(cascade: Cascade, row: Row) -> RowRecord:
    """Record of a row that is asked; its entries in the ledger have its number as the tag `row`."""
    if row.question is None:
        return row.record(status="error", error=f"InputError: {row.problem}")
    try:
        result = await cascade.ainvoke(row.question, tags={"row": str(row.number)})
    except CascadeError as error:
        return failed(row, error)
    return record_of(row, result)


def guessed(row: Row, tiers: Sequence[OpenTier]) -> Decimal:
    """Dollars that asking these tiers may cost; a `ConfigurationError` where one has no price."""
    if row.question is None:
        return Decimal(0)
    tokens, total = characters(to_messages(row.question)) // CHARACTERS_PER_TOKEN + 1, Decimal(0)
    for tier in tiers:
        usage = Usage(input_tokens=tokens, output_tokens=tier.max_tokens or ANSWER_TOKENS)
        if (cost := tier.pricing.cost(usage, 1000.0)) is None:
            told = f"{tier.name} ({tier.model.name}) has none: {tier.pricing.source}"
            raise ConfigurationError(f"a budget needs a price of every tier, --prices; {told}.")
        total += cost
    return total


def failed(row: Row, error: CascadeError) -> RowRecord:
    """Record of a row whose run failed."""
    run = error.run if isinstance(error, PersonNeededError) else None
    ledger = LedgerView(run.entries if run else error.ledger or ())
    return row.record(
        status="error",
        cost_usd=ledger.cost_usd,
        counted_usd=known_cost(list(ledger)),
        run_id=next((entry.run_id for entry in ledger), None),
        error=f"{type(error).__name__}: {error}",
    )


def record_of(row: Row, result: CascadeResult) -> RowRecord:
    """Record of a row that was answered."""
    ledger = result.ledger
    found = {name: getattr(result, name) for name in (*OF_RESULT, "run_id")}
    found |= {name: getattr(ledger, name) for name in ("cost_usd", "saved_usd", "saved_basis")}
    return row.record(status="ok", counted_usd=known_cost(list(ledger)), **found)
