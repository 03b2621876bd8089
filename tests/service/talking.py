"""A gateway before an obliging upstream, with the official clients of OpenAI and Ollama."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai

from cascade.models.base import guard
from cascade.state import LedgerEntry
from tests.servers.fake import FakeServer
from tests.servers.obliging import ObligingServer
from tests.service.gateway import Gateway, configured, gateway

HELLO = "Hello there, how can I help you today?"
ASKED: Any = [{"role": "user", "content": "hi"}]


@dataclass
class Talk:
    """Both ends of a gateway. The small tier is unsure of every second answer, the first one
    included, so that the first question is escalated and the second is not.
    """

    upstream: FakeServer
    gateway: Gateway
    openai: openai.AsyncOpenAI
    ollama: ollama.AsyncClient
    http: httpx.AsyncClient

    async def post(self, path: str, **body: Any) -> httpx.Response:
        """A request as it stands."""
        headers = body.pop("headers", {})
        return await self.http.post(path, json={"model": "support", **body}, headers=headers)

    async def chat(self, **body: Any) -> httpx.Response:
        """A chat completion."""
        return await self.post("/v1/chat/completions", **{"messages": ASKED, **body})

    async def sure(self) -> None:
        """Let the unsure draft be asked for, so that the next one is accepted."""
        await self.chat()

    async def entries(self) -> list[LedgerEntry]:
        """The ledger."""
        store = self.gateway.service.store
        assert store is not None

        async def read() -> list[LedgerEntry]:
            await store.flush()
            return await store.query()

        found: list[LedgerEntry] = await self.gateway.in_loop(read())
        return found


def as_key(talk: Talk, secret: str) -> openai.AsyncOpenAI:
    """The client of somebody with this key."""
    return talk.openai.with_options(api_key=secret)


@asynccontextmanager
async def talking(
    tmp_path: Path, *, provider: str = "openai", remote: bool = False, **changes: Any
) -> AsyncGenerator[Talk]:
    """Start one; without keys unless `auth=True`. With `remote` its large tier is not on this
    machine."""
    forbidden, guard.forbidden = guard.forbidden, False
    os.environ["UPSTREAM_KEY"] = "sk-upstream-secret"
    try:
        with ObligingServer() as upstream:
            config = configured(upstream, tmp_path, **{"auth": False, **changes})
            if provider == "ollama":
                config["cascades"]["support"]["tiers"] = [
                    {"model": f"ollama:{name}", "base_url": upstream.url}
                    for name in ("small", "large")
                ]
            if remote:
                config["cascades"]["support"]["tiers"][1]["local"] = False
            async with gateway(config) as running:
                url = running.server.address
                talk = Talk(
                    upstream,
                    running,
                    openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0),
                    ollama.AsyncClient(url),
                    httpx.AsyncClient(base_url=url, timeout=30),
                )
                async with talk.openai, talk.http:
                    yield talk
                await talk.ollama._client.aclose()
    finally:
        guard.forbidden = forbidden
        os.environ.pop("UPSTREAM_KEY")
