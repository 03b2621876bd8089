"""The gateway on Ray Serve, beside `cascade serve`, on one machine and one PostgreSQL.

    python benchmarks/ray_serve.py [--rounds 3] [--requests 600] [--clients 32] [--json]

A real Ray cluster of this machine runs the application twice: with one replica, and with as many as
autoscaling says, from two to four. `cascade serve` runs beside it on the same ledger and before the
same upstreams: one that answers at once, and one that takes 0.3 s for a call.

1. The official OpenAI client asks all of them the same, plain and streamed: answers and headers
   have to be the same.
2. Each is put under the same load, in turns; figures are medians over the rounds.
3. Clients ask on while a replica is killed. What the upstream has counted is held against the
   ledger.
4. Clients come and go, and the number of replicas follows.
5. A key with a small budget asks both replicas at once: what was spent is held against it.

Leaves with 1 where an answer differs, a call is missing or a budget is overspent by more than the
requests that were under way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import uvloop
from _load import load
from _upstream import upstream
from gateway import PATH, PROGRAM, ROOT, free_port, serving
from gateway_restart import Seen, calls_of, client

sys.path.insert(0, str(ROOT))

from cascade.ledger.store import Selection, open_store
from cascade.service.keys import KEY_TAG, Keys
from tests.ledger.store import postgres
from tests.service.ray_serving import replicas_of

LATE_MS = 300
CONCURRENCY = (1, 32)
FASTER = {"upscale_delay_s": 2, "downscale_delay_s": 6, "look_back_period_s": 11}
"""A benchmark does not wait for minutes until a replica goes."""

PLACES = 8
"""Requests that a replica runs at once where replicas are to come and go."""

BUDGET = Decimal("0.01")
Figures = dict[str, Any]


def written(folder: Path, ledger: str, fast: int, slow: int, port: int) -> None:
    """The configuration of `cascade serve`, and the same for replicas."""

    def cascade(behind: int, concurrency: int) -> dict[str, Any]:
        tiers = [
            {
                "model": f"openai:{tier}",
                "api_key_env": "UPSTREAM_KEY",
                "price": {"input": 0.1, "output": 0.4},
                "base_url": f"http://127.0.0.1:{behind}/v1",
            }
            for tier in ("small", "large")
        ]
        return {"tiers": tiers, "concurrency": concurrency, "queue": 4096}

    config = {
        "ledger": ledger,
        "cascades": {"assistant": cascade(slow, PLACES), "fast": cascade(fast, 512)},
        "replicas": {"lease_s": 5},
        "log": {"level": "warning"},
    }
    (folder / "replicas.yaml").write_text(json.dumps(config), encoding="utf-8")
    config["listen"] = {"port": port}
    config["cascades"] = {"assistant": cascade(slow, 512), "fast": cascade(fast, 512)}
    (folder / "cascade.yaml").write_text(json.dumps(config), encoding="utf-8")


def new_key(folder: Path, *settings: str) -> str:
    """A key of the ledger."""
    made = subprocess.run(
        [PROGRAM, "keys", "create", "cascade.yaml", f"bench-{secrets.token_hex(2)}", *settings],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[str] = re.findall(r"csk_\S+", made.stdout)
    return found[0]


@contextmanager
def ray_serve(folder: Path, port: int) -> Iterator[None]:
    """A cluster that runs the application: `/one` with one replica, `/` with two to four."""
    import ray  # noqa: PLC0415 - it reads the environment
    from ray import serve  # noqa: PLC0415 - likewise

    from cascade.service.ray_serve import build_app  # noqa: PLC0415 - likewise
    from tests.service.ray_head import start  # noqa: PLC0415 - likewise

    config = str(folder / "replicas.yaml")
    # Places for replicas, however many cores there are.
    start(str(folder / "ray"), num_cpus=8, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        one = build_app({"config": config})
        serve.run(one, name="one", route_prefix="/one")
        many = build_app({"config": config, "min_replicas": 2, "max_replicas": 4, **FASTER})
        serve.run(many, name="cascade")
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def same_answers(urls: dict[str, str], key: str) -> dict[str, str]:
    """How what the official client is answered differs from what `cascade serve` says."""

    def asked(url: str) -> dict[str, Any]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as official:
            told: dict[str, Any] = {}
            for number in range(8):
                question = {"role": "user", "content": f"Question {number}: which city is it?"}
                wanted: Any = {"model": "fast", "messages": [question]}
                raw = official.chat.completions.with_raw_response.create(**wanted)
                told[f"plain {number}"] = _known(json.loads(raw.text))
                told[f"headers {number}"] = _headers(raw.headers)
                chunks = official.chat.completions.create(**wanted, stream=True)
                told[f"streamed {number}"] = [_known(chunk.model_dump()) for chunk in chunks]
        return told

    told = {name: asked(url) for name, url in urls.items()}
    first = told.pop("cascade serve")
    return {
        f"{name}, {part}": f"{other[part]} and not {first[part]}"
        for name, other in told.items()
        for part in first
        if other[part] != first[part]
    }


def _known(value: Any) -> Any:
    """An answer without what is another in each."""
    if isinstance(value, dict):
        own = ("id", "created", "run_id", "latency_ms")
        return {name: _known(item) for name, item in value.items() if name not in own}
    return [_known(item) for item in value] if isinstance(value, list) else value


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    other = ("date", "server", "content-length", "x-request-id", "x-cascade-run-id")
    return {name: value for name, value in headers.items() if name not in other}


def compared(
    ports: dict[str, tuple[int, str]], key: str, given: argparse.Namespace
) -> dict[str, Figures]:
    """Load on each in turns, before an upstream that answers at once."""
    headers = {"authorization": f"Bearer {key}"}
    rows: dict[str, Figures] = {}
    for stream in (False, True):
        for concurrency in CONCURRENCY:
            taken: dict[str, list[Figures]] = {name: [] for name in ports}
            for _ in range(given.rounds):
                for name, (port, path) in ports.items():
                    n = given.requests // (4 if concurrency == 1 else 1)
                    asked = load(
                        port, path, model="fast", requests=n, concurrency=concurrency,
                        stream=stream, headers=headers,
                    )  # fmt: skip
                    found = uvloop.run(asked)
                    if set(found.statuses) != {200}:
                        raise SystemExit(f"{name}: statuses {found.statuses}")
                    figures = {"requests/s": found.per_second}
                    taken[name].append(figures | {"p50 ms": found.ms(50), "p99 ms": found.ms(99)})
            how = "streamed" if stream else "plain"
            for name, rounds in taken.items():
                row = f"{name}, {concurrency} at once, {how}"
                rows[row] = {f: statistics.median(one[f] for one in rounds) for f in rounds[0]}
                print(f"{row:44}", said(rows[row]), file=sys.stderr, flush=True)
    return rows


async def killed(port: int, key: str, given: argparse.Namespace) -> dict[str, Seen]:
    """What clients saw before, while and after a replica was killed."""
    over, seen, phases = asyncio.Event(), Seen(), dict[str, Seen]()
    clients = [asyncio.create_task(client(n, port, key, seen, over)) for n in range(given.clients)]

    async def phase(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        phases[name] = Seen(seen)
        seen.clear()

    await phase("before", given.seconds)
    mine = [each for each in replicas_of(os.getpid()) if _application(each) == "cascade"]
    victim = mine[0]
    os.kill(victim, signal.SIGKILL)
    await phase("within a second of SIGKILL", 1)
    await phase("afterwards", given.seconds)
    over.set()
    await asyncio.gather(*clients)
    phases["the last answers"] = Seen(seen)
    return phases


def _application(process: int) -> str:
    """The application of a replica."""
    return Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").split(":")[3]


async def scaled(port: int, key: str, given: argparse.Namespace) -> dict[str, int]:
    """The number of replicas by seconds: clients come, stay, and go."""
    over, seen, told = asyncio.Event(), Seen(), dict[str, int]()
    begun = time.monotonic()

    def count(what: str) -> int:
        mine = [each for each in replicas_of(os.getpid()) if _application(each) == "cascade"]
        last = list(told.values())[-1:]
        if [len(mine)] != last:
            told[f"{time.monotonic() - begun:.0f} s, {what}"] = len(mine)
        return len(mine)

    count("before")
    many = range(4 * PLACES)
    clients = [asyncio.create_task(client(n, port, key, seen, over)) for n in many]
    await _until(lambda: count(f"{len(many)} clients") >= 4, given.patience)
    over.set()
    await asyncio.gather(*clients)
    await _until(lambda: count("no clients") <= 2, given.patience)
    told |= {f"clients saw {what}": n for what, n in sorted(seen.items())}
    return told


async def _until(condition: Any, seconds: float) -> None:
    for _ in range(int(2 * seconds)):
        if condition():
            return
        await asyncio.sleep(0.5)


async def budgeted(ledger: str, port: int, key: str, given: argparse.Namespace) -> Figures:
    """A key with little money asks all replicas at once."""
    headers = {"authorization": f"Bearer {key}"}
    asked = load(
        port, PATH, model="fast", requests=given.requests, concurrency=given.clients,
        headers=headers,
    )  # fmt: skip
    found = await asked
    await asyncio.sleep(2)  # the last entries are written
    keys = Keys(ledger)
    mine = await keys.find(key)
    await keys.aclose()
    assert mine is not None
    async with open_store(ledger) as store:
        entries = await store.query(Selection(tags={KEY_TAG: mine.id}))
    spent = sum((entry.cost_usd or Decimal(0) for entry in entries), Decimal())
    statuses = {f"answers with {status}": n for status, n in sorted(found.statuses.items())}
    return {"budget": BUDGET, "spent": spent, **statuses}


async def books(ledger: str) -> Figures:
    """What the ledger holds."""
    async with open_store(ledger) as store:
        entries = await store.query()
        unfinished = await store.unfinished()
    calls = [entry for entry in entries if entry.model is not None]
    return {"calls with an entry": len(calls), "calls that were begun and cut off": len(unfinished)}


def said(row: Figures) -> str:
    """Figures for people."""
    return " ".join(f"{figure}: {value:8.2f}" for figure, value in row.items())


def measured(given: argparse.Namespace, ledger: str, folder: Path, stack: ExitStack) -> Figures:
    """All parts, one after the other."""
    fast, slow = stack.enter_context(upstream()), stack.enter_context(upstream(LATE_MS))
    port, ray_port = free_port(), free_port()
    written(folder, ledger, fast, slow, port)
    key = new_key(folder, "--day-usd", "1000", "--admin")
    poor = new_key(folder, "--day-usd", f"{BUDGET}")
    stack.enter_context(serving(folder, port))
    stack.enter_context(ray_serve(folder, ray_port))
    here = "http://127.0.0.1"
    urls = {"cascade serve": f"{here}:{port}", "Ray Serve": f"{here}:{ray_port}"}
    figures: Figures = {"differences": same_answers(urls, key)}
    ports = {
        "cascade serve": (port, PATH),
        "Ray Serve, 1 replica": (ray_port, f"/one{PATH}"),
        "Ray Serve, 2 replicas": (ray_port, PATH),
    }
    figures["load"] = compared(ports, key, given)
    figures["budget"] = asyncio.run(budgeted(ledger, ray_port, poor, given))
    figures["killed"] = asyncio.run(killed(ray_port, key, given))
    figures["scaled"] = asyncio.run(scaled(ray_port, key, given))
    figures["upstream"] = calls_of(fast) + calls_of(slow)
    return figures


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--patience", type=float, default=90, help="seconds for replicas to come")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ |= {
        "UPSTREAM_KEY": "none",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    with (
        postgres.server() as ledger,
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as name,  # paths of sockets
    ):
        with ExitStack() as stack:
            figures = measured(given, ledger, Path(name), stack)
        figures |= asyncio.run(books(ledger))  # all have ended
    known = figures["calls with an entry"] + figures["calls that were begun and cut off"]
    figures["calls that are missing"] = max(0, figures["upstream"] - known)
    if given.json:
        print(json.dumps(figures, default=str))
    else:
        show(figures)
    overspent = figures["budget"]["spent"] > BUDGET
    if figures["differences"] or figures["calls that are missing"] or overspent:
        raise SystemExit(1)


def show(figures: Figures) -> None:
    """Print all for people."""
    for part, found in figures.items():
        if not isinstance(found, dict):
            print(f"{part:44} {found}")
            continue
        print(f"{part}{'' if found else ': none'}")
        for name, value in found.items():
            shown = said(value) if part == "load" else dict(value) if part == "killed" else value
            print(f"    {name:40} {shown}")


if __name__ == "__main__":
    main()
