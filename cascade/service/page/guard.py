"""What stands before every route of the page: headers, sessions, and requests of other sites."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute

from cascade.errors import CascadeError
from cascade.service.faults import ServiceError, fault_of
from cascade.service.page.desk import Desk, desk_of
from cascade.service.page.sessions import Session
from cascade.service.service import service_of

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""What a browser lets the page do: nothing that is not from here, no text that becomes code."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Host names under which a page without a login may be asked for."""

COOKIE = "cascade_session"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose every answer has the headers, errors among them."""

    def get_route_handler(self) -> Handler:
        """The handler of FastAPI with the headers around it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                response = await handle(request)
            except (ServiceError, CascadeError) as error:
                response = refusal(request, fault_of(error))
            except RequestValidationError as error:
                response = refusal(request, _invalid(error))
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers.update(HEADERS)
            return response

        return guarded


def refusal(request: Request, error: ServiceError) -> Response:
    """An error as the page reads it; who opens the page without a session goes to the login."""
    if error.status == 401 and request.url.path == "/":
        return RedirectResponse("/login", 303)
    return JSONResponse({"error": error.message, "code": error.code}, error.status, error.headers)


def _invalid(error: RequestValidationError) -> ServiceError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return ServiceError(400, f"{place}: {first['msg']}.", code="invalid_value", param=place)


def cookie_name(request: Request) -> str:
    """With the prefix that forbids other hosts and plain HTTP to set it, where there is TLS."""
    return f"__Host-{COOKIE}" if request.url.scheme == "https" else COOKIE


async def signed_in(request: Request) -> Session:
    """The session of a request.

    Raises:
        ServiceError: 401, there is none; 403, the request is another site's.
    """
    same_site(request)
    desk = desk_of(request)
    if not service_of(request).config.auth:
        _known_host(request)
        return desk.anybody
    session = await _session(request, desk)
    if session is None:
        raise ServiceError(
            401, "you are not logged in: open /login.", "authentication_error", "no_session"
        )
    return session


async def _session(request: Request, desk: Desk) -> Session | None:
    token = request.cookies.get(cookie_name(request))
    if token is None:
        return None
    session = desk.sessions.find(token)
    if session is not None and not await desk.still_valid(session):
        desk.sessions.close(token)
        return None
    return session


def same_site(request: Request) -> None:
    """Refuse what a page of another site has sent, whatever cookies it carries.

    Raises:
        ServiceError: 403, it is another site's.
    """
    place = request.headers.get("sec-fetch-site")
    if request.method == "GET":
        # A link from elsewhere may open the page, where the strict cookie does not come along.
        allowed = place != "cross-site" or request.headers.get("sec-fetch-mode") == "navigate"
    else:
        origin = request.headers.get("origin")
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        allowed = own if place is None else place == "same-origin"
    if not allowed:
        raise ServiceError(
            403,
            "this request was sent by a page of another site.",
            "permission_error",
            "cross_site",
        )


def _known_host(request: Request) -> None:
    """Without a login, a name that somebody else's DNS points here must not open the page.

    Raises:
        ServiceError: 403, it is asked for by another name.
    """
    if request.url.hostname not in LOOPBACK:
        raise ServiceError(
            403,
            f"without a login the page answers to {', '.join(sorted(LOOPBACK))} only.",
            "permission_error",
            "unknown_host",
        )


SignedIn = Annotated[Session, Depends(signed_in)]
"""`session: SignedIn` in a route."""
