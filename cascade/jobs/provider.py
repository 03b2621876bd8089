"""Provider batches: the large model is asked by OpenAI's Batch API, for part of the price.

All rows are drafted and checked at once. A run that is to be escalated waits in the journal; the
requests of such runs are collected into batches, and the runs go on when the answers are there.
Each step at the provider is in the journal, so that what may have come about when a connection
broke, or a process ended, is looked for and not repeated.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, cast
from uuid import uuid4

from cascade.api import Cascade
from cascade.calling import CompositeModel
from cascade.errors import CascadeError, ConfigurationError, ModelError
from cascade.jobs import engine
from cascade.jobs.engine import Done, run_job
from cascade.jobs.files import Row
from cascade.jobs.journal import Journal, RowRecord
from cascade.kernel import InCopiedContext, Kernel
from cascade.ledger.ledger import Attempt, Ledger
from cascade.ledger.view import LedgerView
from cascade.middleware import Audits, Deadline, Shadow
from cascade.models.base import Request
from cascade.models.http import is_loopback
from cascade.models.openai import OpenAIModel
from cascade.questions import to_messages
from cascade.run import Call, CascadeRuntime, Run, Settings, to_request
from cascade.state import Completion

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""Limits of one batch, OpenAI's."""

FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 60.0
"""Seconds until the provider is asked how far it is; each wait is half as long again."""

TROUBLES = 30
"""So often in a row the provider may fail before the job ends; the next run goes on."""

PATH: Final = "/v1/chat/completions"

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

NAME = "cascade_batch"
"""Key of a batch's metadata under which its name is, by which it is found again."""


class NotDeliveredError(CascadeError):
    """An answer has not come yet; `body` is its request, for a batch."""

    body: Mapping[str, Any]


class ByBatch(CompositeModel):
    """Model that says what it would be asked, and gives the answers that have come: `delivered` has
    the body of a reply and the batch as it ended, by the id of its run."""

    def __init__(self, live: OpenAIModel) -> None:
        self.live = live
        self.provider, self.model, self.local = live.provider, live.model, live.local
        self.returns_logprobs, self.server = live.returns_logprobs, live.server
        self.delivered: dict[str, tuple[Any, Batch]] = {}

    async def answer(self, call: Call, attempt: Attempt, ledger: Ledger) -> Completion:
        """The answer that has come for a run, else a `NotDeliveredError`; its entry has the same id
        each time."""
        if call.run.id not in self.delivered:
            await self._complete(call.request)
        body, batch = self.delivered[call.run.id]
        ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at or 0
        waited_s = max(0, ended_at - batch.created_at)
        attempt.id = f"{call.run.id}-{batch.id}"
        attempt.at = datetime.fromtimestamp(batch.created_at, UTC)
        attempt.tags = {**attempt.tags, "batch": batch.id}
        async with ledger.attempt(attempt):
            try:
                completion = self.live.read(body)
            except ModelError as error:
                raise ModelError(str(error), model=self.name, billed=None) from error
            attempt.completion = replace(completion, latency_ms=waited_s * 1000.0)
        return attempt.completion

    async def _complete(self, request: Request) -> NoReturn:
        missing = NotDeliveredError(f"{self.name} is asked by batch: its answer has not come yet.")
        missing.body = self.live.payload(request)
        raise missing


def batched(cascade: Cascade) -> Kernel:
    """The kernel of a cascade whose largest model is asked by batch, at the price of that; a
    `ConfigurationError` where it cannot be, or middleware needs its answers at once."""
    last, parts = cascade.tiers[-1], cascade.kernel.parts
    if not isinstance(last.model, OpenAIModel):
        raise ConfigurationError(
            f"{last.model.name} cannot be asked by batch: that takes an openai: model that may be "
            "asked, on a server with OpenAI's Batch API (/v1/files, /v1/batches)."
        )
    for one in cascade.kernel.middleware:
        timed = isinstance(one, Deadline) and one.seconds is not None
        if timed or isinstance(one, Audits | Shadow):
            raise ConfigurationError(
                f"{one.name} and a large model by batch exclude each other: it needs the answer at "
                "once, and a batch takes up to a day. Leave one of them out."
            )
    tier = replace(last, model=ByBatch(last.model), pricing=last.pricing.by_batch())
    return Kernel(replace(parts, tiers=(*parts.tiers[:-1], tier)))


