"""`POST /v1/responses`, and the answers that it has stored."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from langchain_core.messages import AIMessage
from starlette.responses import Response

from cascade.events import Event, Token
from cascade.integrations.chat_messages import metadata_of
from cascade.result import CascadeResult
from cascade.service.admission import Admit, Admitted
from cascade.service.faults import ServiceError
from cascade.service.protocols.asking import HEADERS, check_body, patience_of, read_wishes
from cascade.service.protocols.chat_wire import ERRORS, ErrorReply
from cascade.service.protocols.documented import LISTING, answers, errors
from cascade.service.protocols.replying import (
    Rendering,
    json_bytes,
    json_response,
    replied,
)
from cascade.service.protocols.responses_reading import messages_of, settings_of
from cascade.service.protocols.responses_wire import ResponseBody, ResponseRequest
from cascade.service.protocols.responses_writing import Writing
from cascade.service.protocols.running import Asked, Tell, run
from cascade.service.protocols.stored import conversations_of
from cascade.teaching import OPT_OUT

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/responses",
    response_model=None,
    responses=answers(ResponseBody, "events") | ERRORS,
    openapi_extra={"parameters": HEADERS},
)
async def create_response(request: Request, body: ResponseRequest, admitted: Admit) -> Response:
    """Answer, with what was said before where it is named."""
    await check_body(request)
    before = _before(body, admitted)
    messages = [*before, *messages_of(body.input)]
    asked = _asked(request, body, messages)
    writing = Writing(body)

    async def work(tell: Tell | None) -> list[CascadeResult]:
        results = await run(admitted, asked, tell)
        if body.store is not False:
            said = [*messages, _remembered(results[0])]
            answered = writing.body(results[0])
            size = len(await request.body()) + 2 * len(results[0].answer)
            stored = conversations_of(admitted.service)
            stored.put(writing.id, admitted.key, said, answered, size)
        return results

    stream = Events(writing) if body.stream else None
    return await replied(request, work, lambda results: writing.body(results[0]), stream)


@router.get(
    "/v1/responses/{response_id}",
    response_model=None,
    responses={
        200: {"model": ResponseBody},
        **{s: ERRORS[s] for s in ("default", 401, 404, 429, 503)},
    },
)
async def show_response(response_id: str, admitted: Admit) -> Response:
    """Show an answer that is stored."""
    return json_response(conversations_of(admitted.service).get(response_id, admitted.key).body)


@router.delete(
    "/v1/responses/{response_id}",
    response_model=None,
    responses=errors(ErrorReply, 404, *LISTING),
)
async def delete_response(response_id: str, admitted: Admit) -> Response:
    """Forget an answer that is stored."""
    conversations_of(admitted.service).drop(response_id, admitted.key)
    return json_response({"id": response_id, "object": "response", "deleted": True})


def _remembered(result: CascadeResult) -> AIMessage:
    """An answer as later questions see it, with what says that its conversation stays here."""
    calls, told = list(result.message.tool_calls), metadata_of(result)
    return AIMessage(result.answer, tool_calls=calls, response_metadata=told)


def _before(body: ResponseRequest, admitted: Admitted) -> list[Any]:
    if body.previous_response_id is None:
        return []
    stored = conversations_of(admitted.service)
    return list(stored.get(body.previous_response_id, admitted.key, 400).messages)


def _asked(request: Request, body: ResponseRequest, messages: list[Any]) -> Asked:
    # Instructions are of this request alone: they are not a part of what is stored.
    told = [{"role": "system", "content": body.instructions}] if body.instructions else []
    wishes = read_wishes(request, body.cascade)
    if body.store is False:  # nor among the lessons
        wishes = wishes.model_copy(update={"tags": {**wishes.tags, OPT_OUT[0]: OPT_OUT[1]}})
    return Asked(
        model=body.model,
        messages=[*told, *messages],
        settings=settings_of(body),
        wishes=wishes,
        patience_s=patience_of(request),
    )


class Events(Rendering):
    """OpenAI's events of a response, in its order, each with its number."""

    media_type = "text/event-stream"
    ping = b": waiting for the decision\n\n"

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._number = -1
        self._text = ""
        self._open = False

    def begin(self) -> bytes:
        """It is made, and under way."""
        response = self._writing.head("in_progress")
        return self._say("response.created", response=response) + self._say(
            "response.in_progress", response=response
        )

    def event(self, number: int, event: Event) -> bytes:
        """A piece of text."""
        del number
        if not isinstance(event, Token) or not event.text:
            return b""
        return self._delta(event.text)

    def end(self, results: list[CascadeResult]) -> bytes:
        """The rest, and the response as a whole."""
        (result,) = results
        body = self._writing.body(result)
        pieces = []
        for index, item in enumerate(body["output"]):
            if item["type"] == "message":
                pieces.append(self._end_of_message(index, item))
            else:
                pieces.append(self._call(index, item))
        kind = "response.incomplete" if body["status"] == "incomplete" else "response.completed"
        return b"".join([*pieces, self._say(kind, response=body)])

    def failed(self, fault: ServiceError) -> bytes:
        """It failed: clients raise the error event, and the response says so too."""
        error = {"code": fault.code or fault.type, "message": fault.message}
        body = self._writing.head("failed") | {"error": error}
        return self._say("error", **error, param=fault.param) + self._say(
            "response.failed", response=body
        )

    def _delta(self, text: str) -> bytes:
        opened = b"" if self._open else self._begin_message()
        self._text += text
        place = {"item_id": self._writing.message_id, "output_index": 0, "content_index": 0}
        return opened + self._say("response.output_text.delta", **place, delta=text, logprobs=[])

    def _begin_message(self) -> bytes:
        self._open = True
        item = self._writing.message("", "in_progress") | {"content": []}
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return self._say("response.output_item.added", output_index=0, item=item) + self._say(
            "response.content_part.added", **place, part=part
        )

    def _end_of_message(self, index: int, item: dict[str, Any]) -> bytes:
        (part,) = item["content"]
        place = {"item_id": item["id"], "output_index": index, "content_index": 0}
        pieces = []
        if part["type"] == "output_text":
            if rest := part["text"][len(self._text) :]:
                pieces.append(self._delta(rest))
            elif not self._open:
                pieces.append(self._begin_message())
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            pieces.append(self._say("response.output_text.done", **place, **done))
        else:
            opened = item | {"status": "in_progress", "content": []}
            empty = part | {"refusal": ""}
            pieces += [
                self._say("response.output_item.added", output_index=index, item=opened),
                self._say("response.content_part.added", **place, part=empty),
                self._say("response.refusal.delta", **place, delta=part["refusal"]),
                self._say("response.refusal.done", **place, refusal=part["refusal"]),
            ]
        pieces.append(self._say("response.content_part.done", **place, part=part))
        pieces.append(self._say("response.output_item.done", output_index=index, item=item))
        return b"".join(pieces)

    def _call(self, index: int, item: dict[str, Any]) -> bytes:
        opened = item | {"status": "in_progress", "arguments": ""}
        place = {"item_id": item["id"], "output_index": index}
        arguments = item["arguments"]
        done = {"name": item["name"], "arguments": arguments}
        return b"".join(
            [
                self._say("response.output_item.added", output_index=index, item=opened),
                self._say("response.function_call_arguments.delta", **place, delta=arguments),
                self._say("response.function_call_arguments.done", **place, **done),
                self._say("response.output_item.done", output_index=index, item=item),
            ]
        )

    def _say(self, kind: str, **content: Any) -> bytes:
        self._number += 1
        body = {"type": kind, "sequence_number": self._number, **content}
        return b"event: " + kind.encode() + b"\ndata: " + json_bytes(body) + b"\n\n"
