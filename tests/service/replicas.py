"""Replicas of a gateway: processes of their own, or only their budgets; one PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import yaml

from cascade.ledger.store import Store, UnavailableError, open_store
from cascade.service.budgets import Reservation
from cascade.service.config import BudgetConfig
from cascade.service.keys import Key, Keys, make_key
from cascade.service.shared import Replica, SharedBudgets, SharedDatabase
from tests.servers.fake import FakeServer
from tests.service.gateway import configured

PATIENCE_S = 40.0

ALONE = {"model": "support/large"}

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


class One:
    """One replica without a gateway."""

    def __init__(self, url: str, lease_s: float = 30.0) -> None:
        self.store: Store = open_store(url)
        self.database = SharedDatabase(url)
        self.replica = Replica(self.database, lease_s)
        self.budgets = SharedBudgets(self.store, self.database, self.replica, BudgetConfig())

    async def reserve(self, key: Key, usd: str = "0.1", runs: int = 1) -> Reservation:
        return await self.budgets.reserve(key, Decimal(usd), runs, can_stay=False)

    async def aclose(self) -> None:
        await self.budgets.aclose()
        with suppress(UnavailableError):
            await self.replica.leave()
        await self.database.aclose()
        await self.store.aclose()


@asynccontextmanager
async def several(url: str, n: int = 2, lease_s: float = 30.0) -> AsyncGenerator[list[One]]:
    made = [One(url, lease_s) for _ in range(n)]
    try:
        yield made
    finally:
        for one in made:
            await one.aclose()


def a_key(**settings: Any) -> Key:
    return make_key("team", **{"day_usd": Decimal(1), **settings})[0]


def shared(upstream: FakeServer, tmp_path: Path, url: str, **changes: Any) -> dict[str, Any]:
    """A configuration with budgets in PostgreSQL, that shows its tiers."""
    config = configured(upstream, tmp_path, allow_tiers=True, **changes)
    return {**config, "ledger": url, "shutdown_grace_s": 0.5}
