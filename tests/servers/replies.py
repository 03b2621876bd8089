"""What a server can say: whole replies and streams, as they go over the wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Ending = Literal["end", "drop", "reset", "hang"]


@dataclass(frozen=True)
class Reply:
    """One HTTP answer; several `parts` are streamed, none is an answer without a body.

    `ending`: `end` closes it properly, `drop` breaks the connection, `reset` does so that the
    client sees a reset, `hang` goes on waiting. `endless` is sent again and again after the parts,
    until the client leaves. With `raw` the parts are what goes over the wire, headers and all.
    All but the `first` parts are `held` back until a test says so.
    """

    parts: tuple[bytes, ...] = ()
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    ending: Ending = "end"
    delay_s: float = 0.0
    pause_s: float = 0.0
    endless: bytes = b""
    raw: bool = False
    held: threading.Event | None = None
    first: int = 0


HANG = Reply(ending="hang")
DROP = Reply(ending="drop")


def json_reply(body: object, **how: Any) -> Reply:
    return Reply((json.dumps(body).encode(),), **how)


def text_reply(text: str, **how: Any) -> Reply:
    return Reply((text.encode(),), **how)


def error(status: int, message: str, *, code: str | None = None, **how: Any) -> Reply:
    """A refusal in OpenAI's form."""
    return json_reply({"error": {"message": message, "code": code}}, status=status, **how)


def ollama_error(status: int, message: str, **how: Any) -> Reply:
    return json_reply({"error": message}, status=status, **how)


def openai_body(
    text: str | None = "Paris",
    *,
    usage: object = {"prompt_tokens": 10, "completion_tokens": 2},
    logprobs: object = None,
    finish: str | None = "stop",
    **message: Any,
) -> dict[str, Any]:
    choice = {
        "index": 0,
        "finish_reason": finish,
        "message": {"role": "assistant", "content": text, **message},
        "logprobs": {"content": logprobs} if logprobs is not None else None,
    }
    body = {"id": "1", "object": "chat.completion", "model": "served", "choices": [choice]}
    return body if usage is None else {**body, "usage": usage}


def openai_reply(*args: Any, delay_s: float = 0.0, **kwargs: Any) -> Reply:
    return json_reply(openai_body(*args, **kwargs), delay_s=delay_s)


def openai_delta(
    finish: str | None = None, logprobs: object = None, **delta: Any
) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    return {"object": "chat.completion.chunk", "model": "served", "choices": [choice]}


def sse(chunks: Sequence[object], *, done: bool = True, **how: Any) -> Reply:
    lines = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    if done:
        lines.append(b"data: [DONE]\n\n")
    return Reply(tuple(lines), content_type="text/event-stream", **how)


def anthropic_body(text: str = "Paris", **usage: Any) -> dict[str, Any]:
    counts = {"input_tokens": 10, "output_tokens": 2, **usage}
    content = [{"type": "text", "text": text}]
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "served"}
    return {**body, "content": content, "stop_reason": "end_turn", "usage": counts}


def ollama_body(text: str = "", *, logprobs: object = None, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    body = {"created_at": "2026-01-01T00:00:00Z", "message": said, "done": False}
    return body if logprobs is None else {**body, "logprobs": logprobs}


def ndjson(chunks: Sequence[object], **how: Any) -> Reply:
    lines = tuple(json.dumps(chunk).encode() + b"\n" for chunk in chunks)
    return Reply(lines, content_type="application/x-ndjson", **how)
