"""OpenAI's chat completions, and `openai:` models: OpenAI itself and, with `base_url`, every server
that speaks its API.

It is the wire of all model servers: replies of Ollama are put into this form. Counts and times that
cannot be true are unknown: a wrong one would become a wrong figure of money.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, ClassVar
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, convert_to_openai_messages

from cascade.errors import ConfigurationError, InputError, ModelError, StreamInterruptedError
from cascade.models import http
from cascade.models.base import Chunk, Model, Request
from cascade.models.logprobs import Tokens
from cascade.state import Completion, Usage

FINISH_REASONS = {  # other providers' words for why a model stopped → those of `Completion`
    **dict.fromkeys(("end_turn", "eos", "stop_sequence"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("safety", "refusal"), "content_filter"),
}

_CLOCKS = {"prompt_ms": 1, "predicted_ms": 1, "prompt_eval_duration": 1e-6, "eval_duration": 1e-6}
"""Times that llama.cpp and Ollama tell → milliseconds of their units."""


def sendable(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, of whole characters; an `InputError` where it has no place
    for something in them."""
    try:
        return list(whole(convert_to_openai_messages(list(messages))))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"the conversation has a part that no model can be sent: {error}. Give text, "
            "images, audio and files as LangChain's content blocks, tool calls in answers alone."
        ) from error


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
    strict = {"strict": True} if _is_strict(schema) else {}
    return {"type": "json_schema", "json_schema": {"name": name, "schema": dict(schema), **strict}}


def _is_strict(schema: object) -> bool:
    """True if OpenAI's strict mode takes a schema: it refuses open and optional properties."""
    if isinstance(schema, Mapping):
        closed = schema.get("additionalProperties") is False
        optional = set(schema.get("properties") or ()) != set(schema.get("required") or ())
        if schema.get("type") == "object" and (not closed or optional):
            return False
        schema = list(schema.values())
    return not isinstance(schema, list) or all(map(_is_strict, schema))


def finish_reason(word: object) -> str | None:
    """The reason in the words of `Completion`, or the provider's own."""
    return FINISH_REASONS.get(word.lower(), word.lower()) if isinstance(word, str) else None


def count(value: object) -> int | None:
    """A number of tokens, up to twice the longest context there is; None for what cannot be one."""
    return value if type(value) is int and 0 <= value <= 20_000_000 else None


def read_counts(*, wrote: bool, total: object = None, **counts: object) -> Usage:
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


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def read_tool_call(name: object, arguments: object, call_id: object = None) -> ToolCall:
    """One tool call, with arguments as an object or as JSON text; a ValueError where they are no
    JSON object, or there is no name."""
    with suppress(ValueError, RecursionError, TypeError):
        read = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
        json.dumps(read, allow_nan=False)  # a tool, and the next request, are sent JSON
        if isinstance(read, Mapping) and isinstance(name, str) and name:
            call_id = str(call_id or f"call_{uuid4().hex}")
            return ToolCall(name=name, args=dict(read), id=call_id, type="tool_call")
    given = f"{name!r} with {str(arguments)[:80]!r}"
    raise ValueError(f"not a tool call with a name and a JSON object as arguments: {given}")


