"""One replica of the gateway under Ray Serve: what Ray calls at its start, on and at its end."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.service.faults import ServiceError
from cascade.service.health import database_of
from cascade.service.ray_serve_checks import modes_in, refuse_for_serve, refuse_unshared
from cascade.service.reading import read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from cascade.service.service import Service

__all__ = ["Fronted", "Gateway"]

logger = logging.getLogger("cascade")

WARM_S = 60.0
"""A replica gets requests when its weights are loaded and its connections open, or after this."""

WATCHED_S = 20.0
"""For so long a page is told of finished requests by one replica."""

EVENTS = "/page/api/events"
BODY = "http.response.body"

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
        _refuse_a_mode_of_one(made)
        made.add_middleware(Fronted)
        made.add_middleware(
            ProxyHeadersMiddleware, trusted_hosts=list(settings.config.listen.proxies)
        )
        self._app = made
        return made

    async def reconfigure(self, user_config: object) -> None:
        """What a Serve configuration says under `user_config`, to all replicas, those to come too:
        `modes` of cascades by their names. A cascade that is not named goes by the configuration.

        Raises:
            ConfigurationError: there is no such key, cascade or mode.
        """
        assert self._app is not None, "Ray builds it first"
        service: Service = self._app.state.service
        modes = modes_in(user_config, service.config)
        for name, mode in modes.items():
            served = service.served[name].cascade
            if served.mode != mode:
                served.mode = mode
                logger.info("%s: runs in the mode %s", name, mode)

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


def _refuse_a_mode_of_one(app: FastAPI) -> None:
    """In place of `PUT /admin/cascades/NAME/mode`, which would change the replica that it meets."""
    from fastapi import Depends  # noqa: PLC0415 - heavy

    from cascade.service.admin import admin_key  # noqa: PLC0415 - heavy

    async def refuse(name: str) -> None:
        raise ServiceError(
            409,
            f"one replica alone would change: say user_config: {{modes: {{{name}: …}}}} for the "
            "deployment in the Serve configuration, and deploy it again.",
            code="mode_not_possible",
        )

    app.add_api_route(
        "/admin/cascades/{name}/mode",
        refuse,
        methods=["PUT"],
        dependencies=[Depends(admin_key)],
        include_in_schema=False,
    )
    app.router.routes.insert(0, app.router.routes.pop())


class Fronted:
    """An application behind Ray's proxy, which gives every request an `X-Request-Id`, hands it on,
    and puts it on the answer itself: the answer's own is left out.

    Where Serve has the application under a `route_prefix`, paths lose it on their way in.

    Streams of the page end after a while, and browsers open them again: Ray waits for the requests
    of a replica before it stops it, and theirs would never end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        begun = ended = False

        async def sending(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower() != b"x-request-id"]
                message, begun = {**message, "headers": kept}, True
            ended = ended or (begun and not message.get("more_body", message["type"] != BODY))
            await send(message)

        scope = _unprefixed(scope)
        if scope.get("path") != EVENTS:
            await self._app(scope, receive, sending)
            return
        await self._app(scope, _until(receive, WATCHED_S), sending)
        if begun and not ended:
            await send({"type": BODY, "body": b""})


def _unprefixed(scope: Scope) -> Scope:
    path, prefix = scope.get("path", ""), scope.get("root_path", "")
    if not prefix or not path.startswith(f"{prefix}/"):
        return scope
    return {**scope, "path": path[len(prefix) :], "root_path": ""}


def _until(receive: Receive, seconds: float) -> Receive:
    """To the application the client goes away after so long."""
    end = asyncio.get_running_loop().time() + seconds

    async def receiving() -> Message:
        try:
            async with asyncio.timeout_at(end):
                return await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}

    return receiving
