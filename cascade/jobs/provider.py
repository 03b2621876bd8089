"""Provider batches: the large model is asked by OpenAI's Batch API, for part of the price.

All rows are drafted and checked at once. A run that is to be escalated waits in the journal, with
its request, until a batch has the answer. Each step at the provider is in the journal, so that what
may have come about when a connection broke, or a process ended, is looked for and not repeated.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import uuid4

from cascade.calling import CompositeModel
from cascade.errors import CascadeError, ConfigurationError, ModelError
from cascade.jobs.engine import INTERRUPTED, Job, failed, guessed, record_of
from cascade.jobs.files import Row, RowRecord
from cascade.kernel import InCopiedContext, Kernel
from cascade.ledger.entries import LedgerView
from cascade.ledger.ledger import Attempt, Ledger
from cascade.middleware import Audits, Deadline, Shadow
from cascade.models.base import Request
from cascade.models.http import is_loopback
from cascade.models.openai import OpenAIModel
from cascade.questions import to_messages
from cascade.run import Call, CascadeRuntime, Run, Settings, known_cost, to_request
from cascade.state import Completion

if TYPE_CHECKING:
    from openai.types import Batch

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""OpenAI's limits of one batch."""

FIRST_WAIT_S, LONGEST_WAIT_S, TROUBLES = 5.0, 60.0, 30
"""Seconds until the provider is asked again, each half as long again; and failures in a row."""

PATH: Final = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

NAME = "cascade_batch"
"""Key of a batch's metadata under which it has the name in the journal."""


class NotDeliveredError(CascadeError):
    """An answer has not come yet; `body` is its request, for a batch."""

    body: Mapping[str, Any]


class ByBatch(CompositeModel):
    """Model that gives the answers that have come: the body of a reply and its batch, by run."""

    def __init__(self, live: OpenAIModel) -> None:
        self.live = live
        self.provider, self.model, self.local = live.provider, live.model, live.local
        self.returns_logprobs, self.server = live.returns_logprobs, live.server
        self.delivered: dict[str, tuple[Any, Batch]] = {}

    async def answer(self, call: Call, attempt: Attempt, ledger: Ledger) -> Completion:
        """The answer that has come, of which there is one entry; else a `NotDeliveredError`."""
        if call.run.id not in self.delivered:
            await self._complete(call.request)
        body, batch = self.delivered[call.run.id]
        ended_at = batch.completed_at or batch.expired_at or batch.cancelled_at or 0
        waited_ms = 1000.0 * max(0, ended_at - batch.created_at)
        attempt.id = f"{call.run.id}-{batch.id}"
        attempt.at = datetime.fromtimestamp(batch.created_at, UTC)
        attempt.tags = {**attempt.tags, "batch": batch.id}
        async with ledger.attempt(attempt):
            try:
                completion = self.live.read(body)
            except ModelError as error:
                raise ModelError(str(error), model=self.name, billed=None) from error
            attempt.completion = replace(completion, latency_ms=waited_ms)
        return attempt.completion

    async def _complete(self, request: Request) -> NoReturn:
        missing = NotDeliveredError(f"{self.name} is asked by batch: its answer has not come yet.")
        missing.body = self.live.payload(request)
        raise missing


