"""Refuses requests whose bodies are too long, before they fill the memory."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Bounded:
    """Lets an application read no more of a body than so much.

    A body is read before its key is looked at, so that anybody could send one without end.
    FastAPI has such a limit of its own; it answers outside of the handlers of errors, in a shape
    that no client of these protocols reads.

    Args:
        app: the application.
        most: bytes of a body.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        read = 0

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(
                    413,
                    f"the body is longer than {self._most / 2**20:g} MiB: send less, or set "
                    "max_body_mib.",
                    {"Connection": "close"},
                )
            return message

        await self._app(scope, receiving if scope["type"] == "http" else receive, send)
