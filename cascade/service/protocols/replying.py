"""How answers travel: a client that goes away cancels its request, and one that waits is kept."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cascade.events import Event
from cascade.result import CascadeResult
from cascade.service.faults import CLIENT_GONE, ServiceError, fault_of
from cascade.service.metrics import tell_unexpected
from cascade.service.protocols.extension import headers_of
from cascade.service.protocols.running import Tell

T = TypeVar("T")

Work = Callable[[Tell | None], Coroutine[Any, Any, list[CascadeResult]]]
"""Answers a request, and tells somebody what happens, where somebody is there."""

PING_S = 10.0
"""A stream that has nothing to tell says so this often: clients and proxies give up on silence."""

GATHER_S = 0.002
"""Words that come within so long of each other are sent together: nobody reads faster, and a write
to the network costs more than to make what is written. The first ones go at once."""


def json_bytes(content: object) -> bytes:
    """JSON as it is sent; a half character of a model becomes an escape, not an error."""
    try:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(content, separators=(",", ":")).encode()


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    """A whole answer, written once."""
    return Response(json_bytes(content), headers=headers, media_type="application/json")


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client goes away.

    Raises:
        ServiceError: 499, it went away. Nobody reads that.
    """
    me, finished = asyncio.current_task(), False
    assert me is not None, "it is awaited"

    def gone(watch: asyncio.Task[None]) -> None:
        if not (finished or watch.cancelled() or watch.exception()):
            me.cancel()

    watch = asyncio.ensure_future(_disconnected(receive))
    watch.add_done_callback(gone)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.done() or watch.cancelled() or me.uncancel() > 0:
            raise  # somebody else has cancelled: the service is ending
        raise ServiceError(CLIENT_GONE, "the client went away.", code="cancelled") from None
    finally:
        finished = True
        watch.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Rendering(ABC):
    """What a protocol makes of the events of a run."""

    media_type: ClassVar[str]
    ping: ClassVar[bytes]

    def begin(self) -> bytes:
        """What comes before all else."""
        return b""

    @abstractmethod
    def event(self, number: int, event: Event) -> bytes:
        """Something has happened in a run; no bytes where clients are not told."""

    @abstractmethod
    def end(self, results: list[CascadeResult]) -> bytes:
        """All runs have ended."""

    @abstractmethod
    def failed(self, fault: ServiceError) -> bytes:
        """Nothing more will come."""


class _End:
    def __init__(self, results: list[CascadeResult]) -> None:
        self.results = results


_Item = tuple[int, Event] | _End | Exception


class Feed:
    """What happens in a request, from the task that works on it to the one that sends."""

    def __init__(self, work: Work) -> None:
        self._items: list[_Item] = []
        self._there = asyncio.Event()
        self._task = asyncio.create_task(self._work(work))

    async def _work(self, work: Work) -> None:
        try:
            item: _Item = _End(await work(self._tell))
        except Exception as error:  # noqa: BLE001 - whoever sends has to say it
            item = error
        self._put(item)

    def _tell(self, number: int, event: Event) -> None:
        self._put((number, event))

    def _put(self, item: _Item) -> None:
        self._items.append(item)
        self._there.set()

    async def next(self, patience_s: float, gather_s: float = 0.0) -> Sequence[_Item]:
        """All that has happened since it was asked last; nothing where nothing has for so long.

        Args:
            patience_s: for so long.
            gather_s: how long more is waited for once there is something, unless it is the end.
        """
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
    """A stream of a run's events.

    Args:
        feed: where they come from.
        first: the first of them, so that what fails before them is an error with its status.
        rendering: what the protocol makes of them.
        headers: of the answer.
    """

    def __init__(
        self,
        feed: Feed,
        first: Sequence[_Item],
        rendering: Rendering,
        headers: Mapping[str, str],
    ) -> None:
        quick = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(None, headers={**quick, **headers}, media_type=rendering.media_type)
        del self.headers["content-length"]
        self._feed = feed
        self._first = first
        self._rendering = rendering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a client that goes away cancels the run."""
        del scope
        try:
            await while_connected(receive, self._send(send))
        except ServiceError as error:
            if error.status != CLIENT_GONE:
                raise
        finally:
            await self._feed.aclose()

    async def _send(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        pieces, items = [self._rendering.begin()], self._first
        while True:
            pieces += [self._piece(item) for item in items] if items else [self._rendering.ping]
            last = bool(items) and not isinstance(items[-1], tuple)
            piece = b"".join(pieces)
            if piece or last:
                body = {"type": "http.response.body", "body": piece, "more_body": not last}
                await send(body)
            if last:
                return
            pieces, items = [], await self._feed.next(PING_S, GATHER_S)

    def _piece(self, item: _Item) -> bytes:
        if isinstance(item, _End):
            return self._rendering.end(item.results)
        if isinstance(item, Exception):
            return self._rendering.failed(_fault(item))
        return self._rendering.event(*item)


def _fault(error: Exception) -> ServiceError:
    fault = fault_of(error)
    if fault.status == 500:
        tell_unexpected("a stream", error)
    return fault


async def replied(
    request: Request,
    work: Work,
    whole: Callable[[list[CascadeResult]], object],
    stream: Rendering | None,
) -> Response:
    """The answer to a request, with the id that its client has given it.

    Args:
        request: which one.
        work: on it.
        whole: makes the body of an answer in one piece.
        stream: makes a stream of it instead; None where none is wanted.
    """
    request_id = request.headers.get("x-request-id")
    if stream is not None:
        headers = {} if request_id is None else {"X-Request-Id": request_id}
        return await streamed(request, work, stream, headers)
    results = await while_connected(request.receive, work(None))
    return json_response(whole(results), headers_of(results, request_id))


async def streamed(
    request: Request,
    work: Work,
    rendering: Rendering,
    headers: Mapping[str, str],
) -> Response:
    """The stream of some work, once its first event is there, or a while has passed without.

    Raises:
        Exception: what the work raised before its first event.
    """
    feed = Feed(work)
    try:
        first = await while_connected(request.receive, feed.next(PING_S))
        if first and isinstance(first[0], Exception):
            raise first[0]
    except BaseException:
        await feed.aclose()
        raise
    return Streamed(feed, first, rendering, headers)
