"""What is on disk of a job's batches: their requests, how far each is, and what came back.

A folder beside the output. Each batch is noted before and after every step at the provider, so
that a process that is killed at any point is followed by one that knows what may have been done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal
from uuid import uuid4

from pydantic import ValidationError

from cascade.errors import ConfigurationError, LedgerError
from cascade.state import Record

__all__ = ["PATH", "Batch", "Folder", "Limits", "Replies", "Reply", "Requests", "row_of"]

Step = Literal["written", "uploading", "uploaded", "creating", "created", "ended", "there"]
"""How far a batch is. The steps on `-ing` may or may not have come about."""

PATH: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large one batch may be; by default as OpenAI's Batch API has it."""

    requests: int = 50_000
    size: int = 200_000_000


class Batch(Record):
    """One batch, as it was noted last.

    Attributes:
        name: tells it from all others, also at the provider.
        rows: requests in it.
        step: how far it is.
        file_id: of its requests, at the provider.
        batch_id: at the provider.
        created_at, ended_at: seconds since 1970, as the provider says.
        status: the provider's word for how it ended.
        problem: why it failed as a whole.
        output_id, error_id: of the files with what came back; either may be missing.
    """

    name: str
    rows: int
    step: Step = "written"
    file_id: str | None = None
    batch_id: str | None = None
    created_at: int | None = None
    ended_at: int | None = None
    status: str | None = None
    problem: str | None = None
    output_id: str | None = None
    error_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request.

    Attributes:
        custom_id: of the request.
        body: of the reply, where it was a good one.
        problem: why there is none, otherwise.
    """

    custom_id: str
    body: Any = None
    problem: str | None = None


class Folder:
    """The batches of a job that are not done with.

    Args:
        path: made when the first batch is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self) -> list[Batch]:
        """All of them, in the order in which they were written.

        What was being written when its process ended was not sent, and is removed.

        Raises:
            ConfigurationError: a note cannot be read.
        """
        found = [self._read(note) for note in sorted(self.path.glob("*.json"))]
        known = {self.requests(batch) for batch in found}
        for path in self.path.glob("*.requests.jsonl*"):
            if path not in known:
                path.unlink()
        return found

    def note(self, batch: Batch) -> Batch:
        """Write down how far a batch is; it survives the end of the machine.

        Raises:
            LedgerError: it cannot be written.
        """
        path = self.path / f"{batch.name}.json"
        draft = path.with_suffix(".draft")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(batch.model_dump_json(exclude_none=True))
                _to_disk(file)
            draft.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        return batch

    def noted(self, batch: Batch) -> Batch:
        """A batch as it was noted last.

        Raises:
            ConfigurationError: the note cannot be read.
        """
        return self._read(self.path / f"{batch.name}.json")

    def drop(self, batch: Batch) -> None:
        """Forget a batch whose answers are all in the journal."""
        (self.path / f"{batch.name}.json").unlink(missing_ok=True)
        for path in (self.requests(batch), *self.replies_of(batch)):
            path.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def requests(self, batch: Batch) -> Path:
        """The file that is sent."""
        return self.path / f"{batch.name}.requests.jsonl"

    def replies_of(self, batch: Batch) -> tuple[Path, Path]:
        """The files that came back: of what was answered, and of what was not."""
        return self.path / f"{batch.name}.output.jsonl", self.path / f"{batch.name}.error.jsonl"

    def custom_ids(self, batch: Batch) -> Iterator[str]:
        """The ids of its requests."""
        with self.requests(batch).open("rb") as file:
            for line in file:
                yield json.loads(line)["custom_id"]

    def replies(self, batch: Batch) -> Replies:
        """What came back, once it is there."""
        return Replies(self.replies_of(batch))

    def _read(self, path: Path) -> Batch:
        try:
            return Batch.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigurationError(
                f"{path} cannot be read: {error}. It says what was sent to the provider; without "
                "it, its rows would be paid for again."
            ) from error


class Replies:
    """The replies of one batch, found by the row; only their places are in memory."""

    def __init__(self, paths: tuple[Path, Path]) -> None:
        self._places: dict[int, tuple[Path, int]] = {}
        for path in paths:
            if path.exists():
                self._index(path)

    def find(self, custom_id: str) -> Reply | None:
        """What came back for a request, None where nothing did."""
        found = self._places.get(row_of(custom_id))
        if found is None:
            return None
        path, place = found
        with path.open("rb") as file:
            file.seek(place)
            reply = _reply(file.readline())
        return reply if reply is not None and reply.custom_id == custom_id else None

    def _index(self, path: Path) -> None:
        with path.open("rb") as file:
            place = 0
            for line in file:
                reply = _reply(line)
                if reply is not None:
                    self._places.setdefault(row_of(reply.custom_id), (path, place))
                place += len(line)


@dataclass(slots=True)
class Requests:
    """Writes requests into batches, each as full as it may be."""

    folder: Folder
    limits: Limits = field(default_factory=Limits)
    _file: BinaryIO | None = None
    _name: str = ""
    _rows: int = 0
    _size: int = 0

    def add(self, custom_id: str, body: Mapping[str, Any]) -> bool:
        """Take in a request; False where it alone is larger than a batch may be.

        Raises:
            LedgerError: it cannot be written.
        """
        request = {"custom_id": custom_id, "method": "POST", "url": PATH, "body": body}
        line = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > self.limits.size:
            return False
        if self._rows >= self.limits.requests or self._size + len(line) > self.limits.size:
            self.end()
        try:
            if self._file is None:
                self._begin()
            assert self._file is not None
            self._file.write(line)
        except OSError as error:
            raise _unwritable(self.folder.path, error) from error
        self._rows += 1
        self._size += len(line)
        return True

    def end(self) -> None:
        """The batch that is being written is whole.

        Raises:
            LedgerError: it cannot be written.
        """
        if self._file is None:
            return
        batch = Batch(name=self._name, rows=self._rows)
        try:
            _to_disk(self._file)
            self._file.close()
            _draft(self.folder, self._name).replace(self.folder.requests(batch))
        except OSError as error:
            raise _unwritable(self.folder.path, error) from error
        self.folder.note(batch)
        self._file, self._rows, self._size = None, 0, 0

    def _begin(self) -> None:
        self.folder.path.mkdir(exist_ok=True)
        last = max((int(path.name[:5]) for path in self.folder.path.glob("*.json")), default=0)
        self._name = f"{last + 1:05d}-{uuid4().hex}"
        self._file = _draft(self.folder, self._name).open("wb")


def row_of(custom_id: str) -> int:
    """The number of the row that a request is of; −1 where the id is none of ours."""
    number = custom_id.partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _draft(folder: Folder, name: str) -> Path:
    return folder.path / f"{name}.requests.jsonl.draft"


def _reply(line: bytes) -> Reply | None:
    """One line of what came back; None where it tells nothing of any request."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, Mapping) or not isinstance(found.get("custom_id"), str):
        return None
    custom_id, response = found["custom_id"], found.get("response")
    if isinstance(response, Mapping) and response.get("status_code") == 200:
        return Reply(custom_id, body=response.get("body"))
    said = found.get("error") or (isinstance(response, Mapping) and response.get("body")) or found
    inner = said.get("error") if isinstance(said, Mapping) else None
    said = inner if isinstance(inner, Mapping) else said
    reason = said.get("message") or said.get("code") if isinstance(said, Mapping) else said
    return Reply(custom_id, problem=str(reason or said)[:300])


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _unwritable(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"{path} cannot be written: {error.strerror}. Nothing that is at the provider is lost: run "
        "the same command again when there is room."
    )
