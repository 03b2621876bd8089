"""OpenAI's protocol: `/v1/chat/completions`, `/v1/responses`, `/v1/models`."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import uuid4

from langchain_core.messages import AIMessage, AnyMessage, SystemMessage
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, field_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import override

from cascade.events import Event, Token
from cascade.run import Settings
from cascade.service.faults import ServiceError
from cascade.service.gateway import Gateway, Outcome, Question, Served
from cascade.service.keys import Key
from cascade.service.wire import (
    Rendering,
    Wishes,
    asked,
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
from cascade.state import Completion, Usage

MOST_RUNS = 16
"""Answers to one request: each is a run that is paid for."""

# --- parameters

_OURS: Mapping[str, str] = {
    **dict.fromkeys(("functions", "function_call"), "deprecated: give tools and tool_choice."),
    "audio": "answers are text.",
    "timeout": "say it as cascade.deadline.",
    "prediction": "give it to one tier, in its options.",
    **dict.fromkeys(
        [
            "base_url",
            "api_base",
            "url",
            "host",
            "endpoint",
            "api_key",
            "api_version",
            "organization",
            "project",
            "deployment",
            "headers",
            "extra_headers",
            "default_headers",
            "extra_query",
            "default_query",
            "extra_body",
            "http_client",
            "model_kwargs",
            "client_options",
            "callbacks",
            "config",
            "cache",
            "cached_content",
            "model_name",
            "prompt",
        ],
        "which model a tier asks, and how, is in the configuration of the service.",
    ),
    **dict.fromkeys(
        ("max_new_tokens", "num_predict", "n_predict"), "give the limit of this protocol."
    ),
    "best_of": "give n.",
}
"""Parameters that go to no tier: they would be lost, or change what is asked and paid for behind
the budget and the ledger. Name → why."""

LABELS = frozenset(
    ("metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store")
)
"""Parameters that change no answer."""

_OPENAI_ONLY = frozenset(
    [
        "logit_bias",
        "modalities",
        "parallel_tool_calls",
        "reasoning_effort",
        "verbosity",
        "web_search_options",
    ]
)
_OLLAMA_ONLY = frozenset(
    [
        "keep_alive",
        "think",
        "truncate",
        "shift",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_thread",
        "main_gpu",
        "low_vram",
        "use_mmap",
    ]
)


def parameters(extra: Mapping[str, Any], served: Served) -> dict[str, Any]:
    """Parameters that go to every tier as they are.

    Raises:
        ServiceError: 400, a tier would ignore one, or it is not a client's to set.
    """
    given = {n: v for n, v in extra.items() if v is not None and n not in LABELS}
    for name in given:
        if name in _OURS:
            raise unsupported(name, _OURS[name])
        for tier in served.cascade.tiers:
            wrong = _OPENAI_ONLY if tier.model.provider == "ollama" else _OLLAMA_ONLY
            if name in wrong:
                raise unsupported(
                    name,
                    f"the tier {tier.name!r} of this model has no such parameter. Leave it out, or "
                    "have it set in the options of the tier that has.",
                )
    return given


def read_format(given: Mapping[str, Any] | None, settings: Settings, served: Served) -> None:
    """Put a response format, in the form of chat completions, into the settings: it goes on to the
    tiers as it came.

    Raises:
        ServiceError: 400, it has no schema.
    """
    if given is None or given.get("type") == "text":
        return
    kind = given.get("type")
    schema = (given.get("json_schema") or {}).get("schema") if kind == "json_schema" else {}
    if kind not in ("json_object", "json_schema") or not isinstance(schema, dict):
        said = "response_format: text, json_object, or json_schema with a schema."
        raise ServiceError(400, said, param="response_format")
    plain(given, "response_format")
    settings["schema"] = schema if kind == "json_schema" else {"type": "object"}
    extra = settings.setdefault("extra", {})
    if all(tier.model.provider != "ollama" for tier in served.cascade.tiers):
        extra["response_format"] = dict(given)
    elif kind == "json_object" and all(t.model.provider == "ollama" for t in served.cascade.tiers):
        extra["format"] = "json"


# --- chat completions


class _Wire(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class CalledFunction(_Wire):
    """Function that a model wants to be called."""

    name: str
    arguments: str = Field(description="A JSON object as text.")


class ToolCall(_Wire):
    """Call that an assistant has made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(_Wire):
    """Message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class Function(_Wire):
    """Function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(default=None, description="A JSON schema.")
    strict: StrictBool | None = None


