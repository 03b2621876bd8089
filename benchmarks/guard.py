"""Speed guard: CPU of a request through the cascade, beside the same without it.

    python benchmarks/guard.py [--json] [--write]

Three ratios, each of two drivers of `_drivers.py` in one process on one upstream: `ainvoke` with
its ledger in SQLite to a cascade by hand on the bare client, `ainvoke` without a store to the same,
and `cascade.graph` to a graph by hand on the same client. The drivers take turns of a few requests;
a ratio is the median over the rounds, so that other work on the machine strikes both sides alike.
Each is compared with the one in `guard.json`. Where it is more than a third above, there are more
rounds, three times at most, and then the guard fails. `--write` keeps the ratios that are found
now, for a change that is meant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from _drivers import DRIVERS, Ask, phase
from _upstream import upstream

FILE = Path(__file__).with_name("guard.json")
PAIRS = {"ours": "client", "ours_in_memory": "client", "ours_graph": "langgraph"}
ALLOWED, TRIES = 4 / 3, 3
ROUNDS, REQUESTS, AT_A_TIME = 9, 40, 4
FIRST = 100
"""Requests before the first round: connections, caches and code are warm after that."""


def slowed(ask: Ask, burn_us: float) -> Ask:
    """A driver that wastes so much CPU with each request."""

    async def burning(question: str) -> str:
        until = time.thread_time() + burn_us / 1e6
        while time.thread_time() < until:
            pass
        return await ask(question)

    return burning


async def measure(port: int, burn_us: float) -> dict[str, float]:
    """The ratios by our driver's name."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asks: dict[str, Ask] = {}
        for name in dict.fromkeys([*PAIRS, *PAIRS.values()]):
            driver = DRIVERS[name](f"http://127.0.0.1:{port}/v1", folder)
            asks[name] = await stack.enter_async_context(driver)
            if burn_us and name in PAIRS:
                asks[name] = slowed(asks[name], burn_us)
            await phase(asks[name], FIRST, AT_A_TIME)
        found: dict[str, list[float]] = {name: [] for name in PAIRS}
        for _ in range(ROUNDS):
            turn = {n: (await phase(a, REQUESTS, AT_A_TIME))["cpu_ms"] for n, a in asks.items()}
            for name, other in PAIRS.items():
                found[name].append(turn[name] / turn[other])
    return {name: statistics.median(ratios) for name, ratios in found.items()}


def compare(kept: dict[str, float], port: int, burn_us: float) -> dict[str, float]:
    """The ratios, the least of each over as many tries as it takes."""
    found = dict.fromkeys(PAIRS, float("inf"))
    for _ in range(TRIES):
        new = asyncio.run(measure(port, burn_us))
        found = {name: min(found[name], new[name]) for name in PAIRS}
        for name, other in PAIRS.items():
            told = f"CPU of {name} / {other}: {found[name]:.2f}, known {kept[name]:.2f}"
            print(f"{told}, limit {ALLOWED * kept[name]:.2f}", file=sys.stderr)
        if all(found[name] <= ALLOWED * kept[name] for name in PAIRS):
            break
    return found


def main() -> int:
    """Measure and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="keep the ratios that are found now")
    parser.add_argument("--burn-us", type=float, default=0.0, help="make ours slower, as a proof")
    given = parser.parse_args()
    with upstream() as port:
        if given.write:
            ratios = {n: round(r, 3) for n, r in asyncio.run(measure(port, 0.0)).items()}
            machine = f"{platform.machine()}, Python {platform.python_version()}"
            about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
            FILE.write_text(json.dumps({**ratios, **about}, indent=2) + "\n", encoding="utf-8")
            print(ratios)
            return 0
        kept = json.loads(FILE.read_text(encoding="utf-8"))
        found = compare(kept, port, given.burn_us)
    if given.json:
        print(json.dumps({"benchmark": "guard", "allowed": ALLOWED, **found}))
    slower = [name for name in PAIRS if found[name] > ALLOWED * kept[name]]
    if slower:
        print(f"slower: {', '.join(slower)}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
