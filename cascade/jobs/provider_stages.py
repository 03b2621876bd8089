"""The stages of a job whose large model is asked by batch, as work on rows."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from cascade._together import together
from cascade.api import Cascade
from cascade.errors import CascadeError, ConfigurationError
from cascade.jobs import continuing
from cascade.jobs.journal import Record
from cascade.jobs.provider_files import Batch, Folder, Limits, Reply, Requests, row_of
from cascade.jobs.provider_model import ByBatch, Delivery, NotDeliveredError, delivered
from cascade.jobs.rows import Row
from cascade.jobs.running import Done, Job, breath, counted, guess_of, guessed
from cascade.ledger.tags import tagged
from cascade.models.base import Sent
from cascade.models.openai import OpenAIModel
from cascade.pausing import Paused
from cascade.policies import tell_cost

__all__ = [
    "AtProvider",
    "BatchDone",
    "DraftingForBatch",
    "Taking",
    "asked_by_batch",
    "write_requests",
]

AT_ONCE = 200
"""Answers that are taken in between two looks at whether the ledger has them."""


@dataclass(frozen=True, slots=True)
class AtProvider:
    """What a job waits for.

    Attributes:
        batches: at the provider.
        requests: in them.
        answered: of these, as the provider says.
        until: when the last of them is given up, where the provider says so.
    """

    batches: int
    requests: int
    answered: int
    until: datetime | None


@dataclass(slots=True)
class BatchDone(Done):
    """How far a job is whose large model is asked by batch.

    Attributes:
        waiting: rows that are drafted and wait for the large model.
        by_batch: answered by batch, in this run.
        at_provider: the batches that are under way; None where there are none.
    """

    waiting: int = 0
    by_batch: int = 0
    at_provider: AtProvider | None = None

    @property
    def rows(self) -> int:
        """Rows that were looked at."""
        return self.resumed + self.answered + self.failed + self.waiting


def asked_by_batch(cascade: Cascade) -> Cascade:
    """The same cascade, whose largest model is asked by batch, at the price that this has.

    Also what it alone would have cost is counted at that price: who can wait for a batch could have
    sent every row that way.

    Raises:
        ConfigurationError: it has a large model without a batch API, no price for it, or options
            that need the answer at once.
    """
    last, options = cascade.tiers[-1], cascade.options
    if "expert" not in cascade.graph.nodes:
        raise ConfigurationError("no question may leave this machine: there is nothing to batch.")
    if not isinstance(last.model, OpenAIModel):
        raise ConfigurationError(
            f"{last.model.name} cannot be asked by batch: that takes openai: and a server with "
            "OpenAI's batch API (/v1/files, /v1/batches)."
        )
    at_once = {
        "deadline": "a batch takes up to a day",
        "hedge": "the large model would be asked beside every draft",
        "audit_rate": "audits ask the large model at once",
    }
    for name, why in at_once.items():
        if options[name]:
            raise ConfigurationError(
                f"{name}={options[name]!r} and a large model by batch exclude each other: {why}. "
                "Leave one of them out."
            )
    if options["mode"] != "live":
        raise ConfigurationError(
            f"mode={options['mode']!r}: the large model answers first there. By batch it answers "
            "what is escalated: give mode='live'."
        )
    model, pricing = ByBatch(last.model), last.pricing.by_batch()
    return cascade.with_last_tier(replace(last, model=model, pricing=pricing))


@dataclass(slots=True)
class DraftingForBatch(Job[BatchDone]):
    """Answers what the drafts are good enough for, and lets wait what is to be escalated."""

    def passes(self, row: Row) -> bool:
        """Whether the row has an answer, or waits for one."""
        before = self.journal.find(row.number)
        if before is None or before.key != row.key:
            return False
        if before.status == "ok":
            self.done.resumed += 1
            return True
        if before.paused is None:
            return False
        if before.status == "error":  # its draft is there, and paid for
            before = replace(before, status="waiting", counted_usd=None, error=None)
            self.journal.add(before)
        self.done.waiting += 1
        self.purse.spent_usd += before.expected_usd or Decimal(0)
        return True

    async def answered(self, row: Row) -> Record | None:
        """Draft, check and decide."""
        found = await continuing.drafted(self.cascade, row, self.name, before=("expert",))
        if not isinstance(found, Paused):
            return found
        expected = guess_of(row, self.cascade.tiers[-1:])
        # Now, as the answer comes when all other rows are decided.
        tell_cost(self.cascade.policy, counted(found.ledger) + (expected or 0))
        within = self.purse.budget_usd is not None
        return continuing.waiting(row, found, expected if within else None)

    def written(self, record: Record) -> None:
        """What a row that waits may cost is taken for spent until it is known."""
        if record.status == "waiting":
            self.purse.spent_usd += record.expected_usd or Decimal(0)

    def refused(self, row: Row) -> None:
        """The budget does not cover a row."""
        del row
        self.done.stopped = self.done.stopped or (
            f"the budget of ${self.purse.budget_usd} does not cover another row: "
            f"${self.purse.spent_usd:.6f} are spent, or put aside for rows that wait"
        )

    def waits(self) -> None:
        """A row is to be in a batch."""
        self.done.waiting += 1

    def count_waited(self, record: Record, before: Record) -> None:
        """A row that has waited is done."""
        self.done.waiting -= 1
        self.purse.spent_usd -= before.expected_usd or Decimal(0)
        self.purse.spent_usd += record.counted_usd or Decimal(0)
        self.in_a_row = 0  # a batch fails as a whole: that is no sign of a bad input
        self.count(record)
        self.progress(self.done)


async def write_requests(
    job: DraftingForBatch,
    rows: Iterable[Row],
    folder: Folder,
    limits: Limits,
    unsendable: Callable[[Row, Record, str], None],
) -> None:
    """Write what rows that wait want to know into new batches; where the job is stopped, of some.

    Args:
        job: of the cascade of `asked_by_batch`; its journal knows which rows wait.
        rows: the input.
        folder: has the batches that hold some of them already.
        limits: of one batch.
        unsendable: is told of a row that fits into no batch.
    """
    sent = array("q")  # a row that has changed is in a batch by its number alone
    for batch in folder.batches():
        for n, custom_id in enumerate(folder.custom_ids(batch)):
            await breath(n)
            number = row_of(custom_id)
            sent.extend([0] * (number + 1 - len(sent)))
            sent[number] = hash(custom_id)
    requests = Requests(folder, limits)
    for n, row in enumerate(rows):
        await breath(n)
        if job.is_told_to_stop():
            break
        record = job.journal.find(row.number)
        if record is None or record.status != "waiting" or record.key != row.key:
            continue
        if row.number < len(sent) and sent[row.number] == hash(_custom_id(record)):
            continue
        try:
            assert row.question is not None, "what waits was asked"
            await job.cascade.aresume(row.question, continuing.paused_in(record))
        except NotDeliveredError as missing:
            if not requests.add(_custom_id(record), missing.body):
                unsendable(row, record, f"the question is larger than {limits.size:,} bytes")
    requests.end()


@dataclass(slots=True)
class Taking:
    """Takes in what came back with a batch.

    Attributes:
        job: of the drafts; it counts.
        live: the cascade that asks at once, for rows that the batch has not answered; None to
            let them fail.
        concurrency: how many of these are asked at once.
    """

    job: DraftingForBatch
    read: Callable[[], Iterable[Row]]
    folder: Folder
    live: Cascade | None
    concurrency: int

    async def take(self, batch: Batch) -> bool:
        """All rows of a batch that are not in the journal yet, the ledger before the journal.

        Returns:
            Whether it is done with; where the job is stopped, the next run takes in the others.

        Raises:
            LedgerError: the journal, or the ledger, cannot be written.
        """
        wanted = {row_of(custom_id): custom_id for custom_id in self.folder.custom_ids(batch)}
        replies, last = self.folder.replies(batch), max(wanted, default=-1)
        kept: list[tuple[Record, Record]] = []
        unanswered: list[tuple[Row, Record, str]] = []
        for n, row in enumerate(self.read()):
            await breath(n)
            if row.number > last:
                break
            if self.job.is_told_to_stop():
                await self._put(kept)
                return False
            before = self._waits(row, wanted)
            if before is None:
                continue
            reply = replies.find(_custom_id(before))
            if reply is not None and reply.problem is None:
                kept.append((await self._answered(row, before, batch, reply), before))
            else:
                unanswered.append((row, before, _why(batch, reply)))
            if len(kept) >= AT_ONCE:
                await self._put(kept)
            if len(unanswered) >= self.concurrency:
                await self._go_without(unanswered)
        await self._put(kept)
        await self._go_without(unanswered)
        self.folder.drop(batch)
        return True

    def fail(self, row: Row, before: Record, why: str) -> None:
        """A row that has waited gets no answer by batch."""
        self._done(continuing.failed(row, f"BatchError: {why}", before), before)

    def _waits(self, row: Row, wanted: dict[int, str]) -> Record | None:
        if row.number not in wanted:
            return None
        before = self.job.journal.find(row.number)
        if before is None or before.status != "waiting" or before.key != row.key:
            return None
        return before if _custom_id(before) == wanted[row.number] else None

    async def _answered(self, row: Row, before: Record, batch: Batch, reply: Reply) -> Record:
        assert row.question is not None, "what waits was asked"
        assert batch.batch_id is not None, "what came back was sent"
        with (
            tagged(job=self.job.name, row=str(row.number), batch=batch.batch_id),
            delivered(_delivery(batch, reply)),
        ):
            try:
                paused = continuing.paused_in(before)
                result = await self.job.cascade.aresume(row.question, paused)
            except CascadeError as error:
                return continuing.failed(row, error, before)
        self.job.done.by_batch += 1
        return continuing.answered(row, result, before)

    async def _put(self, kept: list[tuple[Record, Record]]) -> None:
        """Write down answers. Killed before, they are taken in again, and are the same entries."""
        if not kept:
            return
        flush = getattr(self.job.cascade.options["ledger"], "flush", None)
        if flush is not None:
            await flush()
        for record, before in kept:
            self._done(record, before)
        kept.clear()

    def _done(self, record: Record, before: Record) -> None:
        self.job.journal.add(record)
        self.job.count_waited(record, before)

    async def _go_without(self, unanswered: list[tuple[Row, Record, str]]) -> None:
        asked = [self._unanswered(*one) for one in unanswered]
        unanswered.clear()
        await together(asked)

    async def _unanswered(self, row: Row, before: Record, why: str) -> None:
        """Ask at once, at the price of that, or let the row fail."""
        if self.live is None or row.question is None:
            self.fail(row, before, why)
            return
        expected = before.expected_usd or Decimal(0)
        within = self.job.purse.budget_usd is not None
        guess = guessed(row, self.live.tiers[-1:]) - expected if within else Decimal(0)
        aside = await self.job.purse.take(guess)
        if aside is None:
            self.fail(row, before, f"{why}; the budget does not cover asking at once")
            return
        try:
            with tagged(job=self.job.name, row=str(row.number)):
                result = await self.live.aresume(row.question, continuing.paused_in(before))
            record = continuing.answered(row, result, before)
        except CascadeError as error:
            record = continuing.failed(row, error, before)
        finally:
            await self.job.purse.settle(aside, Decimal(0))
        self._done(record, before)


def _custom_id(record: Record) -> str:
    return f"{record.number}-{record.run_id}"


def _delivery(batch: Batch, reply: Reply) -> Delivery:
    created_at = batch.created_at or 0
    sent = Sent(f"{batch.name}-{reply.custom_id}", datetime.fromtimestamp(created_at, UTC))
    waited_s = max(0, (batch.ended_at or created_at) - created_at)
    return Delivery(reply.body, sent, waited_s * 1000.0)


def _why(batch: Batch, reply: Reply | None) -> str:
    """Why a row has no answer."""
    if reply is not None:
        return str(reply.problem)
    said = f" ({batch.problem})" if batch.problem else ""
    return f"batch {batch.batch_id} {batch.status}{said}, without an answer to this row"
