"""What the protocols share: bodies, the extension `cascade`, answers, streams and disconnects."""

from __future__ import annotations

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

import jsonschema.validators  # noqa: F401 - a second to load, which no request should wait for
import referencing.jsonschema  # noqa: F401 - the same
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from cascade.confidence.validity import check_schema, check_tools
from cascade.events import Event, Token
from cascade.models.wire import read_tool_call
from cascade.run import Settings
from cascade.service.faults import CLIENT_GONE, ServiceError, fault_of, invalid
from cascade.service.gateway import KINDS, Gateway, Outcome, Question, Served, Way, header
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

_TOOL = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


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
    """The body of a request, whatever its Content-Type says, and its size in characters; that of
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
    except ValueError as error:
        raise ServiceError(400, f"the body is not JSON: {error}.", "invalid_json") from None
    if not isinstance(value, dict):
        raise ServiceError(400, "the body is no JSON object.", "invalid_json")
    try:
        return model.model_validate(value), _size(value)
    except ValidationError as error:
        raise invalid(error) from None


_ENCODED = frozenset({"url", "image_url", "images", "data", "file_data"})


def _size(body: Any) -> int:
    """Characters of all text in a body, tools and schemas among it."""
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
    return total


def unsupported(name: str, why: str) -> ServiceError:
    """The refusal of a parameter that cannot be obeyed."""
    return ServiceError(400, f"{name}: not supported: {why}", "unsupported_parameter", param=name)


async def _check(settings: Settings) -> None:
    """Refuse what no provider can be sent, such as 1e999, and what no answer can be checked by.
    Large schemas are read in a thread: what was read once is known to the cascade."""
    tools, schema = settings.get("tools") or [], settings.get("schema")
    for name in ("tools", "schema", "extra"):
        try:
            json.dumps(settings.get(name), allow_nan=False)
        except (ValueError, RecursionError):
            said = f"{name}: it holds a number that is none, or too large."
            raise ServiceError(400, said, param=name) from None
    for tool in tools:
        if not _TOOL.fullmatch(str(tool["function"].get("name"))):
            said = f"tools: {tool['function'].get('name')!r:.80} is no name of 1 to 128 letters, "
            said += "digits, _ . and -."
            raise ServiceError(400, said, param="tools")

    def check() -> None:
        check_tools(tools)
        if schema is not None:
            check_schema(schema)

    if sum(map(_size, tools)) + _size(schema) <= AT_ONCE:
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


def data_url(kind: str, data: str) -> str:
    """An image's data as an address."""
    return f"data:{quote(kind, safe='/+.-')};base64,{data}"


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
    max_harm: float | None = Field(default=None, gt=0, lt=1)
    """Bound on P(accepted and wrong); needs a calibration with a certificate for it."""
    escalation_budget: float | None = Field(default=None, ge=0, le=1)
    """Share of requests that may be escalated; needs a calibration."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds from the arrival of the request to its answer."""
    local_only: bool | Literal["answer", "abstain"] = False
    """Stay on this machine; `abstain` gives no answer where no tier here is good enough."""
    tags: dict[_TAG, _TAG] = Field(default_factory=dict, max_length=20)
    """Of the ledger entries of this request; as a header `user=ada,team=x`."""
    show: Literal["verified", "final"] = "verified"
    """What a stream shows: text as it arrives after the decision, or all at the end."""


class Asked(BaseModel):
    """What the requests of all protocols have in common."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str = Field(min_length=1, description="The name of a cascade; `/v1/models` lists them.")
    stream: StrictBool | None = None
    cascade: Wishes | None = Field(default=None, description="An extension; headers do as well.")


_NO_WISHES, _PREFIX = Wishes(), "x-cascade-"


def read_wishes(request: Request, extension: Wishes | None) -> Wishes:
    """What a request says about itself, in headers and in the body's `cascade`."""
    said = {} if extension is None else extension.model_dump(exclude_unset=True)
    for name, value in request.headers.items():
        wish = name.removeprefix(_PREFIX).replace("-", "_")
        if name.startswith(_PREFIX):
            if wish in said:
                words = f"{wish}: given in a header and in the body; give one of them."
                raise ServiceError(400, words, param=f"cascade.{wish}")
            said[wish] = _tags(value) if wish == "tags" else value
    tags = dict[str, str]()
    if (given := request.headers.get("x-request-id")) is not None:
        if not _REQUEST_ID.fullmatch(given):
            words = "X-Request-Id: 1 to 128 visible ASCII characters."
            raise ServiceError(400, words, param="X-Request-Id")
        tags["request_id"] = given
    if trace := _TRACE.fullmatch(request.headers.get("traceparent", "")):
        tags["trace_id"] = trace[1]
    if not said and not tags:
        return _NO_WISHES
    try:
        return Wishes.model_validate({**said, "tags": {**said.get("tags", {}), **tags}})
    except ValidationError as error:
        fault = invalid(error)
        there = ", ".join(sorted(Wishes.model_fields))
        words = f"cascade.{fault.message} The extension has {there}."
        raise ServiceError(400, words, param=f"cascade.{fault.param}") from None


