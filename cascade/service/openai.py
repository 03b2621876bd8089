"""OpenAI's protocol: `/v1/chat/completions`, `/v1/responses`, `/v1/models`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter
from langchain_core.messages import AIMessage, AnyMessage
from ollama import Options
from openai.types import Reasoning
from openai.types.chat import (
    ChatCompletionFunctionTool,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionNamedToolChoiceParam,
)
from openai.types.responses import FunctionTool, ToolChoiceFunction
from pydantic import BaseModel, Field, StrictBool, StrictFloat, StrictInt
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from cascade.run import Settings
from cascade.service import wire
from cascade.service.faults import ServiceError
from cascade.service.gateway import Outcome, Served
from cascade.state import Usage

router = APIRouter(tags=["OpenAI"])

Count = Annotated[StrictInt, Field(ge=1)]
Share = Annotated[StrictFloat, Field(ge=0, le=1)]
Temperature = Annotated[StrictFloat, Field(ge=0, le=2)]
Alternatives = Annotated[StrictInt, Field(ge=0, le=20)]

# --- parameters

_EVERYWHERE = {
    *("top_p", "top_k", "min_p", "typical_p", "seed", "frequency_penalty", "presence_penalty"),
    *("repetition_penalty", "repeat_penalty"),
}
_OPENAI_ONLY = {
    *("logit_bias", "modalities", "parallel_tool_calls", "reasoning_effort", "verbosity"),
    *("web_search_options", "chat_template_kwargs", "min_tokens", "ignore_eos"),
}
_OLLAMA_ONLY = {"keep_alive", "think", "truncate", "shift", *Options.model_fields} - _EVERYWHERE


def parameters(extra: Mapping[str, Any], served: Served) -> dict[str, Any]:
    """Parameters that go to every tier as they are; an error where one would ignore it."""
    given = {n: v for n, v in extra.items() if v is not None and n not in wire.IGNORED}
    for name in given:
        if name not in _EVERYWHERE | _OPENAI_ONLY | _OLLAMA_ONLY:
            why = "which models are asked, and how, is in the configuration of the service."
            raise wire.unsupported(name, f"it goes to no model; {why}")
        for tier in served.cascade.tiers:
            if name in (_OPENAI_ONLY if tier.model.provider == "ollama" else _OLLAMA_ONLY):
                why = f"the tier {tier.name!r} has no such parameter. Leave it out, or have it set "
                raise wire.unsupported(name, f"{why}in the options of the tier that has.")
    return given


def read_format(given: Mapping[str, Any] | None, settings: Settings, served: Served) -> None:
    """Put a response format, in the form of chat completions, into the settings: it goes on to the
    tiers as it came."""
    if given is None or given.get("type") == "text":
        return
    kind = given.get("type")
    schema = (given.get("json_schema") or {}).get("schema") if kind == "json_schema" else {}
    if kind not in ("json_object", "json_schema") or not isinstance(schema, dict):
        said = "response_format: text, json_object, or json_schema with a schema."
        raise ServiceError(400, said, param="response_format")
    settings["schema"] = schema if kind == "json_schema" else {"type": "object"}
    extra = settings.setdefault("extra", {})
    providers = {tier.model.provider for tier in served.cascade.tiers}
    if "ollama" not in providers:
        extra["response_format"] = dict(given)
    elif kind == "json_object" and providers == {"ollama"}:
        extra["format"] = "json"


def put(settings: Settings, **given: Any) -> None:
    """Set what is given."""
    settings.update({name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]


# --- chat completions


class Message(BaseModel):
    """Message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ChatCompletionMessageFunctionToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class ChatRequest(wire.Asked):
    """Conversation to be answered."""

    messages: list[Message] = Field(min_length=1)
    stream_options: dict[str, Any] | None = None
    n: Literal[1] | None = Field(default=None, description="Each answer is a request of its own.")
    tools: list[ChatCompletionFunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChatCompletionNamedToolChoiceParam | None = (
        None
    )
    response_format: dict[str, Any] | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    stop: str | list[str] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Alternatives | None = None


@router.post("/v1/chat/completions", openapi_extra=wire.takes(ChatRequest))
async def chat(request: Request) -> Response:
    """Answer a conversation."""
    return await wire.converse(request, ChatRequest, read_chat, ChatWriter)


def read_chat(body: ChatRequest, served: Served) -> tuple[list[AnyMessage], Settings]:
    """Messages and settings of a request."""
    extra = {**(body.model_extra or {}), "top_p": body.top_p}
    settings = Settings(extra=parameters(extra, served))
    if body.tools:
        settings["tools"] = [tool.model_dump(exclude_unset=True) for tool in body.tools]
    choice = body.tool_choice
    put(settings, tool_choice=choice["function"]["name"] if isinstance(choice, dict) else choice)
    read_format(body.response_format, settings, served)
    limit = body.max_completion_tokens or body.max_tokens
    put(settings, max_tokens=limit, temperature=body.temperature, seed=body.seed)
    if body.stop:
        settings["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    if body.logprobs or body.top_logprobs:
        settings["top_logprobs"] = body.top_logprobs or 0
    return [_message(message) for message in body.messages], settings


def _message(message: Message) -> AnyMessage:
    content = message.content or message.refusal or ""
    if isinstance(content, list):
        content = [_part(part) for part in content]
    if message.role == "tool" and not message.tool_call_id:
        raise ServiceError(400, "messages: one of role tool needs tool_call_id.", param="messages")
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in message.tool_calls or ()
    ]
    call_id, name = message.tool_call_id, message.name
    return wire.message_of(message.role, content, calls, call_id=call_id, name=name)


_PARTS = {"text": str, "refusal": str, "image_url": dict, "input_audio": dict, "file": dict}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind = str(part.get("type"))
    if kind not in _PARTS or not isinstance(part.get(kind), _PARTS[kind]):
        said = f"messages: a part is of type {', '.join(_PARTS)}, with its content under that name."
        raise ServiceError(400, said, param="messages")
    return {"type": "text", "text": part["refusal"]} if kind == "refusal" else part


def _usage(usage: Usage, given: str, made: str, **details: Any) -> dict[str, Any] | None:
    """Tokens under the names that a form of OpenAI has; None where they are unknown."""
    if not usage.known:
        return None
    return {
        given: usage.input_tokens or 0,
        f"{given}_details": {"cached_tokens": usage.cached_tokens or 0, **details},
        made: usage.output_tokens or 0,
        f"{made}_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": (usage.input_tokens or 0) + (usage.output_tokens or 0),
    }


def _calls(outcome: Outcome) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form."""
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {
                "name": call["name"],
                "arguments": json.dumps(call["args"], ensure_ascii=False),
            },
        }
        for call in outcome.calls
    ]


def _token(text: str, logprob: float) -> dict[str, Any]:
    raw = list(text.encode("utf-8", "surrogatepass"))
    return {"token": text, "logprob": logprob, "bytes": raw}


def _chat_usage(usage: Usage) -> dict[str, Any] | None:
    return _usage(usage, "prompt_tokens", "completion_tokens")


class ChatWriter(wire.Writer):
    """Chat completion: whole, or as OpenAI's chunks. The last chunk has the finish reason and the
    extension `cascade`."""

    def __init__(self, body: ChatRequest) -> None:
        own, at = f"chatcmpl-{uuid4().hex}", int(time.time())
        self._head = {"id": own, "created": at, "model": body.model}
        self._usage = bool((body.stream_options or {}).get("include_usage"))
        self._logprobs = bool(body.logprobs or body.top_logprobs)
        self._alternatives = body.top_logprobs or 0

    @override
    def whole(self, outcome: Outcome) -> dict[str, Any]:
        calls, said = _calls(outcome), outcome.refusal
        text = None if said or (calls and not outcome.result.answer) else outcome.result.answer
        message = {"role": "assistant", "content": text, "refusal": said}
        choice = {
            "index": 0,
            "message": message | ({"tool_calls": calls} if calls else {}),
            "logprobs": self._tokens(outcome),
            "finish_reason": outcome.finish_reason,
        }
        body = {**self._head, "object": "chat.completion", "choices": [choice]}
        return body | {"usage": _chat_usage(outcome.usage), "cascade": outcome.extension()}

    @override
    def begin(self) -> bytes:
        # Most of a stream: only the text of a piece is written anew.
        self._before, self._after = self._chunk({"content": "\0"}).split(b'"\\u0000"')
        return self._chunk({"role": "assistant", "content": ""})

    @override
    def text(self, text: str) -> bytes:
        return self._before + wire.json_bytes(text) + self._after

    @override
    def end(self, outcome: Outcome) -> bytes:
        pieces = []
        if said := outcome.refusal:
            pieces.append(self._chunk({"refusal": said}))
        for index, call in enumerate(_calls(outcome)):
            pieces.append(self._chunk({"tool_calls": [{"index": index, **call}]}))
        reason, logprobs = outcome.finish_reason, self._tokens(outcome)
        pieces.append(self._chunk({}, reason, logprobs, cascade=outcome.extension()))
        if self._usage:
            pieces.append(self._chunk(None, usage=_chat_usage(outcome.usage)))
        return b"".join([*pieces, b"data: [DONE]\n\n"])

    @override
    def failed(self, fault: ServiceError) -> bytes:
        return b"data: " + wire.json_bytes(fault.body("openai")) + b"\n\n"

    def _tokens(self, outcome: Outcome) -> dict[str, Any] | None:
        """Log-probs with their alternatives; None where the tier gave none."""
        done = outcome.completion
        if not self._logprobs or done is None or done.logprobs is None:
            return None
        content = [
            _token(each.token, each.logprob)
            | {"top_logprobs": [_token(*top) for top in each.top[: self._alternatives]]}
            for each in done.logprobs
        ]
        return {"content": content, "refusal": None}

    def _chunk(
        self,
        delta: dict[str, Any] | None,
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **more: Any,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk"}
        chunk["choices"] = [] if delta is None else [choice]
        usage = {"usage": None} if self._usage else {}
        return b"data: " + wire.json_bytes(chunk | usage | more) + b"\n\n"


# --- models


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """List the models that this key may ask for."""
    gateway = wire.gateway_of(request)
    key = await gateway.key_of(request)
    return wire.json_response({"object": "list", "data": [_card(n) for n in gateway.models(key)]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Show one model."""
    gateway = wire.gateway_of(request)
    key = await gateway.key_of(request)
    return wire.json_response(_card(gateway.model(name, key).name))


def _card(name: str) -> dict[str, Any]:
    """A model for clients of OpenAI and of Anthropic, which ask at the same place."""
    own = {"object": "model", "created": 0, "owned_by": "cascade"}
    made = {"display_name": name, "created_at": "1970-01-01T00:00:00Z"}
    return {"id": name, **own, "type": "model", **made}


# --- responses


class TextOptions(BaseModel):
    """Options of the answer's text."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseRequest(wire.Asked):
    """Input to be answered."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceFunction | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    truncation: Literal["disabled"] | None = None
    metadata: dict[str, str] | None = None


_LOST = {
    **dict.fromkeys(
        ("previous_response_id", "conversation"),
        "answers are not stored: give the whole conversation as input.",
    ),
    "background": "the answer comes at once.",
}


@router.post("/v1/responses", openapi_extra=wire.takes(ResponseRequest))
async def responses(request: Request) -> Response:
    """Answer an input."""
    return await wire.converse(request, ResponseRequest, read_response, ResponseWriter)


def read_response(body: ResponseRequest, served: Served) -> tuple[list[AnyMessage], Settings]:
    """Messages and settings of a request."""
    extra = {name: value for name, value in (body.model_extra or {}).items() if value}
    for name in sorted(extra.keys() & _LOST.keys()):
        raise wire.unsupported(name, _LOST[name])
    extra["top_p"] = body.top_p
    extra["verbosity"] = body.text.verbosity if body.text else None
    extra["reasoning_effort"] = body.reasoning.effort if body.reasoning else None
    settings = Settings(extra=parameters(extra, served))
    if body.tools:
        functions = [t.model_dump(exclude={"type"}, exclude_unset=True) for t in body.tools]
        settings["tools"] = [{"type": "function", "function": each} for each in functions]
    choice = body.tool_choice
    put(settings, tool_choice=choice.name if isinstance(choice, ToolChoiceFunction) else choice)
    form = body.text.format if body.text else None
    if form is not None and form.get("type") == "json_schema":
        described = {name: value for name, value in form.items() if name != "type"}
        form = {"type": "json_schema", "json_schema": {"name": "answer", **described}}
    read_format(form, settings, served)
    put(settings, max_tokens=body.max_output_tokens, temperature=body.temperature)
    told = [wire.message_of("system", body.instructions)] if body.instructions else []
    return [*told, *_items(body.input)], settings


def _items(given: str | list[dict[str, Any]]) -> list[AnyMessage]:
    """The conversation; calls in a row are one message."""
    if isinstance(given, str):
        return [wire.message_of("user", given)]
    messages = list[AnyMessage]()
    for number, item in enumerate(given):
        try:
            made = _item(item)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            said = f"input.{number}: it cannot be read ({type(error).__name__}: {error})."
            raise ServiceError(400, said[:300], param="input") from None
        last = messages[-1] if messages else None
        if isinstance(last, AIMessage) and isinstance(made, AIMessage) and made.tool_calls:
            messages[-1] = AIMessage(last.content, tool_calls=[*last.tool_calls, *made.tool_calls])
        elif made is not None:
            messages.append(made)
    return messages


def _item(item: Mapping[str, Any]) -> AnyMessage | None:
    """One message; None for thoughts of another model."""
    kind = item.get("type", "message")
    if kind == "reasoning":
        return None
    if kind == "function_call_output":
        return wire.message_of("tool", _content(item["output"]), call_id=str(item["call_id"]))
    if kind == "function_call":
        call = {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
        return wire.message_of("assistant", "", [call])
    if kind != "message" or item["role"] not in ("user", "system", "developer", "assistant"):
        raise ValueError(f"type {kind!r}, role {item.get('role')!r}")
    return wire.message_of(item["role"], _content(item["content"]))


def _content(content: Any) -> str | list[Any]:
    if isinstance(content, str):
        return content
    parts = list[Any]()
    for part in content:
        kind = part["type"]
        if kind in ("input_text", "output_text", "refusal"):
            text = part["refusal" if kind == "refusal" else "text"]
            if not isinstance(text, str):
                raise ValueError("a text that is none")
            parts.append({"type": "text", "text": text})
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            parts.append({"type": "image_url", "image_url": {"url": part["image_url"], **detail}})
        else:
            raise ValueError(f"part of type {kind!r}")
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


class ResponseWriter(wire.Writer):
    """Response: whole, or as OpenAI's events, each with its number."""

    def __init__(self, body: ResponseRequest) -> None:
        self._id, self._message_id = f"resp_{uuid4().hex}", f"msg_{uuid4().hex}"
        self._body, self._made = body, int(time.time())
        self._number, self._open = -1, False

    @override
    def whole(self, outcome: Outcome) -> dict[str, Any]:
        short = {"length": "max_output_tokens", "content_filter": "content_filter"}
        reason = short.get(outcome.finish_reason)
        status, calls = "incomplete" if reason else "completed", _calls(outcome)
        output = []
        if outcome.text or not calls:
            part = {"type": "output_text", **_EMPTY, "text": outcome.result.answer}
            if outcome.refusal:
                part = {"type": "refusal", "refusal": outcome.refusal}
            output.append(self._item(status, [part]))
        for index, call in enumerate(calls):
            own = {"id": f"fc_{index}_{call['id']}", "call_id": call["id"], **call["function"]}
            output.append({**own, "type": "function_call", "status": "completed"})
        return self._response(
            status,
            incomplete_details={"reason": reason} if reason else None,
            output=output,
            usage=_response_usage(outcome.usage),
            cascade=outcome.extension(),
        )

    @override
    def begin(self) -> bytes:
        response = self._response("in_progress")
        created = self._say("response.created", response=response)
        return created + self._say("response.in_progress", response=response)

    @override
    def text(self, text: str) -> bytes:
        opened = b"" if self._open else self._open_part({"type": "output_text", **_EMPTY})
        return opened + self._say_part("output_text.delta", delta=text, logprobs=[])

    @override
    def end(self, outcome: Outcome) -> bytes:
        body, pieces = self.whole(outcome), list[bytes]()
        for index, item in enumerate(body["output"]):
            if item["type"] == "message":
                pieces.append(self._end_part(item["content"][0]))
            else:
                place = {"item_id": item["id"], "output_index": index}
                arguments, kind = item["arguments"], "response.function_call_arguments"
                added = item | {"status": "in_progress", "arguments": ""}
                pieces += [
                    self._say("response.output_item.added", output_index=index, item=added),
                    self._say(f"{kind}.delta", **place, delta=arguments),
                    self._say(f"{kind}.done", **place, name=item["name"], arguments=arguments),
                ]
            pieces.append(self._say("response.output_item.done", output_index=index, item=item))
        return b"".join([*pieces, self._say(f"response.{body['status']}", response=body)])

    @override
    def failed(self, fault: ServiceError) -> bytes:
        error = {"code": fault.code, "message": fault.message}
        said = self._say("error", **error, param=fault.param)
        return said + self._say("response.failed", response=self._response("failed", error=error))

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        given = self._body.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        said = {name: given[name] for name in _REPEATED if name in given}
        tools = [{"strict": None, "parameters": None, **t} for t in said.pop("tools", ())]
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._made,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": tools,
            "usage": None,
            **said,
            **more,
        }

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        own = {"id": self._message_id, "type": "message", "role": "assistant"}
        return {**own, "status": status, "content": content}

    def _open_part(self, part: dict[str, Any]) -> bytes:
        self._open, item = True, self._item("in_progress", [])
        added = self._say("response.output_item.added", output_index=0, item=item)
        return added + self._say_part("content_part.added", part=part)

    def _end_part(self, part: dict[str, Any]) -> bytes:
        if part["type"] == "refusal":
            said = part["refusal"]
            opened = self._open_part({"type": "refusal", "refusal": ""})
            opened += self._say_part("refusal.delta", delta=said)
            ended = self._say_part("refusal.done", refusal=said)
        else:
            opened = b"" if self._open else self.text("")
            ended = self._say_part("output_text.done", text=part["text"], logprobs=[])
        return opened + ended + self._say_part("content_part.done", part=part)

    def _say_part(self, kind: str, **content: Any) -> bytes:
        """An event about the answer's text, which is the first part of the first item."""
        place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        return self._say(f"response.{kind}", **place, **content)

    def _say(self, kind: str, **content: Any) -> bytes:
        self._number += 1
        return wire.sent_event(kind, sequence_number=self._number, **content)


_REPEATED = (
    *("instructions", "max_output_tokens", "metadata", "model", "reasoning"),
    *("temperature", "text", "tool_choice", "tools", "top_p"),
)
"""Fields of a request that its response repeats."""

_EMPTY: Mapping[str, Any] = {"text": "", "annotations": [], "logprobs": []}


def _response_usage(usage: Usage) -> dict[str, Any] | None:
    written = usage.cache_write_tokens or 0
    return _usage(usage, "input_tokens", "output_tokens", cache_write_tokens=written)
