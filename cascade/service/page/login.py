"""Login with an admin key, and logout."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from string import Template
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from cascade.errors import CascadeError
from cascade.service.admission import find_key
from cascade.service.faults import ServiceError
from cascade.service.page.desk import desk_of
from cascade.service.page.files import read_text
from cascade.service.page.guard import PageRoute, cookie_name, same_site, signed_in
from cascade.service.page.sessions import LASTS_S
from cascade.service.service import service_of

router = APIRouter(route_class=PageRoute, include_in_schema=False)

LARGEST_FORM = 4_096
"""Bytes of a login; a key has less than a hundred."""


@router.get("/login")
async def show(request: Request) -> Response:
    """The form; who is logged in needs none."""
    try:
        await signed_in(request)
    except ServiceError as error:
        if error.status != 401:
            raise
        return _form()
    return RedirectResponse("/", 303)


@router.post("/login")
async def login(request: Request) -> Response:
    """Begin a session with an admin key."""
    same_site(request)
    if not service_of(request).config.auth:
        return RedirectResponse("/", 303)
    desk, secret = desk_of(request), await _secret(request)
    try:
        key = await find_key(request, desk.service, secret)
    except ServiceError as error:
        return _form(error.message, error.status, error.headers)
    except CascadeError:
        return _form("The keys cannot be read now: the service's log says why.", 503)
    if key is None:
        return _form("That is no valid key.", 401)
    if not key.admin:
        return _form("That key is valid, and no admin key: the page needs one.", 403)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        cookie_name(request),
        desk.sessions.open(key),
        max_age=int(LASTS_S),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/logout")
async def logout(request: Request) -> Response:
    """End the session."""
    same_site(request)
    name = cookie_name(request)
    if (token := request.cookies.get(name)) is not None:
        desk_of(request).sessions.close(token)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(
        name, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict"
    )
    return response


async def _secret(request: Request) -> str:
    """The key in the form.

    Raises:
        ServiceError: 413, the form is too long; 415, it is none; 400, it is not text.
    """
    if request.headers.get("content-type", "").partition(";")[0] != (
        "application/x-www-form-urlencoded"
    ):
        raise ServiceError(415, "send the form of the login page.", code="no_form")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_FORM:
            raise ServiceError(413, "that is too long for a key.", code="too_long")
    try:
        fields = parse_qs(body.decode(), max_num_fields=8)
    except ValueError:
        raise ServiceError(400, "the form cannot be read.", code="bad_form") from None
    return fields.get("key", [""])[0].strip()


def _form(error: str = "", status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    said = f'<p class="error" role="alert" id="error">{escape(error)}</p>' if error else ""
    page = Template(read_text("login.html")).substitute(error=said)
    return HTMLResponse(page, status, headers)
