"""Common parts of the protocols: bodies, the extension `cascade`, answers, streams, disconnects."""

from __future__ import annotations

import asyncio
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import product
from typing import Annotated, Any, ClassVar, TypeVar

from fastapi import APIRouter
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from ollama import Options
from pydantic import BaseModel, Field, StrictBool, StrictInt, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cascade.confidence.schemas import check_schema, check_tools
from cascade.events import Event, Retracted, Token
from cascade.models.openai import read_tool_call
from cascade.run import Settings
from cascade.service.faults import ServiceError, client_left, fault_of, invalid
from cascade.service.gateway import Reply, Served, Tell, Way, Wishes, asked_by, header

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Count = Annotated[StrictInt, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Ask = Callable[[Tell], Awaitable[Reply]]

FILE_CHARACTERS = 4_500
"""Size of an image or a file, in characters, for which money is put aside."""

MOST_VALUES, MOST_ENTRIES = 100_000, 4_000
"""Values in the JSON of a body, and entries of all its lists, such as messages (a call of a tool is
two): to read more holds up all other requests for over 50 ms."""

PING_S = 10.0
"""A stream that has nothing to tell says so this often: clients and proxies give up on silence."""

GATHER_S = 0.002
"""Pieces that come within so long of each other are sent together; the first ones go at once."""

IGNORED = {
    *("metadata", "user", "safety_identifier", "store", "service_tier", "include", "container"),
    *("prompt_cache_key", "prompt_cache_retention", "stream_options", "logprobs", "top_logprobs"),
    *("thinking", "context_management", "betas"),
}
"""Parameters that change no answer; the header `x-cascade-ignored` tells those that were given."""


# --- bodies


def takes(path: str, model: type[BaseModel]) -> dict[str, Any]:
    """The part of the OpenAPI document about a body that a route reads by `read_body`."""
    here = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema"
    schema = model.model_json_schema(ref_template=here + "/$defs/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_body(request: Request, model: type[M]) -> tuple[M, int]:
    """The body of a request, of any Content-Type, with the wishes of its headers, and its size in
    characters; that of images and files is a lump."""
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        said = "packed bodies are not taken: send it without Content-Encoding."
        raise ServiceError(415, said, "packed_body", headers={"Connection": "close"})
    most, raw = request.app.state.gateway.config.max_body_mib, bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > most * 2**20:
            said = f"the body is longer than {most:.2g} MiB: send less, or set max_body_mib."
            raise ServiceError(413, said, "body_too_long", headers={"Connection": "close"})
    if sum(map(raw.count, (b",", b"[", b"{"))) > MOST_VALUES:
        said = f"the body has more than {MOST_VALUES:,} values: send less."
        raise ServiceError(413, said, "body_too_long")
    try:
        value = from_json(raw, allow_inf_nan=False)
        size = _size(value)
    except ValueError as error:
        raise ServiceError(400, f"the body is not JSON: {error}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise ServiceError(400, "the body is no JSON object.", "invalid_json")
    told = [(n[10:], v) for n, v in request.headers.items() if n.startswith("x-cascade-")]
    if told and isinstance(wishes := value.get("cascade") or {}, dict):
        value["cascade"] = wishes | {name.replace("-", "_"): v for name, v in told}
    try:
        return model.model_validate(value), size
    except ValidationError as error:
        raise invalid(error, value) from None


_ENCODED = {"url", "image_url", "images", "data", "file_data"}


def _size(body: Any) -> int:
    """Characters of all text in a body, tools and schemas among it; an error where its lists are
    too long, or a number is too large for any provider, such as 1e999."""
    total, entries, left = 0, 0, [("", body)]
    while left:
        name, value = left.pop()
        if isinstance(value, str):
            encoded = name in _ENCODED and len(value) > FILE_CHARACTERS
            total += FILE_CHARACTERS if encoded else len(value)
        elif isinstance(value, dict):
            total += sum(map(len, value))
            text = value.get("type") == "text"  # whatever its name, as in Anthropic's documents
            left += [("", each) for each in value.values()] if text else value.items()
        elif isinstance(value, list):
            entries += len(value) * (2 if name == "tool_calls" else 1)
            if entries > MOST_ENTRIES:
                said = f"{name}: all lists together may have {MOST_ENTRIES:,} entries: send fewer."
                raise ServiceError(413, said, "body_too_long", param=name)
            left += [(name, item) for item in value]
        else:
            total += 4
            if isinstance(value, float) and math.isinf(value):
                raise ValueError("it holds a number that is too large")
    return total


# --- requests


class AnyRequest(BaseModel, extra="allow", allow_inf_nan=False):
    """Common part of the requests of all protocols."""

    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    stream: StrictBool | None = None
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


_OPENAI = {
    *("top_p", "top_k", "min_p", "typical_p", "min_tokens", "seed", "ignore_eos", "logit_bias"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "repeat_penalty"),
    *("parallel_tool_calls", "reasoning_effort", "web_search_options", "chat_template_kwargs"),
    *("modalities", "verbosity"),
}
_OLLAMA = {"keep_alive", "think", "truncate", "shift", "min_p", *Options.model_fields}


def settings_of(
    served: Served,
    given: BaseModel,
    form: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None = None,
    **more: Any,
) -> Settings:
    """Settings of a request: those that it gives under their names, and more of them; a response
    format in the form of chat completions; its extra parameters, which go to tiers as they are."""
    tiers, fields = served.cascade.tiers, type(given).model_fields
    common = (name for name in ("temperature", "max_tokens", "seed", "stop") if name in fields)
    more = {name: getattr(given, name) for name in common} | more
    extra = given.model_extra if extra is None else extra
    others = {n: v for n, v in (extra or {}).items() if v is not None and n not in IGNORED}
    for name, tier in product(others, tiers):
        if name not in (_OLLAMA if tier.model.provider == "ollama" else _OPENAI):
            why = f"the tier {tier.name!r} has no such parameter. Leave it out, or have it set "
            raise unsupported(name, f"{why}in the configuration of a tier that has.")
    if isinstance(stop := more.get("stop"), str):
        more["stop"] = [stop]
    settings = Settings(extra=others)
    settings.update({name: v for name, v in more.items() if v is not None and v != []})  # type: ignore[typeddict-item]
    if form is not None and form["type"] != "text":
        settings["schema"] = form.get("json_schema", {}).get("schema") or {"type": "object"}
        providers = {tier.model.provider for tier in tiers}
        if "ollama" not in providers:
            others["response_format"] = dict(form)
        elif form["type"] == "json_object" and providers == {"ollama"}:
            others["format"] = "json"
    return settings


def schema_format(**described: Any) -> dict[str, Any]:
    """A JSON schema, with its name and what else describes it, as chat completions have it."""
    return {"type": "json_schema", "json_schema": {"name": "answer", **described}}


def unsupported(name: str, why: str) -> ServiceError:
    """The refusal of a parameter that cannot be obeyed."""
    return ServiceError(400, f"{name}: not supported: {why}", "unsupported_parameter", param=name)


# --- messages


def message_of(
    role: str,
    content: str | list[Any],
    calls: Sequence[Mapping[str, Any]] = (),
    *,
    call_id: str | None = None,
    name: str | None = None,
) -> AnyMessage:
    """A message of any protocol: its content in OpenAI's form, an assistant's `calls` with `id`,
    `name` and `arguments`, the `call_id` of a tool's result, the `name` of a tool or a speaker."""
    if role in ("system", "developer"):
        return SystemMessage(content)
    if role == "tool":
        return ToolMessage(content, tool_call_id=call_id or "", name=name)
    if role == "assistant":
        try:
            made = [read_tool_call(c["name"], c["arguments"], c.get("id")) for c in calls]
        except ValueError as error:
            raise ServiceError(400, f"messages: {error}"[:300], param="messages") from None
        return AIMessage(content, tool_calls=made)
    return HumanMessage(content, name=name)


def content_of(given: object, place: str) -> str | list[Any]:
    """Content of any protocol's message: text where all of it is, else parts in OpenAI's form."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise unreadable(place, given)
    parts = [_part(each, f"{place}.{number}") for number, each in enumerate(given)]
    if all(part.keys() == {"type", "text"} for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(given: Any, place: str) -> dict[str, Any]:
    match given:
        case (
            {"type": "text" | "input_text" | "output_text", "text": str(text)}
            | {"type": "refusal", "refusal": str(text)}
            | {"type": "document", "source": {"type": "text", "data": str(text)}}
        ):
            part: dict[str, Any] = {"type": "text", "text": text}
        case (
            {"type": "image_url", "image_url": dict()}
            | {"type": "input_audio", "input_audio": dict()}
            | {"type": "file", "file": dict()}
        ):
            return dict(given)
        case {"type": "input_image", "image_url": str(url)}:
            part = image_part(url)
            if isinstance(detail := given.get("detail"), str):
                part["image_url"]["detail"] = detail
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            part = image_part(url)
        case {
            "type": "image" | "document" as kind,
            "source": {"type": "base64", "media_type": str(form), "data": str(data)},
        }:
            url, name = f"data:{form};base64,{data}", given.get("title") or "document.pdf"
            file = {"type": "file", "file": {"filename": name, "file_data": url}}
            part = image_part(url) if kind == "image" else file
        case _:
            raise unreadable(place, given)
    return marked(part, given)


def image_part(url: str) -> dict[str, Any]:
    """A part of a message: an image, by its address."""
    return {"type": "image_url", "image_url": {"url": url}}


def marked(made: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A part or a tool with the mark of the prompt's cache that it was given with."""
    mark = given.get("cache_control")
    return made if mark is None else made | {"cache_control": mark}


def unreadable(place: str, given: object) -> ServiceError:
    """The refusal of a part of a conversation."""
    kind = f"of type {given.get('type')!r:.40}" if isinstance(given, dict) else repr(given)[:40]
    said = f"{place}: {kind}, it cannot be read here: give text, or what the protocol has for "
    return ServiceError(400, f"{said}images, files, tool calls and their results.", param=place)


# --- answers and streams


_json = json.JSONEncoder(separators=(",", ":"), default=float)


def json_bytes(content: object) -> bytes:
    """JSON as it is sent, in ASCII, with dollars as numbers."""
    return _json.encode(content).encode()


def json_response(
    content: object, headers: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """A whole answer."""
    return Response(json_bytes(content), status, headers, "application/json")


def sent_event(kind: str, **content: Any) -> bytes:
    """An event of a stream, as the protocols of OpenAI's responses and of Anthropic have it."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json_bytes({"type": kind, **content}))


Stream = Generator[bytes, "str | Reply | ServiceError"]
"""Writes a stream: its beginning, each piece of the answer's text that it is sent, and its end,
where that is a reply after all of its text, or a fault."""


class Writer(ABC):
    """Answer of one protocol, as a whole or as a stream."""

    media_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": waiting for the decision\n\n"

    def loaded(self) -> dict[str, Any] | None:
        """The answer to a request that asks nothing, by which clients have a model loaded."""
        return None

    @abstractmethod
    def whole(self, reply: Reply) -> dict[str, Any]:
        """The answer in one piece."""

    @abstractmethod
    def stream(self) -> Stream:
        """The answer as a stream."""


def serves(
    router: APIRouter,
    path: str,
    form: type[AnyRequest],
    read: Callable[[Any, Served], tuple[list[AnyMessage], Settings]],
    make_writer: Callable[[Any], Writer],
) -> None:
    """Add a route for requests of this form: `read` makes messages and settings of one, a writer
    its answer, whole or as a stream. A client that leaves cancels its run."""

    @router.post(path, summary=form.__doc__, openapi_extra=takes(path, form))
    async def converse(request: Request) -> Response:
        began = time.time()
        gateway, key = await asked_by(request)
        body, size = await read_body(request, form)
        served = gateway.model(body.model, key)
        messages, settings = read(body, served)
        writer = make_writer(body)
        if not messages and (loaded := writer.loaded()) is not None:
            return json_response(loaded)
        last = messages[-1] if messages else HumanMessage("")
        if last.type == "human" and not str(last.content).strip():
            said = "messages: there is none, or the last one is empty: ask something."
            raise ServiceError(400, said, param="messages")
        if tools := settings.get("tools"):
            await asyncio.to_thread(check_tools, tools)
        if schema := settings.get("schema"):
            await asyncio.to_thread(check_schema, schema)
        run = served.begin(messages, settings, body.cascade or Wishes(), key)
        run.begun_at = began
        way = Way(run.id, served.name, key.name if key else "")
        ask = partial(gateway.ask, served, run, way, size, key)
        unused = header(", ".join(sorted(IGNORED & (body.model_extra or {}).keys())))
        headers = {"x-cascade-ignored": unused} if unused else {}
        if not body.stream:
            reply = await while_connected(request.receive, ask())
            return json_response(writer.whole(reply), headers | way.headers())
        pieces = streamed(ask, way, writer)
        await while_connected(request.receive, anext(pieces))
        headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **way.headers()}
        return _Stream(pieces, headers=headers, media_type=writer.media_type)


class _Stream(StreamingResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces: Any = self.body_iterator
        async with aclosing(pieces):  # also where the client leaves while it reads nothing
            await super().__call__(scope, receive, send)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client goes away; an error where it has
    cancelled itself, as an agent may."""
    task: Any = asyncio.current_task()

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    leaving = asyncio.ensure_future(leave())
    try:
        return await work
    except asyncio.CancelledError as error:
        if not client_left(error):
            raise fault_of(error) from None
        if not leaving.done():
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        leaving.cancel()


async def streamed(ask: Ask, way: Way, writer: Writer) -> AsyncGenerator[bytes]:
    """The stream of a run: first nothing, once there are words or the client has to hear something,
    then the pieces; an error where there is no answer, and nothing was sent. The work on the
    question ends with it."""
    news, text, sent = asyncio.Event(), "", 0  # text that waits, and characters sent
    end: Reply | ServiceError | None = None

    def tell(event: Event) -> None:
        nonlocal text, end
        if isinstance(event, Token) and end is None:
            text += event.text
        elif isinstance(event, Retracted):
            text = ""
            if sent:
                way.error = "broke off"
                said = "the answer broke off after a part was sent: ask again, or without stream."
                end = ServiceError(502, said, "upstream_failed")
        if text or end:
            news.set()

    async def work() -> None:
        nonlocal end
        try:
            done: Reply | ServiceError = await ask(tell)
        except (Exception, asyncio.CancelledError) as error:
            if client_left(error):
                raise
            done = fault_of(error, "a stream")
        end = end or done
        news.set()

    task = asyncio.create_task(work())
    try:
        await _heard(news)
        if isinstance(end, ServiceError) and not text:
            raise end
        yield b""
        stream, last = writer.stream(), None
        made = next(stream)
        while last is None:
            news.clear()
            piece = end.completion.text[sent:] if isinstance(end, Reply) else text
            text, last, sent = "", end, sent + len(piece)
            made += b"".join(stream.send(each) for each in (piece, last) if each)
            yield made or writer.ping
            made = b""
            if last is None:
                await _heard(news)
                await asyncio.sleep(GATHER_S if end is None else 0)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def _heard(news: asyncio.Event) -> None:
    """Wait for news, as long as a client is patient without any."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PING_S):
            await news.wait()
