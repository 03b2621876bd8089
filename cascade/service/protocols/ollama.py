"""Ollama's API: `/api/chat`, `/api/generate`, `/api/tags`, `/api/show`, `/api/version`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from cascade._version import __version__
from cascade.api import Cascade
from cascade.events import Event, Token
from cascade.result import CascadeResult
from cascade.service.admission import Admit, Admitted
from cascade.service.faults import ServiceError
from cascade.service.protocols.asking import HEADERS, check_body, patience_of, read_wishes
from cascade.service.protocols.chat import logprobs_of
from cascade.service.protocols.documented import LISTING, Documented, errors
from cascade.service.protocols.extension import (
    details_of,
    finish_reason_of,
    refusal_of,
    report_of,
    usage_of,
)
from cascade.service.protocols.ollama_wire import (
    ERRORS,
    OllamaAnswer,
    OllamaChatRequest,
    OllamaError,
    OllamaGenerateRequest,
    OllamaMessage,
    OllamaRequest,
    ShowRequest,
)
from cascade.service.protocols.parameters import unsupported
from cascade.service.protocols.replying import (
    Rendering,
    json_bytes,
    json_response,
    replied,
)
from cascade.service.protocols.running import Asked, run

router = APIRouter(tags=["Ollama"])

Kind = Literal["message", "response"]
"""Where the text of an answer stands: in `/api/chat`, in `/api/generate`."""

_ANSWERS: Documented = {
    200: {
        "model": OllamaAnswer,
        "description": "The answer; a stream of such lines unless `stream` is false.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    },
    **ERRORS,
}
_LISTING = errors(OllamaError, *LISTING)


@router.post(
    "/api/chat",
    response_model=None,
    responses=_ANSWERS,
    openapi_extra={"parameters": HEADERS},
)
async def chat(request: Request, body: OllamaChatRequest, admitted: Admit) -> Response:
    """Answer a conversation."""
    tools = [tool.model_dump(exclude_unset=True) for tool in body.tools or ()]
    settings = _settings(body, {"tools": tools or None})
    messages = _messages(body.messages)
    return await _answered(request, body, admitted, messages, settings, "message")


@router.post(
    "/api/generate",
    response_model=None,
    responses=_ANSWERS,
    openapi_extra={"parameters": HEADERS},
)
async def generate(request: Request, body: OllamaGenerateRequest, admitted: Admit) -> Response:
    """Answer a prompt."""
    for name in ("suffix", "template", "context", "raw"):
        if getattr(body, name):
            raise unsupported(name, "a cascade answers conversations: use /api/chat.")
    system = [OllamaMessage(role="system", content=body.system)] if body.system else []
    asked = [OllamaMessage(role="user", content=body.prompt, images=body.images)]
    messages = _messages([*system, *asked] if body.prompt or body.images else [])
    return await _answered(request, body, admitted, messages, _settings(body, {}), "response")


async def _answered(
    request: Request,
    body: OllamaRequest,
    admitted: Admitted,
    messages: list[dict[str, Any]],
    settings: Mapping[str, Any],
    kind: Kind,
) -> Response:
    await check_body(request)
    model = _known(admitted, body.model)
    lines = Lines(body, kind)
    if not messages:  # how clients have a model loaded
        admitted.service.model(model, admitted.key)
        return json_response({**lines.line("", done=True), "done_reason": "load"})
    asked = Asked(
        model=model,
        messages=messages,
        settings=settings,
        wishes=read_wishes(request, body.cascade),
        patience_s=patience_of(request),
    )
    work, stream = partial(run, admitted, asked), None if body.stream is False else lines
    return await replied(request, work, lines.whole, stream)


def _known(admitted: Admitted, name: str) -> str:
    """The name as it is served: clients of Ollama add `:latest` to names without a tag."""
    plain = name.removesuffix(":latest")
    return plain if name not in admitted.service.models(admitted.key) else name


# Reading ---------------------------------------------------------------------------------------


def _settings(body: OllamaRequest, settings: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in (body.options or {}).items() if value is not None}
    limit = options.pop("num_predict", None)
    if isinstance(limit, int) and limit >= 0:  # below 0: as long as it takes
        settings["max_tokens"] = limit
    elif limit is not None and not isinstance(limit, int):
        raise ServiceError(
            400, f"options.num_predict: {limit!r:.80} is no number.", code="invalid_value"
        )
    for name in ("keep_alive", "think", "truncate", "shift", "logprobs", "top_logprobs"):
        settings[name] = getattr(body, name)
    settings |= options
    if isinstance(body.format, dict):
        settings["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": body.format},
        }
    elif body.format == "json":
        settings["response_format"] = {"type": "json_object"}
    return {name: value for name, value in settings.items() if value is not None}


def _messages(given: list[OllamaMessage]) -> list[dict[str, Any]]:
    """The conversation in OpenAI's form; calls without ids get some, and results find them."""
    messages: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []
    for position, message in enumerate(given):
        read: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.tool_calls:
            read["tool_calls"] = [
                {
                    "id": f"call_{position}_{index}",
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": json_bytes(call.function.arguments).decode(),
                    },
                }
                for index, call in enumerate(message.tool_calls)
            ]
            open_calls += [(c["function"]["name"], c["id"]) for c in read["tool_calls"]]
        if message.role == "tool":
            read["tool_call_id"] = message.tool_call_id or _answered_call(message, open_calls)
            read["name"] = message.tool_name
        messages.append({name: value for name, value in read.items() if value is not None})
    return messages


