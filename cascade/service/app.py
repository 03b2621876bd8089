"""The application: routes, errors in each protocol's form, and what is refused before any route."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from openai.types.chat import ChatCompletion
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cascade._version import __version__
from cascade.errors import CascadeError
from cascade.integrations.prometheus import SECONDS, PrometheusMetrics
from cascade.service import admin, anthropic, ollama, openai, page
from cascade.service.config import LOOPBACK, Configured
from cascade.service.faults import CLIENT_GONE, ServiceError, fault_of, protocol_of
from cascade.service.gateway import Gateway
from cascade.service.wire import Endpoint

logger = logging.getLogger("cascade")

SMALL = 256 * 1024
"""Bytes of a body where no conversation is sent."""

START_PATIENCE_S = 5.0

ABOUT = "OpenAI's, Anthropic's and Ollama's protocols in front of cascades."


def _endpoints(stored: openai.Responses) -> list[Endpoint]:
    respond = partial(openai.responses, stored=stored)
    chat, ask = openai.ChatRequest, openai.ResponseRequest
    told, counted = anthropic.MessagesRequest, anthropic.CountRequest
    return [
        Endpoint("POST", "/v1/chat/completions", openai.chat, "OpenAI", chat, ChatCompletion, True),
        Endpoint("POST", "/v1/responses", respond, "OpenAI", ask, long=True),
        Endpoint(
            "GET",
            "/v1/responses/{name}",
            partial(openai.show_response, stored=stored),
            "OpenAI",
        ),
        Endpoint(
            "DELETE",
            "/v1/responses/{name}",
            partial(openai.delete_response, stored=stored),
            "OpenAI",
        ),
        Endpoint("GET", "/v1/models", openai.models, "OpenAI"),
        Endpoint("GET", "/v1/models/{name:path}", openai.model, "OpenAI"),
        Endpoint("POST", "/v1/messages", anthropic.messages, "Anthropic", told, long=True),
        Endpoint(
            "POST",
            "/v1/messages/count_tokens",
            anthropic.count_tokens,
            "Anthropic",
            counted,
            long=True,
        ),
        Endpoint("POST", "/api/chat", ollama.chat, "Ollama", ollama.OllamaChatRequest, long=True),
        Endpoint(
            "POST",
            "/api/generate",
            ollama.generate,
            "Ollama",
            ollama.OllamaGenerateRequest,
            long=True,
        ),
        Endpoint("GET", "/api/tags", ollama.tags, "Ollama"),
        Endpoint("POST", "/api/show", ollama.show, "Ollama", ollama.ShowRequest),
        Endpoint("GET", "/api/version", ollama.version, "Ollama"),
        *admin.ENDPOINTS,
        Endpoint("GET", "/healthz", _alive, "health"),
        Endpoint("GET", "/readyz", _ready, "health"),
        Endpoint("GET", "/metrics", _metrics, "health"),
    ]


def create_app(configured: Configured) -> FastAPI:
    """The application of a service, for any ASGI server; one process each.

    Args:
        configured: what to run, of `read_config`.

    Raises:
        ConfigurationError: a cascade cannot be built from it.
    """
    registry = CollectorRegistry()
    counts = PrometheusMetrics(registry)
    gateway = Gateway(configured, [counts])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        gateway.loop = asyncio.get_running_loop()
        await gateway.open()
        await _look_for_keys(gateway)
        tasks = [asyncio.create_task(gateway.watch()), asyncio.create_task(gateway.warm())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await gateway.aclose()

    app = FastAPI(
        title="cascade",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
    )
    app.state.gateway, app.state.registry = gateway, registry
    endpoints = _endpoints(openai.Responses())
    for endpoint in endpoints:
        _add(app, gateway, endpoint)
    page.add_routes(app, gateway)
    served = [f"{e.method} {e.path.replace(':path', '')}" for e in endpoints]
    for kind in (ServiceError, CascadeError, HTTPException, Exception):
        app.add_exception_handler(kind, partial(_show_fault, served=served))
    app.openapi = partial(_document, app, endpoints)  # type: ignore[method-assign]
    long = {endpoint.path for endpoint in endpoints if endpoint.long}
    app.add_middleware(Edge, gateway=gateway, registry=registry, long=frozenset(long))
    return app


def _add(app: FastAPI, gateway: Gateway, endpoint: Endpoint) -> None:
    async def answer(request: Request) -> Response:
        return await endpoint.work(request, gateway)

    answer.__name__ = getattr(endpoint.work, "func", endpoint.work).__name__
    content = {}
    if endpoint.body is not None:
        ref = {"$ref": f"#/components/schemas/{endpoint.body.__name__}"}
        content = {
            "requestBody": {"required": True, "content": {"application/json": {"schema": ref}}}
        }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("name",)
        if "{name" in endpoint.path
    ]
    app.add_api_route(
        endpoint.path,
        answer,
        methods=[endpoint.method],
        tags=[endpoint.tag],
        summary=(getattr(endpoint.work, "func", endpoint.work).__doc__ or "").split("\n")[0],
        response_model=None,
        responses={
            200: {"description": "The answer.", **({"model": m} if (m := endpoint.answer) else {})},
            "default": {"description": "An error, in the form of the protocol."},
        },
        openapi_extra=content | ({"parameters": parameters} if parameters else {}),
        operation_id=f"{endpoint.method.lower()}{endpoint.path}",
    )
    if endpoint.tag == "health":
        app.add_api_route(endpoint.path, answer, methods=["HEAD"], include_in_schema=False)


def _document(app: FastAPI, endpoints: list[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of the bodies that endpoints read themselves."""
    made = app.openapi_schema
    if not made:
        made = FastAPI.openapi(app)
        bodies = [(e.body, "validation") for e in endpoints if e.body is not None]
        template = "#/components/schemas/{model}"
        _, schemas = models_json_schema(bodies, ref_template=template)  # type: ignore[arg-type]
        own = made.setdefault("components", {}).setdefault("schemas", {})
        for name, schema in schemas.get("$defs", {}).items():
            own.setdefault(name, schema)
        security = {"type": "http", "scheme": "bearer"}
        made["components"]["securitySchemes"] = {"key": security}
        made["security"] = [{"key": []}]
    return made


