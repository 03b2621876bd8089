"""OpenAI's protocol: `/v1/chat/completions`, `/v1/responses`, `/v1/models`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from langchain_core.messages import AIMessage, AnyMessage, ToolCall
from openai.types import Reasoning, chat
from openai.types.chat.completion_create_params import ResponseFormat
from openai.types.responses import FunctionTool, ResponseFormatTextConfigParam, ToolChoiceFunction
from pydantic import BaseModel, Field, StrictBool, StrictInt

from cascade.models.logprobs import to_openai
from cascade.run import Settings
from cascade.service import wire
from cascade.service.faults import ServiceError
from cascade.service.gateway import Reply, Route, Served, asked_by

router = APIRouter(tags=["OpenAI"], route_class=Route)

BY_TYPE = Field(discriminator="type")
Choice = Literal["none", "auto", "required"]

# --- chat completions


class Message(BaseModel):
    """Message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[chat.ChatCompletionMessageFunctionToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class ChatRequest(wire.AnyRequest):
    """Conversation to be answered."""

    messages: list[Message] = Field(min_length=1)
    stream_options: dict[str, Any] | None = None
    n: Literal[1] | None = Field(default=None, description="Each answer is a request of its own.")
    tools: list[chat.ChatCompletionFunctionTool] | None = None
    tool_choice: Choice | chat.ChatCompletionNamedToolChoiceParam | None = None
    response_format: Annotated[ResponseFormat, BY_TYPE] | None = None
    temperature: wire.Temperature | None = None
    max_tokens: wire.Count | None = None
    max_completion_tokens: wire.Count | None = None
    stop: str | list[str] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None


def _read_chat(body: ChatRequest, served: Served) -> tuple[list[AnyMessage], Settings]:
    choice, alternatives = body.tool_choice, body.top_logprobs
    settings = wire.settings_of(
        served,
        body,
        body.response_format,
        tools=[tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
        tool_choice=choice["function"]["name"] if isinstance(choice, dict) else choice,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        top_logprobs=(alternatives or 0) if body.logprobs or alternatives else None,
    )
    return [_message(message, f"messages.{n}") for n, message in enumerate(body.messages)], settings


def _message(message: Message, place: str) -> AnyMessage:
    call_id, name = message.tool_call_id, message.name
    if message.role == "tool" and not call_id:
        raise ServiceError(400, f"{place}: one of role tool needs tool_call_id.", param=place)
    calls = [{"id": c.id, **c.function.model_dump()} for c in message.tool_calls or ()]
    content = wire.content_of(message.content or message.refusal or "", f"{place}.content")
    return wire.message_of(message.role, content, calls, call_id=call_id, name=name)


def _usage(reply: Reply, given: str, made: str, **details: Any) -> dict[str, Any] | None:
    """Tokens under the names that a form of OpenAI has; None where they are unknown."""
    usage = reply.completion.usage
    if not usage.known:
        return None
    return {
        given: usage.input_tokens or 0,
        f"{given}_details": {"cached_tokens": usage.cached_tokens or 0, **details},
        made: usage.output_tokens or 0,
        f"{made}_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": (usage.input_tokens or 0) + (usage.output_tokens or 0),
    }


def _function(call: ToolCall) -> dict[str, Any]:
    """What is called, in OpenAI's form."""
    return {"name": call["name"], "arguments": json.dumps(call["args"])}


class _ChatWriter(wire.Writer):
    """Chat completion: whole, or as chunks; the last has the finish reason and `cascade`."""

    def __init__(self, body: ChatRequest) -> None:
        own, self._body = f"chatcmpl-{uuid4().hex}", body
        self._head = {"id": own, "created": int(time.time()), "model": body.model}
        self._usage = {"usage": None} if (body.stream_options or {}).get("include_usage") else {}

    def whole(self, reply: Reply) -> dict[str, Any]:
        made = reply.completion.tool_calls
        calls = [{"id": c["id"], "type": "function", "function": _function(c)} for c in made]
        text = reply.completion.text or (None if calls or reply.refusal else "")
        message = {"role": "assistant", "content": text, "refusal": reply.refusal}
        choice = {"index": 0, "finish_reason": reply.finish_reason, "logprobs": None}
        choice["message"] = message | ({"tool_calls": calls} if calls else {})
        wanted, found = self._body.top_logprobs or 0, reply.completion.logprobs
        if (self._body.logprobs or wanted) and found is not None:
            content = [to_openai(each, wanted) for each in found]
            choice["logprobs"] = {"content": content, "refusal": None}
        usage = _usage(reply, "prompt_tokens", "completion_tokens")
        answer = {**self._head, "object": "chat.completion", "choices": [choice]}
        return answer | {"usage": usage, "cascade": reply.way.facts()}

    def stream(self) -> wire.Stream:
        # Most of a stream: only the text of a piece is written anew.
        before, after = self._chunk({"content": "\0"}).split(b'"\\u0000"')
        said = yield self._chunk({"role": "assistant", "content": ""})
        while isinstance(said, str):
            said = yield before + wire.json_bytes(said) + after
        if isinstance(said, ServiceError):
            yield b"data: " + wire.json_bytes(said.body("/v1/chat/completions")) + b"\n\n"
            return
        whole = self.whole(said)
        (choice,) = whole["choices"]
        calls = choice.pop("message").get("tool_calls", ())
        last = [self._chunk({"refusal": said.refusal})] if said.refusal else []
        last += [self._chunk({"tool_calls": [{"index": n, **c}]}) for n, c in enumerate(calls)]
        last.append(self._event([{**choice, "delta": {}}], cascade=whole["cascade"]))
        if self._usage:
            last.append(self._event([], usage=whole["usage"]))
        yield b"".join([*last, b"data: [DONE]\n\n"])

    def _chunk(self, delta: dict[str, Any]) -> bytes:
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        return b"data: " + wire.json_bytes({**chunk, **self._usage, **more}) + b"\n\n"


wire.serves(router, "/v1/chat/completions", ChatRequest, _read_chat, _ChatWriter)

# --- models


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """List the models that this key may ask for."""
    gateway, key = await asked_by(request)
    return wire.json_response({"object": "list", "data": [*map(_card, gateway.models(key))]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Show one model."""
    gateway, key = await asked_by(request)
    return wire.json_response(_card(gateway.model(name, key).name))


def _card(name: str) -> dict[str, Any]:
    own = {"id": name, "object": "model", "created": 0, "owned_by": "cascade"}
    made = {"display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {**own, "type": "model", **made}  # for clients of OpenAI and of Anthropic


# --- responses


class TextOptions(BaseModel):
    """Options of the answer's text."""

    format: Annotated[ResponseFormatTextConfigParam, BY_TYPE] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseRequest(wire.AnyRequest):
    """Input to be answered."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Choice | ToolChoiceFunction | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    temperature: wire.Temperature | None = None
    max_tokens: wire.Count | None = Field(default=None, alias="max_output_tokens")
    truncation: Literal["disabled"] | None = None


def _read_response(body: ResponseRequest, served: Served) -> tuple[list[AnyMessage], Settings]:
    extra = {**(body.model_extra or {})}
    for name in ("previous_response_id", "conversation", "background"):
        if extra.pop(name, None):
            why = "an answer comes at once and is not stored: give the whole conversation as input."
            raise wire.unsupported(name, why)
    text, choice = body.text or TextOptions(), body.tool_choice
    effort = body.reasoning.effort if body.reasoning else None
    extra |= {"verbosity": text.verbosity, "reasoning_effort": effort}
    form: Mapping[str, Any] | None = text.format
    if form is not None and form["type"] == "json_schema":
        form = wire.schema_format(**{name: v for name, v in form.items() if name != "type"})
    functions = [t.model_dump(exclude={"type"}, exclude_unset=True) for t in body.tools or ()]
    settings = wire.settings_of(
        served,
        body,
        form,
        extra,
        tools=[{"type": "function", "function": each} for each in functions],
        tool_choice=choice.name if isinstance(choice, ToolChoiceFunction) else choice,
    )
    told = [wire.message_of("system", body.instructions)] if body.instructions else []
    return [*told, *_conversation(body.input)], settings


def _conversation(given: str | list[dict[str, Any]]) -> list[AnyMessage]:
    """The conversation; calls in a row are one message."""
    found = list[AnyMessage]()
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for number, item in enumerate(items):
        match {"type": "message", **item}:
            case {"type": "reasoning"}:  # another model's, of no use to ours
                pass
            case {"type": "function_call_output", "call_id": str(call_id), "output": output}:
                content = wire.content_of(output, f"input.{number}.output")
                found.append(wire.message_of("tool", content, call_id=call_id))
            case {"type": "function_call", "call_id": str(i), "name": name, "arguments": args}:
                call = {"id": i, "name": name, "arguments": args}
                made = wire.message_of("assistant", "", [call])
                last = found[-1] if found else None
                if isinstance(last, AIMessage) and isinstance(made, AIMessage):
                    last.tool_calls += made.tool_calls
                else:
                    found.append(made)
            case {
                "type": "message",
                "role": ("user" | "system" | "developer" | "assistant") as role,
                "content": said,
            }:
                content = wire.content_of(said, f"input.{number}.content")
                found.append(wire.message_of(role, content))
            case _:
                raise wire.unreadable(f"input.{number}", item)
    return found


class _ResponseWriter(wire.Writer):
    """Response: whole, or as OpenAI's events, each with its number."""

    def __init__(self, body: ResponseRequest) -> None:
        given = body.model_dump(include={"tools", "tool_choice"}, exclude_none=True)
        tools = [{"strict": None, "parameters": None, **tool} for tool in given.pop("tools", ())]
        head = {"id": f"resp_{uuid4().hex}", "object": "response", "created_at": int(time.time())}
        usual = {"output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": tools}
        none = dict.fromkeys(("error", "incomplete_details", "usage"))
        self._response = {**head, "model": body.model, **usual, **none, **given}
        self._message = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant"}
        self._number = -1

    def whole(self, reply: Reply) -> dict[str, Any]:
        short = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = short.get(reply.finish_reason)
        status, usage = "incomplete" if reason else "completed", reply.completion.usage
        about = {"type": "function_call", "status": "completed"}
        output = [
            {"id": f"fc_{n}_{call['id']}", "call_id": call["id"], **_function(call), **about}
            for n, call in enumerate(reply.completion.tool_calls)
        ]
        if reply.text or not output:
            part = _part(reply.completion.text, reply.refusal)
            output.insert(0, {**self._message, "status": status, "content": [part]})
        written = {"cache_write_tokens": usage.cache_write_tokens or 0}
        return self._response | {
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": output,
            "usage": _usage(reply, "input_tokens", "output_tokens", **written),
            "cascade": reply.way.facts(),
        }

    def stream(self) -> wire.Stream:
        begun, opened = {"response": self._response | {"status": "in_progress"}}, False
        said = yield self._say("created", **begun) + self._say("in_progress", **begun)
        while isinstance(said, str):
            opening, opened = b"" if opened else self._opened(_part("")), True
            said = yield opening + self._say_part("output_text.delta", delta=said, logprobs=[])
        if isinstance(said, ServiceError):
            error = {"code": said.code, "message": said.message}
            ended = self._response | {"status": "failed", "error": error}
            failed = self._say("error", **error, param=said.param)
            yield failed + self._say("failed", response=ended)
            return
        body, made = self.whole(said), b""
        for index, item in enumerate(body["output"]):
            if item["type"] == "message":
                (part,) = item["content"]
                made += b"" if opened else self._opened(_part("", said.refusal and ""))
                if said.refusal:
                    made += self._say_part("refusal.delta", delta=said.refusal)
                content = {name: value for name, value in part.items() if name != "type"}
                made += self._say_part(f"{part['type']}.done", **content)
                made += self._say_part("content_part.done", part=part)
            else:
                place = {"item_id": item["id"], "output_index": index}
                arguments, about = item["arguments"], "function_call_arguments"
                added = item | {"status": "in_progress", "arguments": ""}
                made += self._say("output_item.added", output_index=index, item=added)
                made += self._say(f"{about}.delta", **place, delta=arguments)
                made += self._say(f"{about}.done", **place, name=item["name"], arguments=arguments)
            made += self._say("output_item.done", output_index=index, item=item)
        yield made + self._say(body["status"], response=body)

    def _opened(self, part: dict[str, Any]) -> bytes:
        """The beginning of the message: the first item, and its first part."""
        item = {**self._message, "status": "in_progress", "content": []}
        added = self._say("output_item.added", output_index=0, item=item)
        return added + self._say_part("content_part.added", part=part)

    def _say_part(self, kind: str, **content: Any) -> bytes:
        place = {"item_id": self._message["id"], "output_index": 0, "content_index": 0}
        return self._say(kind, **place, **content)

    def _say(self, kind: str, **content: Any) -> bytes:
        self._number += 1
        kind = kind if kind == "error" else f"response.{kind}"
        return wire.sent_event(kind, sequence_number=self._number, **content)


def _part(text: str, refusal: str | None = None) -> dict[str, Any]:
    if refusal is not None:
        return {"type": "refusal", "refusal": refusal}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


wire.serves(router, "/v1/responses", ResponseRequest, _read_response, _ResponseWriter)