class Answer:
    """An answer that grows by stream chunks; a whole reply is one large chunk. Without thinking and
    calls it is `plain`. What is not as the format says raises an error that `readable` names."""

    def __init__(self, asked_for: str) -> None:
        self.finish_reason: str | None = None
        self.tokens, self.text, self.calls = Tokens(), list[str](), dict[int, dict[str, Any]]()
        self.plain, self._answered = True, False
        self._told: dict[str, Any] = {"model": asked_for}
        self._thinking: list[str] = []

    def add(self, reply: Any) -> str:
        """Take a chunk (or a whole reply) in, and return its piece of text."""
        for name, kind in (("model", str), ("usage", dict), ("timings", dict)):
            if isinstance(value := reply.get(name), kind) and value:
                self._told[name] = value
        choices = (reply.get("choices") or ()) if "usage" in reply else reply["choices"]
        # One answer was asked for, the first: pieces of another one beside it are not its own.
        own = (c for c in choices if c.get("index") in (0, None) or "message" in c)
        if (choice := next(own, None)) is None:
            return ""
        self._answered = True
        part = choice.get("message") or choice.get("delta") or {}
        text = part.get("content") or part.get("refusal") or ""
        if not isinstance(text, str):
            raise TypeError(f"not text: {str(text)[:80]!r}")
        self.text += [text] if text else []
        thinking = part.get("reasoning_content") or part.get("reasoning")
        self._thinking += [thinking] if isinstance(thinking, str) else []
        self.tokens.add(_mapping(choice.get("logprobs")).get("content"))
        calls = part.get("tool_calls") or []
        for call in calls:
            function, index = call["function"], call.get("index", len(self.calls))
            known = self.calls.setdefault(index, {"call_id": None, "name": None, "arguments": ""})
            known["call_id"] = call.get("id") or known["call_id"]
            known["name"] = function.get("name") or known["name"]
            if isinstance(given := function.get("arguments"), str | None):
                given = known["arguments"] + (given or "")
            known["arguments"] = given
        self.plain &= not (calls or thinking or part.get("refusal"))
        # Last: what cannot be read before the end is known is a failure, and after it none.
        self.finish_reason = finish_reason(choice.get("finish_reason")) or self.finish_reason
        return text

    def completion(self) -> Completion:
        """The whole answer."""
        if not self._answered:
            raise ValueError("no choices in the reply")
        text, thinking = "".join(self.text), "".join(self._thinking) or None
        calls = tuple(read_tool_call(**call) for call in self.calls.values())
        usage = self._told.get("usage", {})
        details = (usage.get(f"{of}_tokens_details") for of in ("prompt", "completion"))
        prompt, thought = map(_mapping, details)
        # OpenAI and OpenRouter; LiteLLM
        kept = prompt.get("cache_write_tokens", prompt.get("cache_creation_tokens"))
        reason = "tool_calls" if calls and self.finish_reason == "stop" else self.finish_reason
        clocks = self._told.get("timings", {})
        times = [(clocks[name], unit) for name, unit in _CLOCKS.items() if clocks.get(name)]
        credible = all(type(t) in (int, float) and 0 <= t < float("inf") for t, _ in times)
        return Completion(
            text=text,
            model=self._told["model"],
            usage=read_counts(
                wrote=bool(text or calls),
                total=usage.get("total_tokens"),
                input_tokens=usage.get("prompt_tokens"),
                output_tokens=usage.get("completion_tokens"),
                cached_tokens=prompt.get("cached_tokens"),
                cache_write_tokens=kept,
                reasoning_tokens=thought.get("reasoning_tokens"),
            ),
            logprobs=self.tokens.of_answer(text, thinking, tool_calls=bool(calls)),
            call_logprobs=self.tokens.of_calls(calls, thinking),
            tool_calls=calls,
            finish_reason=reason,
            thinking=thinking,
            busy_ms=float(sum(t * unit for t, unit in times)) if times and credible else None,
        )


