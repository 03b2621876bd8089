"""Recorded answers: `replay:` models, the recorder, and their file (docs/transcripts.md)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from cascade.errors import ConfigurationError, RecordingMissError
from cascade.models.base import Chunk, Model, Request, file_sha256
from cascade.models.openai import sendable, whole
from cascade.state import Completion, Record


class Header(Record):
    """The first line: the model that was asked, the digest of its weights, where known, and for
    readers how the answers were made."""

    version: Literal[1] = 1
    model: str
    weights_sha256: str | None = None
    recorded_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class Line(Record):
    """One answer, with the key of its request and the beginning of the question for people."""

    key: str
    question: str = ""
    answer: Completion


def request_key(request: Request) -> str:
    """A stable hash of all that decides an answer: not the time limit, nor log-probabilities."""
    numbers: dict[object, int] = {}
    messages = sendable(request.messages)
    for message in messages:  # the ids of tool calls are random
        for call in message.get("tool_calls", ()):
            call["id"] = numbers.setdefault(call.get("id"), len(numbers))
        if "tool_call_id" in message:
            message["tool_call_id"] = numbers.get(message["tool_call_id"])
    names = ("max_tokens", "stop", "seed", "tools", "tool_choice", "extra")
    decisive = {name: getattr(request, name) for name in names}
    decisive |= {"messages": messages, "schema": request.schema or None}
    decisive["temperature"] = None if request.temperature is None else float(request.temperature)
    if request.answer is not None:
        decisive["answer"] = request.answer
    how: Any = {"ensure_ascii": False, "separators": (",", ":"), "default": str}
    text = json.dumps(decisive, sort_keys=True, **how)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ReplayModel(Model):
    """Replay of a recording (`docs/transcripts.md`), with the real tokens, log-probabilities and
    times; `header` says whose answers these are. A request that was recorded several times gets its
    answers in turn, and then again from the first.

    Raises:
        ConfigurationError: there is no such file, or it is no recording.
    """

    provider = "replay"
    local = True
    real = False
    scores = True

    def __init__(self, path: str | Path) -> None:
        self._path, number = Path(path).expanduser(), 1
        answers: dict[str, list[Completion]] = {}
        try:
            # Whatever follows the last line break was being written when the recorder ended.
            first, *lines = self._path.read_bytes().decode().split("\n")[:-1] or [""]
            self.header = Header.model_validate_json(first)
            for line in lines:
                number += 1
                if line.strip():
                    read = Line.model_validate_json(line)
                    answers.setdefault(read.key, []).append(read.answer)
        except (OSError, ValueError) as error:
            wrong = error.errors()[0] if isinstance(error, ValidationError) else None
            where = f"line {number}: {'.'.join(map(str, wrong['loc']))}: " if wrong else ""
            raise ConfigurationError(
                f"{path} is no recording of version 1 ({where}{wrong['msg'] if wrong else error}): "
                "give a file of cascade.models.Recorder; delete a broken line, or record again."
            ) from error
        answered = self.header.model.partition(":")[2] or self.header.model
        self.model = Path(answered).name.removesuffix(".gguf")  # whose answers, wherever they are
        every = [answer for given in answers.values() for answer in given]
        self.returns_logprobs = any(answer.logprobs or answer.call_logprobs for answer in every)
        self._answers = {key: cycle(given) for key, given in answers.items()}

    async def digest(self) -> str | None:
        """Digest of the weights that gave the answers."""
        return self.header.weights_sha256

    async def _complete(self, request: Request) -> Completion:
        key = request_key(request)
        if key not in self._answers:
            asked = f"{str(request.messages[-1].text)[:80]!r} with the key {key}"
            raise RecordingMissError(
                f"{self._path} has no answer of {self.header.model} to {asked}: prompt and "
                "settings must be as recorded; to add this one, ask through Recorder(model, path)."
            )
        return next(self._answers[key])


class Recorder(Model):
    """A model that passes requests on to another and writes down each answer, in a JSONL file that
    goes on where there is one of the same model. A crash loses at most the last line.

    Raises:
        ConfigurationError: the file is a recording of another model, or no recording.
    """

    def __init__(self, model: Model, path: str | Path) -> None:
        for name in Model.__annotations__:
            setattr(self, name, getattr(model, name))
        # What is not written down is the model's own.
        self.digest, self.warm, self.aclose = model.digest, model.warm, model.aclose  # type: ignore[method-assign]
        self.recorded, self._path, self._lock = model, Path(path).expanduser(), threading.Lock()
        header = Header(model=model.name, weights_sha256=file_sha256(model.weights_path))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists() or not self._path.stat().st_size:
            self._append(header.model_dump_json())
        known = ReplayModel(self._path).header
        if (known.model, known.weights_sha256) != (header.model, header.weights_sha256):
            weights = f"{known.weights_sha256}, not {header.weights_sha256}"
            told = f"{self._path} is of {known.model}, not {header.model} (weights {weights})"
            raise ConfigurationError(f"{told}: give another path, or delete the file.")
        # A line that was cut off must not join the next.
        os.truncate(self._path, self._path.read_bytes().rfind(b"\n") + 1)

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
        question = whole(str(request.messages[-1].text)[:80])
        line = Line(key=request_key(request), question=question, answer=completion)
        told = line.model_dump(mode="json", exclude_defaults=True)
        self._append(whole(json.dumps(told, ensure_ascii=False, separators=(",", ":"))))

    def _append(self, line: str) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
