"""A gateway before a fake upstream, on this machine, with the smallest protocol there can be.

`POST /test/ask {"model": …, "text": …}` runs a cascade in a slot. What it tests is who comes in,
what is counted and how it ends; the protocols have tests of their own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel

from cascade.service import Service, ServiceConfig, create_app
from cascade.service.admission import Admit
from cascade.service.reading import read_settings
from cascade.service.server import GatewayServer, set_up_logs
from tests.servers.fake import FakeServer

KEY = "sk-upstream"


class Ask(BaseModel):
    model: str = "support"
    text: str = "hello"
    runs: int = 1


router = APIRouter()


@router.post("/test/ask")
async def ask(body: Ask, admitted: Admit) -> dict[str, Any]:
    async with admitted.slot(body.model, max_tokens=100, runs=body.runs) as cascade:
        local = {"local_only": admitted.local_only}
        for _ in range(body.runs):
            config = RunnableConfig(
                metadata={"ledger_tags": dict(admitted.tags)}, configurable=local
            )
            try:
                result = await cascade.ainvoke(body.text, config)
            finally:
                admitted.settle()
        return {"answer": result.answer, "tier": result.tier, "run": result.run_id}


def configured(upstream: FakeServer, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """A configuration with one cascade, `support`, whose prices are $1 per thousand tokens."""
    price = {"input": 0, "output": 1000}
    tier = {"base_url": upstream.openai_url, "api_key_env": "UPSTREAM_KEY", "price": price}
    cascade = {
        "tiers": [
            {"model": "openai:small", **tier},
            {"model": "openai:large", **tier},
        ],
        "threshold": 0.5,
        **changes.pop("cascade", {}),
    }
    return {
        "ledger": f"sqlite:///{tmp_path}/ledger.db",
        "listen": {"port": 0},
        "cascades": {"support": cascade},
        "log": {"requests": False},
        "watch_s": 0.05,
        **changes,
    }


class Gateway:
    """A running gateway and a client of it."""

    def __init__(self, app: FastAPI, server: GatewayServer) -> None:
        self.app = app
        self.server = server
        self.service: Service = app.state.service
        self.client = httpx.AsyncClient(base_url=server.address, timeout=30)

    async def ask(self, secret: str | None = None, **body: Any) -> httpx.Response:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return await self.client.post("/test/ask", json=body, headers=headers)

    async def get(self, path: str, secret: str | None = None) -> httpx.Response:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return await self.client.get(path, headers=headers)

    async def in_loop(self, work: Any) -> Any:
        """Run a coroutine in the server's loop."""
        loop = self.server._loop
        assert loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    async def key(self, name: str = "team", **settings: Any) -> str:
        """The secret of a new key."""
        _, secret = await self.in_loop(self.service.keys.create(name, **settings))
        return str(secret)


async def until(true: Callable[[], object], what: str = "it") -> None:
    """Wait until something is true."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not happen")


@asynccontextmanager
async def gateway(config: Mapping[str, Any]) -> AsyncGenerator[Gateway]:
    """Start one in a thread; it is drained at the end."""
    app = create_app(ServiceConfig.model_validate(config))
    app.include_router(router)
    server = GatewayServer(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "it did not start"
        await asyncio.sleep(0.01)
    running = Gateway(app, server)
    try:
        yield running
    finally:
        await running.client.aclose()
        if thread.is_alive():
            assert server._loop is not None
            server._loop.call_soon_threadsafe(server.drain)
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive(), "it did not end"


def main(path: str) -> None:
    """As a process of its own: says where it listens as a line of JSON."""
    settings = read_settings(path)
    set_up_logs(settings.config.log)
    app = create_app(settings.config, settings.path.parent)
    app.include_router(router)

    class Told(GatewayServer):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print(json.dumps({"url": self.address}), flush=True)

    Told(app, settings.config.listen.host, settings.config.listen.port).run()


if __name__ == "__main__":
    main(sys.argv[1])
