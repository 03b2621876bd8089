"""`replay:` models, which give recorded answers again, and the recorder that writes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from itertools import cycle
from pathlib import Path

from pydantic import JsonValue

from cascade.errors import ConfigurationError, RecordingMissError
from cascade.models.base import Chunk, Model, Request, file_sha256
from cascade.models.recording import (
    Header,
    answer_line,
    header_line,
    question_of,
    read_recording,
    request_key,
)
from cascade.state import Completion


class ReplayModel(Model):
    """Answers out of a recording, with the real tokens, log-probabilities and times.

    A request that was recorded several times gets its answers in turn, and then again from the
    first.

    Args:
        path: the JSONL file (`docs/replay.md`).
        pace: wait as long as the model did; by default the recorded times are only reported.

    Attributes:
        header: whose answers these are and how they were made.

    Raises:
        ConfigurationError: there is no such file, or it is no recording.
    """

    provider = "replay"
    local = True
    real = False

    def __init__(self, path: str | Path, *, pace: bool = False) -> None:
        self.model = str(path)
        self._path = Path(path).expanduser()
        self._pace = pace
        recording = read_recording(self._path)
        self.header: Header = recording.header
        self.returns_logprobs = any(
            answer.logprobs or answer.call_logprobs
            for answers in recording.answers.values()
            for answer in answers
        )
        self._answers = {key: cycle(answers) for key, answers in recording.answers.items()}

    async def digest(self) -> str | None:
        """That of the weights which gave the answers."""
        return self.header.weights_sha256

    async def _complete(self, request: Request) -> Completion:
        key = request_key(request)
        if key not in self._answers:
            raise RecordingMissError(
                f"{self._path} has no recorded answer of {self.header.model} with the key {key} "
                f"for {question_of(request)!r}. Prompt and settings have to be the recorded ones; "
                "to add this one, ask through Recorder(model, path)."
            )
        answer = next(self._answers[key])
        if self._pace:
            await asyncio.sleep(answer.latency_ms / 1000)
        return answer


class Recorder(Model):
    """A model that passes requests on to another and writes down each answer.

    Lines are appended and flushed one by one, so that a crash loses at most the last one.
    Failures are not recorded.

    Args:
        model: who is asked.
        path: the JSONL file; an existing recording of the same model is continued.
        settings: whatever else decides the answers, for the header.

    Raises:
        ConfigurationError: the file is a recording of another model, or no recording.
    """

    def __init__(
        self, model: Model, path: str | Path, *, settings: Mapping[str, JsonValue] | None = None
    ) -> None:
        self.recorded = model
        self.provider = model.provider
        self.model = model.model
        self.local = model.local
        self.returns_logprobs = model.returns_logprobs
        self.streams_logprobs = model.streams_logprobs
        self.real = model.real
        self.traces_itself = model.traces_itself
        self.weights_path = model.weights_path
        self._path = Path(path).expanduser()
        self._lock = threading.Lock()
        header = Header(
            model=model.name,
            weights_sha256=file_sha256(model.weights_path) if model.weights_path else None,
            settings=dict(settings or {}),
        )
        self._begin(header)

    def _begin(self, header: Header) -> None:
        if not self._path.exists() or not self._path.stat().st_size:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(header_line(header), encoding="utf-8")
            return
        known = read_recording(self._path).header
        if (known.model, known.weights_sha256) != (header.model, header.weights_sha256):
            raise ConfigurationError(
                f"{self._path} is a recording of {known.model} (weights {known.weights_sha256}) "
                f"and cannot be continued with {header.model} (weights {header.weights_sha256}). "
                "Give another path, or delete the file."
            )
        _drop_half_line(self._path)

    async def digest(self) -> str | None:
        """That of the recorded model."""
        return await self.recorded.digest()

    async def _complete(self, request: Request) -> Completion:
        completion = await self.recorded.complete(request)
        self._write(request, completion)
        return completion

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        async with aclosing(self.recorded.stream(request)) as chunks:
            async for chunk in chunks:
                if chunk.completion is not None:
                    self._write(request, chunk.completion)
                yield chunk

    def _write(self, request: Request, completion: Completion) -> None:
        line = answer_line(request, completion)
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    async def aclose(self) -> None:
        """Close the model behind it."""
        await self.recorded.aclose()


def _drop_half_line(path: Path) -> None:
    """Cut off what a crash left unfinished, so that the next line does not join it."""
    written = path.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        with path.open("r+b") as file:
            file.truncate(whole)
