"""Ollama's chat format: a request → JSON, replies and stream parts → Completion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import ToolCall

from cascade.models.base import Request
from cascade.models.called import call_logprobs
from cascade.models.characters import sendable
from cascade.models.counts import busy_ms, read_counts
from cascade.models.logprobs import Growing, answer_logprobs
from cascade.models.openai_wire import finish_reason, read_tool_call
from cascade.state import Completion, TokenLogprob

_TOP_LEVEL = ("think", "keep_alive", "format", "truncate", "shift")
"""Parameters that stand beside `options` in the API; every other one belongs inside."""


class UnreadableContentError(Exception):
    """The request holds something that Ollama's API has no place for."""


def chat_payload(request: Request, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of a request, without the model's name.

    Raises:
        UnreadableContentError: a part of the request cannot be said in this format.
    """
    extra = {**defaults, **request.extra}
    options = {
        "num_predict": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        **dict(extra.pop("options", {})),
    }
    payload = {
        "messages": [_message(m) for m in sendable(request.messages)],
        "tools": _tools(request),
        "format": dict(request.schema) if request.schema else None,
        "logprobs": request.logprobs or None,
        "top_logprobs": request.top_logprobs or None if request.logprobs else None,
        # Ollama would drop the beginning of a prompt that is too long, and say nothing.
        "truncate": False,
        **{name: extra.pop(name) for name in _TOP_LEVEL if name in extra},
    }
    payload["options"] = {k: v for k, v in {**options, **extra}.items() if v is not None}
    return {name: value for name, value in payload.items() if value is not None}


def _tools(request: Request) -> list[Mapping[str, Any]] | None:
    if request.tool_choice in (None, "auto"):
        return list(request.tools) or None
    if request.tool_choice == "none":
        return None
    raise UnreadableContentError(
        f"Ollama cannot be made to call a tool (tool_choice={request.tool_choice!r}). "
        "Use tool_choice 'auto', or another provider."
    )


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts = {
        "role": message["role"],
        "content": "\n".join(block["text"] for block in blocks if block.get("type") == "text"),
        "images": [_image(block) for block in blocks if block.get("type") != "text"],
        "tool_calls": [_tool_call(call["function"]) for call in message.get("tool_calls", ())],
        "tool_name": message.get("name") if message["role"] == "tool" else None,
    }
    return {name: part for name, part in parts.items() if part or name == "content"}


def _tool_call(function: Mapping[str, Any]) -> dict[str, Any]:
    try:
        call = read_tool_call(function["name"], function["arguments"], None)
    except ValueError as error:
        raise UnreadableContentError(f"The conversation has what is {error}.") from error
    return {"function": {"name": call["name"], "arguments": call["args"]}}


def _image(block: Mapping[str, Any]) -> str:
    """The base64 data of an image: Ollama takes no addresses."""
    image = block.get("image_url", {})
    url = str(image.get("url", "") if isinstance(image, Mapping) else image)
    data = re.match(r"data:image/[\w.+-]+;base64,(.+)", url, re.DOTALL)
    if data is None:
        raise UnreadableContentError(
            f"Ollama reads text and images given as base64 data, not {block.get('type')} "
            f"{url[:60]!r}. Put the image itself into the message."
        )
    return data[1]


class Answer:
    """An answer that grows by stream parts; a whole reply is one large part."""

    def __init__(self) -> None:
        self.begun = False
        self.done = False
        self.tokens: tuple[TokenLogprob, ...] = ()
        """Log-probabilities that the last part completed."""
        self._growing = Growing()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[object] = []
        self._calls: list[object] = []
        self._last: Mapping[str, Any] = {}

    def add(self, part: object) -> str:
        """Take a part in, and return its piece of text.

        Raises:
            ValueError: it is not what the API promises.
        """
        message = part.get("message") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(message, Mapping):
            raise ValueError(f"no message in {str(part)[:80]!r}")
        text = message.get("content") or ""
        if not isinstance(text, str):
            raise ValueError(f"content is not text: {str(text)[:80]!r}")
        self._text.append(text)
        thinking = str(message.get("thinking") or "")
        self._thinking.append(thinking)
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            raise ValueError(f"tool calls are not a list: {str(calls)[:80]!r}")
        self._calls.extend(calls)
        logprobs = part.get("logprobs")
        self._logprobs.extend(logprobs if isinstance(logprobs, list) else ())
        self.tokens = self._growing.add(logprobs, text, plain=not (calls or thinking))
        self._last = part
        self.begun = self.begun or bool(text or calls)
        self.done = bool(part.get("done"))
        return text

    def completion(self, *, asked_for: str) -> Completion:
        """The whole answer; `asked_for` names the model where the reply does not.

        Raises:
            ValueError: a tool call cannot be read.
        """
        text = "".join(self._text)
        thinking = "".join(self._thinking) or None
        calls = tuple(_read_call(call) for call in self._calls)
        reason = finish_reason(self._last.get("done_reason"))
        return Completion(
            text=text,
            model=str(self._last.get("model") or asked_for),
            usage=read_counts(
                read=self._last.get("prompt_eval_count"),
                written=self._last.get("eval_count"),
                wrote=bool(text or calls),
            ),
            logprobs=answer_logprobs(
                self._logprobs, text, thinking=thinking, tool_calls=bool(calls)
            ),
            call_logprobs=call_logprobs(self._logprobs, calls, thinking=thinking),
            tool_calls=calls,
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
            thinking=thinking,
            busy_ms=_busy_ms(self._last),
        )


def _read_call(call: object) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise ValueError(f"not a tool call: {str(call)[:80]!r}")
    return read_tool_call(function.get("name"), function.get("arguments"), call.get("id"))


def _busy_ms(part: Mapping[str, Any]) -> float | None:
    """Reading the prompt plus writing the answer; loading the model is not computing."""
    return busy_ms(part, ("prompt_eval_duration", "eval_duration"), 1e6)
