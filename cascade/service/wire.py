"""Common parts of the protocols: bodies, the extension `cascade`, answers, streams, disconnects."""

from __future__ import annotations

import asyncio
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import jsonschema.validators  # noqa: F401 - a second to load, which no request should wait for
import referencing.jsonschema  # noqa: F401 - the same
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from cascade.confidence.schemas import check_schema, check_tools
from cascade.events import Event, Token
from cascade.models.wire import read_tool_call
from cascade.run import Settings
from cascade.service.faults import CLIENT_GONE, ServiceError, fault_of, invalid
from cascade.service.gateway import Gateway, Outcome, Question, Served, Way, header
from cascade.service.keys import Key
from cascade.service.limits import FILE_CHARACTERS

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

MOST_VALUES = 100_000
"""Values in the JSON of a body: to read more holds up all other requests for over 50 ms."""

AT_ONCE = 8 * 1024
"""Characters of schemas that are checked in the event loop; more are checked in a thread."""

PING_S = 10.0
"""A stream that has nothing to tell says so this often: clients and proxies give up on silence."""

GATHER_S = 0.002
"""Pieces that come within so long of each other are sent together; the first ones go at once."""

IGNORED = frozenset(
    [
        *("metadata", "user", "safety_identifier", "store", "service_tier", "include", "container"),
        *("prompt_cache_key", "prompt_cache_retention", "stream_options", "logprobs"),
        *("thinking", "context_management", "betas", "top_logprobs"),
    ]
)
"""Parameters that change no answer here, where a protocol's model does not name them; the header
`x-cascade-ignored` tells those that were given."""


def gateway_of(request: Request) -> Gateway:
    """The gateway that a request came to."""
    found: Gateway = request.app.state.gateway
    return found


# --- bodies


BODIES: list[type[BaseModel]] = []
"""Models of bodies, for the OpenAPI document."""


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The part of the OpenAPI document about a body that a route reads by `read_body`."""
    BODIES.append(model)
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_body(request: Request, model: type[M]) -> tuple[M, int]:
    """The body of a request, of any Content-Type, and its size in characters; that of
    images and files is a lump."""
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise ServiceError(CLIENT_GONE, "the client went away.", "cancelled") from None
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES:
        said = f"the body has more than {MOST_VALUES:,} values: send less."
        raise ServiceError(413, said, "body_too_long")
    try:
        value = from_json(raw, allow_inf_nan=False)
        size = _size(value)
    except ValueError as error:
        raise ServiceError(400, f"the body is not JSON: {error}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise ServiceError(400, "the body is no JSON object.", "invalid_json")
    try:
        return model.model_validate(value), size
    except ValidationError as error:
        raise invalid(error) from None


_ENCODED = frozenset({"url", "image_url", "images", "data", "file_data"})


def _size(body: Any) -> int:
    """Characters of all text in a body, tools and schemas among it.

    Raises:
        ValueError: a number is too large for any provider, such as 1e999.
    """
    total, left = 0, [("", body)]
    while left:
        name, value = left.pop()
        if isinstance(value, str):
            encoded = name in _ENCODED and len(value) > FILE_CHARACTERS
            total += FILE_CHARACTERS if encoded else len(value)
        elif isinstance(value, dict):
            total += sum(map(len, value))
            left += value.items()
        elif isinstance(value, list):
            left += [(name, item) for item in value]
        else:
            total += 4
            if isinstance(value, float) and math.isinf(value):
                raise ValueError("it holds a number that is too large")
    return total


def unsupported(name: str, why: str) -> ServiceError:
    """The refusal of a parameter that cannot be obeyed."""
    return ServiceError(400, f"{name}: not supported: {why}", "unsupported_parameter", param=name)


async def _check(settings: Settings) -> None:
    """Refuse schemas that no answer can be checked by. Large ones are read in a thread: what was
    read once is known to the cascade."""
    tools, schema = settings.get("tools") or [], settings.get("schema")

    def check() -> None:
        check_tools(tools)
        if schema is not None:
            check_schema(schema)

    if _size(tools) + _size(schema) <= AT_ONCE:
        check()
    else:
        await asyncio.to_thread(check)


# --- messages


def message_of(
    role: str,
    content: str | list[Any],
    calls: Sequence[Mapping[str, Any]] = (),
    *,
    call_id: str | None = None,
    name: str | None = None,
) -> AnyMessage:
    """A message of any protocol.

    Args:
        role: `system`, `developer`, `user`, `assistant` or `tool`.
        content: text, or parts in OpenAI's form.
        calls: of an assistant: `id`, `name` and `arguments`, as text or as an object.
        call_id: of a tool's result.
        name: of the tool, or of who speaks.
    """
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


# --- the extension


_TAG = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Wishes(BaseModel):
    """The extension `cascade` of a request's body; each is also a header, `X-Cascade-…`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        title="CascadeExtension",
    )

    price_of_error: float | None = Field(default=None, gt=0)
    """Dollars that a wrong answer costs; escalation is weighed against it."""
    deadline: float | None = Field(default=None, ge=0.1)
    """Seconds from the arrival of the request to its answer."""
    local_only: bool | Literal["answer", "abstain"] = False
    """Stay on this machine; `abstain` gives no answer where no tier here is good enough."""
    tags: dict[_TAG, _TAG] = Field(default_factory=dict, max_length=20)
    """Of the ledger entries of this request; as a header `user=ada,team=x`."""


