"""Runs a service with uvicorn: bounded connections, a graceful end, several processes, logs."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.store import open_store
from cascade.service.app import create_app
from cascade.service.config import Configured, ListenConfig, LogConfig
from cascade.service.faults import without_places
from cascade.service.gateway import Gateway
from cascade.state import Usage

logger = logging.getLogger("cascade")

TAIL_S = 5
"""For the last bytes of answers, once no run is under way."""

LARGEST_HEAD, MOST_HEADERS = 64 * 1024, 128
"""Bytes and headers of a request before its body."""

SPARE_FILES = 256
"""Open files for all but connections."""


def serve(configured: Configured, *, workers: int = 1) -> None:
    """Run a service until it is told to stop.

    SIGTERM finishes what runs and leaves; SIGHUP loads the configuration again.

    Args:
        configured: what to run, of `read_config`.
        workers: processes on one port; they share keys and budgets through the ledger's database.

    Raises:
        ConfigurationError: it cannot run; the message says why.
    """
    listen = configured.config.listen
    if workers < 1 or (workers > 1 and listen.port == 0):
        raise ConfigurationError(
            f"{workers} workers: 1 or more, and for several a port of its own."
        )
    with bound(listen) as made:
        if workers == 1:
            _run(configured, made)
            return
        _start(configured, made, workers)


def _start(  # pragma: no cover - heavy tests start workers
    configured: Configured, made: socket.socket, workers: int
) -> None:
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_work, args=(configured, made), daemon=True) for _ in range(workers)
    ]
    for one in others:
        one.start()
    _watch(others)


def _work(configured: Configured, made: socket.socket) -> None:  # pragma: no cover - a worker's
    parent = multiprocessing.parent_process()
    assert parent is not None, "it is a worker"

    def leave_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    _run(configured.again(), made)


def _watch(others: list[Any]) -> None:  # pragma: no cover - of workers, which heavy tests start
    """Hand signals on, and leave with the first that leaves on its own."""
    told = set[int]()

    def hand_on(number: int, frame: FrameType | None) -> None:
        del frame
        told.add(-number)
        for one in others:
            if one.is_alive() and one.pid:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hand_on)
    while all(one.is_alive() for one in others):
        multiprocessing.connection.wait([one.sentinel for one in others])
    for one in others:
        if one.exitcode and one.exitcode not in told:  # the others would not be restarted either
            hand_on(signal.SIGTERM, None)
    for one in others:
        one.join()
    # One that was told to stop before it had started knows no better end.
    failed = [one.exitcode for one in others if one.exitcode and one.exitcode not in told]
    if failed:
        raise ConfigurationError(f"a worker ended with {failed[0]}: its log says why.")


def _run(configured: Configured, made: socket.socket) -> None:
    set_up_logs(configured.config.log)
    server = GatewayServer(create_app(configured), configured.config.listen)
    # Modules and models stay to the end: to look through them for garbage again and again would be
    # a tenth of the work on a request, and the longest pauses.
    gc.collect()
    gc.freeze()
    server.run([made])


@contextmanager
def bound(listen: ListenConfig) -> Iterator[socket.socket]:
    """A socket on which the service listens.

    Raises:
        ConfigurationError: the address is taken, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((listen.host, listen.port))
        except OSError as error:
            raise ConfigurationError(f"{listen.host}:{listen.port}: {error.strerror}.") from error
        made.set_inheritable(True)
        yield made


