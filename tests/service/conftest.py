"""A gateway in front of scripted models, in this process; and one in a thread, on a real socket."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from cascade.models.base import guard
from cascade.service import create_app, read_config
from cascade.service.app import bound, settings
from cascade.service.gateway import Gateway
from tests.acceptance.upstream import Answer, Upstream

ASKED: Any = [{"role": "user", "content": "What is the capital of Australia?"}]


@pytest.fixture(autouse=True)
def _real_requests_only_when_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of `upstream` are real ones to the gateway."""
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setattr("cascade.service.gateway.WATCH_S", 3600.0)
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def _upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def upstream(_upstream: Upstream) -> Upstream:
    """Models that say Canberra: the small one is sure of it."""
    _upstream.seen.clear()
    _upstream.says("small", Answer("Canberra", p=0.95, tokens=(100, 10)))
    _upstream.says("large", Answer("It is Canberra", tokens=(100, 10)))
    return _upstream


def write(folder: Path, upstream: Upstream, more: str = "", top: str = "") -> Path:
    """A configuration of one cascade, `support`; `more` goes to it, `top` to the service."""
    tiers = "".join(
        f"      - {{model: 'openai:{name}', base_url: '{upstream.openai_url}', api_key_env: "
        f"UPSTREAM_KEY, max_tokens: 100, price: {{input: {usd}, output: {usd}}}}}\n"
        for name, usd in (("small", 1), ("large", 10))
    )
    path = folder / "cascade.yaml"
    path.write_text(
        f"ledger: sqlite:///ledger.db\nlisten: {{port: 0}}\n{top}cascades:\n  support:\n"
        f"    threshold: 0.8\n    retries: 1\n{more}    tiers:\n{tiers}"
    )
    return path


@dataclass
class Served:
    """A gateway with a client that has a key."""

    app: FastAPI
    client: httpx.AsyncClient
    secret: str

    @property
    def gateway(self) -> Gateway:
        found: Gateway = self.app.state.gateway
        return found

    async def key(self, name: str = "team", **settings: Any) -> str:
        _, secret = await self.gateway.keys.create(name, **settings)
        return secret

    async def ask(self, headers: Any = None, **body: Any) -> httpx.Response:
        asked = {"model": "support", "messages": ASKED, **body}
        return await self.client.post("/v1/chat/completions", json=asked, headers=headers)

    async def post(self, asked: tuple[str, dict[str, Any]], **more: Any) -> httpx.Response:
        """A request of any protocol: its path and the rest of its body."""
        path, body = asked
        return await self.client.post(path, json={"model": "support", **body, **more})

    def as_key(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path, upstream: Upstream) -> Serve:
    """Runs a gateway: `async with serve() as served`."""

    @asynccontextmanager
    async def running(more: str = "", top: str = "", **overrides: Any) -> AsyncIterator[Served]:
        path = write(tmp_path, upstream, more, top)
        app = create_app(read_config(path, overrides=overrides))
        async with app.router.lifespan_context(app):
            secret = ""
            if app.state.gateway.config.auth:
                _, secret = await app.state.gateway.keys.create("owner", admin=True)
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            headers = {"Authorization": f"Bearer {secret}"} if secret else {}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", headers=headers
            ) as client:
                yield Served(app, client, secret)

    return running


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    """A gateway as it is."""
    async with serve() as running:
        yield running


@dataclass
class Live:
    """A gateway on a real socket, in a thread."""

    url: str
    secret: str
    app: FastAPI
    server: uvicorn.Server


@contextmanager
def live(path: Path, **overrides: Any) -> Iterator[Live]:
    configured = read_config(path, overrides=overrides)
    app = create_app(configured)
    server, listening = uvicorn.Server(settings(app, configured)), bound(configured.listen)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    end = time.monotonic() + 300
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.01)
    port = listening.getsockname()[1]
    loop = app.state.gateway.loop
    secret = ""
    if configured.auth:
        making = app.state.gateway.keys.create("owner", admin=True)
        secret = asyncio.run_coroutine_threadsafe(making, loop).result(300)[1]
    try:
        gc.collect()
        gc.freeze()  # as the service does, whose heap is that of no test run
        yield Live(f"http://127.0.0.1:{port}", secret, app, server)
    finally:
        gc.unfreeze()
        server.should_exit = True
        thread.join(300)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, _upstream: Upstream) -> Iterator[Live]:
    """A gateway without keys that runs for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSTREAM_KEY", "k")
        path = write(tmp_path_factory.mktemp("live"), _upstream, top="log: {level: error}\n")
        with live(path, auth=False) as made:
            yield made
