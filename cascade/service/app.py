"""The application: routes, errors in each protocol's form, and what is refused before any route."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cascade._version import __version__
from cascade.errors import CascadeError
from cascade.integrations.prometheus import PrometheusMetrics
from cascade.service import anthropic, ollama, openai, page
from cascade.service.config import LOOPBACK, Configured
from cascade.service.faults import CLIENT_GONE, ServiceError, fault_of, protocol_of
from cascade.service.gateway import Gateway
from cascade.service.wire import BODIES, gateway_of, json_response

logger = logging.getLogger("cascade")

own = APIRouter(tags=["operators"])


def create_app(configured: Configured) -> FastAPI:
    """The application of a service, for any ASGI server; one process each.

    Args:
        configured: what to run, of `read_config`.

    Raises:
        ConfigurationError: a cascade cannot be built from it.
    """
    registry = CollectorRegistry()
    gateway = Gateway(configured, [PrometheusMetrics(registry)])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await gateway.open()
        try:
            yield
        finally:
            await gateway.aclose()

    app = FastAPI(
        title="cascade",
        version=__version__,
        description="OpenAI's, Anthropic's and Ollama's protocols in front of cascades.",
        lifespan=lifespan,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
        responses={"default": {"description": "An error, in the form of the protocol."}},
    )
    app.state.gateway, app.state.registry = gateway, registry
    app.state.reports = page.Reports()
    for router in (openai.router, anthropic.router, ollama.router, own):
        app.include_router(router)
    app.include_router(page.router, include_in_schema=False)
    for kind in (ServiceError, CascadeError, HTTPException, Exception):
        app.add_exception_handler(kind, _show_fault)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
    if not configured.config.auth:
        app.add_middleware(OwnPages)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of the bodies that routes read themselves."""
    made = app.openapi_schema
    if not made:
        made = FastAPI.openapi(app)
        bodies: Any = [(body, "validation") for body in BODIES]
        _, schemas = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
        parts = made.setdefault("components", {})
        parts["schemas"] = {**schemas.get("$defs", {}), **parts.get("schemas", {})}
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    return made


# --- errors


async def _show_fault(request: Request, error: Exception) -> Response:
    """An error in the form of the protocol that was spoken."""
    if isinstance(error, HTTPException):
        error = _of_http(request, error)
    fault = fault_of(error, request.url.path)
    if fault.status == CLIENT_GONE:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(fault.body(protocol_of(request.url.path)), fault.status, fault.headers)


def _of_http(request: Request, error: HTTPException) -> ServiceError:
    if error.status_code not in (404, 405):
        return ServiceError(error.status_code, str(error.detail), headers=error.headers)
    path, paths = request.url.path, request.app.openapi()["paths"]
    here = f"/{path.split('/')[1][:20]}/"
    near = [each for each in paths if each.startswith(here)] or paths
    there = ", ".join(f"{method.upper()} {each}" for each in near for method in paths[each])
    said = f"{request.method} {path[:100]} is not served here; there are {there}."
    return ServiceError(error.status_code, said, "not_served", headers=error.headers)


# --- before any route


class OwnPages:
    """Refusal of foreign hosts and origins, where no key is asked for.

    Without keys every program on this machine may ask, and so might every web page that its browser
    shows: a page's `Origin` gives it away, and a foreign name that its DNS points here (rebinding)
    its `Host`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        app = self._app
        if scope["type"] == "http" and (fault := _foreign(Headers(scope=scope))):
            app = JSONResponse(fault.body(protocol_of(scope["path"])), fault.status)
        await app(scope, receive, send)


def _foreign(headers: Headers) -> ServiceError | None:
    host, origin = headers.get("host", ""), headers.get("origin")
    here, there = _address(f"//{host}"), _address(origin or "")
    if here.hostname not in LOOPBACK:
        said = (
            f"without keys this service answers to {', '.join(LOOPBACK)} only, not to {host!r:.80}."
        )
        return ServiceError(403, said, "foreign_host")
    if origin is not None and there.netloc != host:
        said = f"without keys this service answers no page of another site ({origin!r:.80})."
        return ServiceError(403, said, "foreign_origin")
    return None


def _address(given: str) -> SplitResult:
    try:
        return urlsplit(given)
    except ValueError:  # half a bracket
        return urlsplit("")


# --- routes for operators


@own.head("/healthz", include_in_schema=False)
@own.get("/healthz")
async def alive() -> Response:
    """Liveness: the process answers."""
    return json_response({"status": "ok"})


@own.head("/readyz", include_in_schema=False)
@own.get("/readyz")
async def ready(request: Request) -> Response:
    """Readiness: the ledger can be written."""
    store = gateway_of(request).store
    why = None if store is None else await store.ready()
    if why is None:
        return json_response({"status": "ready"})
    logger.warning("not ready: %s", why)
    said = {"status": "not ready", "reason": "the ledger cannot be written"}
    return JSONResponse(said, 503, {"Retry-After": "1"})


@own.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus; asks for a key of any kind."""
    await gateway_of(request).key_of(request)
    text = generate_latest(request.app.state.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@own.post("/admin/reload")
async def reload(request: Request) -> Response:
    """Read the configuration again: says what changed, and which keys need a restart."""
    gateway = gateway_of(request)
    await gateway.key_of(request, admin=True)
    return json_response(await gateway.reload())