class Tool(_Wire):
    """Tool of a request."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Wire):
    """Name of a function."""

    name: str


class NamedTool(_Wire):
    """Tool that has to be called."""

    type: Literal["function"] = "function"
    function: NamedFunction


class StreamOptions(_Wire):
    """Options of a stream."""

    include_usage: StrictBool = False


Whole = Annotated[int, Field(ge=1)]


class Numbers(_Wire):
    """Request whose whole numbers are numbers: `3.0` is one, `false` and `"3"` are none."""

    @field_validator(
        *("n", "seed", "max_tokens", "max_completion_tokens", "max_output_tokens", "top_logprobs"),
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _no_other_kind(cls, value: object) -> object:
        if isinstance(value, bool | str):
            raise PydanticCustomError("number", "Input should be a number")
        return value


class ChatRequest(Numbers):
    """Conversation to be answered.

    What is not listed here goes to every tier as it is; a tier that does not know it refuses it.
    """

    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    messages: list[Message] = Field(min_length=1)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MOST_RUNS, description="Each is a run.")
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    response_format: dict[str, Any] | None = None
    temperature: StrictFloat | None = Field(default=None, ge=0, le=2)
    top_p: StrictFloat | None = Field(default=None, ge=0, le=1)
    max_tokens: Whole | None = None
    max_completion_tokens: Whole | None = None
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


async def chat(request: Request, gateway: Gateway) -> Response:
    """Answer a conversation."""
    began = time.monotonic()
    key = await gateway.key_of(request)
    body, size = await read_body(request, ChatRequest)
    served = gateway.model(body.model, key)
    question = asked(
        request,
        body.model,
        [_message(message) for message in body.messages],
        _settings(body, served),
        body.cascade,
        size=size,
        stream=body.stream or False,
        n=body.n or 1,
    )
    writing = Chat(body)
    return await reply(request, gateway, key, question, began, writing.whole, writing)


def _message(message: Message) -> AnyMessage:
    content = message.content
    if message.refusal and not content:
        content = message.refusal
    if isinstance(content, list):
        content = [_part(part) for part in content]
    if message.role == "tool" and not message.tool_call_id:
        raise ServiceError(400, "messages: one of role tool needs tool_call_id.", param="messages")
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in message.tool_calls or ()
    ]
    return message_of(
        message.role, content or "", calls, call_id=message.tool_call_id, name=message.name
    )


_PARTS = {
    "text": ("text", str),
    "refusal": ("refusal", str),
    "image_url": ("image_url", dict),
    "input_audio": ("input_audio", dict),
    "file": ("file", dict),
}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    kind, form = _PARTS.get(str(part.get("type")), ("", str))
    if not kind or not isinstance(part.get(kind), form):
        said = f"messages: a part is of type {', '.join(_PARTS)}, with its content under that name."
        raise ServiceError(400, said, param="messages")
    return {"type": "text", "text": part["refusal"]} if kind == "refusal" else part


def _settings(body: ChatRequest, served: Served) -> Settings:
    extra = parameters({**(body.model_extra or {}), "top_p": body.top_p}, served)
    settings = Settings(extra=extra)
    if body.tools:
        settings["tools"] = [tool.model_dump(exclude_unset=True) for tool in body.tools]
        plain(settings["tools"], "tools")
    if body.tool_choice is not None:
        choice = body.tool_choice
        settings["tool_choice"] = choice if isinstance(choice, str) else choice.function.name
    read_format(body.response_format, settings, served)
    limit = body.max_completion_tokens or body.max_tokens
    _set(settings, max_tokens=limit, temperature=body.temperature, seed=body.seed)
    if body.stop:
        settings["stop"] = [body.stop] if isinstance(body.stop, str) else body.stop
    if body.logprobs or body.top_logprobs:
        settings["top_logprobs"] = body.top_logprobs or 0
    return settings


def _set(settings: Settings, **given: Any) -> None:
    settings.update({name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]


def usage_of(usages: Sequence[Usage]) -> CompletionUsage | None:
    """Tokens in OpenAI's form, summed; None where one of them is unknown."""
    if not all(usage.known for usage in usages):
        return None

    def total(name: str) -> int:
        return sum(getattr(usage, name) or 0 for usage in usages)

    given, made = total("input_tokens"), total("output_tokens")
    return CompletionUsage.model_validate(
        {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": total("cached_tokens")},
            "completion_tokens_details": {"reasoning_tokens": total("reasoning_tokens")},
        }
    )


