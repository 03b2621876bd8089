"""A job whose large model is asked by the provider's batch API, for part of the price.

All rows are drafted and checked at once. Those that are to be escalated wait in the journal; their
requests are written into batches, sent, waited for, and the rows go on with the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from cascade._together import together
from cascade.api import Cascade
from cascade.errors import ConfigurationError, ModelError
from cascade.jobs.journal import Journal
from cascade.jobs.provider_api import Provider, Seen
from cascade.jobs.provider_files import Batch, Folder, Limits
from cascade.jobs.provider_model import ByBatch
from cascade.jobs.provider_stages import (
    AtProvider,
    BatchDone,
    DraftingForBatch,
    Taking,
    asked_by_batch,
    write_requests,
)
from cascade.jobs.rows import Row
from cascade.jobs.running import CONCURRENCY, Purse

__all__ = ["AtProvider", "BatchDone", "Limits", "Terms", "made_by_batch", "run_by_batch"]


@dataclass(frozen=True, slots=True)
class Terms:
    """How batches are made and waited for.

    Attributes:
        limits: of one batch.
        ask_at_once: ask the large model at once, at its full price, where a batch has not answered
            a row; by default such a row has an error, and goes into a batch of the next run.
        first_s: seconds until the provider is first asked how far it is.
        factor: the next wait is so much longer.
        most_s: no wait is longer.
        troubles: so often in a row the provider may fail to say so before the job ends; what is
            there goes on with the next run.
    """

    limits: Limits = field(default_factory=Limits)
    ask_at_once: bool = False
    first_s: float = 5.0
    factor: float = 1.5
    most_s: float = 60.0
    troubles: int = 30


def made_by_batch(made: dict[str, Any]) -> dict[str, Any]:
    """What the answers of a job by batch depend on, from what those of the cascade do, for a
    journal."""
    return {**made, "large_model": "by batch"}


async def run_by_batch(
    cascade: Cascade,
    read: Callable[[], Iterable[Row]],
    journal: Journal,
    folder: Path,
    *,
    name: str = "batch",
    concurrency: int = CONCURRENCY,
    budget_usd: Decimal | None = None,
    terms: Terms | None = None,
    progress: Callable[[BatchDone], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> BatchDone:
    """Answer all rows that the journal has no answer to; what is escalated, by batch.

    Args:
        cascade: whom to ask; its last tier speaks OpenAI's batch API.
        read: gives the input, each time from its beginning.
        journal: knows what is done, and is told; made with `made_by_batch`.
        folder: for what is sent and what comes back; empty again when all is done.
        name: tags the ledger's entries as `job`; those of answers by batch have the provider's id
            as `batch`.
        concurrency: drafts under way at once.
        budget_usd: dollars of the whole job, as in `run_job`, with what waits put aside.
        terms: how batches are made and waited for.
        progress: called after each row, and after each look at the provider.
        stop: set it to end what is under way; what is at the provider stays there.

    Raises:
        ConfigurationError: as `run_job` says; the large model cannot be asked by batch, or the
            cascade has options that need its answers at once.
        ModelError: the provider cannot be reached, or refuses. The next run goes on.
        LedgerError: the journal or the folder cannot be written.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    batched, stop, terms = asked_by_batch(cascade), stop or asyncio.Event(), terms or Terms()
    purse, done = Purse(budget_usd, journal.spent_usd), BatchDone(before_usd=journal.spent_usd)

    job = DraftingForBatch(batched, iter(read()), journal, name, purse, progress, stop, done)
    kept, live = Folder(folder), cascade if terms.ask_at_once else None
    taking = Taking(job, read, kept, live, concurrency)
    collecting = _Collecting(job, taking, kept, terms)
    try:
        await together(job.work() for _ in range(concurrency))
        if not stop.is_set():
            await collecting.send_new()
        await collecting.collect()
    finally:
        await batched.afinish()
    return done


@dataclass(slots=True)
class _Collecting:
    """Sends batches, waits for them, and takes them in."""

    job: DraftingForBatch
    taking: Taking
    folder: Folder
    terms: Terms
    _seen: dict[str, Seen] = field(default_factory=dict)
    _troubles: int = 0

    async def send_new(self) -> None:
        """Write batches of what waits, unless the budget does not cover it."""
        budget, purse = self.job.purse.budget_usd, self.job.purse
        if budget is not None and purse.spent_usd > budget:
            self.job.done.stopped = self.job.done.stopped or (
                f"the budget of ${budget} does not cover the rows that wait: with them "
                f"${purse.spent_usd:.6f} are spent"
            )
            return
        rows, limits = self.taking.read(), self.terms.limits
        await write_requests(self.job, rows, self.folder, limits, self.taking.fail)

    async def collect(self) -> None:
        """Until there is no batch left, or the job is stopped."""
        waiting = self.folder.batches()
        if not waiting:
            return
        model = self.job.cascade.tiers[-1].model
        assert isinstance(model, ByBatch), "the job asks by batch"
        async with model.live.open_client() as client:
            provider = Provider(model.live, client, self.folder)
            wait_s = self.terms.first_s
            while waiting and not self.job.is_told_to_stop():
                waiting = [b for batch in waiting if (b := await self._advance(provider, batch))]
                if waiting:
                    self._tell(waiting)
                    await self._sleep(wait_s)
                    wait_s = min(self.terms.most_s, wait_s * self.terms.factor)
        if not waiting:
            self.job.done.at_provider = None

    async def _advance(self, provider: Provider, batch: Batch) -> Batch | None:
        """A batch as far as it comes without waiting; None once it is done with."""
        while not self.job.is_told_to_stop():
            try:
                after, self._seen[batch.name] = await provider.step(batch)
            except ModelError as error:
                self._troubles += 1
                if not error.retryable or self._troubles > self.terms.troubles:
                    raise
                await self._sleep(error.retry_after or self.terms.first_s)
                return self.folder.noted(batch)  # what was begun may have come about
            self._troubles = 0
            if after.step == "there":
                return None if await self.taking.take(after) else after
            if after == batch:
                return batch
            batch = after
        return batch

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.job.stop.wait()
        except TimeoutError:
            return

    def _tell(self, waiting: list[Batch]) -> None:
        seen = [self._seen.get(batch.name, Seen()) for batch in waiting]
        ends = [one.until for one in seen if one.until is not None]
        self.job.done.at_provider = AtProvider(
            len(waiting),
            sum(batch.rows for batch in waiting),
            sum(one.answered for one in seen),
            max(ends, default=None),
        )
        self.job.progress(self.job.done)