class BatchJob(Job):
    """A job whose largest model is asked by batch, for `run_job(…, kind=BatchJob)`.

    Decisions and baselines are at the price by batch as well: every row could have been sent to
    the large model that way. What is at the provider when `stop` is set, or when it cannot be
    reached (`ModelError`), stays there for the next run. The journal has of each batch the `ids` of
    its requests, `batch_id` once it was begun, and `done`.

    Raises:
        ConfigurationError: the model has no Batch API, or middleware needs its answers at once.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        last, parts = self.cascade.tiers[-1], self.cascade.kernel.parts
        if not isinstance(last.model, OpenAIModel):
            told = f"{last.model.name} cannot be asked by batch: that takes an openai: model"
            raise ConfigurationError(f"{told} on a server with OpenAI's Batch API (/v1/batches).")
        for one in self.cascade.kernel.middleware:
            timed = isinstance(one, Deadline) and one.seconds is not None
            if timed or isinstance(one, Audits | Shadow):
                told = f"{one.name} and a large model by batch exclude each other"
                why = "it needs the answer at once, and a batch takes up to a day"
                raise ConfigurationError(f"{told}: {why}. Leave one of them out.")
        self.model = ByBatch(last.model)
        tier = replace(last, model=self.model, pricing=last.pricing.by_batch())
        self.kernel = Kernel(replace(parts, tiers=(*parts.tiers[:-1], tier)))
        self.kernel.helpers = self.cascade.kernel.helpers  # which it closes
        self.tiers = self.kernel.tiers

    async def run(self, rows: Iterable[Row], concurrency: int) -> None:
        """Draft all rows, and ask what is escalated by batch."""
        await super().run(rows, concurrency)
        self.done.waiting = len(self.journal.waiting())
        collecting = asyncio.ensure_future(self._collect())
        both = [collecting, asyncio.ensure_future(self.stop.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()  # as if the process had ended here: the next run goes on
        with suppress(asyncio.CancelledError):
            await collecting
        if self.stop.is_set() and self.done.waiting:
            self.done.stopped = INTERRUPTED

    async def answer(self, row: Row) -> RowRecord:
        """Record of a row that is drafted and checked, and waits where it is to be escalated."""
        before = self.journal.find(row.number)
        if before is not None and before.key == row.key and before.run is not None:
            return await self._go_on(row, Run.from_json(before.run, to_messages(before.question)))
        if row.question is None:
            return await super().answer(row)
        tags = Settings(tags={"row": str(row.number)})
        return await self._go_on(row, self.kernel.begin(to_messages(row.question), tags))

    async def _go_on(self, row: Row, run: Run) -> RowRecord:
        """Record of a row whose run is taken to its end, or to where its answer has to come."""
        paid, kept = known_cost(run.entries), dict[str, Any]()
        runtime, last = CascadeRuntime(self.kernel, show="final"), self.tiers[-1]
        try:
            while run.step not in ("expert", "person", "end"):
                await InCopiedContext(self.kernel.advance(run, runtime))
            if run.step == "expert" and run.id not in self.model.delivered:
                request = to_request(last, run.messages, run.settings)
                await self.kernel.ask(Call(run, runtime, "expert", last, request))
            await self.kernel.answer(run, runtime)
            record = record_of(row, await self.cascade.adrive(run, runtime))
        except CascadeError as error:
            error.ledger = error.ledger or LedgerView(run.entries)
            record = failed(row, error)
            if run.step == "expert":  # its draft is paid for
                kept = {"run": run.to_json(), "question": row.question, "run_id": run.id}
            if isinstance(error, NotDeliveredError):
                kept |= {"status": "waiting", "error": None, "request": error.body}
                with suppress(ConfigurationError):  # it has no price
                    kept["expected_usd"] = guessed(row, self.tiers[-1:])
        kept["counted_usd"] = (record.counted_usd or Decimal(0)) - paid
        return record.model_copy(update=kept)

    async def _collect(self) -> None:
        """Send what waits, and take in what comes, until there is no batch left."""
        if not self.done.waiting and not self._open():
            return
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient  # noqa: PLC0415 - heavy

        live = self.model.live
        live.check_allowed()
        covered = self.budget_usd is None or self.spent_usd <= self.budget_usd
        if not covered:
            told = f"does not cover the rows that wait: with them ${self.spent_usd:.6f} are spent"
            self.done.stopped = self.done.stopped or f"the budget of ${self.budget_usd} {told}"
        url, key = live.base_url, live.secrets[0] or "none"
        http = DefaultAsyncHttpxClient(trust_env=not is_loopback(url), follow_redirects=False)
        wait_s, troubles = FIRST_WAIT_S, 0
        client = AsyncOpenAI(base_url=url, api_key=key, max_retries=0, http_client=http)
        async with client as self._client:
            while True:
                try:
                    with live.caller.named():
                        for name in self._open():
                            await self._look(name)
                        while covered and await self._send():
                            pass
                    troubles = 0
                except ModelError as error:
                    troubles, wait_s = troubles + 1, max(wait_s, error.retry_after or 0)
                    if not error.retryable or troubles == TROUBLES:
                        raise
                if not troubles and not self._open():
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(LONGEST_WAIT_S, 1.5 * wait_s)

    def _open(self) -> list[str]:
        return [name for name, note in self.journal.batches.items() if not note.get("done")]

    async def _send(self) -> bool:
        """Begin a batch of what is in none yet; False where there is nothing."""
        sent = {one for name in self._open() for one in self.journal.batches[name]["ids"]}
        name, ids = uuid4().hex, list[str]()
        with tempfile.TemporaryFile() as file:
            for number in self.journal.waiting():
                await asyncio.sleep(0)  # so that a stop is heard
                record = self.journal.find(number)
                if record is None or (one := _id_of(record)) in sent:
                    continue
                said = {"method": "POST", "url": PATH, "body": record.request}
                line = json.dumps({"custom_id": one, **said}, separators=(",", ":")).encode()
                full = len(ids) == MOST_REQUESTS or file.tell() + len(line) >= MOST_BYTES
                if ids and full:
                    break
                file.write(line + b"\n")
                ids.append(one)
            if not ids:
                return False
            file.seek(0)
            requests = (f"cascade-{name}.jsonl", file)
            uploaded = await self._client.files.create(file=requests, purpose="batch")
        self.journal.note(name, ids=ids)
        how: Any = {"endpoint": PATH, "completion_window": "24h", "metadata": {NAME: name}}
        batch = await self._client.batches.create(input_file_id=uploaded.id, **how)
        self.journal.note(name, batch_id=batch.id)
        return True

    async def _look(self, name: str) -> None:
        """Take in a batch that has ended. One that may have been begun is looked for."""
        note = self.journal.batches[name]
        if "batch_id" not in note:
            facts: dict[str, Any] = {"done": True, "ids": []}
            async for known in self._client.batches.list(limit=100):
                if (known.metadata or {}).get(NAME) == name:
                    facts = {"batch_id": known.id}
                    break
            self.journal.note(name, **facts)  # never begun, its rows go into another
            return
        batch = await self._client.batches.retrieve(note["batch_id"])
        if batch.status not in ENDED:
            return
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            with tempfile.TemporaryFile() as file:
                read = self._client.files.with_streaming_response.content(file_id)
                async with read as response:
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
        """Take in the reply to a request, or why there is none, if a row waits for it: the ledger
        before the journal. Killed between the two, it is taken in again, with the same entries."""
        await asyncio.sleep(0)  # so that a stop is heard
        number = one.partition("-")[0]
        record = self.journal.find(int(number)) if number.isdecimal() else None
        if record is None or record.status != "waiting" or _id_of(record) != one:
            return
        if problem is not None:  # its draft is kept for the next batch
            lost = {"status": "error", "counted_usd": None, "expected_usd": None}
            record = record.model_copy(update={**lost, "error": f"BatchError: {problem}"})
        else:
            run = Run.from_json(record.run or {}, to_messages(record.question))
            self.model.delivered[run.id] = body, batch
            record = await self._go_on(Row(record.number, {}, record.question), run)
            self.model.delivered.clear()
        if self.kernel.ledger.store is not None:
            await self.kernel.ledger.store.flush()
        self.journal.add(record)
        self.done.waiting -= 1
        self.done.count(record)
        self.progress(self.done)


def read_reply(line: bytes) -> tuple[str, Any, str | None]:
    """Id of a request, empty where a line is of none; the body of its reply, or why none came."""
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
