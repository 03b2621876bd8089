"""Anthropic's Messages API: `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import json
from typing import Any, Literal
from uuid import uuid4

from anthropic.types import OutputConfigParam, ToolChoiceParam
from fastapi import APIRouter, Request, Response
from langchain_core.messages import AnyMessage
from pydantic import BaseModel, Field

from cascade.run import Settings
from cascade.service import wire
from cascade.service.faults import ServiceError
from cascade.service.gateway import Reply, Route, Served, asked_by
from cascade.service.wire import content_of, sent_event
from cascade.state import Usage

router = APIRouter(tags=["Anthropic"], route_class=Route)

Blocks = list[dict[str, Any]]


class AnthropicMessage(BaseModel):
    """Message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class CountRequest(wire.AnyRequest):
    """Conversation whose tokens are counted."""

    messages: list[AnthropicMessage] = Field(min_length=1)
    system: str | Blocks | None = None
    tools: Blocks | None = None
    tool_choice: ToolChoiceParam | None = None


class MessagesRequest(CountRequest):
    """Conversation to be answered."""

    max_tokens: wire.Count
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    temperature: wire.Temperature | None = None
    output_config: OutputConfigParam | None = None


COUNT = "/v1/messages/count_tokens"


@router.post(COUNT, openapi_extra=wire.takes(COUNT, CountRequest))
async def count_tokens(request: Request) -> Response:
    """Count the tokens of a conversation, roughly: by its characters, since no tier is asked."""
    gateway, key = await asked_by(request)
    body, size = await wire.read_body(request, CountRequest)
    gateway.model(body.model, key)
    conversation(body)
    tokens = max(1, -(-size // 4))  # characters of English text
    return wire.json_response({"input_tokens": tokens}, {"x-cascade-basis": "estimated"})


# --- reading


def _read(body: MessagesRequest, served: Served) -> tuple[list[AnyMessage], Settings]:
    form = (body.output_config or {}).get("format")
    choice: dict[str, Any] = {**(body.tool_choice or {})} if body.tools else {}
    names = {"any": "required", "tool": choice.get("name")}
    settings = wire.settings_of(
        served,
        body,
        wire.schema_format(schema=form["schema"]) if form else None,
        tools=[_tool(tool, number) for number, tool in enumerate(body.tools or ())],
        tool_choice=names.get(kind, kind) if (kind := choice.get("type")) else None,
    )
    return conversation(body), settings


def _tool(tool: dict[str, Any], number: int) -> dict[str, Any]:
    match tool:
        case {"name": str(name), "input_schema": dict(schema)}:
            about = {"description": tool["description"]} if tool.get("description") else {}
            function = {"name": name, "parameters": schema, **about}
            return wire.marked({"type": "function", "function": function}, tool)
    said = f"{tool.get('type', 'a tool')!r:.40}: the models of a cascade can share tools with a "
    raise wire.unsupported(f"tools.{number}", f"{said}name and an input_schema only.")


def conversation(body: CountRequest) -> list[AnyMessage]:
    """The messages: each result of a tool is one of its own, as in other protocols, and comes
    first. `cache_control` stays on the blocks that have it."""
    found = list[AnyMessage]()
    if body.system:
        found.append(wire.message_of("system", content_of(body.system, "system")))
    for number, message in enumerate(body.messages):
        content, place = message.content, f"messages.{number}.content"
        calls, rest = Blocks(), Blocks()
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            match block:
                case {"type": "tool_result", "tool_use_id": str(call_id)}:
                    said = content_of(block.get("content") or "", place)
                    if block.get("is_error"):
                        said = f"Error: {said}" if isinstance(said, str) else ["Error: ", *said]
                    found.append(wire.message_of("tool", said, call_id=call_id))
                case {"type": "tool_use", "id": call_id, "name": name, "input": given}:
                    calls.append({"id": call_id, "name": name, "arguments": given})
                case {"type": "thinking" | "redacted_thinking"}:  # another model's, of no use here
                    pass
                case _:
                    rest.append(block)
        if rest or message.role == "assistant":
            found.append(wire.message_of(message.role, content_of(rest, place), calls))
    return found


# --- writing


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens in Anthropic's form, where cached ones stand beside the input."""
    read, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
    hour = min(written, usage.cache_write_1h_tokens or 0)
    kept = {"ephemeral_5m_input_tokens": written - hour, "ephemeral_1h_input_tokens": hour}
    return {
        "input_tokens": max(0, (usage.input_tokens or 0) - read - written),
        "output_tokens": usage.output_tokens or 0,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "cache_creation": kept,
    }


class _MessageWriter(wire.Writer):
    """Message: whole, or as Anthropic's events."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, body: MessagesRequest) -> None:
        self._model, self._id = body.model, f"msg_{uuid4().hex}"
        self._open = False

    def whole(self, reply: Reply) -> dict[str, Any]:
        content: Blocks = [
            {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["args"]}
            for call in reply.completion.tool_calls
        ]
        if reply.text:
            content.insert(0, {"type": "text", "text": reply.text, "citations": None})
        reasons = {"tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
        reason = "refusal" if reply.refusal else reasons.get(reply.finish_reason, "end_turn")
        usage, facts = _usage(reply.completion.usage), reply.way.facts()
        return self._message(content=content, stop_reason=reason, usage=usage, cascade=facts)

    def stream(self) -> wire.Stream:
        began = sent_event("message_start", message=self._message(usage=_usage(Usage())))
        said = yield began + self.ping
        while isinstance(said, str):
            said = yield self._text(said)
        if isinstance(said, ServiceError):
            yield sent_event("error", **said.body("/v1/messages"))
            return
        whole, made = self.whole(said), self._text(said.refusal) if said.refusal else b""
        for index, block in enumerate(whole["content"]):
            if block["type"] == "tool_use":
                delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
                empty = {**block, "input": {}}
                made += sent_event("content_block_start", index=index, content_block=empty)
                made += sent_event("content_block_delta", index=index, delta=delta)
            made += sent_event("content_block_stop", index=index)
        ended = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
        last = {name: whole[name] for name in ("usage", "cascade")}
        yield made + sent_event("message_delta", delta=ended, **last) + sent_event("message_stop")

    def _text(self, text: str) -> bytes:
        opened = b""
        if not self._open:
            self._open, block = True, {"type": "text", "text": ""}
            opened = sent_event("content_block_start", index=0, content_block=block)
        delta = {"type": "text_delta", "text": text}
        return opened + sent_event("content_block_delta", index=0, delta=delta)

    def _message(self, **more: Any) -> dict[str, Any]:
        own = {"id": self._id, "type": "message", "role": "assistant", "model": self._model}
        return {**own, "content": [], "stop_reason": None, "stop_sequence": None, **more}


wire.serves(router, "/v1/messages", MessagesRequest, _read, _MessageWriter)
