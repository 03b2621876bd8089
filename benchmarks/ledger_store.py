"""The ledger's store: throughput, added latency, four processes, and `kill -9` ten times.

    python benchmarks/ledger_store.py [--entries 10000] [--kills 10] [--json]

On SQLite and, where a server can be had, on PostgreSQL. `added` is the time that a call waits
until it is written down, before it is sent: one call after the other, 32 loops that do nothing
but begin calls (the store at its limit), and 500 calls a second that arrive one by one. `append`
is the time in which an entry is handed over; an entry of the benchmark has every field set.
`texts` is the CPU time for the hashes of a call's prompt and answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from langchain_core.messages import HumanMessage

from cascade.ledger import texts_of
from cascade.ledger.store import Store, open_store
from cascade.ledger.texts import with_hashes
from cascade.state import Completion
from tests.ledger.store import postgres
from tests.ledger.store.crashing import RUNS, kill_in_the_middle
from tests.ledger.store.writing import entry, write_together

Figures = dict[str, float | str]
PROCESSES, BEGUN, PER_SECOND = 4, 1_920, 500


def percentiles(name: str, seconds: list[float]) -> Figures:
    """Median and 99th percentile in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {f"{name}, p50 ms": 1000 * cuts[49], f"{name}, p99 ms": 1000 * cuts[98]}


async def one_process(url: str, entries: int) -> Figures:
    """Throughput, CPU and latency of one process."""
    async with open_store(url) as store:
        await store.flush()
        taken, began, cpu = [], time.perf_counter(), time.process_time()
        for i in range(entries):
            one = entry(str(i))
            start = time.perf_counter()
            store.append([one])
            taken.append(time.perf_counter() - start)
        await store.flush()
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        figures: Figures = {
            "entries per second": entries / wall,
            "CPU per entry, ms": 1000 * cpu / entries,
            **percentiles("append", taken),
        }
        await added(store, figures)
        await store.delete(everything=True)
    return figures


async def added(store: Store, figures: Figures) -> None:
    """What calls wait for before they are sent."""
    waited: list[float] = []

    async def begin(n: int) -> None:
        for _ in range(n):
            start = time.perf_counter()
            await store.begin(run_id="r", node="draft")
            waited.append(time.perf_counter() - start)

    for at_once in (1, 32):
        calls = BEGUN // 6 if at_once == 1 else BEGUN
        await asyncio.gather(*(begin(calls // at_once) for _ in range(at_once)))
        figures |= percentiles(f"added, {at_once} under way", waited)
        waited.clear()
    arriving = []
    for _ in range(BEGUN):
        arriving.append(asyncio.create_task(begin(1)))
        await asyncio.sleep(1 / PER_SECOND)
    await asyncio.gather(*arriving)
    figures |= percentiles(f"added, {PER_SECOND} a second", waited)


def hashing() -> Figures:
    """What the hashes of a call cost."""
    figures: Figures = {}
    for name, characters, times in (("short", 60, 2_000), ("100 kB", 100_000, 200)):
        messages = [HumanMessage(("What is the capital of Australia? " * 3_000)[:characters])]
        completion, cpu = Completion("Canberra", "m"), time.process_time()
        for _ in range(times):
            with_hashes(entry("r"), texts_of(messages, completion))
        figures[f"texts, {name} prompt, ms"] = 1000 * (time.process_time() - cpu) / times
    return figures


async def four_processes(url: str, entries: int) -> Figures:
    """Four processes write at once; each entry must be there."""
    seconds, complaints = write_together(url, processes=PROCESSES, entries=entries)
    expected = {f"{name}-{i}" for name in range(PROCESSES) for i in range(entries)}
    async with open_store(url) as store:
        found = [e.run_id for e in await store.query()]
        await store.delete(everything=True)
    return {
        "four processes, entries per second": PROCESSES * entries / seconds,
        "four processes, lost": len(expected - set(found)),
        "four processes, doubled": len(found) - len(set(found)),
        "four processes, errors shown": len(complaints.splitlines()),
    }


def kills(url: str, times: int) -> Figures:
    """Kill a process with 32 calls under way; the server's log says what it was paid for."""
    rng, seen, unknown, lost, doubled = random.Random(0), 0, 0, 0, 0
    for _ in range(times):
        left = kill_in_the_middle(url, after=rng.randint(100, RUNS))
        seen += left.seen.total()
        unknown += left.unknown.total()
        lost += len(left.lost)
        doubled += len(left.doubled)
        asyncio.run(_empty(url))
    return {
        "kills": times,
        "kills, requests seen": seen,
        "kills, listed as unknown": unknown,
        "kills, lost": lost,
        "kills, doubled": doubled,
    }


async def _empty(url: str) -> None:
    async with open_store(url) as store:
        await store.delete(everything=True)


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """The addresses of the databases that can be had here."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"SQLite": f"sqlite:///{folder}/ledger.db"}
        try:
            with postgres.server() as url:
                yield {**found, "PostgreSQL": url}
        except postgres.NoPostgresError as reason:
            print(f"PostgreSQL is left out: {reason}", file=sys.stderr)
            yield found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with databases() as urls:
        for name, url in urls.items():
            figures = asyncio.run(one_process(url, arguments.entries))
            figures |= hashing()
            figures |= asyncio.run(four_processes(url, arguments.entries))
            figures |= kills(url, arguments.kills)
            if arguments.json:
                print(json.dumps({"benchmark": "ledger_store", "database": name, **figures}))
                continue
            print(name)
            for figure, value in figures.items():
                print(f"  {figure:<40} {value:12,.3f}")


if __name__ == "__main__":
    main()
