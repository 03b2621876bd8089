"""How answers travel: a client that goes away cancels its request, and one that waits is kept."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, ClassVar, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cascade.events import Event
from cascade.result import CascadeResult
from cascade.service.faults import ServiceError, fault_of
from cascade.service.metrics import tell_unexpected
from cascade.service.protocols.running import Tell

T = TypeVar("T")


PING_S = 10.0
"""A stream that has nothing to tell says so this often: clients and proxies give up on silence."""

CLIENT_GONE = 499
"""What nginx calls a client that has closed the connection."""


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

    def __init__(self, work: Callable[[Tell], Coroutine[Any, Any, list[CascadeResult]]]) -> None:
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        self._task = asyncio.create_task(self._work(work))

    async def _work(self, work: Callable[[Tell], Coroutine[Any, Any, list[CascadeResult]]]) -> None:
        def tell(number: int, event: Event) -> None:
            self._queue.put_nowait((number, event))

        try:
            item: _Item = _End(await work(tell))
        except Exception as error:  # noqa: BLE001 - whoever sends has to say it
            item = error
        self._queue.put_nowait(item)

    async def next(self, patience_s: float) -> _Item | None:
        """What has happened next; None where nothing has for so long."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        try:
            async with asyncio.timeout(patience_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def aclose(self) -> None:
        """Stop the work, if it is not done."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Streamed(Response):
    """A stream of a run's events.

    Args:
        feed: where they come from.
        first: the first of them, so that what fails before it is an error with its status.
        rendering: what the protocol makes of them.
        headers: of the answer.
    """

    def __init__(
        self, feed: Feed, first: _Item | None, rendering: Rendering, headers: Mapping[str, str]
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
        piece, item = self._rendering.begin(), self._first
        while True:
            last = False
            if item is None:  # silence
                piece += self._rendering.ping
            elif isinstance(item, _End):
                piece, last = piece + self._rendering.end(item.results), True
            elif isinstance(item, Exception):
                piece, last = piece + self._rendering.failed(_fault(item)), True
            else:
                number, event = item
                piece += self._rendering.event(number, event)
            if piece or last:
                body = {"type": "http.response.body", "body": piece, "more_body": not last}
                await send(body)
            if last:
                return
            piece, item = b"", await self._feed.next(PING_S)


def _fault(error: Exception) -> ServiceError:
    fault = fault_of(error)
    if fault.status == 500:
        tell_unexpected("a stream", error)
    return fault


async def streamed(
    request: Request,
    work: Callable[[Tell], Coroutine[Any, Any, list[CascadeResult]]],
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
        if isinstance(first, Exception):
            raise first
    except BaseException:
        await feed.aclose()
        raise
    return Streamed(feed, first, rendering, headers)
