"""OpenAI's chat-completions format: requests as JSON, replies and stream chunks as completions.

The one wire of `openai:` and `llamacpp:` models; replies of Ollama are put into this form.
Counts and times that cannot be true are unknown: a wrong one would become a wrong figure of money.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import BaseMessage, ToolCall, convert_to_openai_messages

from cascade.errors import InputError
from cascade.models.base import Request
from cascade.models.logprobs import Growing, answer_logprobs, call_logprobs
from cascade.state import Completion, TokenLogprob, Usage

FINISH_REASONS = {
    **dict.fromkeys(("end_turn", "eos", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("safety", "refusal"), "content_filter"),
}
"""Other providers' words for why a model stopped → the words of `Completion`."""

_CLOCKS = {
    **dict.fromkeys(("prompt_ms", "predicted_ms"), 1.0),
    **dict.fromkeys(("prompt_eval_duration", "eval_duration"), 1e-6),
}
"""Times that llama.cpp and Ollama tell → milliseconds of their units."""

MOST_TOKENS = 20_000_000
"""Of one call: twice the longest context there is."""


def chat_payload(request: Request) -> dict[str, Any]:
    """The JSON body of a request, without the model's name; errors are those of `sendable`."""
    choice = request.tool_choice
    if choice not in (None, "auto", "none", "required"):
        choice = {"type": "function", "function": {"name": choice}}  # type: ignore[assignment]
    payload: dict[str, Any] = {
        "messages": sendable(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "tools": list(request.tools) or None,
        "tool_choice": choice,
        "response_format": response_format(request.schema) if request.schema else None,
        "logprobs": request.logprobs or None,
        "top_logprobs": request.top_logprobs or None if request.logprobs else None,
        **request.extra,
    }
    return {name: value for name, value in payload.items() if value is not None}


def sendable(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, of whole characters; an `InputError` where it has no place
    for something in them."""
    try:
        sent: list[dict[str, Any]] = whole(convert_to_openai_messages(list(messages)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"the conversation has a part that no model can be sent: {error}. Give text, "
            "images, audio and files as LangChain's content blocks, tool calls in answers alone."
        ) from error
    return sent


def whole(value: Any) -> Any:
    """The same JSON with halves of surrogate pairs (of an emoji that a model cut in two) put
    together, and U+FFFD for lone ones: they have no place in UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The `response_format` that holds the answer to a schema."""
    name = re.sub(r"[^\w-]", "_", str(schema.get("title") or "answer"))[:64]
    described: dict[str, Any] = {"name": name, "schema": dict(schema)}
    if _is_strict(schema):
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}


def _is_strict(schema: object) -> bool:
    """Whether OpenAI's strict mode takes a schema: it refuses open and optional properties."""
    if isinstance(schema, Mapping):
        closed = schema.get("additionalProperties") is False
        optional = set(schema.get("properties") or ()) != set(schema.get("required") or ())
        if schema.get("type") == "object" and (not closed or optional):
            return False
        return all(_is_strict(part) for part in schema.values())
    return not isinstance(schema, list) or all(_is_strict(part) for part in schema)


def finish_reason(word: object) -> str | None:
    """The reason in the words of `Completion`, or the provider's own."""
    if not isinstance(word, str) or not word:
        return None
    return FINISH_REASONS.get(word.lower(), word.lower())


def count(value: object) -> int | None:
    """A number of tokens; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        return None
    return value


def read_counts(counts: Mapping[str, object], *, wrote: bool, total: object = None) -> Usage:
    """The usage of a call, by the names of `Usage`, where its counts can be true together.

    Some servers send zeros where they have not counted, or count cached input beside the input.
    Reasoning that stands beside the output (xAI, Gemini) shows in the total of all tokens.
    """
    read = {name: count(value) for name, value in counts.items()}
    given, made = read.get("input_tokens") or None, read.get("output_tokens")
    thought = read.get("reasoning_tokens") or 0
    if (read.get("cached_tokens") or 0) + (read.get("cache_write_tokens") or 0) > (given or 0):
        given = None
    if made is not None and thought and count(total) == (given or 0) + made + thought:
        made += thought
    if made is not None and (thought > made or (made == 0 and wrote)):
        made = None
    return Usage(**{**read, "input_tokens": given, "output_tokens": made})


def _read_usage(usage: object, *, wrote: bool) -> Usage:
    if not isinstance(usage, Mapping):
        return Usage()
    prompt, answer = (
        details if isinstance(details := usage.get(f"{kind}_tokens_details"), Mapping) else {}
        for kind in ("prompt", "completion")
    )
    counts = {
        "input_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
        "cached_tokens": prompt.get("cached_tokens"),
        # OpenAI and OpenRouter; LiteLLM
        "cache_write_tokens": prompt.get("cache_write_tokens", prompt.get("cache_creation_tokens")),
        "reasoning_tokens": answer.get("reasoning_tokens"),
    }
    return read_counts(counts, wrote=wrote, total=usage.get("total_tokens"))


def _busy_ms(timings: object) -> float | None:
    """Time of reading and writing by the server's clock; None where it tells none that is true."""
    if not isinstance(timings, Mapping):
        return None
    told = [(timings[name], unit) for name, unit in _CLOCKS.items() if timings.get(name)]
    if any(isinstance(t, bool) or not isinstance(t, int | float) or t < 0 for t, _ in told):
        return None
    busy = float(sum(time * unit for time, unit in told))
    return busy if 0 < busy < float("inf") else None


def read_tool_call(name: object, arguments: object, call_id: object = None) -> ToolCall:
    """One tool call, with arguments as an object or as JSON text; a ValueError where they are no
    JSON object, or there is no name."""
    try:
        decoded = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
        json.dumps(decoded, allow_nan=False)  # a tool, and the next request, are sent JSON
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"not a tool call: {name!r} with arguments that are no JSON") from error
    if not isinstance(decoded, Mapping) or not isinstance(name, str) or not name:
        raise ValueError(f"not a tool call: {name!r} with arguments {arguments!r}")
    call_id = str(call_id or f"call_{uuid4().hex}")
    return ToolCall(name=name, args=dict(decoded), id=call_id, type="tool_call")


class Answer:
    """An answer that grows by stream chunks; a whole reply is one large chunk.

    Where it `grows`, `tokens` are the log-probabilities that the last chunk completed. What is not
    as the format says raises ValueError, TypeError, KeyError or AttributeError.
    """

    def __init__(self, *, grows: bool = True) -> None:
        self.finish_reason: str | None = None
        self.tokens: tuple[TokenLogprob, ...] = ()
        self._growing = Growing() if grows else None
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[object] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._usage: object = None
        self._model: object = None
        self._busy_ms: float | None = None
        self._answered = False

    @property
    def begun(self) -> bool:
        """Whether a part of the answer has arrived."""
        return bool(self._text or self._calls)

    def add(self, reply: Any) -> str:
        """Take a chunk (or a whole reply) in, and return its piece of text."""
        self._model = reply.get("model") or self._model
        self._usage = reply.get("usage") or self._usage
        self._busy_ms = _busy_ms(reply.get("timings")) or self._busy_ms
        self.tokens = ()
        if "usage" in reply and reply.get("choices") is None:
            return ""
        # One answer was asked for, the first: pieces of another one beside it are not its own.
        for choice in reply["choices"]:
            if choice.get("index") in (0, None) or "message" in choice:
                self._answered = True
                return self._add_choice(choice)
        return ""

    def _add_choice(self, choice: Mapping[str, Any]) -> str:
        part = choice.get("message") or choice.get("delta") or {}
        self.finish_reason = finish_reason(choice.get("finish_reason")) or self.finish_reason
        text = part.get("content") or part.get("refusal") or ""
        if not isinstance(text, str):
            raise TypeError(f"not text: {str(text)[:80]!r}")
        if text:
            self._text.append(text)
        thinking = part.get("reasoning_content") or part.get("reasoning")
        if isinstance(thinking, str):
            self._thinking.append(thinking)
        logprobs = choice.get("logprobs")
        items = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        self._logprobs.extend(items if isinstance(items, list) else ())
        calls = part.get("tool_calls") or []
        for call in calls:
            self._add_call(call)
        if self._growing is not None:
            plain = not (calls or thinking or part.get("refusal"))
            self.tokens = self._growing.add(items, text, plain=plain)
        return text

    def _add_call(self, call: Mapping[str, Any]) -> None:
        function, index = call["function"], call.get("index", len(self._calls))
        known = self._calls.setdefault(index, {"id": None, "name": None, "arguments": ""})
        known["id"] = call.get("id") or known["id"]
        known["name"] = function.get("name") or known["name"]
        arguments = function.get("arguments")
        if isinstance(arguments, str) and isinstance(known["arguments"], str):
            known["arguments"] += arguments
        elif arguments is not None:
            known["arguments"] = arguments

    def completion(self, *, asked_for: str) -> Completion:
        """The whole answer; `asked_for` names the model where the reply does not."""
        if not self._answered:
            raise ValueError("no choices in the reply")
        text, thinking = "".join(self._text), "".join(self._thinking) or None
        given = self._calls.values()
        calls = tuple(read_tool_call(c["name"], c["arguments"], c["id"]) for c in given)
        reason = self.finish_reason
        return Completion(
            text=text,
            model=self._model if isinstance(self._model, str) else asked_for,
            usage=_read_usage(self._usage, wrote=bool(text or calls)),
            logprobs=answer_logprobs(self._logprobs, text, thinking, tool_calls=bool(calls)),
            call_logprobs=call_logprobs(self._logprobs, calls, thinking),
            tool_calls=calls,
            finish_reason="tool_calls" if calls and reason == "stop" else reason,
            thinking=thinking,
            busy_ms=self._busy_ms,
        )
