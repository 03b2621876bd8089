"""`cascade serve --workers`: several processes on one port, one ledger in PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from cascade.errors import ConfigurationError
from cascade.service.config import ServiceConfig
from cascade.service.keys import Keys
from cascade.service.shared.database import SharedDatabase
from cascade.service.workers import check_workers
from tests.servers.fake import FakeServer
from tests.service.gateway import configured
from tests.service.replicas import until
from tests.service.test_deployed import CASCADE, free_port

QUESTION = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}


def children(process: int) -> set[int]:
    """The workers; beside them multiprocessing has a process of its own."""
    path = Path(f"/proc/{process}/task/{process}/children")
    found = {int(child) for child in path.read_text().split()}
    return {pid for pid in found if "spawn_main" in _command(pid)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


async def test_workers_answer_on_one_port_are_replaced_and_leave_together(
    upstream: FakeServer, tmp_path: Path, postgres_url: str
) -> None:
    port = free_port()
    config = {**configured(upstream, tmp_path), "ledger": postgres_url, "listen": {"port": port}}
    path = tmp_path / "cascade.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    keys, database = Keys(postgres_url), SharedDatabase(postgres_url)
    _, secret = await keys.create("team")
    environment = {**os.environ, "UPSTREAM_KEY": "sk-upstream-secret"}
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        command = [CASCADE, "serve", str(path), "--workers", "2"]
        parent = subprocess.Popen(  # noqa: ASYNC220 - it is there before it is asked
            command, env=environment, stdout=log, stderr=log
        )

    async def living() -> bool:
        assert parent.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
        return len(await database.ask("SELECT 1 FROM service_replicas WHERE until > now()")) == 2

    async def replaced() -> bool:
        return len(children(parent.pid) - before) == 1

    try:
        await until(living, "starting")
        before = children(parent.pid)
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        headers = {"Authorization": f"Bearer {secret}"}
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            assert (await client.post(url, json=QUESTION)).status_code == 200
            os.kill(min(before), signal.SIGKILL)
            await until(replaced, "replacing")
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            assert (await client.post(url, json=QUESTION)).status_code == 200
        parent.terminate()
        assert await asyncio.to_thread(parent.wait, 30) == 0
        assert not [pid for pid in before if _command(pid)]
    finally:
        for pid in children(parent.pid) if parent.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        parent.kill()
        parent.wait()
        await keys.aclose()
        await database.aclose()


def test_several_processes_need_a_ledger_in_postgresql(
    upstream: FakeServer, tmp_path: Path
) -> None:
    config = ServiceConfig.model_validate(configured(upstream, tmp_path))
    check_workers(config, 1)
    with pytest.raises(ConfigurationError, match="PostgreSQL, and it is in sqlite"):
        check_workers(config, 2)
    with pytest.raises(ConfigurationError, match="workers=0"):
        check_workers(config, 0)
