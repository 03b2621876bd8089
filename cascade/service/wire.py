"""What the protocols share: bodies, the extension `cascade`, answers, streams and disconnects."""

from __future__ import annotations

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar
from urllib.parse import quote

import jsonschema.validators  # noqa: F401 - a second to load, which no request should wait for
import referencing.jsonschema  # noqa: F401 - the same
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError, from_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from cascade.confidence.validity import check_schema, check_tools
from cascade.events import Event
from cascade.models.wire import read_tool_call
from cascade.run import Settings
from cascade.service.faults import CLIENT_GONE, ServiceError, fault_of
from cascade.service.gateway import KINDS, Gateway, Outcome, Question, Way, header
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

NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
"""Of tools."""

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


Handler = Callable[[Request, Gateway], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One thing that is served.

    Attributes:
        method: of HTTP.
        path: with parameters in braces.
        work: makes the answer.
        tag: of the OpenAPI document.
        body: model of the request's body.
        answer: model of the answer.
        long: whether its body may be as long as the configuration says.
    """

    method: str
    path: str
    work: Handler
    tag: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    long: bool = False


# --- bodies


async def read_body(request: Request, model: type[M]) -> tuple[M, int]:
    """The body of a request, whatever its Content-Type says, and its size in characters; that of
    images and files is a lump.

    Raises:
        ServiceError: 400 or 413, with the place that is wrong.
    """
    raw = await request.body()
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MOST_VALUES:
        raise ServiceError(
            413, f"the body has more than {MOST_VALUES:,} values: send less.", "body_too_long"
        )
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


def invalid(error: ValidationError) -> ServiceError:
    """The first thing that is wrong in a body."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    words = first["msg"].removeprefix("Value error, ")
    said = f"{place}: {words}" if place else words
    return ServiceError(400, f"{said}."[:2_000], "invalid_value", param=place or None)


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


def plain(value: Any, what: str) -> None:
    """Refuse what JSON can spell and no provider can be sent, such as 1e999.

    Raises:
        ServiceError: 400.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        said = f"{what}: it holds a number that is none, or too large."
        raise ServiceError(400, said, param=what) from None


async def check_schemas(settings: Settings) -> None:
    """Refuse tools and schemas whose answers cannot be checked. Large ones are read in a thread:
    what was read once is known to the cascade.

    Raises:
        ConfigurationError: there are too many, or one is not valid.
    """
    tools, schema = settings.get("tools") or [], settings.get("schema")
    if not tools and schema is None:
        return
    for tool in tools:
        if not NAME.fullmatch(str(tool["function"].get("name"))):
            raise ServiceError(
                400,
                f"tools: the name {tool['function'].get('name')!r:.80} has other characters than "
                "letters, digits, _ . and -, or none, or more than 128.",
                param="tools",
            )

    def check() -> None:
        check_tools(tools)
        if schema is not None:
            check_schema(schema)

    size = sum(_size(tool) for tool in tools) + (0 if schema is None else _size(schema))
    if size <= AT_ONCE:
        check()
    else:
        await asyncio.to_thread(check)


def unsupported(name: str, why: str) -> ServiceError:
    """A parameter that cannot be obeyed."""
    said = f"{name}: not supported: {why}"
    return ServiceError(400, said, "unsupported_parameter", param=name)


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

    Raises:
        ServiceError: 400, a call's arguments are no JSON object.
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

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_kind(cls, value: object, info: ValidationInfo) -> object:
        number = isinstance(value, int | float)
        if number and isinstance(value, bool) != (info.field_name == "local_only"):
            kind = "true or false" if info.field_name == "local_only" else "a number"
            raise PydanticCustomError("kind", "Input should be {kind}", {"kind": kind})
        return value


_NONE: Final = Wishes()
_PREFIX = "x-cascade-"


def read_wishes(request: Request, extension: Wishes | None) -> Wishes:
    """What a request says about itself, in headers and in the body's `cascade`.

    Raises:
        ServiceError: 400, something has no meaning, or is said twice.
    """
    wishes, said = extension or _NONE, dict[str, Any]()
    for name, value in request.headers.items():
        if name.startswith(_PREFIX):
            wish = name.removeprefix(_PREFIX).replace("-", "_")
            said[wish] = _tags(value) if wish == "tags" else value
    if twice := sorted(said.keys() & wishes.model_fields_set):
        said_ = f"{', '.join(twice)}: given in a header and in the body; give one of them."
        raise ServiceError(400, said_, param=f"cascade.{twice[0]}")
    if said:
        try:
            read = Wishes.model_validate(said)
        except ValidationError as error:
            raise _meaningless(error) from None
        wishes = wishes.model_copy(update={name: getattr(read, name) for name in said})
    tags = dict[str, str]()
    if (given := request.headers.get("x-request-id")) is not None:
        if not _REQUEST_ID.fullmatch(given):
            raise ServiceError(
                400, "X-Request-Id: 1 to 128 visible ASCII characters.", param="X-Request-Id"
            )
        tags["request_id"] = given
    if trace := _TRACE.fullmatch(request.headers.get("traceparent", "")):
        tags["trace_id"] = trace[1]
    return wishes.model_copy(update={"tags": {**wishes.tags, **tags}}) if tags else wishes


def _tags(text: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(equals and name.strip() for name, equals, _ in pairs):
        said = f"X-Cascade-Tags: {text[:80]!r} has no names and values: user=ada,team=x."
        raise ServiceError(400, said, param="cascade.tags")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _meaningless(error: ValidationError) -> ServiceError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        said = f"cascade has no {name!r}; there are {', '.join(sorted(Wishes.model_fields))}."
    else:
        said = f"cascade.{name}: {first['input']!r:.80}: {first['msg']}."
    return ServiceError(400, said, param=f"cascade.{name}")


def asked(
    request: Request,
    model: str,
    messages: list[AnyMessage],
    settings: Settings,
    extension: Wishes | None,
    *,
    size: int,
    stream: bool = False,
    n: int = 1,
    ignored: Sequence[str] = (),
) -> Question:
    """The question that a request of any protocol puts.

    Raises:
        ServiceError: 400, something in it has no meaning.
    """
    wishes = read_wishes(request, extension)
    if not messages:
        raise ServiceError(400, "messages: there are none: ask something.", param="messages")
    last = messages[-1]
    if last.type == "human" and isinstance(last.content, str) and not last.content.strip():
        said = "messages: the last one is empty: ask something."
        raise ServiceError(400, said, param="messages")
    decide = {kind: v for kind in KINDS if (v := getattr(wishes, kind)) is not None}
    if len(decide) > 1:
        said = f"{' and '.join(decide)}: each decides alone; give one."
        raise ServiceError(400, said, param=f"cascade.{next(iter(decide))}")
    if wishes.deadline is not None:
        settings["deadline"] = wishes.deadline
    if wishes.local_only:
        settings["local_only"] = wishes.local_only
    if wishes.tags:
        settings["tags"] = wishes.tags
    plain(settings.get("extra"), "a parameter")
    return Question(model, messages, settings, stream, decide, wishes.show, n, size, tuple(ignored))


def report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The extension `cascade` of an answer; of several that of the first, the sums of all, and
    `runs`. Dollars are null where they are unknown."""
    reports = [_report(outcome) for outcome in outcomes]
    if len(reports) == 1:
        return reports[0]
    sums = {
        name: None
        if any(each[name] is None for each in reports)
        else float(sum(getattr(outcome.way, name) for outcome in outcomes))
        for name in ("cost_usd", "saved_usd")
    }
    return {**reports[0], **sums, "runs": reports}


def _report(outcome: Outcome) -> dict[str, Any]:
    way, result = outcome.way, outcome.result
    ledger = result.ledger
    tiers = dict[str, dict[str, Any]]()
    for entry in ledger:
        if entry.tier and entry.model:
            tier = tiers.setdefault(entry.tier, {"model": entry.model, "calls": 0, "cost_usd": 0.0})
            tier["calls"] += 1
            known = tier["cost_usd"] is not None and entry.cost_usd is not None
            tier["cost_usd"] = tier["cost_usd"] + float(entry.cost_usd) if known else None  # type: ignore[arg-type]
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
        "cost_basis": ledger.cost_basis,
        "saved_usd": None if way.saved_usd is None else float(way.saved_usd),
        "saved_basis": ledger.saved_basis,
        "basis": way.basis,
        "tiers": tiers,
    }


