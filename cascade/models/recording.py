"""The file format of recorded answers, as `docs/replay.md` describes it.

JSON lines: a header, then one answer per line. A line that was cut off by a crash is only
tolerated at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from cascade.errors import ConfigurationError
from cascade.models.base import Request
from cascade.models.characters import sendable, whole
from cascade.state import Completion, Record

VERSION = 1
_COMPLETION = TypeAdapter(Completion)


class Header(Record):
    """The first line: whose answers these are, and how they were made.

    Attributes:
        version: of this format.
        model: the model string that was asked.
        weights_sha256: of the weights file, for models on this machine.
        recorded_at: when the recording began.
        settings: whatever else decides the answers (threads, quantisation, server version).
    """

    version: int = VERSION
    model: str
    weights_sha256: str | None = None
    recorded_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    settings: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    """A recording in memory; `answers` are in the order in which they were given."""

    header: Header
    answers: dict[str, list[Completion]] = field(default_factory=dict)


def request_key(request: Request) -> str:
    """A stable hash of all that decides an answer.

    The time limit does not, nor whether log-probabilities are asked for: they describe the
    answer and do not change it.
    """
    decisive = {
        "messages": _decisive_messages(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": None if request.temperature is None else float(request.temperature),
        "stop": list(request.stop),
        "seed": request.seed,
        "tools": [dict(tool) for tool in request.tools],
        "tool_choice": request.tool_choice,
        "schema": dict(request.schema) if request.schema else None,
        "extra": dict(request.extra),
    }
    text = json.dumps(
        decisive, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _decisive_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The messages with their tool calls numbered: the ids of calls are random."""
    numbers: dict[object, int] = {}
    converted = sendable(messages)
    for message in converted:
        for call in message.get("tool_calls", ()):
            call["id"] = numbers.setdefault(call.get("id"), len(numbers))
        if "tool_call_id" in message:
            message["tool_call_id"] = numbers.get(message["tool_call_id"])
    return converted


def question_of(request: Request) -> str:
    """The beginning of the last message, for people who read a recording."""
    text = request.messages[-1].text if request.messages else ""
    return text if len(text) <= 80 else text[:79] + "…"


def answer_line(request: Request, completion: Completion) -> str:
    """One answer as a line of the file."""
    answer = _COMPLETION.dump_python(completion, mode="json", exclude_defaults=True)
    line = {"key": request_key(request), "question": question_of(request), "answer": answer}
    return whole(json.dumps(line, ensure_ascii=False, separators=(",", ":"))) + "\n"


def header_line(header: Header) -> str:
    """The header as the first line of the file."""
    return header.model_dump_json() + "\n"


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        ConfigurationError: there is no such file, it is not UTF-8 or not in this format.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except OSError as error:
        raise ConfigurationError(
            f"the recording {path} cannot be read ({error.strerror}). Give the path of a JSONL "
            "file that cascade.models.Recorder wrote."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path} is not a recording: byte {error.start} is not UTF-8 text"
        ) from error
    # Whatever follows the last line break was being written when the recorder ended.
    whole = lines[:-1]
    if not whole:
        raise ConfigurationError(f"{path} is not a recording: it has no header line")
    recording = Recording(_read_header(path, whole[0]))
    for number, line in enumerate(whole[1:], start=2):
        if line.strip():
            key, answer = _read_answer(path, number, line)
            recording.answers.setdefault(key, []).append(answer)
    return recording


def _read_header(path: Path, line: str) -> Header:
    try:
        header = Header.model_validate_json(line)
    except ValidationError as error:
        raise ConfigurationError(
            f"{path} is not a recording: its first line is not a header ({_first(error)})"
        ) from error
    if header.version != VERSION:
        raise ConfigurationError(
            f"{path} is a recording of version {header.version} and this program reads version "
            f"{VERSION}: record it again, or use the program that wrote it"
        )
    return header


def _read_answer(path: Path, number: int, line: str) -> tuple[str, Completion]:
    try:
        decoded: object = json.loads(line)
        if not isinstance(decoded, Mapping) or not isinstance(decoded.get("key"), str):
            raise ValueError("no key")
        return decoded["key"], _COMPLETION.validate_python(decoded.get("answer"))
    except ValidationError as error:
        reason = _first(error)
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise ConfigurationError(
        f"line {number} of the recording {path} cannot be read ({reason}): {line[:80]!r}. "
        "Delete the line, or record again."
    )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
