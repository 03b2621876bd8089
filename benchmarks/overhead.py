"""Heavy: what the cascade costs per request beside what it replaces (5 minutes).

    python benchmarks/overhead.py [--only client,ours] [--rounds 3] [--requests 300] [--json]
    python benchmarks/overhead.py --profile ours_in_memory

One upstream (`_upstream.py`) answers at once, and 30 % of the drafts are escalated. Each driver of
`_drivers.py` is a process of its own and asks the same questions one by one, then 64 at a time; the
rounds of all drivers alternate. Figures are medians over the rounds, ratios the medians of the
ratios within a round, against `client`, the cascade by hand on the bare AsyncOpenAI. CPU is that of
the driver's process.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _drivers import DRIVERS, phase
from _upstream import upstream

REFERENCE = "client"
CONCURRENCY = {"one": 1, "c64": 64}
WARM = 100
UNITS = ("per_s", "cpu_ms", "p50_ms", "p99_ms", "× rate", "× cpu")
Row = dict[str, dict[str, float]]


async def drive(name: str, port: int, requests: int) -> Row:
    """All phases of one driver, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        async with DRIVERS[name](f"http://127.0.0.1:{port}/v1", Path(folder)) as ask:
            await phase(ask, WARM, 4)
            return {name: await phase(ask, requests, n) for name, n in CONCURRENCY.items()}


def measure(names: list[str], rounds: int, requests: int) -> dict[str, Row]:
    """The medians of each driver, with its ratios to the reference."""
    found: dict[str, list[Row]] = {name: [] for name in names}
    with upstream() as port:
        for number in range(rounds):
            for name in names:
                command = [sys.executable, __file__, "--driver", name, "--port", str(port)]
                command += ["--requests", str(requests)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[name].append(json.loads(done.stdout))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return {name: _medians(rows, found.get(REFERENCE, rows)) for name, rows in found.items()}


def _medians(rows: list[Row], reference: list[Row]) -> Row:
    medians: Row = {}
    for name in CONCURRENCY:
        here = {key: statistics.median(row[name][key] for row in rows) for key in rows[0][name]}
        # Of rounds, not of medians: both of a pair saw the same machine.
        for ratio, key in (("× rate", "per_s"), ("× cpu", "cpu_ms")):
            pairs = zip(rows, reference, strict=True)
            here[ratio] = statistics.median(row[name][key] / to[name][key] for row, to in pairs)
        medians[name] = {key: round(value, 3) for key, value in here.items()}
    return medians


PARTS = {
    "cascade/agents": "cascade: agents",
    "main/agents": "cascade: agents",
    **{f"cascade/{part}": f"cascade: {part}" for part in ("models", "ledger", "middleware")},
    "cascade/": "cascade: kernel and the rest",
    "langgraph": "LangGraph",
    "langchain_core": "LangChain core",
    "openai/": "openai client",
    "httpx": "httpx",
    "aiohttp": "aiohttp",
    "pydantic": "pydantic",
    "asyncio": "asyncio",
}
"""Component by the first part that is in a file's path."""


def profile(name: str, port: int, requests: int) -> None:
    """Print shares of CPU by component. The profiler slows Python calls most: read the shares."""

    async def run(profiler: cProfile.Profile) -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with DRIVERS[name](f"http://127.0.0.1:{port}/v1", Path(folder)) as ask:
                await phase(ask, WARM, 1)
                profiler.enable()
                await phase(ask, requests, 1)
                profiler.disable()

    profiler = cProfile.Profile(time.thread_time)
    asyncio.run(run(profiler))
    found: Any = pstats.Stats(profiler)
    spent: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in found.stats.items():
        # What is built in belongs to its callers.
        shares = {c[0]: f[2] for c, f in callers.items()} if file.startswith("~") else {file: own}
        for path, seconds in shares.items():
            known = (label for part, label in PARTS.items() if part in path)
            spent[next(known, "standard library")] += seconds
    print(f"{name}: {found.total_calls / requests:,.0f} calls of functions per request")
    for part, seconds in spent.most_common(12):
        share = 100 * seconds / spent.total()
        print(f"  {part:<30}{1000 * seconds / requests:7.3f} ms {share:5.1f} %")
    found.sort_stats("tottime").print_stats(r"cascade|agents|langgraph|pydantic", 25)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(DRIVERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", metavar="DRIVER", help="where it spends its CPU")
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.driver:
        print(json.dumps(asyncio.run(drive(given.driver, given.port, given.requests))))
        return
    if given.profile:
        with upstream() as port:
            profile(given.profile, port, given.requests)
        return
    figures = measure(given.only.split(","), given.rounds, given.requests)
    if given.json:
        facts = {"benchmark": "overhead", "rounds": given.rounds, "requests": given.requests}
        print(json.dumps({**facts, "drivers": figures}))
        return
    for name, concurrency in CONCURRENCY.items():
        print(f"\n{concurrency} at a time{'':<12}{''.join(f'{unit:>10}' for unit in UNITS)}")
        for driver, rows in figures.items():
            print(f"{driver:<24}" + "".join(f"{rows[name][unit]:10.2f}" for unit in UNITS))


if __name__ == "__main__":
    main()
