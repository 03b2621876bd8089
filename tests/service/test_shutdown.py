"""What clients see and the ledger holds when a service is told to stop, or killed, under load."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from cascade.ledger.store import Store, open_store
from tests.servers import replies
from tests.servers.fake import FakeServer
from tests.service.gateway import configured

ROOT = Path(__file__).resolve().parents[2]
MANY = 8


@dataclass
class Process:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    client: httpx.AsyncClient
    ledger: str

    async def ask(self, text: str = "hello") -> httpx.Response:
        return await self.client.post("/test/ask", json={"text": text})

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)

    def store(self) -> Store:
        return open_store(self.ledger)


@asynccontextmanager
async def process(upstream: FakeServer, tmp_path: Path, **changes: Any) -> AsyncGenerator[Process]:
    config = configured(upstream, tmp_path, auth=False, **changes)
    path = tmp_path / "cascade.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "tests.service.gateway", str(path)]
    environment = {**os.environ, "UPSTREAM_KEY": "sk-upstream-secret"}
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        started = subprocess.Popen(  # noqa: ASYNC220 - it is there before anything runs
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert started.stdout is not None
            line = await asyncio.to_thread(started.stdout.readline)
            assert line, (tmp_path / "log").read_text(encoding="utf-8")
            limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
            async with httpx.AsyncClient(
                base_url=json.loads(line)["url"], timeout=30, limits=limits
            ) as client:
                yield Process(started, client, config["ledger"])
        finally:
            started.kill()
            started.wait()
            assert started.stdout is not None
            started.stdout.close()


async def not_ready(running: Process) -> httpx.Response:
    for _ in range(500):
        answer = await running.client.get("/readyz")
        if answer.status_code == 503:
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError("it stayed ready")


async def test_on_sigterm_what_runs_is_finished_and_nothing_new_is_let_in(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(*[replies.json_reply(replies.openai_body("late"), delay_s=4)] * MANY)
    async with process(upstream, tmp_path, cascade={"concurrency": 4}) as running:
        under_way = [asyncio.create_task(running.ask()) for _ in range(MANY)]  # half of them wait
        await upstream.has_received(4)
        running.process.send_signal(signal.SIGTERM)
        ready = await not_ready(running)
        alive = await running.client.get("/healthz")
        refused = await running.ask()
        answers = await asyncio.gather(*under_way)
        code = await running.ended()
        store = running.store()
        entries, unfinished = await store.query(), await store.unfinished()
        await store.aclose()
    assert ready.json()["shutting_down"] is True
    assert alive.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert refused.headers["connection"] == "close"
    assert [answer.status_code for answer in answers] == [200] * MANY
    assert code == 0
    assert {answer.json()["run"] for answer in answers} == {entry.run_id for entry in entries}
    assert unfinished == []


async def test_what_does_not_finish_in_time_is_failed_by_name_and_is_in_the_ledger(
    upstream: FakeServer, tmp_path: Path
) -> None:
    upstream.will(*[replies.HANG] * 3)
    async with process(upstream, tmp_path, shutdown_grace_s=0.5) as running:
        under_way = [asyncio.create_task(running.ask("hunter2")) for _ in range(3)]
        await upstream.has_received(3)
        running.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*under_way)
        code = await running.ended()
        store = running.store()
        entries, unfinished = await store.query(), await store.unfinished()
        await store.aclose()
        log = (tmp_path / "log").read_text(encoding="utf-8")
    assert code == 0
    named = set()
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "shut_down")
        assert answer.headers["connection"] == "close"
        found = re.search(r"run ([0-9a-f-]{36})", error["message"])
        assert found is not None
        named.add(found[1])
    assert len(named) == 3
    assert {entry.run_id for entry in entries} == named
    assert {entry.outcome for entry in entries} == {"cancelled"}
    assert unfinished == []
    assert all(run in log for run in named)
    assert "hunter2" not in log
    assert "sk-upstream-secret" not in log


async def test_a_second_signal_stops_at_once(upstream: FakeServer, tmp_path: Path) -> None:
    upstream.will(replies.HANG)
    async with process(upstream, tmp_path, shutdown_grace_s=600) as running:
        under_way = asyncio.create_task(running.ask())
        await upstream.has_received(1)
        running.process.send_signal(signal.SIGINT)
        await not_ready(running)
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGINT)
        await running.ended()
        await asyncio.gather(under_way, return_exceptions=True)


async def test_after_sigkill_the_ledger_has_what_was_answered_and_what_was_begun(
    upstream: FakeServer, tmp_path: Path
) -> None:
    async with process(upstream, tmp_path) as running:
        answered = [(await running.ask()).json()["run"] for _ in range(3)]
        upstream.will(*[replies.HANG] * 4)
        seen = len(upstream.received)
        under_way = [asyncio.create_task(running.ask()) for _ in range(4)]
        await upstream.has_received(seen + 4)
        await asyncio.sleep(0.2)  # entries may wait for others for so long
        running.process.kill()
        answers = await asyncio.gather(*under_way, return_exceptions=True)
        await running.ended()
        store = running.store()
        entries, unfinished = await store.query(), await store.unfinished()
        await store.aclose()
    assert all(isinstance(answer, httpx.TransportError) for answer in answers)
    assert {entry.run_id for entry in entries} == set(answered)
    assert len({attempt.run_id for attempt in unfinished}) == 4