async def _look_for_keys(gateway: Gateway) -> None:
    """Say at the start what would puzzle the first client; a database may come later."""
    if not gateway.config.auth:
        return
    try:
        async with asyncio.timeout(START_PATIENCE_S):
            keys = await gateway.keys.list()
    except (CascadeError, TimeoutError) as error:
        logger.error("the keys cannot be read yet: %s", error or "no answer")
        return
    if all(key.revoked_at is not None for key in keys):
        logger.warning("there is no valid key yet: `cascade keys create` makes one")


# --- errors


async def _show_fault(request: Request, error: Exception, served: list[str]) -> Response:
    """An error in the form of the protocol that was spoken."""
    path = request.url.path
    if isinstance(error, HTTPException):
        error = _of_http(request, error, served)
    fault = fault_of(error, _where(request, error))
    if fault.status == CLIENT_GONE:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(fault.body(protocol_of(path)), fault.status, fault.headers)


def _where(request: Request, error: Exception) -> str:
    entry = next(iter(getattr(error, "ledger", None) or ()), None)
    return request.url.path if entry is None else f"run {entry.run_id}"


def _of_http(request: Request, error: HTTPException, served: list[str]) -> ServiceError:
    path, status = request.url.path, error.status_code
    headers = dict(error.headers or {})
    if status in (404, 405):
        mine = [each for each in served if each.partition(" ")[2] == path]
        if mine:
            headers["Allow"] = ", ".join(each.partition(" ")[0] for each in mine)
        here = path.split("/")[1][:20]
        near = [each for each in served if each.partition(" ")[2].startswith(f"/{here}/")] or served
        said = f"{request.method} {path[:100]} is not served here; there are {', '.join(near)}."
        return ServiceError(status, said, "not_served", headers=headers)
    return ServiceError(status, str(error.detail), headers=headers)


# --- before any route


