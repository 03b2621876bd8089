"""Ollama's API: `/api/chat`, `/api/generate`, `/api/tags`, `/api/show`, `/api/version`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Literal

from langchain_core.messages import AnyMessage
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from cascade._version import __version__
from cascade.events import Event, Token
from cascade.run import Settings
from cascade.service.faults import ServiceError
from cascade.service.gateway import Gateway, Outcome, Served
from cascade.service.openai import Tool, logprobs_of, parameters, read_format
from cascade.service.wire import (
    Rendering,
    Wishes,
    asked,
    data_url,
    finish_reason,
    json_bytes,
    json_response,
    message_of,
    plain,
    read_body,
    refusal,
    reply,
    report,
    unsupported,
)

VERSION = "0.12.11"
"""Of Ollama's API that is spoken here; clients compare it with what they need."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class CalledFunction(_Wire):
    """Function that a model wants to be called."""

    name: str
    arguments: dict[str, Any]


class ToolCall(_Wire):
    """Call that an assistant has made."""

    function: CalledFunction


class InputMessage(_Wire):
    """Message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = Field(default=None, description="Base64.")
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaRequest(_Wire):
    """What chats and prompts have in common."""

    model: str = Field(min_length=1, description="The name of a cascade; `/api/tags` lists them.")
    stream: StrictBool | None = Field(default=None, description="By default true.")
    options: dict[str, Any] | None = Field(default=None, description="Such as `num_predict`.")
    format: Literal["", "json"] | dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: StrictBool | Literal["low", "medium", "high"] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


class OllamaChatRequest(OllamaRequest):
    """Conversation to be answered."""

    messages: list[InputMessage] = Field(default_factory=list)
    tools: list[Tool] | None = None


class OllamaGenerateRequest(OllamaRequest):
    """Prompt to be answered."""

    prompt: str = ""
    system: str | None = None
    images: list[str] | None = Field(default=None, description="Base64.")


class ShowRequest(_Wire):
    """Model that is shown."""

    model: str | None = None
    name: str | None = None


async def chat(request: Request, gateway: Gateway) -> Response:
    """Answer a conversation."""
    began, key = time.monotonic(), await gateway.key_of(request)
    body, size = await read_body(request, OllamaChatRequest)
    served = gateway.model(body.model, key)
    settings = _settings(body, served)
    if body.tools:
        settings["tools"] = [tool.model_dump(exclude_unset=True) for tool in body.tools]
        plain(settings["tools"], "tools")
    lines = Lines(body, "message")
    return await _answered(
        request, gateway, began, key, body, _messages(body.messages), settings, lines, size
    )


async def generate(request: Request, gateway: Gateway) -> Response:
    """Answer a prompt."""
    began, key = time.monotonic(), await gateway.key_of(request)
    body, size = await read_body(request, OllamaGenerateRequest)
    served = gateway.model(body.model, key)
    for name in ("suffix", "template", "context", "raw"):
        if (body.model_extra or {}).pop(name, None):
            raise unsupported(name, "a cascade answers conversations: use /api/chat.")
    given = [InputMessage(role="system", content=body.system)] if body.system else []
    if body.prompt or body.images:
        given.append(InputMessage(role="user", content=body.prompt, images=body.images))
    lines = Lines(body, "response")
    settings = _settings(body, served)
    return await _answered(
        request, gateway, began, key, body, _messages(given), settings, lines, size
    )


async def _answered(
    request: Request,
    gateway: Gateway,
    began: float,
    key: Any,
    body: OllamaRequest,
    messages: list[AnyMessage],
    settings: Settings,
    lines: Lines,
    size: int,
) -> Response:
    if not messages:  # how clients have a model loaded
        return json_response({**lines.line("", done=True), "done_reason": "load"})
    question = asked(
        request,
        body.model,
        messages,
        settings,
        body.cascade,
        size=size,
        stream=body.stream is not False,
    )
    return await reply(request, gateway, key, question, began, lines.whole, lines)


# --- reading


def _settings(body: OllamaRequest, served: Served) -> Settings:
    options = {name: value for name, value in (body.options or {}).items() if value is not None}
    settings = Settings()
    limit = options.pop("num_predict", None)
    if isinstance(limit, bool) or not isinstance(limit, int | None):
        raise ServiceError(400, f"options.num_predict: {limit!r:.80} is no number.")
    if limit is not None and limit > 0:  # below 0: as long as it takes
        settings["max_tokens"] = limit
    for name, kind in (("temperature", int | float), ("seed", int)):
        value = options.pop(name, None)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise ServiceError(400, f"options.{name}: {value!r:.80} is no number.")
        if value is not None:
            settings[name] = value  # type: ignore[literal-required]
    if stop := options.pop("stop", None):
        settings["stop"] = [stop] if isinstance(stop, str) else [str(each) for each in stop]
    own = {"keep_alive": body.keep_alive, "think": body.think}
    settings["extra"] = parameters({**(body.model_extra or {}), **options, **own}, served)
    if isinstance(body.format, dict):
        described = {"name": "answer", "schema": body.format}
        read_format({"type": "json_schema", "json_schema": described}, settings, served)
    elif body.format == "json":
        read_format({"type": "json_object"}, settings, served)
    if body.logprobs or body.top_logprobs:
        settings["top_logprobs"] = body.top_logprobs or 0
    return settings


def _messages(given: list[InputMessage]) -> list[AnyMessage]:
    """The conversation; calls without ids get some, and results find them."""
    found, left = list[AnyMessage](), list[tuple[str, str]]()
    for position, message in enumerate(given):
        calls: list[dict[str, Any]] = [
            {
                "id": f"call_{position}_{index}",
                "name": call.function.name,
                "arguments": call.function.arguments,
            }
            for index, call in enumerate(message.tool_calls or ())
        ]
        left += [(call["name"], call["id"]) for call in calls]
        call_id = message.tool_call_id
        if message.role == "tool" and call_id is None:
            call_id = _answered_call(message, left)
        found.append(
            message_of(
                message.role, _content(message), calls, call_id=call_id, name=message.tool_name
            )
        )
    return found


def _answered_call(message: InputMessage, left: list[tuple[str, str]]) -> str:
    """The id of the call that a result belongs to: of its tool where it is named, else the next."""
    for place, (name, call_id) in enumerate(left):
        if message.tool_name in (None, name):
            del left[place]
            return call_id
    said = f"messages: the result of {message.tool_name or 'a tool'!r} has no call before it."
    raise ServiceError(400, said, param="messages")


_KINDS = {"/9j/": "jpeg", "R0lG": "gif", "UklG": "webp"}


def _content(message: InputMessage) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    images = [
        {
            "type": "image_url",
            "image_url": {"url": data_url(f"image/{_KINDS.get(data[:4], 'png')}", data)},
        }
        for data in message.images
    ]
    return [{"type": "text", "text": text}, *images]


# --- writing


class Lines(Rendering):
    """Ollama's lines of JSON; the last one has the counts and the extension `cascade`. While it
    waits it sends spaces, which stand before the JSON of the next line."""

    media_type = "application/x-ndjson"
    ping = b" "

    def __init__(self, body: OllamaRequest, kind: Literal["message", "response"]) -> None:
        self._model, self._kind = body.model, kind
        self._alternatives, self._logprobs = body.top_logprobs, body.logprobs
        self._begun, self._shown = time.perf_counter(), 0

    def line(self, text: str, *, done: bool, **more: Any) -> dict[str, Any]:
        """One line with a piece of text."""
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        said: dict[str, Any] = {"response": text, **more}
        if self._kind == "message":
            said = {"message": {"role": "assistant", "content": text, **more}}
        return {"model": self._model, "created_at": at, **said, "done": done}

    def whole(self, outcomes: list[Outcome]) -> dict[str, Any]:
        """The answer in one piece."""
        (outcome,) = outcomes
        text = refusal(outcome) or outcome.result.answer
        return self.line(text, done=True, **self._said(outcome)) | self._counts(outcome)

    @override
    def event(self, number: int, event: Event) -> bytes:
        del number
        if not isinstance(event, Token) or not event.text:
            return b""
        self._shown += len(event.text)
        return json_bytes(self.line(event.text, done=False)) + b"\n"

    @override
    def end(self, outcomes: list[Outcome]) -> bytes:
        (outcome,) = outcomes
        rest = (refusal(outcome) or outcome.result.answer)[self._shown :]
        said, pieces = self._said(outcome), list[bytes]()
        if rest or said:
            pieces.append(json_bytes(self.line(rest, done=False, **said)) + b"\n")
        last = self.line("", done=True) | self._counts(outcome)
        return b"".join([*pieces, json_bytes(last), b"\n"])

    @override
    def failed(self, fault: ServiceError) -> bytes:
        return json_bytes(fault.body("ollama")) + b"\n"

    def _said(self, outcome: Outcome) -> dict[str, Any]:
        said, done = dict[str, Any](), outcome.completion
        if done is not None and done.thinking:
            said["thinking"] = done.thinking
        if done is not None and done.tool_calls:
            said["tool_calls"] = [
                {"function": {"name": call["name"], "arguments": call["args"]}}
                for call in done.tool_calls
            ]
        return said

    def _counts(self, outcome: Outcome) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "done_reason": "length" if finish_reason(outcome) == "length" else "stop",
            "total_duration": int((time.perf_counter() - self._begun) * 1e9),
            "cascade": report([outcome]),
        }
        if outcome.usage.known:
            counts["prompt_eval_count"] = outcome.usage.input_tokens
            counts["eval_count"] = outcome.usage.output_tokens
        logprobs = logprobs_of(outcome.completion, self._alternatives) if self._logprobs else None
        return counts if logprobs is None else counts | {"logprobs": logprobs}


# --- models


async def tags(request: Request, gateway: Gateway) -> Response:
    """List the models that this key may ask for."""
    key = await gateway.key_of(request)
    there = [gateway.model(name, key) for name in gateway.models(key)]
    own = {"modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": ""}
    return json_response(
        {
            "models": [
                {"name": s.name, "model": s.name, **own, "details": _details(s)} for s in there
            ]
        }
    )


async def show(request: Request, gateway: Gateway) -> Response:
    """Show one model."""
    key = await gateway.key_of(request)
    body, _ = await read_body(request, ShowRequest)
    name = body.model or body.name
    if not name:
        raise ServiceError(400, "model: which one?", param="model")
    served = gateway.model(name, key)
    tiers = [tier.model.name for tier in served.cascade.tiers]
    return json_response(
        {
            "modelfile": f"# a cascade: {' → '.join(tiers)}",
            "parameters": "",
            "template": "",
            "details": _details(served),
            "model_info": {"general.architecture": "cascade", "cascade.tiers": tiers},
            "capabilities": ["completion", "tools"],
            "modified_at": "1970-01-01T00:00:00Z",
        }
    )


async def version(request: Request, gateway: Gateway) -> Response:
    """The version of Ollama's API that is spoken here."""
    del request, gateway
    return json_response({"version": VERSION, "gateway": __version__})


def _details(served: Served) -> dict[str, Any]:
    families = list(dict.fromkeys(tier.model.provider for tier in served.cascade.tiers))
    own = {"parent_model": "", "format": "cascade", "family": "cascade", "families": families}
    return {**own, "parameter_size": "", "quantization_level": ""}
