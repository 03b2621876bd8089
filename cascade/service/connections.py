"""What a connection may take: time, headers, and a place among the others.

uvicorn's HTTP parser puts no bound on any of them: headers without end fill the memory, and who
sends a byte a minute, or never reads the answer, keeps a place for ever.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cascade.service.config import ListenConfig

__all__ = ["LARGEST_HEAD", "MOST_HEADERS", "guarded", "places"]

logger = logging.getLogger("cascade")

LARGEST_HEAD = 64 * 1024
"""Bytes of a request before its body: address, names and values of headers."""

MOST_HEADERS = 128

SPARE_FILES = 256
"""Open files for all else: the ledger, the log, modules."""

SAID_AGAIN_S = 10.0
"""Refused connections are told to the log this often at most."""

REFUSED = {
    408: ("Request Timeout", "the request did not arrive in time."),
    431: ("Request Header Fields Too Large", "the headers are too long or too many."),
    503: ("Service Unavailable", "too many connections are open: try again."),
}


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with bounds; `guarded` makes one for a configuration.

    Attributes:
        arrive_s: seconds from the first byte of a request, or from the connection, to its last;
            and for which a client may leave an answer unread.
        most: connections at once.
    """

    arrive_s: ClassVar[float] = 60.0
    most: ClassVar[int] = 4096
    told_at: ClassVar[float] = -SAID_AGAIN_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._in_head = True
        self._held = False
        self._head, self._n_headers, self._pending = 0, 0, 0
        self._refusal = 400

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connects."""
        super().connection_made(transport)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        if len(self.connections) > self.most:
            self._tell_full()
            self._refuse(503)
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; nothing has to be waited for."""
        self._arriving = _stopped(self._arriving)
        self._leaving = _stopped(self._leaving)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; of a head that does not end, so much and no more."""
        if self.transport.is_closing():
            return
        if self._in_head:
            # Of one long value the parser tells nothing before its end, and keeps it meanwhile.
            self._pending += len(data)
        super().data_received(data)
        if self._in_head and self._pending > LARGEST_HEAD and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head, self._n_headers = 0, 0
        if self._arriving is None:
            self._wait_for_request()

    def on_url(self, url: bytes) -> None:
        """A piece of its address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What comes after the body is none: nobody has looked at it when it counts."""
        self._n_headers += 1
        self._count(len(name) + len(value) + 4)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._in_head, self._pending = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._arriving = _stopped(self._arriving)
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It is answered; a connection that closes has so long to take what was written."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._leave()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._leave()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._leaving = _stopped(self._leaving)

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after an answer."""
        super().timeout_keep_alive_handler()
        self._leave()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, or was refused while it was parsed."""
        if self._refusal in REFUSED:
            self._refuse(self._refusal)
        elif not self._answering:  # two answers at once would be taken for each other's
            super().send_400_response(msg)
            self._leave()
        else:
            self.transport.abort()

    @property
    def _answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > LARGEST_HEAD or self._n_headers > MOST_HEADERS:
            self._refusal = 431
            raise ValueError("the head is too large")  # the parser makes a 400 of it, see there

    def _wait_for_request(self) -> None:
        self._arriving = self.loop.call_later(self.arrive_s, self._too_late)

    def _too_late(self) -> None:
        held, self._held = self._held, self.flow.read_paused
        if held or self._held:  # the service does not read, or did not, so that it cannot arrive
            self._wait_for_request()
        elif not self.transport.is_closing():
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        """Answer and close; while another answer is on its way, close alone."""
        self._arriving = _stopped(self._arriving)
        if self._answering:
            self.transport.abort()
            return
        phrase, words = REFUSED[status]
        self.transport.write(
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(words)}\r\nconnection: close\r\n\r\n{words}".encode()
        )
        self.transport.close()
        self._leave()

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = self.loop.call_later(self.arrive_s, self.transport.abort)

    def _tell_full(self) -> None:
        now = time.monotonic()
        if now - type(self).told_at >= SAID_AGAIN_S:
            type(self).told_at = now
            logger.warning("%d connections are open: more are refused", self.most)


def guarded(listen: ListenConfig) -> type[Guarded]:
    """The protocol with the bounds of a configuration."""
    bounds = {"arrive_s": listen.arrive_s, "most": places(listen.connections)}
    return type("GuardedProtocol", (Guarded,), bounds)


def places(wanted: int) -> int:
    """How many connections there may be: each takes an open file, and its request another one to
    a provider. The process's limit of open files is raised as far as it may be.
    """
    if sys.platform == "win32":
        return wanted  # pragma: no cover - it counts no files
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + SPARE_FILES
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else max(1, min(wanted, (soft - SPARE_FILES) // 2))


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """What stands in place of a timer that is not needed any more."""
    if timer is not None:
        timer.cancel()
    return None
