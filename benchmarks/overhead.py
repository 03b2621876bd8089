"""Heavy: what the cascade costs per request beside what it replaces (10 minutes).

    python benchmarks/overhead.py [--only ours,client] [--rounds 5] [--requests 1000] [--json]
    python benchmarks/overhead.py --profile ours_in_memory

One upstream (`_upstream.py`) answers at once, and 30 % of the drafts are escalated. Each driver is
a process of its own and asks the same questions one by one, then 64 at a time; the rounds of all
drivers alternate, and the figures are medians over them. CPU is that of the driver's process, and
of the gateway's where there is one. Ratios are against `client`, the cascade by hand on the bare
AsyncOpenAI.

`langgraph`, the graph by hand, and `agent`, LangChain's, have ChatOpenAI: `langchain-openai`, in an
environment of its own that `CI=true` makes (tests/environments.py); without it they are left out,
and that is said.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import _components
from _drivers import DRIVERS as PLAIN
from _drivers_around import AROUND, Elsewhere
from _upstream import upstream

ROOT = Path(__file__).resolve().parent.parent
DRIVERS = {**PLAIN, **AROUND}
REFERENCE = "client"
WITH_CHAT_OPENAI = ("langgraph", "agent")
CONCURRENCY = {"one": 1, "c64": 64}
WARM = 100
Ask = Callable[[str], Awaitable[str]]
Row = dict[str, dict[str, float]]
UNITS = ("per_s", "cpu_ms", "p50_ms", "p99_ms")


async def phase(ask: Ask, requests: int, concurrency: int) -> dict[str, float]:
    """Put so many questions, so many at a time."""
    numbers, taken, escalated = iter(range(requests)), [], 0

    async def worker() -> None:
        nonlocal escalated
        for number in numbers:
            begun = time.perf_counter()
            escalated += await ask(f"Question {number}: which city is it?") == "large"
            taken.append(1000 * (time.perf_counter() - begun))

    def cpu_s() -> float:
        return time.process_time() + (ask.cpu_s() if isinstance(ask, Elsewhere) else 0.0)

    gc.collect()
    cpu, begun = cpu_s(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    seconds, cpu = time.perf_counter() - begun, cpu_s() - cpu
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "per_s": requests / seconds,
        "cpu_ms": 1000 * cpu / requests,
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "escalated": escalated / requests,
    }


async def drive(name: str, port: int, requests: int) -> Row:
    """All phases of one driver, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        async with DRIVERS[name](f"http://127.0.0.1:{port}/v1", Path(folder)) as ask:
            await phase(ask, WARM, 4)
            return {
                phase_name: await phase(ask, requests, concurrency)
                for phase_name, concurrency in CONCURRENCY.items()
            }


def python_of(name: str) -> str | None:
    """The interpreter of a driver; None, and a word why, where it cannot be had."""
    if name not in WITH_CHAT_OPENAI:
        return sys.executable
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]
    from environments import (  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415
        NoEnvironmentError,
        python_with,
    )

    try:
        return str(python_with("langchain-openai"))
    except NoEnvironmentError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def once(python: str, name: str, port: int, requests: int) -> Row:
    """A round of one driver, in a process of its own."""
    command = [python, __file__, "--driver", name, "--port", str(port)]
    quiet = {**os.environ, "LANGSMITH_TRACING": "false", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--requests", str(requests)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        env=quiet,
    )
    row: Row = json.loads(done.stdout)
    return row


def measure(names: list[str], rounds: int, requests: int) -> dict[str, Row]:
    """The medians of each driver, with its ratios to the reference."""
    pythons = {name: python for name in names if (python := python_of(name)) is not None}
    found: dict[str, list[Row]] = {name: [] for name in pythons}
    for number in range(rounds):
        for name, python in pythons.items():
            with upstream() as port:
                found[name].append(once(python, name, port, requests))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return {name: _median(rows, found.get(REFERENCE)) for name, rows in found.items()}


def _median(rows: list[Row], reference: list[Row] | None) -> Row:
    medians: Row = {}
    for name in CONCURRENCY:
        here = {key: statistics.median(row[name][key] for row in rows) for key in rows[0][name]}
        if reference is not None:
            # Of rounds, not of medians: both of a pair saw the same machine.
            pairs = [
                row[name]["per_s"] / other[name]["per_s"]
                for row, other in zip(rows, reference, strict=True)
            ]
            here["times_client"] = statistics.median(pairs)
        medians[name] = {key: round(value, 3) for key, value in here.items()}
    return medians


def show(figures: dict[str, Row]) -> None:
    """A table for each concurrency."""
    for name, concurrency in CONCURRENCY.items():
        print(f"\n{concurrency} at a time{'':<12}{''.join(f'{u:>10}' for u in UNITS)}  × client")
        for driver, rows in figures.items():
            row = rows[name]
            units = "".join(f"{row[unit]:10.2f}" for unit in UNITS)
            print(f"{driver:<24}{units}  {row.get('times_client', float('nan')):8.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--only", default=",".join(DRIVERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--profile", metavar="DRIVER", help="where it spends its CPU")
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.driver:
        row: Any = asyncio.run(drive(given.driver, given.port, given.requests))
        print(json.dumps(row))
        return
    if given.profile:
        with upstream() as port:
            _components.show(given.profile, port, given.requests)
        return
    figures = measure(given.only.split(","), given.rounds, given.requests)
    if given.json:
        facts = {"benchmark": "overhead", "rounds": given.rounds, "requests": given.requests}
        print(json.dumps({**facts, "drivers": figures}))
        return
    show(figures)


_Plain = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