def _tags(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(equals and name.strip() for name, equals, _ in pairs):
        said = f"X-Cascade-Tags: {text[:80]!r} has no names and values: user=ada,team=x."
        raise ServiceError(400, said, param="cascade.tags")
    return {name.strip(): value.strip() for name, _, value in pairs}


def extension_of(outcome: Outcome) -> dict[str, Any]:
    """The extension `cascade` of an answer. Dollars are null where they are unknown."""
    way, result = outcome.way, outcome.result
    tiers = dict[str, dict[str, Any]]()
    for entry in result.ledger:
        if entry.tier and entry.model:
            tier = tiers.setdefault(entry.tier, {"model": entry.model, "calls": 0, "cost_usd": 0.0})
            tier["calls"] += 1
            if entry.cost_usd is None or tier["cost_usd"] is None:
                tier["cost_usd"] = None
            else:
                tier["cost_usd"] += float(entry.cost_usd)
    return {
        "run_id": way.run_id,
        "tier": result.tier,
        "model_name": way.model,
        "escalated": way.escalated,
        "degraded": way.degraded,
        "abstained": result.abstained,
        "confidence": way.confidence,
        "calibrated": way.calibrated,
        "action": result.decision.action,
        "reason": way.reason,
        "cost_usd": None if way.cost_usd is None else float(way.cost_usd),
        "cost_basis": result.ledger.cost_basis,
        "saved_usd": None if way.saved_usd is None else float(way.saved_usd),
        "saved_basis": result.ledger.saved_basis,
        "basis": way.basis,
        "tiers": tiers,
    }


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
        """What comes before all else in a stream."""
        return b""

    @abstractmethod
    def text(self, text: str) -> bytes:
        """A piece of the answer's text."""

    @abstractmethod
    def end(self, outcome: Outcome) -> bytes:
        """The end of a stream."""

    @abstractmethod
    def failed(self, fault: ServiceError) -> bytes:
        """The end of a stream that failed."""


Read = Callable[[Any, Served], tuple[list[AnyMessage], Settings]]


async def converse(
    request: Request,
    form: type[Asked],
    read: Read,
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
    messages, settings = read(body, gateway.model(body.model, key))
    writer = make_writer(body)
    if not messages and (loaded := writer.loaded()) is not None:
        return json_response(loaded)
    wishes = read_wishes(request, body.cascade)
    question = _question(body.model, messages, settings, wishes, size)
    question.began = began
    await _check(settings)
    headers = {}
    if (given := request.headers.get("x-request-id")) is not None:
        headers["x-request-id"] = given
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


def _question(
    model: str, messages: list[AnyMessage], settings: Settings, wishes: Wishes, size: int
) -> Question:
    last = messages[-1] if messages else HumanMessage("")
    if last.type == "human" and isinstance(last.content, str) and not last.content.strip():
        said = "messages: there is none, or the last one is empty: ask something."
        raise ServiceError(400, said, param="messages")
    decide = {kind: v for kind in KINDS if (v := getattr(wishes, kind)) is not None}
    if len(decide) > 1:
        said = f"{' and '.join(decide)}: each decides alone; give one."
        raise ServiceError(400, said, param=f"cascade.{next(iter(decide))}")
    settings["tags"] = wishes.tags
    if wishes.deadline is not None:
        settings["deadline"] = wishes.deadline
    if wishes.local_only:
        settings["local_only"] = wishes.local_only
    return Question(model, messages, settings, size, decide, wishes.show)


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
    """What a stream has to tell, from the task that works on a question to the one that sends: text
    in pieces, then the outcome or the error."""

    def __init__(self, gateway: Gateway, question: Question, key: Key | None) -> None:
        self.way: Way | None = None
        self._items: list[str | Outcome | Exception] = []
        self._there = asyncio.Event()
        self._task = asyncio.create_task(self._work(gateway, question, key))

    async def _work(self, gateway: Gateway, question: Question, key: Key | None) -> None:
        try:
            self._put(await gateway.ask(question, key, self._tell))
        except Exception as error:  # noqa: BLE001 - the sender has to say it
            self._put(error)

    def _tell(self, way: Way, event: Event) -> None:
        self.way = way
        if isinstance(event, Token) and event.text:
            self._put(event.text)

    def _put(self, item: str | Outcome | Exception) -> None:
        self._items.append(item)
        self._there.set()

    async def begun(self) -> None:
        """Wait for the first words, or as long as a client is patient without any; raise what came
        in their place."""
        await self._wait()
        if self._items and isinstance(self._items[0], Exception):
            raise self._items[0]

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PING_S):
                await self._there.wait()

    async def pieces(self, writer: Writer) -> AsyncIterator[bytes]:
        """The bytes of the stream."""
        made, gather_s, open_ = writer.begin(), 0.0, True
        while open_:
            if self._items and isinstance(self._items[-1], str):
                await asyncio.sleep(gather_s)
            items, self._items = self._items, []
            self._there.clear()
            open_ = not items or isinstance(items[-1], str)
            yield made + (b"".join(_written(item, writer) for item in items) or writer.ping)
            made, gather_s = b"", GATHER_S
            if open_:
                await self._wait()

    async def aclose(self) -> None:
        """Stop the work, if it is not done."""
        self._task.cancel()
        await asyncio.wait((self._task,))


def _written(item: str | Outcome | Exception, writer: Writer) -> bytes:
    if isinstance(item, str):
        return writer.text(item)
    if isinstance(item, Outcome):
        return writer.end(item)
    return writer.failed(fault_of(item, "a stream"))


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
