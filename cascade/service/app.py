"""The application: routes, error handlers, and what happens at start and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from cascade._version import __version__
from cascade.errors import CascadeError
from cascade.service import admin, feedback, health
from cascade.service.admission import authenticated
from cascade.service.bodies import Bounded
from cascade.service.building import build_service
from cascade.service.config import ServiceConfig
from cascade.service.faults import ServiceError, fault_of
from cascade.service.metrics import Measured
from cascade.service.service import Service, service_of
from cascade.service.straight import FAULTS, Straight, straight_paths

logger = logging.getLogger("cascade")

START_PATIENCE_S = 5.0

ABOUT = "OpenAI's and Ollama's protocols in front of cascades, with keys, budgets and a ledger."


def create_app(config: ServiceConfig, folder: Path | None = None) -> FastAPI:
    """The application of a service, for any ASGI server; one process each.

    Args:
        config: what to run, of `read_settings(file).config` or made by hand.
        folder: what paths of calibrations are relative to; by default the current one.

    Raises:
        ConfigurationError: a cascade cannot be built from it.
    """
    from cascade.service.page import router as page  # noqa: PLC0415 - they import the seams here
    from cascade.service.protocols import routers  # noqa: PLC0415

    service = build_service(config, folder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await _look_for_keys(service)
        await _look_for_calibrations(service)
        watching = asyncio.create_task(service.reloads.watch(config.watch_s))
        living = asyncio.create_task(_live(service))
        # Beside the first requests, which may come before a slow upstream has answered.
        warming = app.state.warming = asyncio.create_task(_warm(service))
        try:
            yield
        finally:
            for task in (watching, warming, living):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await service.aclose()

    app = FastAPI(
        title="cascade",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # its pages load scripts from another host
        redoc_url=None,
    )
    app.state.service = service
    protocols = routers()
    for router in (*protocols, feedback.router, page, admin.router, health.router):
        app.include_router(router)
    app.add_api_route(
        "/metrics", metrics, methods=["GET"], tags=["health"], response_class=PlainTextResponse
    )
    for kind in FAULTS:
        app.add_exception_handler(kind, show_fault)
    # The last one added is the outermost: what is too long is counted as well.
    app.add_middleware(Straight, routers=protocols, show=show_fault)
    most = int(config.max_body_mib * 2**20)
    app.add_middleware(Bounded, most=most, long=straight_paths(protocols))
    app.add_middleware(Measured, metrics=service.metrics)
    return app


async def _look_for_calibrations(service: Service) -> None:
    """Begin with the versions that the other replicas use; those that cannot be seen yet come as
    soon as they can.
    """
    if service.shared is None:
        return
    try:
        async with asyncio.timeout(START_PATIENCE_S):
            await service.shared.begin()
    except (CascadeError, TimeoutError) as error:
        logger.error("calibrations of the ledger cannot be read yet: %s", error or "no answer")


async def _live(service: Service) -> None:
    """Keep in step with other replicas."""
    if service.shared is not None:
        await service.shared.live()


async def _warm(service: Service) -> None:
    """Connections, weights and the ledger, before the first requests need them."""
    for name, cascade in service.cascades.items():
        try:
            await cascade.awarm()
        except Exception:  # a service that is not warm answers all the same
            logger.exception("%s could not be warmed up", name)


async def _look_for_keys(service: Service) -> None:
    """Say at the start what would puzzle the first who asks; it starts all the same, as a database
    may come later.
    """
    if not service.config.auth:
        return
    try:
        async with asyncio.timeout(START_PATIENCE_S):
            keys = await service.keys.list()
    except (CascadeError, TimeoutError) as error:
        logger.error("the keys cannot be read yet, nobody is let in: %s", error or "no answer")
        return
    if all(key.revoked_at is not None for key in keys):
        logger.warning("there is no valid key yet: `cascade keys create` makes one")


async def metrics(
    service: Annotated[Service, Depends(service_of)],
    _: Annotated[object, Depends(authenticated)],
) -> Response:
    """Metrics for Prometheus; asks for a key of any kind."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def show_fault(request: Request, error: Exception) -> JSONResponse:
    """An error in the shape of the protocol that was spoken."""
    if isinstance(error, RequestValidationError):
        error = _invalid(error)
    elif isinstance(error, HTTPException):
        error = _of_http(error)
        if error.status == 405:
            error.headers["Allow"] = _allowed(request)
    fault = fault_of(error, request.url.path)
    if fault.status == 500:
        logger.error("%s: %s", request.url.path, type(error).__name__)
    return JSONResponse(fault.body(request.url.path), fault.status, fault.headers)


def _invalid(error: RequestValidationError) -> ServiceError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    words = f"{place}: {first['msg']}" if place else str(first["msg"])
    return ServiceError(400, words, code="invalid_value", param=place or None)


def _allowed(request: Request) -> str:
    """All methods of a path; the router knows those of the first route that has it."""
    return ", ".join(
        method
        for method in ("GET", "POST", "PUT", "DELETE")
        for scope in [{**request.scope, "method": method}]
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    )


def _of_http(error: HTTPException) -> ServiceError:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "body_too_long", 415: "packed_body"}
    return ServiceError(
        error.status_code,
        str(error.detail),
        code=codes.get(error.status_code),
        headers=error.headers,
    )
