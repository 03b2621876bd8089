"""`POST /v1/chat/completions`."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import Response

from cascade.events import Event, Token
from cascade.integrations.chat_messages import openai_logprobs
from cascade.result import CascadeResult
from cascade.service.admission import Admit
from cascade.service.faults import ServiceError
from cascade.service.protocols.asking import HEADERS, check_body, patience_of, read_wishes
from cascade.service.protocols.chat_wire import ERRORS, ChatCompletion, ChatRequest, Message
from cascade.service.protocols.documented import answers
from cascade.service.protocols.extension import (
    details_of,
    finish_reason_of,
    refusal_of,
    report_of,
    usage_of,
)
from cascade.service.protocols.replying import Rendering, json_bytes, replied
from cascade.service.protocols.running import Asked, run

router = APIRouter(tags=["OpenAI"])

_OURS = frozenset({"model", "stream", "stream_options", "n", "max_completion_tokens"})
"""Parameters that are no settings of a call."""


@router.post(
    "/v1/chat/completions",
    response_model=None,
    responses=answers(ChatCompletion, "chunks") | ERRORS,
    openapi_extra={"parameters": HEADERS},
)
async def chat_completions(request: Request, body: ChatRequest, admitted: Admit) -> Response:
    """Answer a conversation."""
    await check_body(request)
    asked, options = read(request, body), body.stream_options
    if options is not None and not body.stream:
        raise ServiceError(
            400,
            "stream_options: only with stream=true.",
            code="invalid_value",
            param="stream_options",
        )
    model, alternatives, logprobs = asked.model, body.top_logprobs, body.logprobs
    whole = partial(completion, model=model, alternatives=alternatives, logprobs=logprobs)
    usage = options is not None and options.include_usage
    chunks = Chunks(model, asked.runs, alternatives, logprobs, usage) if body.stream else None
    return await replied(request, partial(run, admitted, asked), whole, chunks)


def read(request: Request, body: ChatRequest) -> Asked:
    """What is asked.

    Raises:
        ServiceError: 400, something contradicts itself or has no meaning.
    """
    given = body.model_dump(
        exclude_unset=True, exclude_none=True, by_alias=True, exclude={"messages", "cascade"}
    )
    most = body.max_completion_tokens
    if most is not None and body.max_tokens not in (None, most):
        raise ServiceError(
            400,
            "max_tokens and max_completion_tokens differ: give one of them.",
            code="invalid_value",
            param="max_completion_tokens",
        )
    settings = {name: value for name, value in given.items() if name not in _OURS}
    if most is not None:
        settings["max_tokens"] = most
    return Asked(
        model=body.model,
        messages=[plain(message) for message in body.messages],
        settings=settings,
        wishes=read_wishes(request, body.cascade),
        runs=body.n or 1,
        patience_s=patience_of(request),
    )


def plain(message: Message) -> dict[str, Any]:
    """A message as it goes into the run."""
    return {"content": None, **message.model_dump(exclude_unset=True)}


# The answer ------------------------------------------------------------------------------------


def completion(
    results: list[CascadeResult], *, model: str, alternatives: int | None, logprobs: bool | None
) -> dict[str, Any]:
    """The body of a whole answer."""
    return {
        "id": f"chatcmpl-{results[0].run_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "message": _message(result),
                "logprobs": logprobs_of(result, alternatives) if logprobs else None,
                "finish_reason": finish_reason_of(result),
            }
            for index, result in enumerate(results)
        ],
        "usage": usage_of(results),
        "system_fingerprint": None,
        "cascade": report_of(results),
    }


def _message(result: CascadeResult) -> dict[str, Any]:
    calls = [call_of(call) for call in result.message.tool_calls]
    refusal = refusal_of(result)
    content = None if refusal or (calls and not result.answer) else result.answer
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal}
    if calls:
        message["tool_calls"] = calls
    if thinking := details_of(result).get("thinking"):
        message["reasoning_content"] = thinking
    return message


def call_of(call: Any) -> dict[str, Any]:
    """A tool call in OpenAI's form."""
    arguments = json.dumps(call["args"], ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {"id": call["id"], "type": "function", "function": function}


def logprobs_of(result: CascadeResult, alternatives: int | None) -> dict[str, Any] | None:
    """The log-probs of an answer with so many alternatives; None where its tier gave none."""
    tokens = details_of(result).get("logprobs")
    if tokens is None:
        return None
    content = openai_logprobs(tokens)
    for token in content:
        # A draft asks for two, whatever the client wants.
        del token["top_logprobs"][alternatives or 0 :]
    return {"content": content, "refusal": None}


# The stream ------------------------------------------------------------------------------------


class Chunks(Rendering):
    """OpenAI's chunks. Each choice ends with one that has its finish reason, the log-probs of
    its tokens, and the extension `cascade`.

    Args:
        model: the public name.
        runs: how many choices there are.
        alternatives: to each token in the log-probs.
        logprobs: whether there are any.
        usage: whether a last chunk has the usage.
    """

    media_type = "text/event-stream"
    ping = b": waiting for the decision\n\n"

    def __init__(
        self,
        model: str,
        runs: int,
        alternatives: int | None,
        logprobs: bool | None,
        usage: bool,
    ) -> None:
        self._head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }
        # Most chunks of a stream: nothing but their text is written anew.
        self._token = b"data: " + json_bytes(self._head)[:-1].replace(b"%", b"%%")
        self._token += b',"choices":[{"index":%d,"delta":{"content":%s},"logprobs":null,'
        self._token += b'"finish_reason":null}]' + (b',"usage":null' if usage else b"") + b"}\n\n"
        self._shown = [0] * runs
        self._alternatives = alternatives
        self._logprobs = logprobs
        self._usage = usage

    def begin(self) -> bytes:
        """Who speaks."""
        role = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(self._chunk(index, role) for index in range(len(self._shown)))

    def event(self, number: int, event: Event) -> bytes:
        """A piece of text; of decisions the clients of this protocol know nothing."""
        if not isinstance(event, Token) or not event.text:
            return b""
        self._shown[number] += len(event.text)
        return self._text(number, event.text)

    def end(self, results: list[CascadeResult]) -> bytes:
        """What was not shown yet, the ends of the choices, the usage."""
        pieces = [self._end(number, result) for number, result in enumerate(results)]
        if self._usage:
            pieces.append(_data({**self._head, "choices": [], "usage": usage_of(results)}))
        return b"".join([*pieces, b"data: [DONE]\n\n"])

    def failed(self, fault: ServiceError) -> bytes:
        """The error, in the form in which clients raise it."""
        return _data(fault.openai())

    def _text(self, number: int, text: str) -> bytes:
        return self._token % (number, json_bytes(text))

    def _end(self, number: int, result: CascadeResult) -> bytes:
        message, pieces = _message(result), []
        if rest := (result.answer[self._shown[number] :] if message["content"] else ""):
            pieces.append(self._text(number, rest))
        if message["refusal"]:
            pieces.append(self._chunk(number, {"refusal": message["refusal"]}))
        for index, call in enumerate(message.get("tool_calls", ())):
            pieces.append(self._chunk(number, {"tool_calls": [{"index": index, **call}]}))
        logprobs = logprobs_of(result, self._alternatives) if self._logprobs else None
        reason = finish_reason_of(result)
        pieces.append(self._chunk(number, {}, reason, logprobs, cascade=report_of([result])))
        return b"".join(pieces)

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
        return _data({**self._head, "choices": [choice], **usage, **extension})


def _data(content: object) -> bytes:
    return b"data: " + json_bytes(content) + b"\n\n"
