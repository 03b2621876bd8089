"""The straight way to the routes that answer questions, past FastAPI's own.

FastAPI describes them in the OpenAPI document. To find a route, solve its dependencies and stack
its contexts costs it more than all else that a gateway does with a request, so that what their
endpoints take (a request, a body, who asks) is put together here: a key first, then the body, the
key's rate, and the body as JSON, read once.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_type_hints

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cascade.errors import CascadeError
from cascade.service.admission import Admitted, admitted, authenticated
from cascade.service.faults import CLIENT_GONE, ServiceError

__all__ = ["FAULTS", "Straight", "straight_paths"]

FAULTS = (ServiceError, CascadeError, RequestValidationError, HTTPException)
"""Errors that clients are told about in the shape of their protocol."""

TAKES = {"request": Request, "admitted": Admitted, "return": Response}
"""What an endpoint takes beside its body, and what it gives."""

Endpoint = Callable[[Request, Any, Admitted], Awaitable[Response]]
Show = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Way:
    route: APIRoute
    endpoint: Endpoint
    body: type[BaseModel]


class Straight:
    """Answers the requests to these routes; all others go on.

    Args:
        app: the application.
        routers: whose `POST` routes it answers, where they take `request`, `body`, `admitted`.
        show: makes an answer of one of `FAULTS`.
    """

    def __init__(self, app: ASGIApp, routers: Iterable[APIRouter], show: Show) -> None:
        self._app = app
        self._show = show
        self._ways = _ways(routers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        way = self._ways.get(scope["path"]) if scope.get("method") == "POST" else None
        if way is None or "fastapi.telemetry" in scope:  # its traces know FastAPI's routes alone
            await self._app(scope, receive, send)
            return
        scope["route"] = way.route
        request = Request(scope, receive, send)
        try:
            response = await _answer(request, way)
        except FAULTS as error:
            response = await self._show(request, error)
        await response(scope, receive, send)


def straight_paths(routers: Iterable[APIRouter]) -> frozenset[str]:
    """Where questions are asked: the paths that `Straight` answers."""
    return frozenset(_ways(routers))


def _ways(routers: Iterable[APIRouter]) -> dict[str, _Way]:
    return {
        route.path: way
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and (way := _way(route)) is not None
    }


def _way(route: APIRoute) -> _Way | None:
    hints = get_type_hints(route.endpoint)
    body = hints.pop("body", None)
    if route.methods != {"POST"} or hints != TAKES or body is None:
        return None
    return _Way(route, route.endpoint, body)


async def _answer(request: Request, way: _Way) -> Response:
    try:
        key = await authenticated(request)
    except (ServiceError, CascadeError):
        await _read_past(request)
        raise
    try:
        await request.body()  # to its end, whatever comes of it, so that the connection can be kept
    except ClientDisconnect:
        raise ServiceError(CLIENT_GONE, "the client went away.", code="cancelled") from None
    who = await admitted(request, key)
    given = await _json(request)
    try:
        body = way.body.model_validate(given, from_attributes=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        places = [{**one, "loc": ("body", *one["loc"])} for one in found]
        raise RequestValidationError(places, body=given) from None
    return await way.endpoint(request, body, who)


async def _read_past(request: Request) -> None:
    """Take the body of somebody without a key and keep nothing of it: answered before its end, a
    client would see a connection that broke, and not why.
    """
    with suppress(ClientDisconnect, HTTPException):
        async for _ in request.stream():
            pass


async def _json(request: Request) -> Any:
    """The body, where the client says that it is JSON; else its bytes, which are no request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind[:12] == "application/" and kind[-5:] == "+json"):
        return await request.body()
    try:
        return await request.json()
    except json.JSONDecodeError as error:
        where = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error"}
        raise RequestValidationError([where], body=error.doc) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "There was an error parsing the body") from None
