"""Provider batches: the large model is asked by OpenAI's Batch API, for part of the price.

All rows are drafted and checked at once. A run that is to be escalated waits in the journal; the
requests of such runs are collected into batches, and the runs go on when the answers are there.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from langchain_core.messages import AnyMessage

from cascade.api import Cascade
from cascade.errors import CascadeError, ConfigurationError, LedgerError
from cascade.jobs.by_batch import ByBatch, Delivery, NotDeliveredError, batched
from cascade.jobs.engine import (
    BREATH,
    CONCURRENCY,
    Done,
    counted,
    failed,
    guessed,
    record_of,
    run_job,
)
from cascade.jobs.journal import Journal, Record
from cascade.jobs.openai_batches import Batches, Patience, read_reply, request_line
from cascade.jobs.rows import Row
from cascade.kernel import InCopiedContext, Kernel
from cascade.ledger.view import LedgerView
from cascade.questions import to_messages
from cascade.run import Call, CascadeRuntime, Run, Settings, to_request

if TYPE_CHECKING:
    from openai.types import Batch

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
"""Limits of one batch, OpenAI's."""

AT_ONCE = 200
"""Answers that are taken in between two looks at whether the ledger has them."""


async def run_by_batch(
    cascade: Cascade,
    rows: Iterable[Row],
    journal: Journal,
    *,
    path: Path,
    name: str = "batch",
    concurrency: int = CONCURRENCY,
    budget_usd: Decimal | None = None,
    progress: Callable[[Done], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Done:
    """Answer all rows that the journal has no answer to; what is escalated, by batch.

    Decisions and baselines are at the price by batch as well: every row could have been sent to
    the large model that way.

    Args:
        cascade: that is asked; its last tier speaks OpenAI's Batch API.
        rows: what to ask; those that wait are kept in memory.
        journal: knows what is done and what is at the provider, and is told.
        path: file beside which requests are written until they are uploaded.
        name: tags the ledger's entries as `job`.
        concurrency: drafts under way at once.
        budget_usd: dollars of the whole job, as in `run_job`, with what waits put aside.
        progress: called after each row.
        stop: set it to end; what is at the provider stays there for the next run.

    Raises:
        ConfigurationError: as `run_job` says; or the large model cannot be asked by batch.
        ModelError: the provider cannot be reached, or refuses. The next run goes on.
        LedgerError: the journal, the ledger or a file of requests cannot be written.
    """
    kernel, stop = batched(cascade), stop or asyncio.Event()
    job = _BatchJob(cascade, kernel, journal, name, path, progress, stop)
    await cascade.acheck()
    try:
        await job.run(rows, concurrency, budget_usd)
    finally:
        for tier in kernel.helpers.values():
            await tier.model.aclose()
    return job.done


def custom_id(record: Record) -> str:
    """Id of the request of a row that waits; a row that is asked anew has another one."""
    return f"{record.number}-{record.run_id}"


@dataclass(slots=True)
class _BatchJob:
    """Rows that wait for the large model, from their drafts to their answers."""

    cascade: Cascade
    kernel: Kernel
    journal: Journal
    name: str
    path: Path
    progress: Callable[[Done], None]
    stop: asyncio.Event
    done: Done = field(default_factory=Done)
    waiting: dict[str, Row] = field(default_factory=dict)

    @property
    def model(self) -> ByBatch:
        """The large model."""
        model = self.kernel.tiers[-1].model
        assert isinstance(model, ByBatch), "`batched` has put it there"
        return model

    async def run(self, rows: Iterable[Row], concurrency: int, budget_usd: Decimal | None) -> None:
        """Draft what is not done, then collect the answers that are waited for."""
        given = self.watched(rows)
        self.done = await run_job(
            self.cascade,
            given,
            self.journal,
            concurrency=concurrency,
            budget_usd=budget_usd,
            progress=self.progress,
            stop=self.stop,
            answer=self.draft,
            tiers=self.kernel.tiers,
        )
        for n, _ in enumerate(given):  # what waits behind the row at which the drafts have stopped
            if n % BREATH == 0:
                await asyncio.sleep(0)
        self.done.waiting = len(self.waiting)
        if not self.stop.is_set():
            await self.collect(budget_usd)
        if self.stop.is_set() and self.waiting:
            self.done.stopped = "it was interrupted"

    # --- drafts

    def watched(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows; those that wait already are noticed."""
        for row in rows:
            before = self.journal.find(row.number)
            if before is not None and before.status == "waiting" and before.key == row.key:
                self.waiting[custom_id(before)] = replace(row, columns={})
            yield row

    async def draft(self, row: Row) -> Record:
        """Record of a row that is drafted and checked; it waits where it is to be escalated."""
        before = self.journal.find(row.number)
        if before is not None and before.key == row.key and before.run is not None:
            record = replace(before, status="waiting", counted_usd=None, error=None)
        else:
            record = await self._drafted(row)
        if record.status == "waiting":
            self.waiting[custom_id(record)] = replace(row, columns={})
        return record

    async def _drafted(self, row: Row) -> Record:
        tags = {"job": self.name, "row": str(row.number)}
        run = self.kernel.begin(_messages(row), Settings(tags=tags))
        runtime = CascadeRuntime(self.kernel, show="final")
        try:
            while run.step not in ("expert", "person", "end"):
                await InCopiedContext(self.kernel.advance(run, runtime))
            if run.step != "expert":
                return record_of(row, await self.cascade.adrive(run, runtime))
        except CascadeError as error:
            return failed(row, error)
        return self._waits(row, run)

    def _waits(self, row: Row, run: Run) -> Record:
        ledger, expected = LedgerView(run.entries), None
        with suppress(ConfigurationError):  # it has no price
            expected = guessed(row, self.kernel.tiers[-1:])
        return Record(
            row.number,
            row.key,
            "waiting",
            cost_usd=ledger.cost_usd,
            counted_usd=counted(ledger),
            run_id=run.id,
            run=run.to_json(),
            expected_usd=expected,
        )

    # --- batches

    async def collect(self, budget_usd: Decimal | None) -> None:
        """Send what waits, and take in what comes, until there is no batch left or it is stopped.

        Raises:
            ModelError: the provider cannot be reached, or refuses.
        """
        if not self.waiting and not self._open():
            return
        async with self.model.live.open_client() as client:
            batches = Batches(self.model.live, client, self.journal)
            for name in self._open():  # the last of them may not be sent yet
                await self._send(batches, name)
            if self._covered(budget_usd):
                await self._send_new(batches)
            patience = Patience(self.stop)
            while self._open() and not self.stop.is_set():
                await patience.wait()
                for name in self._open():
                    await patience.ask(partial(self._look, batches, name))

    async def _send_new(self, batches: Batches) -> None:
        """Send what is in no batch yet."""
        while not self.stop.is_set():  # else the file of one that was not sent would be overwritten
            name = await self._write()
            if name is None:
                return
            await self._send(batches, name)

    async def _send(self, batches: Batches, name: str) -> None:
        await Patience(self.stop).ask(partial(batches.send, name, self._requests()))
        if not self.stop.is_set():
            self._requests().unlink(missing_ok=True)

    def _open(self) -> list[str]:
        return [name for name, note in self.journal.notes.items() if not note.get("done")]

    def _requests(self) -> Path:
        return self.path.with_name(f"{self.path.name}.requests")

    def _covered(self, budget_usd: Decimal | None) -> bool:
        needed = self.journal.spent_usd + self.journal.expected_usd
        if budget_usd is None or needed <= budget_usd:
            return True
        self.done.stopped = self.done.stopped or (
            f"the budget of ${budget_usd} does not cover the rows that wait: with them "
            f"${needed:.6f} are spent"
        )
        return False

    async def _write(self) -> str | None:
        """Write a batch of what is in none yet; None where there is nothing, or it is stopped."""
        sent = {one for name in self._open() for one in self.journal.notes[name]["ids"]}
        new = [one for one in self.waiting if one not in sent]
        if not new:
            return None
        ids: list[str] = []
        size = 0
        try:
            with self._requests().open("wb") as file:
                for one in new:
                    line = await self._line(one)
                    if self.stop.is_set():
                        return None
                    if line is None:
                        continue
                    size += len(line)
                    if len(ids) == MOST_REQUESTS or size > MOST_BYTES:
                        break
                    file.write(line)
                    ids.append(one)
        except OSError as error:
            raise LedgerError(
                f"{self._requests()} cannot be written: {error.strerror}. Nothing that is at the "
                "provider is lost: run the same command again when there is room."
            ) from error
        if not ids:
            self._requests().unlink()
            return None
        name = uuid4().hex
        self.journal.note(name, ids=ids)
        return name

    async def _line(self, one: str) -> bytes | None:
        """The request of a row that waits; None where there is none to send."""
        run, tier = self._run(one), self.kernel.tiers[-1]
        runtime = CascadeRuntime(self.kernel, show="final")
        await asyncio.sleep(0)
        try:
            request = to_request(tier, run.messages, run.settings)
            await self.kernel.ask(Call(run, runtime, "expert", tier, request))
        except NotDeliveredError as missing:
            line = request_line(one, missing.body)
            if len(line) <= MOST_BYTES:
                return line
            self._fail(one, f"the question is larger than {MOST_BYTES:,} bytes")
        except CascadeError as error:
            self._fail(one, str(error))
        else:
            await self._put([await self._resumed(one)])  # some middleware has the answer
        return None

    async def _look(self, batches: Batches, name: str) -> None:
        """See how far a batch is, and take it in where it has ended."""
        batch = await batches.ended(name)
        if batch is None:
            return
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                with tempfile.TemporaryFile(dir=self.path.parent) as file:
                    await batches.download(file_id, file)
                    file.seek(0)
                    await self._take(file, batch)
        if self.stop.is_set():
            return
        said = "; ".join(
            f"{e.code}: {e.message}" for e in (batch.errors and batch.errors.data) or ()
        )
        for one in self.journal.notes[name]["ids"]:
            if one in self.waiting:
                why = f"batch {batch.id} {batch.status}{said and f' ({said})'}"
                self._fail(one, f"{why}, without an answer to this row")
        self.journal.note(name, done=True, ids=[])

    async def _take(self, lines: Iterable[bytes], batch: Batch) -> None:
        """Take in what came back, the ledger before the journal."""
        answered: list[Record] = []
        for line in lines:
            if self.stop.is_set():
                break
            reply = read_reply(line)
            if reply.custom_id not in self.waiting:
                continue
            if reply.problem is not None:
                self._fail(reply.custom_id, reply.problem)
            else:
                answered.append(await self._resumed(reply.custom_id, Delivery(reply.body, batch)))
            if len(answered) >= AT_ONCE:
                await self._put(answered)
        await self._put(answered)

    async def _resumed(self, one: str, delivery: Delivery | None = None) -> Record:
        """Record of a row that has waited, whose run goes on."""
        row, run = self.waiting[one], self._run(one)
        paid = counted(LedgerView(run.entries))
        if delivery is not None:
            self.model.delivered[run.id] = delivery
        runtime = CascadeRuntime(self.kernel, show="final")
        try:
            await InCopiedContext(self.kernel.answer(run, runtime))
            record = record_of(row, await self.cascade.adrive(run, runtime))
        except CascadeError as error:
            error.ledger = LedgerView(run.entries)
            record = failed(row, error)
            if run.step == "expert":  # its draft is paid for: it goes into the next batch
                record = replace(record, run=run.to_json(), run_id=run.id)
        finally:
            self.model.delivered.pop(run.id, None)
        del self.waiting[one]
        return replace(record, counted_usd=(record.counted_usd or Decimal(0)) - paid)

    async def _put(self, answered: list[Record]) -> None:
        """Write down answers. Killed before, they are taken in again, and are the same entries."""
        if answered and self.kernel.ledger.store is not None:
            await self.kernel.ledger.store.flush()
        for record in answered:
            self._end(record)
        answered.clear()

    def _fail(self, one: str, why: str) -> None:
        """End the wait of a row without an answer; its draft is kept for the next batch."""
        before = self.journal.find(self.waiting.pop(one).number)
        assert before is not None, "what waits is in the journal"
        error = f"BatchError: {why}"
        self._end(replace(before, status="error", counted_usd=None, error=error))

    def _end(self, record: Record) -> None:
        self.journal.add(record)
        self.done.waiting -= 1
        self.done.count(record)
        self.progress(self.done)

    def _run(self, one: str) -> Run:
        """The run of a row that waits, as the journal has it."""
        row = self.waiting[one]
        before = self.journal.find(row.number)
        assert before is not None, "what waits is in the journal"
        assert before.run is not None, "what waits has a run"
        return Run.from_json(before.run, _messages(row))


def _messages(row: Row) -> list[AnyMessage]:
    assert row.question is not None, "a row that cannot be read is not asked"
    return to_messages(row.question)
