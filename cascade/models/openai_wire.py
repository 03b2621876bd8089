"""The OpenAI chat-completions format: a request → JSON, replies and stream chunks → Completion.

Used by every adapter that speaks it (`openai:`, `llamacpp:`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from langchain_core.messages import ToolCall

from cascade.models.base import JsonSchema, Request
from cascade.models.called import call_logprobs
from cascade.models.characters import sendable
from cascade.models.counts import busy_ms, read_counts
from cascade.models.logprobs import Growing, answer_logprobs
from cascade.state import Completion, TokenLogprob, Usage

Json = Mapping[str, Any]
"""A decoded JSON object."""

FINISH_REASONS = {
    "end_turn": "stop",
    "eos": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
}
"""Other providers' words for why a model stopped → the words of `Completion`."""


SERVER_ERROR = 500


def chat_payload(request: Request, *, limit_field: str = "max_tokens") -> dict[str, Any]:
    """The JSON body of a request, without the model's name."""
    payload: dict[str, Any] = {
        "messages": sendable(request.messages),
        limit_field: request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "tools": list(request.tools) or None,
        "tool_choice": _tool_choice(request.tool_choice),
        "response_format": response_format(request.schema) if request.schema else None,
    }
    if request.logprobs:
        payload["logprobs"] = True
        payload["top_logprobs"] = request.top_logprobs or None
    payload.update(request.extra)
    return {name: value for name, value in payload.items() if value is not None}


def _tool_choice(choice: str | None) -> str | dict[str, Any] | None:
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def response_format(schema: JsonSchema) -> dict[str, Any]:
    """The `response_format` that holds the answer to a schema."""
    name = re.sub(r"[^\w-]", "_", str(schema.get("title") or "answer"))[:64]
    description: dict[str, Any] = {"name": name, "schema": dict(schema)}
    if _is_strict(schema):
        description["strict"] = True
    return {"type": "json_schema", "json_schema": description}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI's strict mode takes a schema: it refuses open and optional properties."""
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if schema.get("type") == "object" and (
            schema.get("additionalProperties") is not False
            or set(schema.get("required") or ()) != set(properties or ())
        ):
            return False
        return all(_is_strict(part) for part in schema.values())
    if isinstance(schema, list):
        return all(_is_strict(part) for part in schema)
    return True


def finish_reason(word: object) -> str | None:
    """The reason in the words of `Completion`, or the provider's own."""
    if not isinstance(word, str) or not word:
        return None
    return FINISH_REASONS.get(word.lower(), word.lower())


def read_usage(usage: object, *, wrote: bool) -> Usage:
    """The token counts of a reply; what is missing or impossible stays unknown.

    Tokens written to the cache: OpenAI and OpenRouter count them in the details of the prompt,
    LiteLLM there under another name.

    Args:
        usage: what the reply says.
        wrote: whether there is an answer.
    """
    if not isinstance(usage, Mapping):
        return Usage()
    prompt, answer = (_details(usage, kind) for kind in ("prompt", "completion"))
    return read_counts(
        read=usage.get("prompt_tokens"),
        written=usage.get("completion_tokens"),
        wrote=wrote,
        cached=prompt.get("cached_tokens"),
        cache_write=prompt.get("cache_write_tokens", prompt.get("cache_creation_tokens")),
        reasoning=answer.get("reasoning_tokens"),
        total=usage.get("total_tokens"),
    )


def _details(usage: Json, kind: str) -> Json:
    details = usage.get(f"{kind}_tokens_details")
    return details if isinstance(details, Mapping) else {}


def read_error(error: object) -> tuple[int, str]:
    """The status and the reason of an error object in a reply that was sent as a good one."""
    if not isinstance(error, Mapping):
        return SERVER_ERROR, str(error)
    code = error.get("code")
    reason = str(error.get("message") or error)
    known = str(code) if isinstance(code, int | str) else ""
    if known.isdecimal() and 400 <= int(known) < 600:
        return int(known), reason
    return SERVER_ERROR, reason if code is None else f"{reason} [{code}]"


def read_tool_call(name: object, arguments: object, call_id: object) -> ToolCall:
    """One tool call; its arguments may come as an object or as JSON text.

    Raises:
        ValueError: the arguments are not a JSON object, or there is no name.
    """
    try:
        decoded = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
        json.dumps(decoded, allow_nan=False)  # a tool, and the next request, are sent JSON
    except (RecursionError, TypeError) as error:
        raise ValueError(f"not a tool call: {name!r} with arguments that are no JSON") from error
    if not isinstance(decoded, Mapping) or not isinstance(name, str) or not name:
        raise ValueError(f"not a tool call: {name!r} with arguments {arguments!r}")
    return ToolCall(
        name=name, args=dict(decoded), id=str(call_id or f"call_{uuid4().hex}"), type="tool_call"
    )