async def run_by_batch(
    cascade: Cascade,
    rows: Iterable[Row],
    journal: Journal,
    *,
    concurrency: int = engine.CONCURRENCY,
    budget_usd: Decimal | None = None,
    progress: Callable[[Done], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Done:
    """`run_job`, with what is escalated by batch.

    Decisions and baselines are at the price by batch as well: every row could have been sent to
    the large model that way. What waits is put aside in the budget. What is at the provider when
    `stop` is set, or when it cannot be reached (`ModelError`), stays there for the next run.
    """
    kernel, stop = batched(cascade), stop or asyncio.Event()
    job = _BatchJob(cascade, kernel, journal, progress)
    try:
        limits: Any = {"concurrency": concurrency, "budget_usd": budget_usd, "stop": stop}
        own: Any = {"progress": progress, "answer": job.draft, "tiers": kernel.tiers}
        job.done = await run_job(cascade, rows, journal, **limits, **own)
        job.done.waiting = len(journal.waiting())
        both = [asyncio.ensure_future(job.collect(budget_usd)), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()  # as if the process had ended here: the next run goes on
        with suppress(asyncio.CancelledError):
            await both[0]
    finally:
        for tier in kernel.helpers.values():
            await tier.model.aclose()
    if stop.is_set() and job.done.waiting:
        job.done.stopped = engine.INTERRUPTED
    return job.done


@dataclass(slots=True)
class _BatchJob:
    """Rows from their drafts to the large model's answers. The journal has of each batch the `ids`
    of its requests, `batch_id` once it was begun, and `done`."""

    cascade: Cascade
    kernel: Kernel
    journal: Journal
    progress: Callable[[Done], None]
    done: Done = field(default_factory=Done)

    @property
    def model(self) -> ByBatch:
        """The large model, which `batched` has put in its place."""
        return cast("ByBatch", self.kernel.tiers[-1].model)

    async def draft(self, row: Row) -> RowRecord:
        """Record of a row that is drafted and checked; it waits where it is to be escalated."""
        before = self.journal.find(row.number)
        if before is not None and before.key == row.key and before.run is not None:
            return replace(before, status="waiting", counted_usd=None, error=None)
        if row.question is None:
            return await engine.ask(self.cascade, row)
        tags = Settings(tags={"row": str(row.number)})
        run = self.kernel.begin(to_messages(row.question), tags)
        runtime = CascadeRuntime(self.kernel, show="final")
        try:
            while run.step not in ("expert", "person", "end"):
                await InCopiedContext(self.kernel.advance(run, runtime))
            if run.step != "expert":
                return engine.record_of(row, await self.cascade.adrive(run, runtime))
        except CascadeError as error:
            return engine.failed(row, error)
        expected = None
        with suppress(ConfigurationError):  # it has no price
            expected = engine.guessed(row, self.kernel.tiers[-1:])
        kept: Any = {"run": run.to_json(), "question": row.question, "run_id": run.id}
        costs = engine.costs_of(LedgerView(run.entries))
        return RowRecord(row.number, row.key, "waiting", expected_usd=expected, **kept, **costs)

    async def collect(self, budget_usd: Decimal | None) -> None:
        """Send what waits, and take in what comes, until there is no batch left."""
        if not self.done.waiting and not self._open():
            return
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415 - heavy

        live = self.model.live
        live.check_allowed()
        url, key, here = live.base_url, live.secrets[0] or "none", is_loopback(live.base_url)
        http = DefaultAsyncHttpxClient(trust_env=not here, follow_redirects=False)
        async with AsyncOpenAI(
            base_url=url, api_key=key, max_retries=0, http_client=http
        ) as client:
            await self._persist(partial(self._recover, client))
            needed = self.journal.spent_usd + self.journal.expected_usd
            if budget_usd is not None and needed > budget_usd:
                self.done.stopped = self.done.stopped or (
                    f"the budget of ${budget_usd} does not cover the rows that wait: with them "
                    f"${needed:.6f} are spent"
                )
            else:
                while await self._persist(partial(self._send, client)):
                    pass
            wait_s = FIRST_WAIT_S
            while self._open():
                await asyncio.sleep(min(LONGEST_WAIT_S, wait_s))
                wait_s *= 1.5
                for name in self._open():
                    await self._persist(partial(self._look, client, name))

    def _open(self) -> list[str]:
        return [name for name, note in self.journal.batches.items() if not note.get("done")]

    async def _persist(self, what: Callable[[], Awaitable[Any]]) -> Any:
        """Ask the provider, and again after a wait while it fails."""
        troubles = 0
        while True:
            try:
                with self.model.live.caller.named():
                    return await what()
            except ModelError as error:
                troubles += 1
                if not error.retryable or troubles == TROUBLES:
                    raise
                await asyncio.sleep(error.retry_after or FIRST_WAIT_S)

    async def _recover(self, client: openai.AsyncOpenAI) -> None:
        """Look for batches that may have been begun. What never was is over: its rows go into
        another one."""
        for name in self._open():
            if "batch_id" not in self.journal.batches[name]:
                facts: dict[str, Any] = {"done": True, "ids": []}
                async for known in client.batches.list(limit=100):
                    if (known.metadata or {}).get(NAME) == name:
                        facts = {"batch_id": known.id}
                        break
                self.journal.note(name, **facts)

    async def _send(self, client: openai.AsyncOpenAI) -> bool:
        """Begin a batch of what is in none yet; False where there is nothing."""
        await self._recover(client)  # where the last attempt has failed
        name = uuid4().hex
        with tempfile.TemporaryFile() as file:
            ids = await self._write(file)
            if not ids:
                return False
            file.seek(0)
            requests = (f"cascade-{name}.jsonl", file)
            uploaded = await client.files.create(file=requests, purpose="batch")
        self.journal.note(name, ids=ids)
        batch = await client.batches.create(
            input_file_id=uploaded.id,
            endpoint=PATH,
            completion_window="24h",
            metadata={NAME: name},
        )
        self.journal.note(name, batch_id=batch.id)
        return True

    async def _write(self, file: IO[bytes]) -> list[str]:
        """Write requests of rows that are in no batch yet, as many as one may have; their ids."""
        sent = {one for name in self._open() for one in self.journal.batches[name]["ids"]}
        ids: list[str] = []
        for number in self.journal.waiting():
            await asyncio.sleep(0)
            record = self.journal.find(number)
            if record is None or _id_of(record) in sent:
                continue
            line = await self._line(record)
            full = len(ids) == MOST_REQUESTS or file.tell() + len(line) > MOST_BYTES
            if ids and full:
                break
            if line:
                file.write(line)
                ids.append(_id_of(record))
        return ids

    async def _line(self, record: RowRecord) -> bytes:
        """The request of a row that waits; nothing where there is none to send."""
        run, tier = _run_of(record), self.kernel.tiers[-1]
        runtime = CascadeRuntime(self.kernel, show="final")
        try:
            request = to_request(tier, run.messages, run.settings)
            await self.kernel.ask(Call(run, runtime, "expert", tier, request))
        except NotDeliveredError as missing:
            said = {"method": "POST", "url": PATH, "body": missing.body}
            line = json.dumps({"custom_id": _id_of(record), **said}, separators=(",", ":"))
            return line.encode() + b"\n"
        except CascadeError as error:
            await self._fail(record, str(error))
        else:
            await self._resume(record)  # some middleware has the answer
        return b""

    async def _look(self, client: openai.AsyncOpenAI, name: str) -> None:
        """See how far a batch is, and take it in where it has ended."""
        note = self.journal.batches[name]
        batch = await client.batches.retrieve(note["batch_id"])
        if batch.status not in ENDED:
            return
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            with tempfile.TemporaryFile() as file:
                async with client.files.with_streaming_response.content(file_id) as response:
                    async for part in response.iter_bytes():
                        file.write(part)
                file.seek(0)
                for line in file:
                    await self._take(*read_reply(line), batch)
        errors = (batch.errors and batch.errors.data) or ()
        said = "".join(f"; {error.code}: {error.message}" for error in errors)
        why = f"batch {batch.id} {batch.status}, without an answer to this row{said}"
        for one in note["ids"]:
            await self._take(one, None, why, batch)
        self.journal.note(name, done=True, ids=[])

    async def _take(self, one: str, body: Any, problem: str | None, batch: Batch) -> None:
        """Take in the reply to a request, or why there is none, if a row waits for it."""
        await asyncio.sleep(0)  # so that a stop is heard
        number = one.partition("-")[0]
        record = self.journal.find(int(number)) if number.isdecimal() else None
        if record is None or record.status != "waiting" or _id_of(record) != one:
            return
        if problem is not None:
            await self._fail(record, problem)
        else:
            await self._resume(record, (body, batch))

    async def _resume(self, before: RowRecord, delivered: tuple[Any, Batch] | None = None) -> None:
        """Go on with the run of a row that has waited."""
        row, run = Row(before.number, {}, before.question), _run_of(before)
        paid = engine.costs_of(LedgerView(run.entries))["counted_usd"]
        if delivered is not None:
            self.model.delivered[run.id] = delivered
        runtime = CascadeRuntime(self.kernel, show="final")
        try:
            await InCopiedContext(self.kernel.answer(run, runtime))
            record = engine.record_of(row, await self.cascade.adrive(run, runtime))
        except CascadeError as error:
            record = engine.failed(row, error)
            if run.step == "expert":  # its draft is paid for: it goes into the next batch
                kept = {"run": run.to_json(), "question": before.question, "run_id": run.id}
                record = replace(record, **kept)
        finally:
            self.model.delivered.pop(run.id, None)
        await self._end(replace(record, counted_usd=(record.counted_usd or Decimal(0)) - paid))

    async def _fail(self, before: RowRecord, why: str) -> None:
        """End the wait of a row without an answer; its draft is kept for the next batch."""
        error = f"BatchError: {why}"
        await self._end(replace(before, status="error", counted_usd=None, error=error))

    async def _end(self, record: RowRecord) -> None:
        """Write down what became of a row, the ledger before the journal: killed between the two,
        the answer is taken in again, and has the same entries."""
        if self.kernel.ledger.store is not None:
            await self.kernel.ledger.store.flush()
        self.journal.add(record)
        self.done.waiting -= 1
        self.done.count(record)
        self.progress(self.done)


def read_reply(line: bytes) -> tuple[str, Any, str | None]:
    """Id of a request, body of the reply, and why there is none, by a line of a file that came
    back; the id is empty where the line is of none."""
    try:
        found = json.loads(line)
        one, response = str(found["custom_id"]), found.get("response") or {}
        body = response.get("body") or {}
        if response.get("status_code") == 200:
            return one, body, None
        said = found.get("error") or body.get("error") or found
        return one, None, str(said.get("message") or said)[:300]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", None, None


def _id_of(record: RowRecord) -> str:
    """Id of the request of a row that waits; a row that is asked anew has another one."""
    return f"{record.number}-{record.run_id}"


def _run_of(record: RowRecord) -> Run:
    return Run.from_json(record.run or {}, to_messages(record.question))
