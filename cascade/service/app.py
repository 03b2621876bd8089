"""The application under uvicorn: routes, errors in each protocol's form, what is refused before any
route, bounded connections, a graceful end, logs."""

from __future__ import annotations

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
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cascade._version import __version__
from cascade.errors import CascadeError, ConfigurationError
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.ledger.prices import has_price
from cascade.service import anthropic, ollama, openai, page
from cascade.service.config import Configured, ListenConfig, LogConfig
from cascade.service.faults import ServiceError, fault_of
from cascade.service.gateway import Gateway, Route, asked_by
from cascade.service.wire import json_response

logger = logging.getLogger("cascade")

own = APIRouter(tags=["operators"], route_class=Route)

ARRIVE_S, LARGEST_HEAD = 60.0, 64 * 1024
"""Seconds between two looks at each connection (a request has to arrive whole, and what is written
to be read, from one to the next but one), and bytes of a request before its body."""


def create_app(config: Configured) -> FastAPI:
    """The application of a service, for any ASGI server; one process each.

    Raises:
        ConfigurationError: a cascade cannot be built from it.
    """
    registry = CollectorRegistry()
    gateway = Gateway(config, [PrometheusMetrics(registry)])
    app = FastAPI(
        title="cascade",
        version=__version__,
        description="OpenAI's, Anthropic's and Ollama's protocols in front of cascades.",
        lifespan=lambda _: gateway,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
        responses={"default": {"description": "An error, in the form of the protocol."}},
        dependencies=[Security(HTTPBearer(scheme_name="key"))],  # for its document alone
    )
    app.state.gateway, app.state.registry, app.state.reports = gateway, registry, page.Reports()
    for router in (openai.router, anthropic.router, ollama.router, own):
        app.include_router(router)
    app.include_router(page.router, include_in_schema=False)
    for kind in (ServiceError, CascadeError, HTTPException, ClientDisconnect, Exception):
        app.add_exception_handler(kind, _show_fault)
    app.openapi()  # is kept: 20 ms, for which nobody has to wait
    return app


async def _show_fault(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nginx's
    if isinstance(error, HTTPException):  # no such path, or no such method of it
        paths, here = request.app.openapi()["paths"], f"/{path.split('/')[1][:20]}/"
        near = [each for each in paths if each.startswith(here)] or paths
        there = ", ".join(f"{method.upper()} {each}" for each in near for method in paths[each])
        said = f"{request.method} {path[:100]} is not served here; there are {there}."
        allowed = dict(error.headers or {})
        error = ServiceError(error.status_code, said, "not_served", headers=allowed)
    fault = fault_of(error, path)
    if path == "/" or path.startswith("/export/"):
        return page.told(fault)
    return json_response(fault.body(path), fault.headers, fault.status)


@own.head("/healthz", include_in_schema=False)
@own.get("/healthz")
async def alive(_: Request) -> Response:
    """Liveness: the process answers."""
    return json_response({"status": "ok"})


@own.head("/readyz", include_in_schema=False)
@own.get("/readyz")
async def ready(request: Request) -> Response:
    """Readiness: the ledger can be written."""
    store = request.app.state.gateway.store
    why = None if store is None else await store.ready()
    if why is None:
        return json_response({"status": "ready"})
    logger.warning("not ready: %s", why)
    said = {"status": "not ready", "reason": "the ledger cannot be written"}
    return json_response(said, {"Retry-After": "1"}, 503)


@own.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus; asks for a key of any kind."""
    await asked_by(request)
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@own.post("/admin/reload")
async def reload(request: Request) -> Response:
    """Read the configuration again: says what changed, and which keys need a restart."""
    gateway, _ = await asked_by(request, admin=True)
    return json_response(await gateway.reload())


# --- under uvicorn


def serve(config: Configured) -> None:
    """Run a service until it is told to stop: SIGTERM finishes what runs and leaves.

    Raises:
        ConfigurationError: it cannot run; the message says why.
    """
    with bound(config.listen) as made:
        set_up_logs(config.log)
        app = create_app(config)
        # Modules and models stay to the end: to look through them for garbage again and again would
        # be a tenth of the work on a request, and the longest pauses.
        gc.collect()
        gc.freeze()
        host, port = made.getsockname()[:2]
        logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again at its end
                signal.signal(number, lambda *_: None)
        uvicorn.Server(settings(app, config)).run([made])


def settings(app: FastAPI, config: Configured) -> uvicorn.Config:
    """The settings with which uvicorn runs a service."""
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
    _waited = False  # for the client, since the last look

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
        self._in_head, self._unfinished, self._waited = True, 0, False
        super().on_message_complete()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._waited = False

    def _look(self) -> None:
        """Cut off a client that was waited for since the last look."""
        closing = self.transport.is_closing()
        waits = closing or self.cycle is None or self._unfinished or self.flow.write_paused
        if waits and self._waited:
            if closing or (self.cycle is not None and self.cycle.response_started):
                self.transport.abort()  # an answer has begun, or is not read
                return
            self.send_400_response("The request did not arrive in time.")
        self._waited = bool(waits)
        self._timer = self.loop.call_later(ARRIVE_S, self._look)


class Lines(logging.Formatter):
    """Records as text whose further lines are set in, or as one JSON object each: what clients and
    providers say forges no record, and moves no cursor."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._json = as_json

    @override
    def format(self, record: logging.LogRecord) -> str:
        if not self._json:
            text = super().format(record).replace("\n", "\n    ")
            shown = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
            return text if text.isprintable() else "".join(shown)
        at = datetime.fromtimestamp(record.created, UTC).isoformat()
        said = {"time": at, "level": record.levelname, "message": record.getMessage()}
        said |= getattr(record, "run", {})
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def set_up_logs(config: LogConfig) -> None:
    """Write our records to standard error, and of clients, which log whole requests, warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(as_json=config.format == "json"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("cascade").setLevel(config.level.upper())


def describe(config: Configured) -> list[str]:
    """Description of what would run, in lines; no model is asked, and no ledger opened.

    Raises:
        ConfigurationError: it cannot run.
    """
    gateway = Gateway(config)
    asks = "asks for keys" if config.auth else "asks for no key"
    kept = re.sub(r"//[^/@]*@", "//", config.ledger or "none")
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
    return lines
