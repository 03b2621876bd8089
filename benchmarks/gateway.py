"""Heavy: the gateway under load, beside the LiteLLM proxy on the same upstream (10 minutes).

    python benchmarks/gateway.py [--rounds 3] [--requests 2000] [--json]

One worker of `cascade serve`, the upstream of `_upstream.py` and the load generator share this
machine. The cascade escalates 30 % of the requests, checks keys and budgets, writes its ledger to
SQLite and a line of log for each run; the proxy passes each request to one model, with its master
key, no database and its usual log. `upstream` is the same load without a gateway: what a figure is
above that, the gateway has added. Rounds alternate; figures are medians over them.

The proxy is installed into `.cache/litellm` if it is not there (`--without-peer` leaves it out).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from _load import Load, load
from _upstream import upstream

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".cache" / "litellm"
PEER_NEEDS = (
    "litellm==1.110.2 uvloop fastapi uvicorn orjson apscheduler backoff pyyaml python-multipart "
    "cryptography pyjwt rq websockets fastapi-sso gunicorn email-validator semver expression mcp "
    "soundfile"
)
"""Its extra `proxy` names a package that cannot be had; these are what it imports at its start."""

PROGRAM = str(Path(sys.executable).parent / "cascade")
PATH = "/v1/chat/completions"
CONCURRENCY = (1, 64, 512)
FEWEST = 300
PATIENCE_S = 90
Figures = dict[str, float]


class Server:
    """One that is measured.

    Attributes:
        port: where it listens.
        model: what it is asked for.
        key: of its clients.
        process: what it runs in; None where it is not ours to look at.
    """

    def __init__(
        self, port: int, model: str, key: str, process: subprocess.Popen[str] | None = None
    ) -> None:
        self.port, self.model, self.key, self.process = port, model, key, process

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the process has used."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def ask(self, requests: int, concurrency: int, *, stream: bool = False) -> Load:
        """Put it under load."""
        headers = {"authorization": f"Bearer {self.key}"}
        return uvloop.run(
            load(
                self.port,
                PATH,
                model=self.model,
                requests=requests,
                concurrency=concurrency,
                stream=stream,
                headers=headers,
            )
        )


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait(server: subprocess.Popen[str], folder: Path, port: int, path: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    log = (folder / "log").read_text(encoding="utf-8")
    raise SystemExit(f"nobody answers at 127.0.0.1:{port}{path}:\n{log[-2000:]}")


@contextmanager
def _started(command: list[str], folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with (folder / "log").open("w", encoding="utf-8") as log:
        environment = {**os.environ, **variables}
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=environment, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def configured(folder: Path, behind: int, port: int) -> str:
    """The configuration of a service, and a new key in its ledger; returns the key's secret."""
    tiers = [
        {
            "model": f"openai:{tier}",
            "api_key_env": "UPSTREAM_KEY",
            "price": {"input": 0.1, "output": 0.4},
            "base_url": f"http://127.0.0.1:{behind}/v1",
        }
        for tier in ("small", "large")
    ]
    config = {
        "listen": {"port": port},
        "ledger": "sqlite:///ledger.db",
        "cascades": {"assistant": {"tiers": tiers, "concurrency": 512}},
    }
    (folder / "cascade.yaml").write_text(json.dumps(config), encoding="utf-8")
    made = subprocess.run(
        [PROGRAM, "keys", "create", "cascade.yaml", "bench", "--day-usd", "1000"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "UPSTREAM_KEY": "none"},
    )
    found: list[str] = re.findall(r"csk_\S+", made.stdout)
    return found[0]


@contextmanager
def ours(behind: int, port: int) -> Iterator[Server]:
    """`cascade serve` with a key that has a budget, and a ledger in SQLite."""
    with tempfile.TemporaryDirectory() as name:
        key = configured(Path(name), behind, port)
        command = [PROGRAM, "serve", "cascade.yaml"]
        with _started(command, Path(name), UPSTREAM_KEY="none") as process:
            _wait(process, Path(name), port, "/readyz")
            yield Server(port, "assistant", key, process)


@contextmanager
def peer(behind: int, port: int) -> Iterator[Server]:
    """The LiteLLM proxy, one worker."""
    if not (PEER / "bin" / "litellm").exists():
        uv = str(ROOT / "scripts" / "uv.sh")
        subprocess.run([uv, "venv", "--quiet", str(PEER)], check=True)
        python = str(PEER / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, *PEER_NEEDS.split()], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = {"model": "openai/small", "api_key": "none"}
        params["api_base"] = f"http://127.0.0.1:{behind}/v1"
        config = {
            "model_list": [{"model_name": "small", "litellm_params": params}],
            "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
        }
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
        key = f"sk-{secrets.token_hex(16)}"
        command = [str(PEER / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--telemetry", "False", "--num_workers", "1"]
        own = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with _started(command, folder, **own) as process:
            _wait(process, folder, port, "/health/liveliness")
            yield Server(port, "small", key, process)


def measured(server: Server, requests: int, concurrency: int, *, stream: bool) -> Figures:
    """One round's figures."""
    cpu = server.cpu_s
    found = server.ask(requests, concurrency, stream=stream)
    if set(found.statuses) != {200}:
        raise SystemExit(f"{server.model}: statuses {found.statuses}")
    return {
        "requests/s": found.per_second,
        "p50 ms": found.ms(50),
        "p99 ms": found.ms(99),
        "CPU ms": 1000 * (server.cpu_s - cpu) / sum(found.statuses.values()),
    }


def medians(rounds: list[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def compared(servers: dict[str, Server], given: argparse.Namespace) -> dict[str, Figures]:
    """The table's rows: who, how many at once, plain or streamed."""
    rows: dict[str, Figures] = {}
    for stream in (False, True):
        for concurrency in CONCURRENCY:
            taken: dict[str, list[Figures]] = {name: [] for name in servers}
            for _ in range(given.rounds):
                for name, server in servers.items():
                    slow = name == "LiteLLM proxy" or concurrency == 1
                    some = given.requests // (5 if slow else 1)
                    requests = max(FEWEST, some, 2 * concurrency)
                    taken[name].append(measured(server, requests, concurrency, stream=stream))
            for name, figures in taken.items():
                how = "streamed" if stream else "plain"
                row = f"{name}, {concurrency} at once, {how}"
                rows[row] = medians(figures)
                print(f"{row:44}", _said(rows[row]), file=sys.stderr, flush=True)
    return rows


def _said(row: Figures) -> str:
    return " ".join(f"{figure}: {value:8.2f}" for figure, value in row.items())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--without-peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with ExitStack() as stack:
        behind = stack.enter_context(upstream())
        servers = {
            "upstream": Server(behind, "small", "none"),
            "cascade serve": stack.enter_context(ours(behind, free_port())),
        }
        if not given.without_peer:
            servers["LiteLLM proxy"] = stack.enter_context(peer(behind, free_port()))
        for server in servers.values():
            server.ask(FEWEST, 8)  # connections are open, code is warm
        rows = compared(servers, given)
    if given.json:
        print(json.dumps(rows))
        return
    for name, row in rows.items():
        print(f"{name:44}", _said(row))


if __name__ == "__main__":
    main()
