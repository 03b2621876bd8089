"""Runs the application with uvicorn: signals, a shutdown that finishes what runs, logs."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from cascade.errors import ConfigurationError
from cascade.integrations.logs import JsonFormatter, TextFormatter
from cascade.service.app import create_app
from cascade.service.config import ListenConfig, LogConfig, ServiceConfig
from cascade.service.connections import guarded
from cascade.service.service import Service

logger = logging.getLogger("cascade")

TAIL_S = 5
"""For the last bytes of answers, and for pages that watch, once no run is under way."""


class GatewayServer(uvicorn.Server):
    """Drains before it stops.

    On SIGTERM or SIGINT it goes on listening, so that `/readyz` says 503 and new requests are
    refused with words, until the requests under way have ended or were stopped by name. A second
    signal stops at once. SIGHUP loads the calibrations again.

    Args:
        app: of `create_app`.
        host: where to listen.
        port: where to listen; 0 takes a free one.
    """

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._service: Service = app.state.service
        listen = self._service.config.listen
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,  # the service logs runs itself, and no paths
                lifespan="on",
                timeout_graceful_shutdown=TAIL_S,
                server_header=False,
                http=guarded(listen),
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to stop. The process then ends with 0, as it was asked to."""
        if self._loop is None or self._service.draining:
            super().handle_exit(sig, frame)
        else:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """Begin to stop; called in the loop."""
        if not self._service.draining:
            self._start(self._drain())

    def reload(self) -> None:
        """Load the calibrations again; called in the loop."""
        self._start(self._service.reloads.load_all())

    @property
    def address(self) -> str:
        """Where it listens, once it has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _drain(self) -> None:
        grace_s = self._service.config.shutdown_grace_s
        running = len(self._service.flights)
        logger.info("shutdown: %d requests under way have %g s to finish", running, grace_s)
        try:
            await self._service.flights.drain(grace_s)
        finally:
            self.should_exit = True

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextmanager
def bound(listen: ListenConfig) -> Iterator[socket.socket]:
    """A socket on which several processes can listen.

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
        yield made


def serve(
    config: ServiceConfig, folder: Path | None = None, sockets: list[socket.socket] | None = None
) -> None:
    """Run a service until it is told to stop, on these sockets, or by default on its own.

    Raises:
        ConfigurationError: it cannot run; the message says why.
    """
    set_up_logs(config.log)
    server = GatewayServer(create_app(config, folder), config.listen.host, config.listen.port)
    # Modules and models stay to the end: to look through them again and again for garbage would be
    # a tenth of the work on a request, and the longest pauses.
    gc.collect()
    gc.freeze()
    server.run(sockets)


def set_up_logs(config: LogConfig) -> None:
    """Write the service's own records and the server's to standard error, and no others.

    Clients of providers log whole requests at the level debug; theirs stay at warning.
    """
    handler = logging.StreamHandler()
    text = TextFormatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if config.format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = config.level.upper()
    logging.getLogger("cascade").setLevel(level)
    logging.getLogger("uvicorn").setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level]))
