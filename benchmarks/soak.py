"""Heavy: the gateway for half an hour, and whether anything in it grows.

    python benchmarks/soak.py [--minutes 30] [--concurrency 16] [--every 60] [--json]

`cascade serve` runs with a key that has a budget and a ledger in SQLite before the upstream of
`_upstream.py`, so that 30 % of the requests are escalated; each fifth is streamed. Each period
gives a row: requests per second, and of the gateway's process its memory, open descriptors, threads
and CPU, and the size of its ledger. It leaves with 1 where the median of the last third of memory,
descriptors or threads is above that of the first third by more than is allowed, the first tenth
left out, or where a request was not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import openai
from _drivers import asked, cpu_of, serving
from _upstream import upstream
from million import memory_mb

ALLOWED = {"memory MB": 0.03, "descriptors": 0.15, "threads": 0.1}
"""Share by which the last third may be above the first."""

Row = dict[str, float]


def looked_at(process: int, folder: Path) -> Row:
    """What the gateway's process holds now."""
    about = Path(f"/proc/{process}")
    return {
        "memory MB": memory_mb(process),
        "descriptors": len(list((about / "fd").iterdir())),
        "threads": len(list((about / "task").iterdir())),
        "ledger MB": sum(file.stat().st_size for file in folder.glob("ledger.db*")) / 2**20,
    }


async def soak(url: str, key: str, process: int, folder: Path, given: argparse.Namespace) -> Any:
    """Rows, one for each period."""
    rows, answered, until = list[Row](), 0, time.monotonic() + 60 * given.minutes
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        create: Any = client.chat.completions.create

        async def ask() -> None:
            nonlocal answered
            while time.monotonic() < until:
                question = asked(f"Question {answered}: which city is it?")
                if answered % 5:
                    await create(model="assistant", messages=question)
                else:
                    stream = await create(model="assistant", messages=question, stream=True)
                    async for _ in stream:
                        pass
                answered += 1

        async def look() -> None:
            while True:
                before, cpu, at = answered, cpu_of(process), time.monotonic()
                await asyncio.sleep(given.every)
                seconds = time.monotonic() - at
                row = looked_at(process, folder)
                row["requests/s"] = (answered - before) / seconds
                row["CPU"] = (cpu_of(process) - cpu) / seconds
                rows.append(row)
                told = "  ".join(f"{name} {value:,.1f}" for name, value in row.items())
                print(told, file=sys.stderr, flush=True)

        looking = asyncio.create_task(look())
        await asyncio.gather(*(ask() for _ in range(given.concurrency)))
        looking.cancel()
    return rows, answered


def main() -> int:
    """Run it and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--every", type=float, default=60, help="seconds of a row")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if 60 * given.minutes < 10 * given.every:
        parser.error(f"--minutes {given.minutes:g}: ten rows or more, of {given.every:g} s each")
    with tempfile.TemporaryDirectory() as name, upstream() as port:
        folder = Path(name)
        with serving(f"http://127.0.0.1:{port}/v1", folder) as (url, key, process):
            rows, answered = asyncio.run(soak(url, key, process, folder, given))
    kept = rows[len(rows) // 10 :]
    third, grows = len(kept) // 3, {}
    for name, allowed in ALLOWED.items():
        first = statistics.median(row[name] for row in kept[:third])
        last = statistics.median(row[name] for row in kept[-third:])
        grows[name] = {"first third": first, "last third": last}
        grows[name]["grows"] = last > first * (1 + allowed)
    if given.json:
        print(json.dumps({"benchmark": "soak", "answered": answered, "trend": grows, "rows": rows}))
    else:
        print(f"{answered:,} requests answered; {grows}")
    return 1 if any(figures["grows"] for figures in grows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