def calls_of(done: Completion | None) -> list[dict[str, Any]]:
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
        for call in (() if done is None else done.tool_calls)
    ]


def logprobs_of(done: Completion | None, alternatives: int | None) -> list[dict[str, Any]] | None:
    """Log-probs of an answer with so many alternatives; None where its tier gave none."""
    if done is None or done.logprobs is None:
        return None

    def token(text: str, logprob: float) -> dict[str, Any]:
        raw = list(text.encode("utf-8", "surrogatepass"))
        return {"token": text, "logprob": logprob, "bytes": raw}

    return [
        token(each.token, each.logprob)
        | {"top_logprobs": [token(t, p) for t, p in each.top[: alternatives or 0]]}
        for each in done.logprobs
    ]


class Chat(Rendering):
    """Chat completions: an answer as a whole, or as OpenAI's chunks. The last chunk of each choice
    has its finish reason and the extension `cascade`."""

    def __init__(self, body: ChatRequest) -> None:
        self._runs = body.n or 1
        self._head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": body.model,
        }
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._logprobs = bool(body.logprobs or body.top_logprobs)
        self._alternatives = body.top_logprobs
        chunk = {**self._head, "object": "chat.completion.chunk"}
        # Most of a stream: only the text of a piece is written anew.
        self._token = b"data: " + json_bytes(chunk)[:-1].replace(b"%", b"%%")
        self._token += b',"choices":[{"index":%d,"delta":{"content":%s},"logprobs":null,'
        self._token += b'"finish_reason":null}]' + (b',"usage":null' if self._usage else b"")
        self._token += b"}\n\n"
        self._shown = [0] * self._runs

    def whole(self, outcomes: list[Outcome]) -> dict[str, Any]:
        """The answer in one piece."""
        choices = []
        for index, outcome in enumerate(outcomes):
            calls, said = calls_of(outcome.completion), refusal(outcome)
            text = None if said or (calls and not outcome.result.answer) else outcome.result.answer
            message = {"role": "assistant", "content": text, "refusal": said}
            reason, logprobs = finish_reason(outcome), self._tokens(outcome)
            choices.append(
                {
                    "index": index,
                    "message": message | ({"tool_calls": calls} if calls else {}),
                    "logprobs": logprobs,
                    "finish_reason": reason,
                }
            )
        usage = usage_of([outcome.usage for outcome in outcomes])
        body = {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}
        made = ChatCompletion.model_validate(body | {"cascade": report(outcomes)})
        return made.model_dump(mode="json", exclude_unset=True)

    @override
    def begin(self) -> bytes:
        role = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(index, role) for index in range(self._runs))

    @override
    def event(self, number: int, event: Event) -> bytes:
        if not isinstance(event, Token) or not event.text:
            return b""
        self._shown[number] += len(event.text)
        return self._token % (number, json_bytes(event.text))

    @override
    def end(self, outcomes: list[Outcome]) -> bytes:
        pieces = []
        for number, outcome in enumerate(outcomes):
            if rest := outcome.result.answer[self._shown[number] :]:
                pieces.append(self._token % (number, json_bytes(rest)))
            if said := refusal(outcome):
                pieces.append(self._chunk(number, {"refusal": said}))
            for index, call in enumerate(calls_of(outcome.completion)):
                pieces.append(self._chunk(number, {"tool_calls": [{"index": index, **call}]}))
            pieces.append(
                self._chunk(
                    number,
                    {},
                    finish_reason(outcome),
                    self._tokens(outcome),
                    cascade=report([outcome]),
                )
            )
        if self._usage:
            usage = usage_of([outcome.usage for outcome in outcomes])
            last = {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
            pieces.append(_data(ChatCompletionChunk.model_validate(last)))
        return b"".join([*pieces, b"data: [DONE]\n\n"])

    @override
    def failed(self, fault: ServiceError) -> bytes:
        return b"data: " + json_bytes(fault.body("openai")) + b"\n\n"

    def _tokens(self, outcome: Outcome) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = logprobs_of(outcome.completion, self._alternatives)
        return None if content is None else {"content": content, "refusal": None}

    def _chunk(
        self,
        number: int,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **extension: Any,
    ) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._usage else {}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return _data(ChatCompletionChunk.model_validate(chunk | usage | extension))


def _data(chunk: BaseModel) -> bytes:
    return b"data: " + json_bytes(chunk.model_dump(mode="json", exclude_unset=True)) + b"\n\n"


# --- models


async def models(request: Request, gateway: Gateway) -> Response:
    """List the models that this key may ask for."""
    key = await gateway.key_of(request)
    return json_response({"object": "list", "data": [_card(n) for n in gateway.models(key)]})


async def model(request: Request, gateway: Gateway) -> Response:
    """Show one model."""
    key = await gateway.key_of(request)
    return json_response(_card(gateway.model(request.path_params["name"], key).name))


def _card(name: str) -> dict[str, Any]:
    """A model for clients of OpenAI and of Anthropic, which ask at the same place."""
    own = {"object": "model", "created": 0, "owned_by": "cascade"}
    return {"id": name, **own, "type": "model", "display_name": name, "created_at": _EPOCH}


_EPOCH = "1970-01-01T00:00:00Z"


# --- responses


class ResponseTool(_Wire):
    """Function that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class TextOptions(_Wire):
    """Options of the answer's text."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(_Wire):
    """Options of models that think."""

    effort: str | None = None


class ResponseRequest(Numbers):
    """Input to be answered.

    What is not listed here goes to every tier as it is; a tier that does not know it refuses it.
    """

    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = Field(
        default=None, description="A response that this process has stored, and still has."
    )
    store: StrictBool | None = Field(default=None, description="By default true; in memory.")
    stream: StrictBool | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Whole | None = None
    temperature: StrictFloat | None = Field(default=None, ge=0, le=2)
    top_p: StrictFloat | None = Field(default=None, ge=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[str] | None = None
    stream_options: dict[str, Any] | None = None
    truncation: Literal["disabled"] | None = None
    metadata: dict[str, str] | None = None
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


_LOST = {
    "conversation": "give previous_response_id, or the whole conversation as input.",
    "prompt": "give the text as instructions and input.",
    "max_tool_calls": "tools are called by the client.",
    "messages": "give input.",
    "max_tokens": "give max_output_tokens.",
    "response_format": "give text.format.",
    "n": "give it to /v1/chat/completions.",
}

MOST_STORED, LONGEST_STORED_S, MOST_CHARACTERS = 1_000, 3600.0, 64 * 2**20


@dataclass(slots=True)
class _Stored:
    key_id: str
    messages: list[AnyMessage]
    body: dict[str, Any]
    size: int
    until: float


class Responses:
    """Responses that this process has stored: in memory, so many and for an hour."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Stored] = OrderedDict()
        self._size = 0

    def put(
        self, name: str, key: Key | None, messages: list[AnyMessage], body: Any, n: int
    ) -> None:
        """Keep one; the oldest are forgotten."""
        stored = _Stored(
            key.id if key else "", messages, body, n, time.monotonic() + LONGEST_STORED_S
        )
        self._kept[name] = stored
        self._size += n
        while len(self._kept) > MOST_STORED or self._size > MOST_CHARACTERS:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def get(self, name: str, key: Key | None, status: int = 404) -> _Stored:
        """One that belongs to this key.

        Raises:
            ServiceError: there is none.
        """
        found = self._kept.get(name)
        if (
            found is None
            or found.key_id != (key.id if key else "")
            or found.until < time.monotonic()
        ):
            raise ServiceError(
                status,
                f"there is no response {name[:100]!r} here: it is forgotten after an hour, or was "
                "made by another process. Send the conversation as input.",
                "response_not_found",
                param="previous_response_id" if status == 400 else None,
            )
        return found

    def drop(self, name: str, key: Key | None) -> None:
        """Forget one.

        Raises:
            ServiceError: there is none.
        """
        self._size -= self.get(name, key).size
        del self._kept[name]


async def responses(request: Request, gateway: Gateway, stored: Responses) -> Response:
    """Answer, with what was said before where it is named."""
    began = time.monotonic()
    key = await gateway.key_of(request)
    body, size = await read_body(request, ResponseRequest)
    served = gateway.model(body.model, key)
    before = list[AnyMessage]()
    if body.previous_response_id is not None:
        earlier = stored.get(body.previous_response_id, key, 400)
        before, size = earlier.messages, size + earlier.size
    messages = [*before, *_items(body.input)]
    told: list[AnyMessage] = [SystemMessage(body.instructions)] if body.instructions else []
    question = asked(
        request,
        body.model,
        [*told, *messages],
        _response_settings(body, served),
        body.cascade,
        size=size,
        stream=body.stream or False,
    )
    writing = Answered(body)

    def keep(outcome: Outcome, answered: dict[str, Any]) -> None:
        if body.store is not False:
            said = outcome.result.message
            stored.put(writing.id, key, [*messages, said], answered, size + len(said.text))

    writing.keep = keep
    return await reply(request, gateway, key, question, began, writing.whole, writing)


async def show_response(request: Request, gateway: Gateway, stored: Responses) -> Response:
    """Show a stored response."""
    key = await gateway.key_of(request)
    return json_response(stored.get(request.path_params["name"], key).body)


async def delete_response(request: Request, gateway: Gateway, stored: Responses) -> Response:
    """Forget a stored response."""
    key, name = await gateway.key_of(request), request.path_params["name"]
    stored.drop(name, key)
    return json_response({"id": name, "object": "response", "deleted": True})


def _items(given: str | list[dict[str, Any]]) -> list[AnyMessage]:
    """The conversation; calls in a row are one message."""
    if isinstance(given, str):
        return [message_of("user", given)]
    messages = list[AnyMessage]()
    for number, item in enumerate(given):
        try:
            kind = item.get("type", "message")
            if kind == "function_call_output":
                output = _response_content(item["output"])
                messages.append(message_of("tool", output, call_id=str(item["call_id"])))
            elif kind == "function_call":
                call = {"id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
                made = message_of("assistant", "", [call])
                last = messages[-1] if messages else None
                if isinstance(last, AIMessage) and isinstance(made, AIMessage):
                    calls = [*last.tool_calls, *made.tool_calls]
                    messages[-1] = AIMessage(last.content, tool_calls=calls)
                else:
                    messages.append(made)
            elif kind == "message":
                role = item["role"]
                if role not in ("user", "system", "developer", "assistant"):
                    raise ValueError(f"role {role!r}")
                messages.append(message_of(role, _response_content(item["content"])))
            elif kind != "reasoning":
                raise ValueError(f"type {kind!r}")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            said = f"input.{number}: it cannot be read ({type(error).__name__}: {error})."
            raise ServiceError(400, said[:300], param="input") from None
    return messages


def _response_content(content: Any) -> str | list[Any]:
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


def _response_settings(body: ResponseRequest, served: Served) -> Settings:
    extra = dict(body.model_extra or {})
    for name in sorted(extra.keys() & _LOST.keys()):
        if extra[name] is not None:
            raise unsupported(name, _LOST[name])
    for name in ("background",):
        if extra.pop(name, None):
            raise unsupported(name, "only false can be had here.")
    extra["top_p"] = body.top_p
    extra["verbosity"] = body.text.verbosity if body.text else None
    extra["reasoning_effort"] = body.reasoning.effort if body.reasoning else None
    settings = Settings(extra=parameters(extra, served))
    if body.tools:
        settings["tools"] = [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_unset=True)}
            for tool in body.tools
        ]
        plain(settings["tools"], "tools")
    if body.tool_choice is not None:
        choice = body.tool_choice
        settings["tool_choice"] = choice if isinstance(choice, str) else choice.name
    form = body.text.format if body.text else None
    if form is not None and form.get("type") == "json_schema":
        told = {name: value for name, value in form.items() if name != "type"}
        form = {"type": "json_schema", "json_schema": {"name": "answer", **told}}
    read_format(form, settings, served)
    _set(settings, max_tokens=body.max_output_tokens, temperature=body.temperature)
    if body.top_logprobs is not None or "message.output_text.logprobs" in (body.include or ()):
        settings["top_logprobs"] = body.top_logprobs or 0
    return settings


class Answered(Rendering):
    """Responses: an answer as a whole, or as OpenAI's events, each with its number."""

    def __init__(self, body: ResponseRequest) -> None:
        self.id, self._message_id = f"resp_{uuid4().hex}", f"msg_{uuid4().hex}"
        self._body, self._made = body, int(time.time())
        self.keep: Any = lambda outcome, answered: None
        self._number, self._text, self._open = -1, "", False

    def whole(self, outcomes: list[Outcome]) -> dict[str, Any]:
        """The response with its answer."""
        (outcome,) = outcomes
        reason, done = finish_reason(outcome), outcome.completion
        short = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
        status = "completed" if short is None else "incomplete"
        output, calls = [], calls_of(done)
        if (said := refusal(outcome)) or outcome.result.answer or not calls:
            part: dict[str, Any] = {"type": "refusal", "refusal": said}
            if not said:
                wanted = self._body.top_logprobs is not None or self._body.include
                logprobs = logprobs_of(done, self._body.top_logprobs) if wanted else None
                part = self._part(outcome.result.answer, logprobs or [])
            output.append(self._item(status, [part]))
        output += [
            {
                "id": f"fc_{index}_{call['id']}",
                "type": "function_call",
                "call_id": call["id"],
                "status": "completed",
                **call["function"],
            }
            for index, call in enumerate(calls)
        ]
        made = self._response(
            status,
            incomplete_details=None if short is None else {"reason": short},
            output=output,
            usage=self._usage(outcome),
            cascade=report(outcomes),
        )
        self.keep(outcome, made)
        return made

    @override
    def begin(self) -> bytes:
        response = self._response("in_progress")
        created = self._say("response.created", response=response)
        return created + self._say("response.in_progress", response=response)

    @override
    def event(self, number: int, event: Event) -> bytes:
        del number
        return self._delta(event.text) if isinstance(event, Token) and event.text else b""

    @override
    def end(self, outcomes: list[Outcome]) -> bytes:
        body, pieces = self.whole(outcomes), list[bytes]()
        for index, item in enumerate(body["output"]):
            place = {"item_id": item["id"], "output_index": index}
            added = {"output_index": index, "item": item | {"status": "in_progress"}}
            if item["type"] == "function_call":
                arguments = item["arguments"]
                added["item"] |= {"arguments": ""}
                kind = "response.function_call_arguments"
                pieces += [
                    self._say("response.output_item.added", **added),
                    self._say(f"{kind}.delta", **place, delta=arguments),
                    self._say(f"{kind}.done", **place, name=item["name"], arguments=arguments),
                ]
            else:
                pieces.append(self._end_of_text(place, item))
            pieces.append(self._say("response.output_item.done", output_index=index, item=item))
        kind = "response.incomplete" if body["status"] == "incomplete" else "response.completed"
        return b"".join([*pieces, self._say(kind, response=body)])

    @override
    def failed(self, fault: ServiceError) -> bytes:
        error = {"code": fault.code, "message": fault.message}
        body = self._response("failed") | {"error": error}
        said = self._say("error", **error, param=fault.param)
        return said + self._say("response.failed", response=body)

    def _response(self, status: str, **more: Any) -> dict[str, Any]:
        body = self._body
        choice = body.tool_choice
        form = (body.text.format if body.text else None) or {"type": "text"}
        response: dict[str, Any] = {
            "id": self.id,
            "object": "response",
            "created_at": self._made,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": [],
            "parallel_tool_calls": (body.model_extra or {}).get("parallel_tool_calls") is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort} if body.reasoning else None,
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": {"format": form},
            "tool_choice": {"type": "function", "name": choice.name}
            if isinstance(choice, NamedFunction)
            else choice or "auto",
            "tools": [
                {"strict": None, "parameters": None, **tool.model_dump(exclude_unset=True)}
                for tool in body.tools or ()
            ],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }
        return response | more

    def _usage(self, outcome: Outcome) -> dict[str, Any] | None:
        usage = outcome.usage
        if not usage.known:
            return None
        given, made = usage.input_tokens or 0, usage.output_tokens or 0
        return {
            "input_tokens": given,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens or 0,
                "cache_write_tokens": usage.cache_write_tokens or 0,
            },
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
            "total_tokens": given + made,
        }

    def _part(self, text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        own = {"id": self._message_id, "type": "message", "role": "assistant"}
        return {**own, "status": status, "content": content}

    def _delta(self, text: str) -> bytes:
        opened = b"" if self._open else self._begin_text(self._part(""))
        self._text += text
        place = {"item_id": self._message_id, "output_index": 0, "content_index": 0}
        said = self._say("response.output_text.delta", **place, delta=text, logprobs=[])
        return opened + said

    def _begin_text(self, part: dict[str, Any]) -> bytes:
        self._open = True
        item, place = self._item("in_progress", []), {"item_id": self._message_id}
        added = self._say("response.output_item.added", output_index=0, item=item)
        kind = "response.content_part.added"
        return added + self._say(kind, **place, output_index=0, content_index=0, part=part)

    def _end_of_text(self, place: dict[str, Any], item: dict[str, Any]) -> bytes:
        (part,) = item["content"]
        place, pieces = {**place, "content_index": 0}, list[bytes]()
        if part["type"] == "output_text":
            if rest := part["text"][len(self._text) :]:
                pieces.append(self._delta(rest))
            elif not self._open:
                pieces.append(self._begin_text(self._part("")))
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            pieces.append(self._say("response.output_text.done", **place, **done))
        else:
            pieces.append(self._begin_text({"type": "refusal", "refusal": ""}))
            said = part["refusal"]
            pieces.append(self._say("response.refusal.delta", **place, delta=said))
            pieces.append(self._say("response.refusal.done", **place, refusal=said))
        return b"".join([*pieces, self._say("response.content_part.done", **place, part=part)])

    def _say(self, kind: str, **content: Any) -> bytes:
        self._number += 1
        body = {"type": kind, "sequence_number": self._number, **content}
        return b"event: " + kind.encode() + b"\ndata: " + json_bytes(body) + b"\n\n"


__all__ = [
    "ChatRequest",
    "Question",
    "ResponseRequest",
    "Responses",
    "chat",
    "delete_response",
    "model",
    "models",
    "responses",
    "show_response",
]