def refusal(outcome: Outcome) -> str | None:
    """What a client is told where the cascade gives no answer on purpose."""
    return f"No answer: {outcome.way.reason}." if outcome.result.abstained else None


def finish_reason(outcome: Outcome) -> Literal["stop", "length", "tool_calls", "content_filter"]:
    """Why the answer ended, in OpenAI's words."""
    done = outcome.completion
    if done is not None and done.tool_calls:
        return "tool_calls"
    reason = None if done is None else done.finish_reason
    if reason == "length":
        return "length"
    return "content_filter" if reason == "content_filter" else "stop"


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


class Rendering(ABC):
    """Stream of one protocol: what it makes of the events of a run."""

    media_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": waiting for the decision\n\n"

    def begin(self) -> bytes:
        """What comes before all else."""
        return b""

    @abstractmethod
    def event(self, number: int, event: Event) -> bytes:
        """Bytes of an event; none where clients are not told."""

    @abstractmethod
    def end(self, outcomes: list[Outcome]) -> bytes:
        """The end of the stream."""

    @abstractmethod
    def failed(self, fault: ServiceError) -> bytes:
        """The end of a stream that failed."""


async def reply(
    request: Request,
    gateway: Gateway,
    key: Key | None,
    question: Question,
    began: float,
    whole: Callable[[list[Outcome]], object],
    stream: Rendering,
) -> Response:
    """The answer to a question, whole or as a stream. A client that leaves cancels its runs.

    Args:
        request: of the client.
        gateway: that answers.
        key: of the request.
        question: that is asked.
        began: when it arrived, by `time.monotonic`.
        whole: makes the body of an answer in one piece.
        stream: makes a stream.

    Raises:
        ServiceError: it was not admitted.
        CascadeError: no tier could answer.
    """
    await check_schemas(question.settings)
    own = {}
    if (given := request.headers.get("x-request-id")) is not None:
        own["x-request-id"] = given
    if question.ignored:
        own["x-cascade-ignored"] = header(", ".join(question.ignored))

    async def work(tell: Callable[[int, Way, Event], None] | None) -> list[Outcome]:
        async with gateway.admitted(question, key, began) as asking:
            if question.n == 1:
                hears = None if tell is None else lambda way, event: tell(0, way, event)
                return [await asking.answer(hears)]
            async with asyncio.TaskGroup() as group:
                runs = []
                for number in range(question.n):
                    hear = None
                    if tell is not None:
                        hear = lambda way, event, i=number: tell(i, way, event)  # noqa: E731
                    runs.append(group.create_task(asking.answer(hear)))
            return [run.result() for run in runs]

    if not question.stream:
        outcomes = await while_connected(request.receive, _one_error(work(None)))
        return json_response(whole(outcomes), {**own, **outcomes[0].way.headers()})
    feed = Feed(lambda tell: _one_error(work(tell)))
    try:
        first = await while_connected(request.receive, feed.next(PING_S))
        while first and all(isinstance(item, tuple) and not item[2] for item in first):
            first = await while_connected(request.receive, feed.next(PING_S))  # only decisions yet
        if first and isinstance(first[0], Exception):
            raise first[0]
    except BaseException:
        await feed.aclose()
        raise
    own |= feed.way.headers() if feed.way is not None else {}
    return Streamed(feed, first, stream, own)