class ServedModel(Model):
    """A model behind an HTTP server: requests are posted to `path`, with `limit` as the name of
    their limit of tokens, and the parameters `streaming` for a stream, where nothing may come after
    the reason why it ends (`ends_with_reason`). Errors may have ways out of their own, by their
    kind (`advice`). `options` go with every request."""

    path: ClassVar[str] = "/chat/completions"
    limit: str = "max_tokens"
    returns_logprobs = streams_logprobs = True
    streaming: ClassVar[Any] = {"stream": True, "stream_options": {"include_usage": True}}
    ends_with_reason: ClassVar[bool] = False
    advice: ClassVar[Mapping[Any, str]] = {}

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        url, key = self._found(base_url, (api_key or "").strip())
        self.base_url = self.server = url
        self.local, self.secrets = http.stays_here(url, model), (key,)
        self._options = dict(options or {})
        advice = {kind: way_out.format(model=model) for kind, way_out in self.advice.items()}
        self.caller = http.Caller(self.name, http.without_secrets(url), advice)
        # A user in the address stands for a key; no request has both.
        bearer = {"authorization": f"Bearer {key}"} if key and "@" not in url else {}
        self._connection = http.Connection(url, bearer, self.caller)

    def _found(self, base_url: str | None, api_key: str) -> tuple[str, str]:
        """Address and key, which may be those of the environment."""
        return base_url or "", api_key

    def payload(self, request: Request) -> dict[str, Any]:
        """The JSON body of a request; errors are those of `sendable`."""
        choice: Any = request.tool_choice
        if choice not in (None, "auto", "none", "required"):
            choice = {"type": "function", "function": {"name": choice}}
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
        given = {name: value for name, value in payload.items() if value is not None}
        body = {"model": self.model, **self._options, **given}
        if "max_tokens" in body:
            body[self.limit] = given.get(self.limit, body.pop("max_tokens"))
        return body

    async def _prepared(self, request: Request) -> Request:
        """The request as this model takes it."""
        return request

    def _chunk(self, part: Any) -> Any:
        """A part of a reply in OpenAI's form."""
        return part

    async def _complete(self, request: Request) -> Completion:
        payload = self.payload(await self._prepared(request))
        return self.read(await self._connection.request(self.path, payload))

    def read(self, reply: object) -> Completion:
        """The answer in a reply, as decoded JSON; a `ModelError` where it has none."""
        answer = Answer(self.model)
        with self.caller.readable():
            self._add(reply, answer)
            return answer.completion()

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        payload = {**self.payload(await self._prepared(request)), **self.streaming}
        answer, parts = Answer(self.model), self._connection.parts(self.path, payload)
        try:
            with self.caller.readable():
                async with aclosing(parts):
                    async for part in parts:
                        if part.startswith(b"[DONE]"):
                            break
                        if piece := self._add(http.read_json(part), answer):
                            tokens = answer.tokens.completed(piece) if answer.plain else ()
                            yield Chunk(piece, logprobs=tokens)
                        if self.ends_with_reason and answer.finish_reason is not None:
                            break  # elsewhere the counts come later, or again
                    with suppress(TimeoutError, ModelError):
                        async with asyncio.timeout(0.1):  # only at its end a connection is free
                            async for _ in parts:
                                pass
        except ModelError:
            # What breaks after the reason why the answer ends is no failure: all is there, but for
            # the counts perhaps.
            if answer.finish_reason is None:
                raise
        if answer.finish_reason is None:
            raise self.caller.error(StreamInterruptedError, "it ended without a finish reason")
        with self.caller.readable():
            completion = answer.completion()
        yield Chunk(completion=completion)

    def _add(self, reply: Any, answer: Answer) -> str:
        if isinstance(reply, Mapping) and reply.get("error"):
            status, reason = http.read_error(reply)
            if answer.text or answer.calls:
                raise self.caller.error(StreamInterruptedError, reason)
            raise self.caller.refused(status, reason)
        return answer.add(self._chunk(reply))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connection.aclose()


def reasons(model: str) -> bool:
    """True if a name is that of a reasoning model of OpenAI, which returns no log-probabilities."""
    return model.rpartition("/")[2].startswith(("o1", "o3", "o4", "gpt-5", "gpt-6"))


class OpenAIModel(ServedModel):
    """A model behind an OpenAI-compatible chat-completions API, by default that of OPENAI_BASE_URL
    or OpenAI's own, with the key in OPENAI_API_KEY.

    Raises:
        ConfigurationError: the address is none, or no key was given or found, and the server is
            not on this machine.
    """

    provider = "openai"

    def _found(self, base_url: str | None, api_key: str) -> tuple[str, str]:
        url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        http.check_address(url, "http://localhost:8000/v1")
        key = api_key or os.environ.get("OPENAI_API_KEY", "").strip()
        if not key and not http.is_loopback(url) and "@" not in url:
            raise ConfigurationError(
                f"{self.name} at {http.without_secrets(url)} needs an API key: set OPENAI_API_KEY "
                "or give api_key."
            )
        if reasons(self.model):
            self.limit = "max_completion_tokens"
            self.returns_logprobs = self.streams_logprobs = False
        self.scores = not url.startswith("https://api.openai.com/")
        return url, key

    async def _complete(self, request: Request) -> Completion:
        answer = request.answer
        if answer is None:
            return await super()._complete(request)
        # In one pass, by the log-probabilities that vLLM returns of a prompt: 0 stands for those of
        # its own tokens. Other servers ignore it.
        how = {"add_generation_prompt": False, "continue_final_message": True, "prompt_logprobs": 0}
        given: Any = {"messages": (*request.messages, AIMessage(answer)), "max_tokens": 1}
        asked = replace(request, logprobs=False, extra={**request.extra, **how}, **given)
        reply = await self._connection.request(self.path, self.payload(asked))
        completion = self.read(reply)
        with self.caller.readable():
            read = [next(iter(at.values())) for at in reply.get("prompt_logprobs") or () if at]
            tokens = [{"token": t.get("decoded_token"), "logprob": t.get("logprob")} for t in read]
        logprobs = Tokens(tokens).of_answer(answer)
        return replace(completion, text=answer, logprobs=logprobs, finish_reason="stop")
