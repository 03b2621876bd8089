"""The application: routes, error handlers, and what happens at start and end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from cascade._version import __version__
from cascade.errors import CascadeError
from cascade.service.building import build_service
from cascade.service.config import ServiceConfig
from cascade.service.faults import ServiceError, fault_of

logger = logging.getLogger("cascade")


def create_app(config: ServiceConfig) -> FastAPI:
    """The application of a service.

    Raises:
        ConfigurationError: a cascade cannot be built from it.
    """
    from cascade.service.page import router as page  # noqa: PLC0415 - they import the seams here
    from cascade.service.protocols import routers  # noqa: PLC0415

    service = build_service(config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        yield
        for served in service.served.values():
            await served.cascade.aclose()
        if service.store is not None:
            await service.store.aclose()

    app = FastAPI(title="cascade", version=__version__, lifespan=lifespan)
    app.state.service = service
    for router in (*routers(), page):
        app.include_router(router)
    app.add_exception_handler(ServiceError, show_fault)
    app.add_exception_handler(CascadeError, show_fault)
    app.add_exception_handler(RequestValidationError, show_fault)
    app.add_exception_handler(Exception, show_fault)
    return app


async def show_fault(request: Request, error: Exception) -> JSONResponse:
    """An error in the shape of the protocol that was spoken."""
    if isinstance(error, RequestValidationError):
        error = _invalid(error)
    fault = fault_of(error)
    if fault.status == 500:
        logger.error("%s failed: %s", request.url.path, type(error).__name__, exc_info=error)
    ollama = request.url.path.startswith("/api/")
    body = fault.ollama() if ollama else fault.openai()
    return JSONResponse(body, fault.status, fault.headers)


def _invalid(error: RequestValidationError) -> ServiceError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return ServiceError(400, f"{place}: {first['msg']}", code="invalid_value", param=place or None)
