"""Replicas of a gateway: processes of their own, one ledger in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from cascade.ledger.store import Store, open_store
from cascade.service.keys import Key, Keys
from cascade.service.shared.database import SharedDatabase

PATIENCE_S = 40.0

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Process:
    """One replica and a client of it."""

    process: subprocess.Popen[str]
    client: httpx.AsyncClient

    async def ask(self, secret: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret}"}
        return await self.client.post("/test/ask", json=body, headers=headers)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Replicas:
    """Those that run, and what they share as the tests see it, past all of them."""

    running: list[Process]
    keys: Keys
    database: SharedDatabase
    store: Store

    async def key(self, **settings: Any) -> tuple[Key, str]:
        return await self.keys.create("team", **settings)

    async def rows(self, statement: str) -> list[Mapping[str, Any]]:
        return list(await self.database.ask(statement))


@asynccontextmanager
async def replicas(
    config: Mapping[str, Any], tmp_path: Path, n: int = 2
) -> AsyncGenerator[Replicas]:
    """Start so many, all at once."""
    path = tmp_path / "cascade.yaml"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    command = [sys.executable, "-m", "tests.service.gateway", str(path)]
    environment = {**os.environ, "UPSTREAM_KEY": "sk-upstream-secret"}
    async with AsyncExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w", encoding="utf-8"))
        started = [
            subprocess.Popen(  # noqa: ASYNC220 - they are there before anything runs
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
            for _ in range(n)
        ]
        for process in started:
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
        running = []
        for process in started:
            assert process.stdout is not None
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, (tmp_path / "log").read_text(encoding="utf-8")
            limits = httpx.Limits(max_connections=100)
            client = httpx.AsyncClient(base_url=json.loads(line)["url"], timeout=30, limits=limits)
            running.append(Process(process, await stack.enter_async_context(client)))
        found = Replicas(
            running,
            Keys(config["ledger"]),
            SharedDatabase(config["ledger"]),
            open_store(config["ledger"]),
        )
        stack.push_async_callback(found.keys.aclose)
        stack.push_async_callback(found.database.aclose)
        stack.push_async_callback(found.store.aclose)
        yield found


async def until(true: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until something is true, in the database or elsewhere."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if await true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{what} did not happen")
