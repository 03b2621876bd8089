"""What the fake server can say: whole replies and streams of both protocols."""

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


def openai_chunks(text: str) -> list[dict[str, Any]]:
    pieces = [piece for piece in (text[:3], text[3:]) if piece]
    deltas = [openai_delta(content=p, logprobs=[{"token": p, "logprob": -0.1}]) for p in pieces]
    usage = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    return [openai_delta(role="assistant"), *deltas, openai_delta("stop"), usage]


def sse(chunks: Sequence[object], *, done: bool = True, **how: Any) -> Reply:
    lines = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    if done:
        lines.append(b"data: [DONE]\n\n")
    return Reply(tuple(lines), content_type="text/event-stream", **how)


def openai_stream(text: str = "Paris", **how: Any) -> Reply:
    return sse(openai_chunks(text), **how)


def openai_echo(body: Mapping[str, Any]) -> Reply:
    text = _last_text(body)
    return openai_stream(text) if body.get("stream") else openai_reply(text)


def anthropic_body(text: str = "Paris", **usage: Any) -> dict[str, Any]:
    counts = {"input_tokens": 10, "output_tokens": 2, **usage}
    content = [{"type": "text", "text": text}]
    body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "served"}
    return {**body, "content": content, "stop_reason": "end_turn", "usage": counts}


def anthropic_echo(body: Mapping[str, Any]) -> Reply:
    return json_reply(anthropic_body(_last_text(body)))


DURATIONS = {
    "total_duration": 9_000_000,
    "load_duration": 4_000_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 2_000_000,
    "eval_count": 2,
    "eval_duration": 3_000_000,
}


def ollama_body(text: str = "Paris", *, done: bool = True, **rest: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    message |= {name: rest.pop(name) for name in ("thinking", "tool_calls") if name in rest}
    end = {"done": True, "done_reason": "stop", **DURATIONS} if done else {"done": False}
    return {"model": "served", "message": message, **end, **rest}


def ollama_reply(*args: Any, **kwargs: Any) -> Reply:
    return json_reply(ollama_body(*args, **kwargs))


def ollama_chunks(text: str) -> list[dict[str, Any]]:
    pieces = [piece for piece in (text[:3], text[3:]) if piece]
    return [
        *(ollama_body(p, done=False, logprobs=[{"token": p, "logprob": -0.1}]) for p in pieces),
        ollama_body(""),
    ]


def ndjson(chunks: Sequence[object], **how: Any) -> Reply:
    lines = tuple(json.dumps(chunk).encode() + b"\n" for chunk in chunks)
    return Reply(lines, content_type="application/x-ndjson", **how)


def ollama_stream(text: str = "Paris", **how: Any) -> Reply:
    return ndjson(ollama_chunks(text), **how)


def ollama_echo(body: Mapping[str, Any]) -> Reply:
    if not body["messages"]:  # to have the model loaded
        return json_reply({"message": {"content": ""}, "done": True, "done_reason": "load"})
    text = _last_text(body)
    return ollama_stream(text) if body.get("stream") else ollama_reply(text)


def ollama_show(body: Mapping[str, Any]) -> Reply:
    sees = ["vision"] if "vl" in body["model"] else []
    return json_reply({"capabilities": ["completion", *sees]})


def ollama_tags(_: Mapping[str, Any]) -> Reply:
    return json_reply({"models": [{"model": "qwen2.5:3b", "name": "qwen2.5:3b"}]})


def _last_text(body: Mapping[str, Any]) -> str:
    return str(body["messages"][-1]["content"]).upper()