class GatewayServer(uvicorn.Server):
    """Server that drains before it stops.

    On SIGTERM or SIGINT it goes on listening, so that `/readyz` says 503 and new requests are
    refused with words, until the requests under way have ended. A second signal stops at once.

    Args:
        app: of `create_app`.
        listen: where it listens.
    """

    def __init__(self, app: FastAPI, listen: ListenConfig) -> None:
        self._gateway: Gateway = app.state.gateway
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        super().__init__(
            uvicorn.Config(
                app,
                host=listen.host,
                port=listen.port,
                log_config=None,
                access_log=False,  # runs are logged, and no paths
                lifespan="on",
                timeout_graceful_shutdown=TAIL_S,
                server_header=False,
                http=bounded(listen),
                ws="none",
                forwarded_allow_ips=list(listen.proxies),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen for requests and signals."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread() and sys.platform != "win32":
            self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        await super().startup(sockets)
        if sockets:
            host, port = sockets[0].getsockname()[:2]
            logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop. The process then ends with 0, as it was asked to."""
        if self._loop is None or self._gateway.draining:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Begin to stop; called in the loop."""
        if not self._gateway.draining:
            self._start(self._drain())

    def reload(self) -> None:
        """Load the configuration again; called in the loop."""
        self._start(self._gateway.reload())

    async def _drain(self) -> None:
        try:
            await self._gateway.drain(self._gateway.config.shutdown_grace_s)
        finally:
            self.should_exit = True

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the time and size of a request's arrival. Its parser has
    none: headers without end would fill the memory, and a client that sends a byte a minute, or
    never reads its answer, would keep a place for ever. `bounded` makes one.

    Attributes:
        arrive_s: seconds in which a request has to arrive, and an answer may stay unread.
        most: connections at once.
    """

    arrive_s: ClassVar[float] = 60.0
    most: ClassVar[int] = 4096

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._in_head, self._head, self._headers_seen, self._pending = True, 0, 0, 0

    def connection_made(self, transport: Any) -> None:
        """A client connects."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(503, "Service Unavailable", "too many connections are open: try again.")
        else:
            self._arriving = self.loop.call_later(self.arrive_s, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop("_arriving")
        self._stop("_leaving")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived; of a head that does not end, so much and no more."""
        if self.transport.is_closing():
            return
        if self._in_head:  # of one long value the parser tells nothing before its end
            self._pending += len(data)
        super().data_received(data)
        if self._in_head and self._pending > LARGEST_HEAD and not self.transport.is_closing():
            self._too_large()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = self._headers_seen = 0
        if self._arriving is None:
            self._arriving = self.loop.call_later(self.arrive_s, self._too_late)

    def on_url(self, url: bytes) -> None:
        """A piece of its address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes after the body is none, since nothing looks at it any more."""
        self._headers_seen += 1
        self._count(len(name) + len(value) + 4)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._in_head, self._pending = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._stop("_arriving")
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
        self._stop("_leaving")

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came after an answer."""
        super().timeout_keep_alive_handler()
        self._leave()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, or was refused while it was parsed."""
        if self._head > LARGEST_HEAD or self._headers_seen > MOST_HEADERS:
            self._too_large()
        elif self._answering:  # two answers at once would be taken for each other's
            self.transport.abort()
        else:
            super().send_400_response(msg)
            self._leave()

    @property
    def _answering(self) -> bool:
        cycle = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > LARGEST_HEAD or self._headers_seen > MOST_HEADERS:
            raise ValueError("the head is too large")  # the parser makes a 400 of it, see there

    def _too_large(self) -> None:
        words = "the headers are too long or too many."
        self._refuse(431, "Request Header Fields Too Large", words)

    def _too_late(self) -> None:
        self._arriving = None
        if self.flow.read_paused:  # the service does not read, so that it cannot arrive
            self._arriving = self.loop.call_later(self.arrive_s, self._too_late)
        elif not self.transport.is_closing():
            self._refuse(408, "Request Timeout", "the request did not arrive in time.")

    def _refuse(self, status: int, phrase: str, words: str) -> None:
        self._stop("_arriving")
        if self._answering:
            self.transport.abort()
            return
        self.transport.write(
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(words)}\r\nconnection: close\r\n\r\n{words}".encode()
        )
        self.transport.close()
        self._leave()

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = self.loop.call_later(self.arrive_s, self.transport.abort)

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


def bounded(listen: ListenConfig) -> type[BoundedProtocol]:
    """The protocol with the bounds of a configuration."""
    bounds = {"arrive_s": listen.arrive_s, "most": _places(listen.connections)}
    return type("GatewayProtocol", (BoundedProtocol,), bounds)


def _places(wanted: int) -> int:
    """How many connections there may be: each takes an open file, and its request another one to a
    provider. The process's limit of open files is raised as far as it may be."""
    if sys.platform == "win32":
        return wanted
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed, unlimited = 2 * wanted + SPARE_FILES, resource.RLIM_INFINITY
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == unlimited else max(1, min(wanted, (soft - SPARE_FILES) // 2))


_ACTING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that end a line, move a cursor or turn text around."""


class Lines(logging.Formatter):
    """Records as text whose further lines are set in, or as one JSON object each: what clients and
    providers say forges no record, and moves no cursor."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The record."""
        if not self._json:
            lines = super().format(record).split("\n")
            return "\n    ".join(_ACTING.sub(lambda found: repr(found[0])[1:-1], x) for x in lines)
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "message": record.getMessage(),
            **{k: v for k, v in vars(record).items() if k not in _USUAL and not k.startswith("_")},
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up_logs(config: LogConfig) -> None:
    """Write the service's own records to standard error, and of others only warnings: clients of
    providers log whole requests at the level debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(as_json=config.format == "json"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("cascade").setLevel(config.level.upper())


def describe(configured: Configured) -> list[str]:
    """What would run, as lines for people; no model is asked.

    Raises:
        ConfigurationError: it cannot run.
        LedgerError: the ledger's database cannot be written.
    """
    config = configured.config
    gateway = Gateway(configured)
    asks = "asks for keys" if config.auth else "asks for no key"
    kept = "none" if config.ledger is None else without_places(config.ledger.url)
    lines = [f"listens on {config.listen.host}:{config.listen.port}, {asks}", f"ledger: {kept}"]
    for name, served in gateway.served.items():
        cascade, given = served.cascade, served.config
        calibrated = given.calibrator or "no calibration: confidence is a raw score"
        lines.append(f"{name}: {cascade.policy!r}, {given.mode}, {calibrated}")
        for tier in cascade.tiers:
            where = "this machine" if tier.local else "elsewhere"
            lines.append(f"  {tier.name}: {tier.model.name} ({where}), {tier.pricing.source}")
            if tier.pricing.cost(Usage(input_tokens=1, output_tokens=1), busy_ms=1.0) is None:
                usd = config.budgets.unknown_call_usd
                lines.append(f"  remark: it has no price; each call counts ${usd:f} for budgets")
    if config.ledger is not None:
        _reach(config.ledger.url)
    return lines


def _reach(url: str) -> None:
    folder = Path(url.partition(":///")[2].partition("?")[0]).absolute().parent
    if url.startswith("sqlite:") and not folder.is_dir():
        raise LedgerError(f"ledger.url: there is no folder {folder}: make it.")
    if url.startswith("postgres"):
        with open_store(url) as store:
            why = asyncio.run(store.ready())
        if why is not None:
            raise LedgerError(f"ledger.url: {why}")