class Asked(BaseModel):
    """Common part of the requests of all protocols."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    stream: StrictBool | None = None
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


_NO_WISHES, _PREFIX = Wishes(), "x-cascade-"


def read_wishes(request: Request, extension: Wishes | None) -> Wishes:
    """Wishes of a request, in headers and in the body's `cascade`."""
    told = {name: v for name, v in request.headers.items() if name.startswith(_PREFIX)}
    if not told:
        return extension or _NO_WISHES
    said = {} if extension is None else extension.model_dump(exclude_unset=True)
    for name, value in told.items():
        wish = name.removeprefix(_PREFIX).replace("-", "_")
        if wish in said:
            words = f"{wish}: given in a header and in the body; give one of them."
            raise ServiceError(400, words, param=f"cascade.{wish}")
        said[wish] = _tags(value) if wish == "tags" else value
    try:
        return Wishes.model_validate(said)
    except ValidationError as error:
        fault = invalid(error)
        there = ", ".join(sorted(Wishes.model_fields))
        words = f"cascade.{fault.message} The extension has {there}."
        raise ServiceError(400, words, param=f"cascade.{fault.param}") from None


def _tags(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    return {name.strip(): value.strip() for name, _, value in pairs}


# --- answers and streams


def json_bytes(content: object) -> bytes:
    """JSON as it is sent; half a character of a model becomes an escape, not an error."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(content, separators=(",", ":")).encode()


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """A whole answer."""
    return Response(json_bytes(content), headers=headers, media_type="application/json")


def sent_event(kind: str, **content: Any) -> bytes:
    """An event of a stream, as the protocols of OpenAI's responses and of Anthropic have it."""
    said = json_bytes({"type": kind, **content})
    return b"event: " + kind.encode() + b"\ndata: " + said + b"\n\n"


class Writer(ABC):
    """Answer of one protocol, as a whole or as a stream."""

    media_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": waiting for the decision\n\n"

    def loaded(self) -> dict[str, Any] | None:
        """The answer to a request without a question, by which clients have a model loaded."""
        return None

    @abstractmethod
    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The answer in one piece."""

    def begin(self) -> bytes:
        """Beginning of a stream."""
        return b""

    @abstractmethod
    def text(self, text: str) -> bytes:
        """A piece of the answer's text."""

    @abstractmethod
    def end(self, outcome: Outcome) -> bytes:
        """The end of a stream, after all of the answer's text."""

    @abstractmethod
    def failed(self, fault: ServiceError) -> bytes:
        """The end of a stream that failed."""


async def converse(
    request: Request,
    form: type[Asked],
    read: Callable[[Any, Served], tuple[list[AnyMessage], Settings]],
    make_writer: Callable[[Any], Writer],
) -> Response:
    """The answer to a request of any protocol, whole or as a stream. A client that leaves cancels
    its run.

    Args:
        request: of the client.
        form: of its body.
        read: makes messages and settings of a body.
        make_writer: makes the writer of the answer to a body.
    """
    began, gateway = time.monotonic(), gateway_of(request)
    key = await gateway.key_of(request)
    body, size = await read_body(request, form)
    served = gateway.model(body.model, key)
    messages, settings = read(body, served)
    writer = make_writer(body)
    if not messages and (loaded := writer.loaded()) is not None:
        return json_response(loaded)
    last = messages[-1] if messages else HumanMessage("")
    if last.type == "human" and isinstance(last.content, str) and not last.content.strip():
        said = "messages: there is none, or the last one is empty: ask something."
        raise ServiceError(400, said, param="messages")
    wishes = read_wishes(request, body.cascade)
    settings["tags"], settings["deadline"] = wishes.tags, wishes.deadline
    if wishes.local_only:
        settings["local_only"] = wishes.local_only
    await _check(settings)
    question = Question(served, messages, settings, size, wishes.price_of_error, began)
    headers = {}
    if unused := sorted(IGNORED & (body.model_extra or {}).keys()):
        headers["x-cascade-ignored"] = header(", ".join(unused))
    if not body.stream:
        outcome = await while_connected(request.receive, gateway.ask(question, key))
        return json_response(writer.whole(outcome), headers | outcome.way.headers())
    feed = Feed(gateway, question, key)
    try:
        await while_connected(request.receive, feed.begun())
    except BaseException:
        await feed.aclose()
        raise
    return Streamed(feed, writer, headers | (feed.way.headers() if feed.way is not None else {}))


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client goes away."""

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ServiceError(CLIENT_GONE, "the client went away.", "cancelled")
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))


class Feed:
    """Feed of a stream, from the task that works on a question to the one that sends: text
    in pieces, then the outcome or the error."""

    def __init__(self, gateway: Gateway, question: Question, key: Key | None) -> None:
        self.way: Way | None = None
        self._items: list[str | Outcome | ServiceError] = []
        self._there = asyncio.Event()
        self._task = asyncio.create_task(self._work(gateway, question, key))

    async def _work(self, gateway: Gateway, question: Question, key: Key | None) -> None:
        try:
            self._put(await gateway.ask(question, key, self._tell))
        except Exception as error:  # noqa: BLE001 - the sender has to say it
            self._put(fault_of(error, f"run {self.way.run_id}" if self.way else "a stream"))

    def _tell(self, way: Way, event: Event) -> None:
        self.way = way
        if isinstance(event, Token) and event.text:
            self._put(event.text)

    def _put(self, item: str | Outcome | ServiceError) -> None:
        self._items.append(item)
        self._there.set()

    async def begun(self) -> None:
        """Wait for the first words, or as long as a client is patient without any; raise what came
        in their place."""
        await self._wait()
        if self._items and isinstance(self._items[0], ServiceError):
            raise self._items[0]

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PING_S):
                await self._there.wait()

    async def pieces(self, writer: Writer) -> AsyncIterator[bytes]:
        """The bytes of the stream."""
        made, gather_s, open_, shown = writer.begin(), 0.0, True, 0
        while open_:
            if self._items and isinstance(self._items[-1], str):
                await asyncio.sleep(gather_s)
            items, self._items = self._items, []
            self._there.clear()
            for item in items:
                if isinstance(item, str):
                    shown += len(item)
                    made += writer.text(item)
                elif isinstance(item, ServiceError):
                    made += writer.failed(item)
                else:
                    rest = item.result.answer[shown:]
                    made += (writer.text(rest) if rest else b"") + writer.end(item)
            open_ = not items or isinstance(items[-1], str)
            yield made if items else made + writer.ping
            made, gather_s = b"", GATHER_S
            if open_:
                await self._wait()

    async def aclose(self) -> None:
        """Stop the work, if it is not done."""
        self._task.cancel()
        await asyncio.wait((self._task,))


class Streamed(StreamingResponse):
    """Stream of a run's events; a client that goes away cancels the run."""

    def __init__(self, feed: Feed, writer: Writer, headers: Mapping[str, str]) -> None:
        quick = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(
            feed.pieces(writer), headers={**quick, **headers}, media_type=writer.media_type
        )
        self._feed = feed

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._feed.aclose()
