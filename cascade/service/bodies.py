"""Refuses requests whose bodies are too long, or packed, before they fill the memory."""

from __future__ import annotations

from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["SMALL", "Bounded"]

SMALL = 256 * 1024
"""Bytes of a body where no conversation is sent: FastAPI reads it before it looks at the key."""


class Bounded:
    """Lets an application read no more of a body than so much.

    FastAPI has such a limit of its own; it answers outside of the handlers of errors, in a shape
    that no client of these protocols reads.

    Args:
        app: the application.
        most: bytes of a body.
        long: the paths where it may be as long as that; else it may have `SMALL`.
    """

    def __init__(self, app: ASGIApp, most: int, long: Collection[str]) -> None:
        self._app = app
        self._most = most
        self._long = frozenset(long)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._most if scope["path"] in self._long else min(self._most, SMALL)
        fault = _fault(scope, most)
        read = 0

        async def receiving() -> Message:
            nonlocal read
            if fault is not None:
                raise fault
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _too_long(most)
            return message

        await self._app(scope, receiving, send)


def _fault(scope: Scope, most: int) -> HTTPException | None:
    """What its headers say already is wrong with a body; raised where somebody wants to read it,
    so that it is told in the shape of its protocol.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > most:
            return _too_long(most)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return HTTPException(
                415,
                "packed bodies are not taken: send it without Content-Encoding.",
                {"Connection": "close"},
            )
    return None


def _too_long(most: int) -> HTTPException:
    way_out = "send less" if most == SMALL else "send less, or set max_body_mib"
    return HTTPException(
        413,
        f"the body is longer than {most / 2**20:g} MiB: {way_out}.",
        {"Connection": "close"},
    )