class Edge:
    """Outermost layer: refuses foreign hosts and origins where no key is asked for, packed and long
    bodies, and counts requests.

    Without keys every program on this machine may ask, and so might every web page that its browser
    shows: a page's `Origin` gives it away, and a foreign name that its DNS points here (rebinding)
    its `Host`.

    Args:
        app: the application.
        gateway: whose limits hold.
        registry: of metrics.
        long: paths whose bodies may be as long as `max_body_mib`.
    """

    def __init__(
        self, app: ASGIApp, gateway: Gateway, registry: CollectorRegistry, long: frozenset[str]
    ) -> None:
        self._app, self._gateway, self._long = app, gateway, long
        about = "HTTP requests by path and status."
        self._requests = Counter(
            "cascade_http_requests", about, ("path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "cascade_http_seconds",
            "Seconds to the end of an HTTP answer.",
            ("path",),
            registry=registry,
            buckets=SECONDS,
        )
        for name, about in (("running", "that run"), ("waiting", "that wait for a place")):
            gauge = Gauge(f"cascade_requests_{name}", f"Requests {about}.", registry=registry)
            gauge.set_function(partial(self._total, name))

    def _total(self, name: str) -> float:
        return float(sum(getattr(each.gate, name) for each in self._gateway.served.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, read = time.perf_counter(), 500, 0
        config = self._gateway.config
        most = int(config.max_body_mib * 2**20)
        if scope["path"] not in self._long:
            most = min(most, SMALL)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        fault = self._fault(headers, most)

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _too_long(most)
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if fault is not None:
                body = fault.body(protocol_of(scope["path"]))
                await JSONResponse(body, fault.status, fault.headers)(scope, receiving, sending)
            else:
                await self._app(scope, receiving, sending)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._requests.labels(path, str(status)).inc()
            self._seconds.labels(path).observe(time.perf_counter() - began)

    def _fault(self, headers: Mapping[bytes, str], most: int) -> ServiceError | None:
        if not self._gateway.config.auth and (fault := _foreign(headers)) is not None:
            return fault
        if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
            said = "packed bodies are not taken: send it without Content-Encoding."
            return ServiceError(415, said, "packed_body", headers={"Connection": "close"})
        length = headers.get(b"content-length", "0")
        return _too_long(most) if length.isdigit() and int(length[:20]) > most else None


def _foreign(headers: Mapping[bytes, str]) -> ServiceError | None:
    host, origin = headers.get(b"host", ""), headers.get(b"origin")
    if urlsplit(f"//{host}").hostname not in LOOPBACK:
        said = (
            f"without keys this service answers to {', '.join(LOOPBACK)} only, not to {host!r:.80}."
        )
        return ServiceError(403, said, "foreign_host")
    if origin is not None and urlsplit(origin).netloc != host:
        said = f"without keys this service answers no page of another site ({origin!r:.80})."
        return ServiceError(403, said, "foreign_origin")
    return None


def _too_long(most: int) -> ServiceError:
    way_out = "send less" if most == SMALL else "send less, or set max_body_mib"
    said = f"the body is longer than {most / 2**20:g} MiB: {way_out}."
    return ServiceError(413, said, "body_too_long", headers={"Connection": "close"})


# --- health


async def _alive(request: Request, gateway: Gateway) -> Response:
    """Whether the process answers."""
    del request, gateway
    return JSONResponse({"status": "ok"})


async def _ready(request: Request, gateway: Gateway) -> Response:
    """Whether requests can be answered: the ledger can be written, and it is not shutting down."""
    del request
    why = "it is shutting down" if gateway.draining else None
    if why is None and gateway.store is not None:
        why = await gateway.store.ready()
    if why is None:
        return JSONResponse({"status": "ready"})
    logger.warning("not ready: %s", why)
    kind = "shutting down" if gateway.draining else "the ledger cannot be written"
    return JSONResponse({"status": "not ready", "reason": kind}, 503, {"Retry-After": "1"})


async def _metrics(request: Request, gateway: Gateway) -> Response:
    """Metrics for Prometheus; asks for a key of any kind."""
    await gateway.key_of(request)
    text = generate_latest(request.app.state.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
