"""Ollama's API: `/api/chat`, `/api/generate`, `/api/tags`, `/api/show`, `/api/version`."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from langchain_core.messages import AnyMessage
from ollama import Message
from openai.types.chat import ChatCompletionFunctionTool
from pydantic import BaseModel, Field, StrictBool, StrictFloat, StrictInt

from cascade._version import __version__
from cascade.run import Settings
from cascade.service import wire
from cascade.service.faults import ServiceError
from cascade.service.gateway import Reply, Route, Served, asked_by

router = APIRouter(tags=["Ollama"], route_class=Route)


class OllamaMessage(BaseModel):
    """Message of the conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = Field(default=None, description="Base64.")
    tool_calls: list[Message.ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaOptions(BaseModel, extra="allow"):
    """Options that are not the same for every provider; others go on as they are."""

    num_predict: StrictInt | None = None
    temperature: StrictFloat | None = None
    seed: StrictInt | None = None
    stop: str | list[str] | None = None


class OllamaRequest(wire.AnyRequest):
    """Common part of chats and prompts."""

    stream: StrictBool | None = Field(default=True, description="By default true.")
    options: OllamaOptions | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    tools: list[ChatCompletionFunctionTool] | None = None


class OllamaChatRequest(OllamaRequest):
    """Conversation to be answered."""

    messages: list[OllamaMessage] = Field(default_factory=list)


class OllamaGenerateRequest(OllamaRequest):
    """Prompt to be answered."""

    prompt: str = ""
    system: str | None = None
    images: list[str] | None = Field(default=None, description="Base64.")

    @property
    def messages(self) -> list[OllamaMessage]:
        """The prompt as a conversation; none asks nothing."""
        told = [OllamaMessage(role="system", content=self.system)] if self.system else []
        asked = OllamaMessage(role="user", content=self.prompt, images=self.images)
        return [*told, asked] if self.prompt or self.images else []


# --- reading


def _read(
    body: OllamaChatRequest | OllamaGenerateRequest, served: Served
) -> tuple[list[AnyMessage], Settings]:
    given, extra = body.options or OllamaOptions(), {**(body.model_extra or {})}
    for name in ("suffix", "template", "context", "raw"):
        if extra.pop(name, None):
            raise wire.unsupported(name, "a cascade answers conversations: use /api/chat.")
    form = {"type": "json_object"} if body.format else None
    if isinstance(body.format, dict):
        form = wire.schema_format(schema=body.format)
    limit = given.num_predict or 0
    settings = wire.settings_of(
        served,
        given,
        form,
        {**extra, **(given.model_extra or {})},
        tools=[tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
        max_tokens=limit if limit > 0 else None,  # below 0: as long as it takes
    )
    return _messages(body.messages), settings


def _messages(given: list[OllamaMessage]) -> list[AnyMessage]:
    """The conversation; calls without ids get some, and results find them: the next of the tool
    that they name, or the next where they name none."""
    found = list[AnyMessage]()
    left = defaultdict[str | None, deque[str]](deque)  # by the tool's name, and None for all
    for position, message in enumerate(given):
        calls: list[dict[str, Any]] = [
            {"id": f"call_{position}_{index}", **call.function.model_dump()}
            for index, call in enumerate(message.tool_calls or ())
        ]
        for call in calls:
            left[None].append(call["id"])
            left[call["name"]].append(call["id"])
        call_id, name = message.tool_call_id, message.tool_name
        if message.role == "tool" and call_id is None:
            if not left[name]:
                said = f"messages: the result of {name or 'a tool'!r} has no call before it."
                raise ServiceError(400, said, param="messages")
            call_id = left[name].popleft()
        content: str | list[Any] = message.content or ""
        if message.images:
            kinds = {"/9j/": "jpeg", "R0lG": "gif", "UklG": "webp"}  # by the first bytes
            urls = [f"data:image/{kinds.get(x[:4], 'png')};base64,{x}" for x in message.images]
            content = [{"type": "text", "text": content}, *map(wire.image_part, urls)]
        found.append(wire.message_of(message.role, content, calls, call_id=call_id, name=name))
    return found


# --- writing


class _LineWriter(wire.Writer):
    """Ollama's lines of JSON; the last one has the counts and the extension `cascade`. While it
    waits it sends spaces, which stand before the JSON of the next line."""

    media_type = "application/x-ndjson"
    ping = b" "

    def __init__(self, body: OllamaRequest) -> None:
        self._model, self._chats = body.model, isinstance(body, OllamaChatRequest)
        self._begun = time.perf_counter()

    def loaded(self) -> dict[str, Any]:
        return {**self._line("", done=True), "done_reason": "load"}

    def whole(self, reply: Reply) -> dict[str, Any]:
        return self._line(reply.text, done=True, **_said(reply)) | self._counts(reply)

    def stream(self) -> wire.Stream:
        said = yield b""
        while isinstance(said, str):
            said = yield wire.json_bytes(self._line(said, done=False)) + b"\n"
        if isinstance(said, ServiceError):
            yield wire.json_bytes(said.body("/api/chat")) + b"\n"
            return
        last, more = b"", _said(said)
        if said.refusal or more:
            last = wire.json_bytes(self._line(said.refusal or "", done=False, **more)) + b"\n"
        yield last + wire.json_bytes(self._line("", done=True) | self._counts(said)) + b"\n"

    def _line(self, text: str, *, done: bool, **more: Any) -> dict[str, Any]:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        said: dict[str, Any] = {"response": text, **more}
        if self._chats:
            said = {"message": {"role": "assistant", "content": text, **more}}
        return {"model": self._model, "created_at": at, **said, "done": done}

    def _counts(self, reply: Reply) -> dict[str, Any]:
        usage = reply.completion.usage
        counts = {"prompt_eval_count": usage.input_tokens, "eval_count": usage.output_tokens}
        return (counts if usage.known else {}) | {
            "done_reason": "length" if reply.finish_reason == "length" else "stop",
            "total_duration": int((time.perf_counter() - self._begun) * 1e9),
            "cascade": reply.way.facts(),
        }


def _said(reply: Reply) -> dict[str, Any]:
    """Fields of an answer beside its text."""
    done = reply.completion
    calls = [{"function": {"name": c["name"], "arguments": c["args"]}} for c in done.tool_calls]
    said = {"thinking": done.thinking, "tool_calls": calls}
    return {name: value for name, value in said.items() if value}


wire.serves(router, "/api/chat", OllamaChatRequest, _read, _LineWriter)
wire.serves(router, "/api/generate", OllamaGenerateRequest, _read, _LineWriter)

# --- models


@router.get("/api/tags")
async def tags(request: Request) -> Response:
    """List the models that this key may ask for."""
    gateway, key = await asked_by(request)
    there = [gateway.model(name, key) for name in gateway.models(key)]
    return wire.json_response({"models": [_card(served) for served in there]})


@router.post("/api/show", openapi_extra=wire.takes("/api/show", wire.AnyRequest))
async def show(request: Request) -> Response:
    """Show one model."""
    gateway, key = await asked_by(request)
    body, _ = await wire.read_body(request, wire.AnyRequest)
    served = gateway.model(body.model, key)
    info = {"general.architecture": "cascade", "cascade.tiers": [*served.models.values()]}
    more = {"model_info": info, "capabilities": ["completion", "tools"]}
    return wire.json_response(_card(served) | more)


@router.get("/api/version")
async def version(_: Request) -> Response:
    """The version of Ollama's API that is spoken here; clients compare it with what they need."""
    return wire.json_response({"version": "0.12.11", "gateway": __version__})


def _card(served: Served) -> dict[str, Any]:
    families = list(dict.fromkeys(tier.model.provider for tier in served.cascade.tiers))
    details = {"format": "cascade", "family": "cascade", "families": families}
    made = {"modified_at": "1970-01-01T00:00:00Z", "size": 0, "digest": ""}
    return {"name": served.name, "model": served.name, **made, "details": details}
