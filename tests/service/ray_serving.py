"""deploy/ray/ as it stands there, run by `serve run` before a fake upstream."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from cascade.ledger.store import open_store
from cascade.service.keys import Keys
from cascade.state import LedgerEntry
from tests.service.calibrated import Upstream

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "ray"
REPLICA = "ray::ServeReplica:cascade:Gateway"
"""How the name of a process begins that is one."""

HEALTH_S = 2
"""Between two looks at a replica; Ray's own 10 s would be waited for by tests."""

PATIENCE_S = 300.0
"""To start: processes that import much, on a machine that may do other things as well."""


@dataclass
class Cluster:
    """One that runs.

    Attributes:
        process: which has started it.
        url: of the proxy.
        key: of a client.
        upstream: whom the replicas ask.
        ledger: address of the ledger.
        log: what it wrote itself.
        folder: for files of the service, and of Ray.
    """

    process: subprocess.Popen[bytes]
    url: str
    key: str
    upstream: Upstream
    ledger: str
    log: Path
    folder: Path

    def deploy(self, **changes: Any) -> None:
        """`serve run` of deploy/ray/serve.yaml, at the port of this one.

        Args:
            changes: of the arguments; `user_config` of the deployment.
        """
        assert self.process.stdin is not None
        said = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
        said["http_options"]["port"] = httpx.URL(self.url).port
        (application,) = said["applications"]
        gateway = application["deployments"][0]
        gateway["user_config"] = changes.pop("user_config", None)
        gateway["health_check_period_s"] = HEALTH_S
        application["args"] |= changes
        file = self.folder / f"serve-{secrets.token_hex(4)}.yaml"
        file.write_text(yaml.safe_dump(said))
        self.process.stdin.write(f"{file}\n".encode())
        self.process.stdin.flush()

    def logs(self) -> str:
        """All that Ray, its processes and the replicas wrote."""
        written = [self.log, *(self.folder / "ray").glob("session_2*/logs/**/*")]
        return "\n".join(
            path.read_text(errors="replace")
            for path in written
            if path.is_file() and not path.is_symlink()
        )

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30)

    def replicas(self) -> list[int]:
        """Processes of those that have started."""
        return replicas_of(self.process.pid)

    async def entries(self) -> list[LedgerEntry]:
        async with open_store(self.ledger) as store:
            return list(await store.query())

    async def unfinished(self) -> int:
        async with open_store(self.ledger) as store:
            return len(await store.unfinished())

    async def new_key(self, name: str, **settings: Any) -> str:
        return await _key(self.ledger, name, **settings)


@contextmanager
def cluster(ledger: str, upstream: Upstream, **variables: str) -> Iterator[Cluster]:
    """Start it, and end it where the test has not."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    (folder / "home").mkdir()
    port = _free_port()
    log = folder / "log"
    command = [sys.executable, str(Path(__file__).with_name("ray_head.py")), str(folder / "ray")]
    try:
        with log.open("wb") as written:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(ledger, upstream, folder) | variables,
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=written,
            )
        try:
            key = asyncio.run(_key(ledger, "a team"))
            url = f"http://127.0.0.1:{port}"
            made = Cluster(process, url, key, upstream, ledger, log, folder)
            made.deploy()
            _wait_until(lambda: _answers(url) and len(made.replicas()) == 2, made)
            yield made
        finally:
            end(process)
    finally:
        shutil.rmtree(folder)


def end(process: subprocess.Popen[bytes]) -> tuple[int, list[int]]:
    """Ask it to stop, and wait: how it left, and the processes that were left and had to be killed.

    They have some seconds to go after it, as Ray's own processes end when they miss it.
    """
    assert process.stdin is not None
    started = descendants(process.pid)
    process.stdin.close()
    try:
        code = process.wait(60)
        for _ in range(100):
            if not alive(started):
                break
            time.sleep(0.1)
    finally:
        left = alive([*started, *descendants(process.pid), process.pid])
        for each in left:
            os.kill(each, signal.SIGKILL)
        process.wait()
    return code, left


def replicas_of(process: int) -> list[int]:
    """The processes of replicas that have started, on a cluster that a process has started."""
    return [each for each in descendants(process) if _is_replica(_name(each))]


def _is_replica(name: str) -> bool:
    """Behind a dot is what it does, or has done last."""
    return name.startswith(REPLICA) and not name.endswith(".initialize_and_get_metadata")


def descendants(process: int) -> list[int]:
    """All processes that it started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = list(parents.get(process, ()))
    for each in found:
        found.extend(parents.get(each, ()))
    return found


async def until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s: {what}")


def alive(processes: list[int]) -> list[int]:
    return [process for process in processes if _alive(process)]


def _alive(process: int) -> bool:
    try:
        state = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _name(process: int) -> str:
    try:
        return (Path("/proc") / str(process) / "cmdline").read_text().rstrip("\0 ")
    except OSError:
        return ""


def _environment(ledger: str, upstream: Upstream, folder: Path) -> dict[str, str]:
    tiers = [
        {"model": f"openai:{name}", "base_url": upstream.openai_url, "api_key_env": "UPSTREAM_KEY"}
        | {"price": {"input": 1, "output": 4}}
        for name in ("small", "large")
    ]
    cascade: Mapping[str, object] = {"tiers": tiers, "mode": "live", "audit_rate": None}
    kept = {
        name: os.environ[name]
        for name in ("PATH", "LANG", "PYTHONDONTWRITEBYTECODE")
        if name in os.environ
    }
    return {
        **kept,
        "CASCADE__CASCADES": json.dumps({"assistant": cascade}),
        "CASCADE__MAX_BODY_MIB": "1",
        "CASCADE__SHUTDOWN_GRACE_S": "10",
        "HOME": str(folder / "home"),
        "LEDGER_URL": ledger,
        "OLLAMA_URL": upstream.url,
        "OPENAI_API_KEY": "sk-of-the-provider",
        "UPSTREAM_KEY": "sk-of-the-upstream",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it writes one into the home directory
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_worker_prestart": "0",  # processes that nobody asks for
        "RAY_prestart_worker_first_driver": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # one that starts slowly is not begun anew
        "OMP_NUM_THREADS": "1",
    }


async def _key(ledger: str, name: str, **settings: Any) -> str:
    keys = Keys(ledger)
    _, secret = await keys.create(name, **settings)
    await keys.aclose()
    return secret


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_until(condition: Callable[[], bool], cluster: Cluster) -> None:
    end_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_at and cluster.process.poll() is None:
        if condition():
            return
        if "failed with exception" in cluster.logs():
            break
        time.sleep(0.3)
    said = cluster.log.read_text()[-3000:]
    raise AssertionError(f"it does not start:\n{cluster.logs()[-5000:]}\n{said}")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