class Answer:
    """An answer that grows by stream chunks; a whole reply is one large chunk.

    Args:
        grows: whether anybody wants `tokens` as they arrive.
    """

    def __init__(self, *, grows: bool = True) -> None:
        self.finish_reason: str | None = None
        self.tokens: tuple[TokenLogprob, ...] = ()
        """Log-probabilities that the last chunk completed."""
        self._growing = Growing() if grows else None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[object] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._usage: object = None
        self._model: str | None = None
        self._busy_ms: float | None = None
        self._id = ""
        self._ids: set[str] = set()
        self._answered = False

    @property
    def begun(self) -> bool:
        """Whether a part of the answer has arrived."""
        return bool(self._text or self._calls)

    def add(self, chunk: object) -> str:
        """Take a chunk (or a whole reply) in, and return its piece of text.

        Raises:
            ValueError: it is not what the format says.
        """
        if not isinstance(chunk, Mapping):
            raise ValueError(f"not a JSON object: {str(chunk)[:80]!r}")
        self._check_id(chunk.get("id"))
        model = chunk.get("model")
        self._model = model if isinstance(model, str) and model else self._model
        self._usage = chunk.get("usage") or self._usage
        self._busy_ms = _busy_ms(chunk.get("timings")) or self._busy_ms
        self.tokens = ()
        choices = chunk.get("choices")
        if choices is None and "usage" not in chunk:
            raise ValueError(f"no choices in {str(chunk)[:80]!r}")
        if not choices:
            return ""
        if not isinstance(choices, list) or not all(isinstance(c, Mapping) for c in choices):
            raise ValueError(f"choices are not a list of objects: {str(choices)[:80]!r}")
        # One answer was asked for, the first: pieces of another one beside it are not its own.
        ours = [choice for choice in choices if choice.get("index") in (0, None)]
        ours += [choice for choice in choices if "message" in choice]
        if not ours:
            return ""
        self._answered = True
        return self._add_choice(ours[0])

    def _check_id(self, given: object) -> None:
        """Some servers name each chunk anew; none comes back to an earlier name, but for streams
        that got mixed up on the way.
        """
        if not isinstance(given, str) or given in ("", self._id):
            return
        if given in self._ids:
            raise ValueError(f"pieces of two answers in one: {self._id!r} and {given!r}")
        self._id = given
        self._ids.add(given)

    def _add_choice(self, choice: Json) -> str:
        part = choice.get("message") or choice.get("delta") or {}
        if not isinstance(part, Mapping):
            raise ValueError(f"not a message: {str(part)[:80]!r}")
        self.finish_reason = finish_reason(choice.get("finish_reason")) or self.finish_reason
        text = part.get("content") or part.get("refusal") or ""
        if not isinstance(text, str):
            raise ValueError(f"content is not text: {str(text)[:80]!r}")
        if text:
            self._text.append(text)
        thinking = part.get("reasoning_content") or part.get("reasoning")
        if isinstance(thinking, str):
            self._thinking.append(thinking)
        logprobs = choice.get("logprobs")
        items = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        self._logprobs.extend(items if isinstance(items, list) else ())
        calls = part.get("tool_calls") or []
        if not isinstance(calls, list):
            raise ValueError(f"tool calls are not a list: {str(calls)[:80]!r}")
        for position, call in enumerate(calls):
            self._add_call(position, call)
        if self._growing is not None:
            plain = not (calls or thinking or part.get("refusal"))
            self.tokens = self._growing.add(items, text, plain=plain)
        return text

    def _add_call(self, position: int, call: object) -> None:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(call, Mapping) or not isinstance(function, Mapping):
            raise ValueError(f"not a tool call: {str(call)[:80]!r}")
        index = call.get("index")
        place = index if isinstance(index, int) else position
        known = self._calls.setdefault(place, {"arguments": ""})
        known["id"] = call.get("id") or known.get("id")
        known["name"] = function.get("name") or known.get("name")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            known["arguments"] += arguments
        elif arguments is not None:
            known["arguments"] = json.dumps(arguments)

    def completion(self, *, asked_for: str) -> Completion:
        """The whole answer; `asked_for` names the model where the reply does not.

        Raises:
            ValueError: there is none, or a tool call's arguments cannot be read.
        """
        if not self._answered:
            raise ValueError("no choices in the reply")
        text = "".join(self._text)
        thinking = "".join(self._thinking) or None
        calls = tuple(
            read_tool_call(call.get("name"), call["arguments"], call.get("id"))
            for call in self._calls.values()
        )
        return Completion(
            text=text,
            model=self._model or asked_for,
            usage=read_usage(self._usage, wrote=bool(text or calls)),
            logprobs=answer_logprobs(
                self._logprobs, text, thinking=thinking, tool_calls=bool(calls), trusted=True
            ),
            call_logprobs=call_logprobs(self._logprobs, calls, thinking=thinking),
            tool_calls=calls,
            finish_reason=self.finish_reason,
            thinking=thinking,
            busy_ms=self._busy_ms,
        )


def _busy_ms(timings: object) -> float | None:
    """llama.cpp's own clock: reading the prompt plus writing the answer."""
    if not isinstance(timings, Mapping):
        return None
    return busy_ms(timings, ("prompt_ms", "predicted_ms"), 1)
