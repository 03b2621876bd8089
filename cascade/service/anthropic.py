"""Anthropic's Messages API: `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Literal
from uuid import uuid4

from anthropic.types import Message, MessageTokensCount
from langchain_core.messages import AnyMessage, SystemMessage
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from cascade.events import Event, Token
from cascade.run import Settings
from cascade.service.faults import ServiceError
from cascade.service.gateway import Gateway, Outcome, Served
from cascade.service.openai import parameters
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
from cascade.state import Usage

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly: tokens are counted without asking a model."""

IGNORED = frozenset(
    [
        "metadata",
        "service_tier",
        "thinking",
        "context_management",
        "output_config",
        "betas",
        "container",
    ]
)
"""Parameters that coding assistants send with every request and that cascades have no use for; the
header `x-cascade-ignored` names those that were given."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


Blocks = list[dict[str, Any]]


class InputMessage(_Wire):
    """Message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class InputTool(_Wire):
    """Tool that the model may call."""

    type: str | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(_Wire):
    """Whether a tool has to be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: StrictBool | None = None


class CountRequest(_Wire):
    """Conversation whose tokens are counted."""

    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    messages: list[InputMessage] = Field(min_length=1)
    system: str | Blocks | None = None
    tools: list[InputTool] | None = None
    tool_choice: ToolChoice | None = None


class MessagesRequest(CountRequest):
    """Conversation to be answered.

    What is not listed here goes to every tier as it is; a tier that does not know it refuses it.
    """

    max_tokens: StrictInt = Field(ge=1)
    stream: StrictBool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: StrictInt | None = Field(default=None, ge=0)
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


async def messages(request: Request, gateway: Gateway) -> Response:
    """Answer a conversation."""
    began = time.monotonic()
    key = await gateway.key_of(request)
    body, size = await read_body(request, MessagesRequest)
    served = gateway.model(body.model, key)
    extra = body.model_extra or {}
    question = asked(
        request,
        body.model,
        conversation(body),
        _settings(body, served),
        body.cascade,
        size=size,
        stream=body.stream or False,
        ignored=sorted(name for name in extra.keys() & IGNORED if extra[name] is not None),
    )
    writing = Events(body.model)
    return await reply(request, gateway, key, question, began, writing.whole, writing)


async def count_tokens(request: Request, gateway: Gateway) -> Response:
    """Count the tokens of a conversation, roughly: by its characters, since no tier is asked."""
    key = await gateway.key_of(request)
    body, size = await read_body(request, CountRequest)
    gateway.model(body.model, key)
    conversation(body)
    tokens = MessageTokensCount(input_tokens=max(1, -(-size // CHARACTERS_PER_TOKEN)))
    return json_response(tokens.model_dump(), {"x-cascade-basis": "estimated"})


# --- reading


def conversation(body: CountRequest) -> list[AnyMessage]:
    """The messages; `cache_control` stays on the blocks that have it.

    Raises:
        ServiceError: 400, a block cannot be read.
    """
    found = list[AnyMessage]()
    if body.system:
        content = body.system if isinstance(body.system, str) else _content(body.system, "system")
        found.append(SystemMessage(content))
    for number, message in enumerate(body.messages):
        place = f"messages.{number}.content"
        if isinstance(message.content, str):
            found.append(message_of(message.role, message.content))
        elif message.role == "assistant":
            found.append(_assistant(message.content, place))
        else:
            found += _user(message.role, message.content, place)
    return found


def _user(role: str, blocks: Blocks, place: str) -> list[AnyMessage]:
    """Results of tools come first, each a message of its own, as other protocols have them."""
    found, rest = list[AnyMessage](), list[dict[str, Any]]()
    for block in blocks:
        if block.get("type") != "tool_result":
            rest.append(block)
            continue
        content = block.get("content") or ""
        if not isinstance(content, str):
            content = _content(_blocks(content, place), place)
        if block.get("is_error"):
            content = f"Error: {content}" if isinstance(content, str) else ["Error: ", *content]
        found.append(message_of("tool", content, call_id=str(block.get("tool_use_id") or "")))
    if rest:
        found.append(message_of(role, _content(rest, place)))
    return found


def _assistant(blocks: Blocks, place: str) -> AnyMessage:
    texts, calls = list[dict[str, Any]](), list[dict[str, Any]]()
    for block in blocks:
        kind = block.get("type")
        if kind == "tool_use":
            call = {
                "id": block.get("id"),
                "name": block.get("name"),
                "arguments": block.get("input"),
            }
            calls.append(call)
        elif kind not in ("thinking", "redacted_thinking"):  # another model's, of no use to ours
            texts.append(block)
    return message_of("assistant", _content(texts, place), calls)


def _blocks(value: object, place: str) -> Blocks:
    if not isinstance(value, list) or not all(isinstance(block, dict) for block in value):
        raise ServiceError(400, f"{place}: give text or a list of blocks.", param=place)
    return value


def _content(blocks: Blocks, place: str) -> str | list[Any]:
    """Text where all of it is plain text, else parts in OpenAI's form."""
    parts = [_part(block, f"{place}.{number}") for number, block in enumerate(blocks)]
    if all(part.keys() == {"type", "text"} for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(block: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind, kept = block.get("type"), block.get("cache_control")
    marked = {} if kept is None else {"cache_control": kept}
    if kind == "text" and isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"], **marked}
    source = block.get("source")
    if kind == "image" and isinstance(source, Mapping):
        url = source.get("url")
        if source.get("type") == "base64":
            url = data_url(str(source.get("media_type")), str(source.get("data")))
        if isinstance(url, str):
            return {"type": "image_url", "image_url": {"url": url}, **marked}
    if kind == "document" and isinstance(source, Mapping):
        if source.get("type") == "text" and isinstance(source.get("data"), str):
            return {"type": "text", "text": source["data"], **marked}
        if source.get("type") == "base64":
            data = data_url(str(source.get("media_type")), str(source.get("data")))
            name = str(block.get("title") or "document.pdf")
            return {"type": "file", "file": {"filename": name, "file_data": data}, **marked}
    said = (
        f"{place}: blocks of type {kind!r:.40} are not taken in this form; text, image, document, "
    )
    raise ServiceError(400, said + "tool_use and tool_result are.", param=place)


def _settings(body: MessagesRequest, served: Served) -> Settings:
    extra = {n: v for n, v in (body.model_extra or {}).items() if n not in IGNORED}
    extra |= {"top_p": body.top_p, "top_k": body.top_k}
    settings = Settings(extra=parameters(extra, served), max_tokens=body.max_tokens)
    if body.temperature is not None:
        settings["temperature"] = body.temperature
    if body.stop_sequences:
        settings["stop"] = body.stop_sequences
    for number, tool in enumerate(body.tools or ()):
        if tool.type not in (None, "custom") or tool.input_schema is None:
            said = f"{tool.type or 'a tool without input_schema'}: the models of a cascade can "
            raise unsupported(f"tools.{number}", said + "share tools with a schema only.")
        function = {"name": tool.name, "parameters": tool.input_schema}
        if tool.description is not None:
            function["description"] = tool.description
        kept = (tool.model_extra or {}).get("cache_control")
        marked = {} if kept is None else {"cache_control": kept}
        settings.setdefault("tools", []).append(
            {"type": "function", "function": function, **marked}
        )
    plain(settings.get("tools"), "tools")
    if (choice := body.tool_choice) is not None and body.tools:
        names = {"any": "required", "tool": choice.name}
        settings["tool_choice"] = names.get(choice.type, choice.type)
    return settings


# --- writing


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens in Anthropic's form, where cached ones stand beside the input."""
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    hour = min(written, usage.cache_write_1h_tokens or 0)
    return {
        "input_tokens": max(0, (usage.input_tokens or 0) - read - written),
        "output_tokens": usage.output_tokens or 0,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        },
    }


_REASONS = {"tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}


def _stop_reason(outcome: Outcome) -> str:
    if outcome.result.abstained:
        return "refusal"
    return _REASONS.get(finish_reason(outcome), "end_turn")


class Events(Rendering):
    """Messages: an answer as a whole, or as Anthropic's events."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, model: str) -> None:
        self._model, self._id = model, f"msg_{uuid4().hex}"
        self._shown, self._open, self._blocks = 0, False, 0

    def whole(self, outcomes: list[Outcome]) -> dict[str, Any]:
        """The message."""
        (outcome,) = outcomes
        text, content = refusal(outcome) or outcome.result.answer, list[dict[str, Any]]()
        if text:
            content.append({"type": "text", "text": text, "citations": None})
        content += self._calls(outcome)
        made = self._message(
            content=content, stop_reason=_stop_reason(outcome), usage=_usage(outcome.usage)
        )
        return made | {"cascade": report(outcomes)}

    @override
    def begin(self) -> bytes:
        return self._say("message_start", message=self._message(usage=_usage(Usage()))) + self.ping

    @override
    def event(self, number: int, event: Event) -> bytes:
        del number
        return self._text(event.text) if isinstance(event, Token) and event.text else b""

    @override
    def end(self, outcomes: list[Outcome]) -> bytes:
        (outcome,) = outcomes
        text, pieces = refusal(outcome) or outcome.result.answer, list[bytes]()
        if rest := text[self._shown :]:
            pieces.append(self._text(rest))
        if self._open:
            pieces.append(self._say("content_block_stop", index=0))
        for index, call in enumerate(self._calls(outcome), int(self._open)):
            block = {**call, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(call["input"])}
            pieces += [
                self._say("content_block_start", index=index, content_block=block),
                self._say("content_block_delta", index=index, delta=delta),
                self._say("content_block_stop", index=index),
            ]
        ended = {"stop_reason": _stop_reason(outcome), "stop_sequence": None}
        last = {"delta": ended, "usage": _usage(outcome.usage), "cascade": report(outcomes)}
        return b"".join([*pieces, self._say("message_delta", **last), self._say("message_stop")])

    @override
    def failed(self, fault: ServiceError) -> bytes:
        return b"event: error\ndata: " + json_bytes(fault.body("anthropic")) + b"\n\n"

    def _calls(self, outcome: Outcome) -> list[dict[str, Any]]:
        done = outcome.completion
        return [
            {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["args"]}
            for call in (() if done is None else done.tool_calls)
        ]

    def _message(self, **more: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"id": self._id, "type": "message", "role": "assistant"}
        body["model"] = self._model
        body |= {"content": [], "stop_reason": None, "stop_sequence": None}
        made = Message.model_validate(body | more)
        return made.model_dump(mode="json", exclude_unset=True)

    def _text(self, text: str) -> bytes:
        opened = b""
        if not self._open:
            self._open = True
            block = {"type": "text", "text": ""}
            opened = self._say("content_block_start", index=0, content_block=block)
        self._shown += len(text)
        delta = {"type": "text_delta", "text": text}
        return opened + self._say("content_block_delta", index=0, delta=delta)

    def _say(self, kind: str, **content: Any) -> bytes:
        return (
            b"event: "
            + kind.encode()
            + b"\ndata: "
            + json_bytes({"type": kind, **content})
            + b"\n\n"
        )
