"""The provider's batch API, as OpenAI has it and others speak it: files, batches, results.

https://platform.openai.com/docs/guides/batch. No step is repeated blindly: what may have come about
when a connection broke, or a process ended, is looked for first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from cascade.errors import LedgerError
from cascade.jobs.provider_files import PATH, Batch, Folder
from cascade.models.openai_wire import Answer

if TYPE_CHECKING:
    import openai
    from openai.types import Batch as Remote

    from cascade.models.openai import OpenAIModel

__all__ = ["Provider", "Seen"]

WINDOW: Final = "24h"
"""The only one there is: how long the provider may take."""

NAME = "cascade_batch"
"""Key of a batch's metadata under which its name is, by which it is found again."""

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Seen:
    """What the provider says of a batch that is under way.

    Attributes:
        status: in its words.
        answered: requests that are done.
        until: when it gives up at the latest, where it says so.
    """

    status: str = "validating"
    answered: int = 0
    until: datetime | None = None


class Provider:
    """One provider's batches.

    Args:
        model: whose server and key.
        client: of that model, for files (`OpenAIModel.open_client`).
        folder: is told before and after each step.
    """

    def __init__(self, model: OpenAIModel, client: openai.AsyncOpenAI, folder: Folder) -> None:
        self.model = model
        self.client = client
        self.folder = folder

    async def step(self, batch: Batch) -> tuple[Batch, Seen]:
        """Take a batch one step further, or look how far the provider is.

        Raises:
            ModelError: the provider cannot be reached, or refuses. Called again, it goes on.
            LedgerError: a file cannot be written.
        """
        match batch.step:
            case "written" | "uploading":
                return await self._upload(batch), Seen()
            case "uploaded" | "creating":
                return await self._create(batch), Seen()
            case "created":
                return await self._look(batch)
            case "ended":
                return await self._fetch(batch), Seen()
            case "there":
                return batch, Seen()

    async def _upload(self, batch: Batch) -> Batch:
        name = f"cascade-{batch.name}.jsonl"
        file_id = await self._file_named(name) if batch.step == "uploading" else None
        if file_id is None:
            batch = self._noted(batch, step="uploading")
            with self._named(), self.folder.requests(batch).open("rb") as file:
                made = await self.client.files.create(file=(name, file), purpose="batch")
                file_id = made.id
        return self._noted(batch, step="uploaded", file_id=file_id)

    async def _file_named(self, name: str) -> str | None:
        with self._named():
            async for file in self.client.files.list(purpose="batch"):
                if file.filename == name:
                    return file.id
        return None

    async def _create(self, batch: Batch) -> Batch:
        found = await self._batch_named(batch.name) if batch.step == "creating" else None
        if found is None:
            batch = self._noted(batch, step="creating")
            with self._named():
                found = await self.client.batches.create(
                    input_file_id=str(batch.file_id),
                    endpoint=PATH,
                    completion_window=WINDOW,
                    metadata={NAME: batch.name},
                )
        created_at = found.created_at
        return self._noted(batch, step="created", batch_id=found.id, created_at=created_at)

    async def _batch_named(self, name: str) -> Remote | None:
        with self._named():
            async for remote in self.client.batches.list(limit=100):
                if (remote.metadata or {}).get(NAME) == name:
                    return remote
        return None

    async def _look(self, batch: Batch) -> tuple[Batch, Seen]:
        assert batch.batch_id is not None, "a batch that was created has an id"
        with self._named():
            remote = await self.client.batches.retrieve(batch.batch_id)
        counts = remote.request_counts
        until = remote.expires_at
        seen = Seen(
            remote.status,
            counts.completed + counts.failed if counts else 0,
            None if until is None else datetime.fromtimestamp(until, UTC),
        )
        if remote.status not in ENDED:
            return batch, seen
        ended = remote.completed_at or remote.expired_at or remote.cancelled_at or remote.failed_at
        problems = remote.errors.data if remote.errors else None
        said = "; ".join(f"{e.code}: {e.message}" for e in (problems or [])[:3])
        ended_batch = self._noted(
            batch,
            step="ended",
            status=remote.status,
            ended_at=ended,
            problem=said or None,
            output_id=remote.output_file_id,
            error_id=remote.error_file_id,
        )
        return ended_batch, seen

    async def _fetch(self, batch: Batch) -> Batch:
        ids = (batch.output_id, batch.error_id)
        for file_id, path in zip(ids, self.folder.replies_of(batch), strict=True):
            if file_id is not None:
                await self._download(file_id, path)
        return self._noted(batch, step="there")

    async def _download(self, file_id: str, path: Path) -> None:
        """A file that is there is whole."""
        draft = path.with_suffix(".draft")
        with self._named(), draft.open("wb") as file:
            opening = self.client.files.with_streaming_response.content(file_id)
            async with opening as response:
                async for part in response.iter_bytes(CHUNK):
                    _write(file, part, path)
        draft.replace(path)

    def _noted(self, batch: Batch, **changed: object) -> Batch:
        return self.folder.note(batch.model_copy(update=changed))

    def _named(self) -> AbstractContextManager[None]:
        return self.model.named_errors(Answer())


def _write(file: BinaryIO, part: bytes, path: Path) -> None:
    """Write to a file: what fails there is no fault of the provider's."""
    try:
        file.write(part)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be written: {error.strerror}. The provider keeps what it has: run the "
            "same command again when there is room."
        ) from error
