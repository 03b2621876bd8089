"""One replica of the gateway under Ray Serve: what Ray calls at its start, on and at its end."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.service.health import database_of
from cascade.service.ray_serve_checks import refuse_for_serve, refuse_unshared
from cascade.service.reading import read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Gateway", "OneRequestId"]

logger = logging.getLogger("cascade")

WARM_S = 60.0
"""A replica gets requests when its weights are loaded and its connections open, or after this."""

UNREADY_S = 120.0
"""A replica whose database does not answer for so long is replaced; for less, restarting would end
what runs and help nobody."""


class Gateway:
    """One replica: the whole gateway in one process.

    Args:
        path: of the configuration, as it was given.
        built_at: the same where the application was built, for replicas that work elsewhere.
    """

    def __init__(self, path: str, built_at: str) -> None:
        self._path = path if Path(path).exists() else built_at
        self._app: FastAPI | None = None
        self._warmed = False
        self._ready_at = time.monotonic()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray once in each replica; its lifespan begins next."""
        from ray import serve  # noqa: PLC0415 - an extra
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware  # noqa: PLC0415

        from cascade.service.app import create_app  # noqa: PLC0415 - heavy
        from cascade.service.server import set_up_logs  # noqa: PLC0415 - heavy

        settings = read_settings(self._path)
        refuse_for_serve(settings)
        context = serve.get_replica_context()
        if context.world_size > 1:  # said in a Serve configuration, over what was built
            refuse_unshared(settings.config, f"{context.world_size} replicas")
        set_up_logs(settings.config.log)
        made = create_app(settings.config, settings.path.parent)
        made.add_middleware(OneRequestId)
        made.add_middleware(
            ProxyHeadersMiddleware, trusted_hosts=list(settings.config.listen.proxies)
        )
        self._app = made
        return made

    async def check_health(self) -> None:
        """Asked by Ray before the first request, and every few seconds; who raises is replaced.

        Raises:
            RuntimeError: the ledger's database has not answered for `UNREADY_S`.
        """
        assert self._app is not None, "Ray builds it first"
        if not self._warmed:
            await asyncio.wait({self._app.state.warming}, timeout=WARM_S)
            self._warmed = True
        if await database_of(self._app.state.service) != "failed":
            self._ready_at = time.monotonic()
        elif (silent_s := time.monotonic() - self._ready_at) > UNREADY_S:
            raise RuntimeError(f"the ledger's database has not answered for {silent_s:.0f} s")


class OneRequestId:
    """Leaves `X-Request-Id` in answers to Ray's proxy: it gives every request one, hands it on, and
    puts it on the answer itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, sending)