async def _one_error(work: Awaitable[T]) -> T:
    try:
        return await work
    except BaseExceptionGroup as group:  # of several runs: they fail together
        raise group.exceptions[0] from None


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client goes away.

    Raises:
        ServiceError: 499, it went away.
    """
    me, finished = asyncio.current_task(), False
    assert me is not None, "requests are tasks"

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    def gone(watch: asyncio.Task[None]) -> None:
        if not (finished or watch.cancelled() or watch.exception()):
            me.cancel()

    watch = asyncio.ensure_future(disconnected())
    watch.add_done_callback(gone)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.done() or watch.cancelled() or me.uncancel() > 0:
            raise  # the service is ending
        raise ServiceError(CLIENT_GONE, "the client went away.", "cancelled") from None
    finally:
        finished = True
        watch.cancel()


class _End:
    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes


_Item = tuple[int, Event, bool] | _End | Exception
_Work = Callable[[Callable[[int, Way, Event], None]], Coroutine[Any, Any, list[Outcome]]]


class Feed:
    """Events of a request, from the task that works on it to the one that sends."""

    def __init__(self, work: _Work) -> None:
        self.way: Way | None = None
        self._items: list[_Item] = []
        self._there = asyncio.Event()
        self._task = asyncio.create_task(self._work(work))

    async def _work(self, work: _Work) -> None:
        try:
            self._put(_End(await work(self._tell)))
        except Exception as error:  # noqa: BLE001 - the sender has to say it
            self._put(error)

    def _tell(self, number: int, way: Way, event: Event) -> None:
        self.way = self.way or way
        self._put((number, event, hasattr(event, "text")))

    def _put(self, item: _Item) -> None:
        self._items.append(item)
        self._there.set()

    async def next(self, patience_s: float, gather_s: float = 0.0) -> Sequence[_Item]:
        """All that has happened since it was asked last; nothing where nothing has for so long."""
        if not self._items:
            try:
                async with asyncio.timeout(patience_s):
                    await self._there.wait()
            except TimeoutError:
                return ()
        if gather_s and isinstance(self._items[-1], tuple):
            await asyncio.sleep(gather_s)
        items, self._items = self._items, []
        self._there.clear()
        return items

    async def aclose(self) -> None:
        """Stop the work, if it is not done."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Streamed(Response):
    """Stream of a run's events; a client that goes away cancels the run."""

    def __init__(
        self, feed: Feed, first: Sequence[_Item], rendering: Rendering, headers: Mapping[str, str]
    ) -> None:
        quick = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, headers={**quick, **headers}, media_type=rendering.media_type)
        del self.headers["content-length"]
        self._feed, self._first, self._rendering = feed, first, rendering

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        try:
            await while_connected(receive, self._send(send))
        except ServiceError as error:
            if error.status != CLIENT_GONE:
                raise
        finally:
            await self._feed.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pieces, items = [self._rendering.begin()], self._first
        while True:
            pieces += [self._piece(item) for item in items] if items else [self._rendering.ping]
            last = bool(items) and not isinstance(items[-1], tuple)
            piece = b"".join(pieces)
            if piece or last:
                await send({"type": "http.response.body", "body": piece, "more_body": not last})
            if last:
                return
            pieces, items = [], await self._feed.next(PING_S, GATHER_S)

    def _piece(self, item: _Item) -> bytes:
        if isinstance(item, _End):
            return self._rendering.end(item.outcomes)
        if isinstance(item, Exception):
            return self._rendering.failed(fault_of(item, "a stream"))
        return self._rendering.event(item[0], item[1])


def data_url(kind: str, data: str) -> str:
    """An image's data as an address."""
    return f"data:{quote(kind, safe='/+.-')};base64,{data}"
