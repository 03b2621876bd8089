"""The configuration of deploy/ as it is started there, on PostgreSQL, by its own commands."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.servers.obliging import ObligingServer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CASCADE = str(Path(sys.executable).parent / "cascade")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def answers(client: httpx.AsyncClient, path: str, log: Path) -> httpx.Response:
    """The first answer of a service that is starting."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            return await client.get(path)
        except httpx.ConnectError:
            await asyncio.sleep(0.1)
    raise AssertionError("it does not answer: see " + str(log))


async def test_it_starts_answers_and_leaves_on_postgresql(
    postgres_url: str, tmp_path: Path
) -> None:
    log, port, config = tmp_path / "log", free_port(), str(DEPLOY / "cascade.yaml")
    with ObligingServer() as upstream, log.open("w") as written:
        variables = {
            **os.environ,
            "LEDGER_URL": postgres_url,
            "OLLAMA_URL": upstream.url,
            "OPENAI_API_KEY": "sk-of-the-provider",
            "OPENAI_BASE_URL": f"{upstream.url}/v1",
        }
        made = subprocess.run(  # noqa: ASYNC221 - nothing else runs yet
            [CASCADE, "keys", "create", config, "a team"],
            env=variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        (key,) = re.findall(r"csk_\S+", made.stdout)
        command = [CASCADE, "serve", config, "--host", "127.0.0.1", "--port", str(port)]
        process = subprocess.Popen(  # noqa: ASYNC220 - it is there before it is asked
            command, env=variables, cwd=tmp_path, stdout=written, stderr=written
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                alive = await answers(client, "/healthz", log)
                ready = await client.get("/readyz")
                question = {"role": "user", "content": "hello"}
                asked = {"model": "assistant", "messages": [question]}
                refused = await client.post("/v1/chat/completions", json=asked)
                bearer = {"authorization": f"Bearer {key}"}
                answer = await client.post("/v1/chat/completions", json=asked, headers=bearer)
            assert (alive.status_code, ready.status_code) == (200, 200), log.read_text()
            assert refused.status_code == 401
            assert answer.status_code == 200, answer.text
            # In shadow the large model answers, and the small one is measured beside it.
            assert answer.json()["cascade"]["tier"] == "large"
            process.terminate()
            assert await asyncio.to_thread(process.wait, 60) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
    assert key not in log.read_text()
    assert "sk-of-the-provider" not in log.read_text()
