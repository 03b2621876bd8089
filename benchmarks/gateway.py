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
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from _drivers import asked, cpu_of, free_port, serving, started
from _upstream import upstream

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".cache" / "litellm"
PEER_NEEDS = (
    "litellm==1.110.2 uvloop fastapi uvicorn orjson apscheduler backoff pyyaml python-multipart "
    "cryptography pyjwt rq websockets fastapi-sso gunicorn email-validator semver expression mcp "
    "soundfile"
)
"""Its extra `proxy` names a package that cannot be had; these are what it imports at its start."""

CONCURRENCY = (1, 64, 512)
FEWEST = 300
Figures = dict[str, float]


@dataclass(frozen=True)
class Server:
    """One that is measured: where it listens, the model it is asked for, the key of its clients,
    and its process, where that is ours to look at."""

    port: int
    model: str
    key: str
    process: int | None = None

    async def load(self, requests: int, concurrency: int, stream: bool) -> Figures:
        """Put so many questions, so many at a time, over kept connections, and measure."""
        numbers, taken = iter(range(requests)), list[float]()
        start = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        start += f"content-type: application/json\r\nauthorization: Bearer {self.key}\r\n"

        async def worker() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for number in numbers:
                question = asked(f"Question {number}: which city is it?")
                told = {"model": self.model, "messages": question, "stream": stream}
                body = json.dumps(told).encode()
                sent = time.perf_counter()
                writer.write(f"{start}content-length: {len(body)}\r\n\r\n".encode() + body)
                await self._read(reader)
                taken.append(1000 * (time.perf_counter() - sent))
            writer.close()

        cpu = 0.0 if self.process is None else cpu_of(self.process)
        begun = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        seconds = time.perf_counter() - begun
        cpu = 0.0 if self.process is None else cpu_of(self.process) - cpu
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        return {
            "requests/s": requests / seconds,
            "p50 ms": cuts[49],
            "p99 ms": cuts[98],
            "CPU ms": 1000 * cpu / requests,
        }

    async def _read(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise SystemExit(f"{self.model}: {head.decode()}")
        at = head.find(b"content-length:")
        if at >= 0:
            await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
        else:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)


@contextmanager
def ours(behind: int) -> Iterator[Server]:
    """`cascade serve` with a key that has a budget, and a ledger in SQLite."""
    with (
        tempfile.TemporaryDirectory() as name,
        serving(f"http://127.0.0.1:{behind}/v1", Path(name)) as (url, key, process),
    ):
        yield Server(int(url.split(":")[2].split("/")[0]), "assistant", key, process)


@contextmanager
def peer(behind: int) -> Iterator[Server]:
    """The LiteLLM proxy, one worker."""
    if not (PEER / "bin" / "litellm").exists():
        uv = str(ROOT / "scripts" / "uv.sh")
        subprocess.run([uv, "venv", "--quiet", str(PEER)], check=True)
        python = str(PEER / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--python", python]
        subprocess.run([*install, *PEER_NEEDS.split()], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder, port, key = Path(name), free_port(), f"sk-{secrets.token_hex(16)}"
        params = {"model": "openai/small", "api_key": "none"}
        params["api_base"] = f"http://127.0.0.1:{behind}/v1"
        config = {
            "model_list": [{"model_name": "small", "litellm_params": params}],
            "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
        }
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
        command = [str(PEER / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--telemetry", "False", "--num_workers", "1"]
        own = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        path = "/health/liveliness"
        with started(command, folder, port, path, env={**os.environ, **own}) as process:
            yield Server(port, "small", key, process)


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
                    taken[name].append(uvloop.run(server.load(requests, concurrency, stream)))
            for name, rounds in taken.items():
                row = f"{name}, {concurrency} at once, {'streamed' if stream else 'plain'}"
                rows[row] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
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
            "cascade serve": stack.enter_context(ours(behind)),
        }
        if not given.without_peer:
            servers["LiteLLM proxy"] = stack.enter_context(peer(behind))
        for server in servers.values():
            uvloop.run(server.load(FEWEST, 8, stream=False))  # the code is warm
        rows = compared(servers, given)
    if given.json:
        print(json.dumps(rows))
        return
    for name, row in rows.items():
        print(f"{name:44}", _said(row))


if __name__ == "__main__":
    main()