def _answered_call(message: OllamaMessage, open_calls: list[tuple[str, str]]) -> str:
    """The id of the call that a result belongs to: of its tool where it is named, else the next."""
    for place, (name, call_id) in enumerate(open_calls):
        if message.tool_name in (None, name):
            del open_calls[place]
            return call_id
    raise ServiceError(
        400,
        f"messages: the result of {message.tool_name or 'a tool'!r} has no call before it.",
        code="invalid_value",
        param="messages",
    )


def _content(message: OllamaMessage) -> str | list[dict[str, Any]]:
    text = message.content or ""
    if not message.images:
        return text
    images = [
        {"type": "image_url", "image_url": {"url": f"data:image/{_kind(data)};base64,{data}"}}
        for data in message.images
    ]
    return [{"type": "text", "text": text}, *images]


def _kind(data: str) -> str:
    """The format of an image by the beginning of its base64 data."""
    kinds = {"/9j/": "jpeg", "R0lG": "gif", "UklG": "webp"}
    return kinds.get(data[:4], "png")


# Writing ---------------------------------------------------------------------------------------


class Lines(Rendering):
    """Ollama's lines of JSON; the last one has the counts and the extension `cascade`.

    While it waits it sends spaces, which stand before the JSON of the next line.
    """

    media_type = "application/x-ndjson"
    ping = b" "

    def __init__(self, body: OllamaRequest, kind: Kind) -> None:
        self._model = body.model
        self._kind = kind
        self._alternatives = body.top_logprobs
        self._logprobs = body.logprobs
        self._begun = time.perf_counter()
        self._shown = 0

    def line(self, text: str, *, done: bool, **message: Any) -> dict[str, Any]:
        """One line with a piece of text."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        head: dict[str, Any] = {"model": self._model, "created_at": now}
        if self._kind == "message":
            head["message"] = {"role": "assistant", "content": text, **message}
        else:
            head |= {"response": text, **message}
        return {**head, "done": done}

    def event(self, number: int, event: Event) -> bytes:
        """A piece of text."""
        del number
        if not isinstance(event, Token) or not event.text:
            return b""
        self._shown += len(event.text)
        return json_bytes(self.line(event.text, done=False)) + b"\n"

    def end(self, results: list[CascadeResult]) -> bytes:
        """What was not shown yet, and the last line."""
        (result,) = results
        rest, message = self._text(result)[self._shown :], _said(result)
        pieces = []
        if rest or message:
            pieces.append(json_bytes(self.line(rest, done=False, **message)) + b"\n")
        last = self.line("", done=True) | self._counts(result)
        return b"".join([*pieces, json_bytes(last), b"\n"])

    def whole(self, results: list[CascadeResult]) -> dict[str, Any]:
        """The answer in one piece."""
        (result,) = results
        return self.line(self._text(result), done=True, **_said(result)) | self._counts(result)

    def failed(self, fault: ServiceError) -> bytes:
        """The error."""
        return json_bytes(fault.ollama()) + b"\n"

    def _text(self, result: CascadeResult) -> str:
        return refusal_of(result) or result.answer

    def _counts(self, result: CascadeResult) -> dict[str, Any]:
        usage, reason = usage_of([result]), finish_reason_of(result)
        spent = time.perf_counter() - self._begun
        counts: dict[str, Any] = {
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": int(spent * 1e9),
            "cascade": report_of([result]),
        }
        if usage is not None:
            counts["prompt_eval_count"] = usage["prompt_tokens"]
            counts["eval_count"] = usage["completion_tokens"]
        logprobs = logprobs_of(result, self._alternatives) if self._logprobs else None
        if logprobs is not None:
            counts["logprobs"] = logprobs["content"]
        return counts


def _said(result: CascadeResult) -> dict[str, Any]:
    """What an answer has besides its text."""
    said: dict[str, Any] = {}
    if thinking := details_of(result).get("thinking"):
        said["thinking"] = thinking
    if result.message.tool_calls:
        said["tool_calls"] = [
            {"function": {"name": call["name"], "arguments": call["args"]}}
            for call in result.message.tool_calls
        ]
    return said


# Models ----------------------------------------------------------------------------------------


@router.get("/api/tags", responses=_LISTING)
async def tags(admitted: Admit) -> dict[str, list[dict[str, Any]]]:
    """List the models that this key may ask for."""
    service = admitted.service
    return {
        "models": [
            {
                "name": name,
                "model": name,
                "modified_at": "1970-01-01T00:00:00Z",
                "size": 0,
                "digest": "",
                "details": _details(service.model(name, admitted.key)),
            }
            for name in service.models(admitted.key)
        ]
    }


@router.post("/api/show", responses=errors(OllamaError, 400, 404, *LISTING))
async def show(body: ShowRequest, admitted: Admit) -> dict[str, Any]:
    """Show one model."""
    name = body.model or body.name
    if not name:
        raise ServiceError(400, "model: which one?", code="invalid_value", param="model")
    cascade = admitted.service.model(_known(admitted, name), admitted.key)
    tiers = " → ".join(tier.model.name for tier in cascade.tiers)
    return {
        "modelfile": f"# a cascade: {tiers}",
        "parameters": "",
        "template": "",
        "details": _details(cascade),
        "model_info": {
            "general.architecture": "cascade",
            "cascade.tiers": [tier.model.name for tier in cascade.tiers],
            "cascade.policy": repr(cascade.policy),
        },
        "capabilities": ["completion", "tools"],
        "modified_at": "1970-01-01T00:00:00Z",
    }


@router.get("/api/version")
async def version() -> dict[str, str]:
    """The version of the gateway."""
    return {"version": __version__}


def _details(cascade: Cascade) -> dict[str, Any]:
    families = list(dict.fromkeys(tier.model.provider for tier in cascade.tiers))
    return {
        "parent_model": "",
        "format": "cascade",
        "family": "cascade",
        "families": families,
        "parameter_size": "",
        "quantization_level": "",
    }
