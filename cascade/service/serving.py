"""A service under uvicorn: bounded connections, a graceful end, logs."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import re
import signal
import socket
import threading
from asyncio import TimerHandle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.prices import has_price
from cascade.service.app import create_app
from cascade.service.config import Configured, ListenConfig, LogConfig
from cascade.service.gateway import Gateway

logger = logging.getLogger("cascade")

ARRIVE_S = 60.0
"""Seconds between two looks at each connection: a request has to arrive whole, and what is written
has to be read, from one to the next but one."""

LARGEST_HEAD = 64 * 1024
"""Bytes of a request before its body."""


def serve(configured: Configured) -> None:
    """Run a service until it is told to stop: SIGTERM finishes what runs and leaves.

    Raises:
        ConfigurationError: it cannot run; the message says why.
    """
    with bound(configured.config.listen) as made:
        set_up_logs(configured.config.log)
        app = create_app(configured)
        # Modules and models stay to the end: to look through them for garbage again and again would
        # be a tenth of the work on a request, and the longest pauses.
        gc.collect()
        gc.freeze()
        host, port = made.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again at its end
                signal.signal(number, lambda *_: None)
        uvicorn.Server(settings(app, configured)).run([made])


def settings(app: FastAPI, configured: Configured) -> uvicorn.Config:
    """The settings with which uvicorn runs a service."""
    config = configured.config
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # runs are logged, and no paths
        lifespan="on",
        limit_concurrency=config.listen.connections,
        timeout_graceful_shutdown=math.ceil(config.shutdown_grace_s),
        server_header=False,
        http=BoundedProtocol,
        ws="none",
        forwarded_allow_ips=[*map(str, config.listen.proxies)],
    )


def bound(listen: ListenConfig) -> socket.socket:
    """A socket on which the service listens.

    Raises:
        ConfigurationError: the address is taken, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # `::` is for clients of both
    try:
        return socket.create_server((listen.host, listen.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigurationError(f"{listen.host}:{listen.port}: {error.strerror}.") from error


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds on the size of a request's head and the time of its arrival.

    Its parser has none: headers without end would fill the memory, and a client that sends a byte a
    minute, or never reads its answer, would keep a connection for ever.
    """

    _timer: TimerHandle
    _in_head, _unfinished = True, 0  # bytes of a request that is not there whole
    _steps, _seen = 0, -1  # what the client has done, and had done when it was last waited for

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unfinished += len(data)
        super().data_received(data)
        if self._in_head and self._unfinished > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too long.")

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what comes after the body is none
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        self._in_head, self._unfinished = True, 0
        self._steps += 1
        super().on_message_complete()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._steps += 1

    def _look(self) -> None:
        """Cut off a client that was waited for since the last look."""
        closing = self.transport.is_closing()
        waits = closing or self.cycle is None or self._unfinished or self.flow.write_paused
        if waits and self._seen == self._steps:
            if closing or (self.cycle is not None and self.cycle.response_started):
                self.transport.abort()  # an answer has begun, or is not read
                return
            self.send_400_response("The request did not arrive in time.")
        self._seen = self._steps if waits else -1
        self._timer = self.loop.call_later(ARRIVE_S, self._look)


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

    @override
    def format(self, record: logging.LogRecord) -> str:
        if not self._json:
            lines = super().format(record).split("\n")
            return "\n    ".join(_ACTING.sub(lambda found: repr(found[0])[1:-1], x) for x in lines)
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "run", {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def set_up_logs(config: LogConfig) -> None:
    """Write the service's own records to standard error, and of others only warnings: clients of
    providers log whole requests at the level debug."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(as_json=config.format == "json"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("cascade").setLevel(config.level.upper())


def describe(configured: Configured) -> list[str]:
    """Description of what would run, in lines; no model is asked.

    Raises:
        ConfigurationError: it cannot run.
        LedgerError: the ledger's database cannot be written.
    """
    config, gateway = configured.config, Gateway(configured)
    asks = "asks for keys" if config.auth else "asks for no key"
    kept = "none" if config.ledger is None else re.sub(r"//[^/@]*@", "//", config.ledger)
    lines = [f"listens on {config.listen.host}:{config.listen.port}, {asks}", f"ledger: {kept}"]
    for name, served in gateway.served.items():
        by = served.config.calibrator or "scores that are not calibrated"
        lines.append(f"{name}: {served.cascade!r} by {by}, {served.config.mode}")
        for tier in served.cascade.tiers:
            where = "this machine" if tier.local else "elsewhere"
            lines.append(f"  {tier.name}: {where}, {tier.pricing.source}")
            if not has_price(tier.pricing, busy_ms=1.0):
                usd = config.unknown_call_usd
                lines.append(f"  remark: it has no price; each call counts ${usd:f} for budgets")
    folder = Path(kept.partition(":///")[2].partition("?")[0]).absolute().parent
    if kept.startswith("sqlite:") and not folder.is_dir():  # to ask would make the file
        raise LedgerError(f"ledger: there is no folder {folder}: make it.")
    if kept.startswith("postgres") and gateway.store is not None:
        with gateway.store as store:
            why = asyncio.run(store.ready())
        if why is not None:
            raise LedgerError(f"ledger: {why}")
    return lines
