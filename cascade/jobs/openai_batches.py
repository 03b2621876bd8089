"""OpenAI's Batch API: files of requests, batches of them, and what comes back.

Each step of a batch is in the journal before it is taken: what may have come about when a
connection broke, or a process ended, is looked for and not repeated.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from cascade.errors import LedgerError, ModelError
from cascade.jobs.journal import Journal
from cascade.models.openai import OpenAIModel

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

PATH: Final = "/v1/chat/completions"

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

NAME = "cascade_batch"
"""Key of a batch's metadata under which its name is, by which it is found again."""

CHUNK = 2**20

FIRST_WAIT_S, LONGER, LONGEST_WAIT_S = 5.0, 1.5, 60.0
"""Seconds until the provider is asked how far it is; each wait is so much longer than the last."""

TROUBLES = 30
"""So often in a row the provider may fail before the job ends; the next run goes on."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request.

    Attributes:
        custom_id: of the request; empty where the line tells nothing of any.
        body: of the reply, where it was a good one.
        problem: why there is none, otherwise.
    """

    custom_id: str = ""
    body: Any = None
    problem: str | None = None


def request_line(custom_id: str, body: Mapping[str, Any]) -> bytes:
    """One request as a line of a file."""
    said = {"custom_id": custom_id, "method": "POST", "url": PATH, "body": body}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def read_reply(line: bytes) -> Reply:
    """What a line of a file that came back tells."""
    try:
        found = json.loads(line)
    except ValueError:
        return Reply()
    if not isinstance(found, Mapping) or not isinstance(found.get("custom_id"), str):
        return Reply()
    response = found.get("response")
    response = response if isinstance(response, Mapping) else {}
    if response.get("status_code") == 200:
        return Reply(found["custom_id"], body=response.get("body"))
    said = found.get("error") or response.get("body") or found
    said = said.get("error") or said if isinstance(said, Mapping) else said
    reason = said.get("message") or said.get("code") if isinstance(said, Mapping) else None
    return Reply(found["custom_id"], problem=str(reason or said)[:300])


@dataclass(frozen=True, slots=True)
class Batches:
    """Batches of one job at a provider.

    Attributes:
        model: whose server and key.
        client: of that model (`OpenAIModel.open_client`).
        journal: has a note of each batch, and is told before and after each step.
    """

    model: OpenAIModel
    client: openai.AsyncOpenAI
    journal: Journal

    async def send(self, name: str, requests: Path) -> None:
        """Upload the requests of a batch and begin it, as far as that has not come about.

        Raises:
            ModelError: the provider cannot be reached, or refuses. Called again, it goes on.
            LedgerError: the journal cannot be written.
        """
        note = self.journal.notes[name]
        if _is_lost(note, requests):
            self.journal.note(name, done=True, ids=[])  # never begun: its rows go into another one
            return
        if "file_id" not in note:
            self.journal.note(name, file_id=await self._upload(name, requests))
        if "batch_id" not in note:
            self.journal.note(name, batch_id=await self._create(name))

    async def ended(self, name: str) -> Batch | None:
        """A batch that has ended; None while it is under way.

        Raises:
            ModelError: the provider cannot be reached, or refuses.
        """
        with self.model.named_errors():
            batch = await self.client.batches.retrieve(self.journal.notes[name]["batch_id"])
        return batch if batch.status in ENDED else None

    async def download(self, file_id: str, file: IO[bytes]) -> None:
        """Write what came back into a file.

        Raises:
            ModelError: the provider cannot be reached, or refuses.
            LedgerError: the file cannot be written.
        """
        with self.model.named_errors():
            opening = self.client.files.with_streaming_response.content(file_id)
            async with opening as response:
                async for part in response.iter_bytes(CHUNK):
                    _write(file, part)

    async def _upload(self, name: str, requests: Path) -> str:
        filename = f"cascade-{name}.jsonl"
        if self.journal.notes[name].get("uploading"):
            with self.model.named_errors():
                async for known in self.client.files.list(purpose="batch"):
                    if known.filename == filename:
                        return known.id
        self.journal.note(name, uploading=True)
        with requests.open("rb") as file, self.model.named_errors():
            return (await self.client.files.create(file=(filename, file), purpose="batch")).id

    async def _create(self, name: str) -> str:
        note = self.journal.notes[name]
        if note.get("creating"):
            with self.model.named_errors():
                async for known in self.client.batches.list(limit=100):
                    if (known.metadata or {}).get(NAME) == name:
                        return known.id
        self.journal.note(name, creating=True)
        with self.model.named_errors():
            made = await self.client.batches.create(
                input_file_id=note["file_id"],
                endpoint=PATH,
                completion_window="24h",
                metadata={NAME: name},
            )
        return made.id


@dataclass(slots=True)
class Patience:
    """Waits of one job, which end when it is to stop."""

    stop: asyncio.Event
    _waits: int = 0

    async def ask(self, what: Callable[[], Awaitable[None]]) -> None:
        """Ask the provider, and again after a wait while it fails; nothing where it is stopped.

        Raises:
            ModelError: it refuses, or has failed too often.
        """
        for trouble in range(TROUBLES):
            if self.stop.is_set():
                return
            try:
                await what()
            except ModelError as error:
                if not error.retryable or trouble == TROUBLES - 1:
                    raise
                wait_s = error.retry_after or FIRST_WAIT_S
            else:
                return
            await self._sleep(wait_s)

    async def wait(self) -> None:
        """Wait until it is time to look again."""
        seconds = FIRST_WAIT_S * LONGER ** min(self._waits, 60)
        self._waits += 1
        await self._sleep(min(LONGEST_WAIT_S, seconds))

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()


def _is_lost(note: Mapping[str, Any], requests: Path) -> bool:
    """Whether the file of a batch is gone before it was uploaded."""
    return "file_id" not in note and not requests.exists()


def _write(file: IO[bytes], part: bytes) -> None:
    """Write to a file: what fails there is no fault of the provider's."""
    try:
        file.write(part)
    except OSError as error:
        raise LedgerError(
            f"what came back cannot be written: {error.strerror}. The provider keeps it: run the "
            "same command again when there is room."
        ) from error
