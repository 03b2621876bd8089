"""The files of the page, which come with the package; they hold nothing that is secret."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response

from cascade.service.faults import ServiceError
from cascade.service.page.guard import PageRoute

router = APIRouter(route_class=PageRoute, include_in_schema=False)

TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""What is served under `/page/static/`; HTML is not, as it has its own routes."""


def _folder() -> Traversable:
    return files("cascade").joinpath("service", "page", "static")


@cache
def read_text(name: str) -> str:
    """A file of the page."""
    return _folder().joinpath(name).read_text(encoding="utf-8")


@cache
def names() -> frozenset[str]:
    """The files that may be asked for."""
    return frozenset(f.name for f in _folder().iterdir() if f.name.rpartition(".")[2] in TYPES)


@cache
def tag_of(name: str) -> str:
    """Changes with the file."""
    return f'"{hashlib.sha256(read_text(name).encode()).hexdigest()[:20]}"'


@cache
def packed(name: str) -> bytes:
    """A file as most browsers take it: a third of its size."""
    return gzip.compress(read_text(name).encode(), mtime=0)


@router.get("/page/static/{name}")
async def static(name: str, request: Request) -> Response:
    """A style, a script or a picture; a browser that has it already gets nothing again."""
    if name not in names():
        raise ServiceError(404, f"the page has no file {name!r}.", code="no_such_file")
    headers = {"ETag": tag_of(name), "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag_of(name):
        return Response(status_code=304, headers=headers)
    content = read_text(name).encode()
    if "gzip" in request.headers.get("accept-encoding", ""):
        content = packed(name)
        headers |= {"Content-Encoding": "gzip"}
    kind = TYPES[name.rpartition(".")[2]]
    return Response(content, headers=headers, media_type=kind)
