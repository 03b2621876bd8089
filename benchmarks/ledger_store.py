"""The ledger's store: throughput, added latency, reading, four processes, budgets, and `kill -9`.

    python benchmarks/ledger_store.py [--entries 100000] [--kills 10] [--json]

On SQLite and, where a server can be had, on PostgreSQL. `added` is the time that a call waits
until it is written down, before it is sent: one call after the other, 32 loops that do nothing
but begin calls (the store at its limit), and 500 calls a second that arrive one by one. `append`
is the time in which an entry is handed over; an entry of the benchmark has every field set.
`rows` reads twelve columns of all entries and adds them up, as a report does. `budget` puts money
aside and settles it, one request after the other and 500 at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cascade.ledger.entries import Amounts
from cascade.ledger.shared import Budgets, Reservation
from cascade.ledger.store import SqlLedger, open_store
from tests.ledger import postgres
from tests.ledger.samples import call, decided

Figures = dict[str, float | str]
PROCESSES, BEGUN, PER_SECOND, RUNS = 4, 1_920, 500, 1_000

COLUMNS = (
    "run_id", "node", "tier", "model", "cost_usd", "cost_basis", "saved_usd", "basis",
    "at", "decision.action", "decision.confidence", "tags",
)  # fmt: skip


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
            one = decided(str(i))
            start = time.perf_counter()
            store.append([one])
            taken.append(time.perf_counter() - start)
        await store.flush()
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        figures: Figures = {
            "entries per second": entries / wall,
            "CPU per entry, ms": 1000 * cpu / entries,
            **percentiles("append", taken),
            **await reading(store),
        }
        await added(store, figures)
        await store.delete(everything=True)
    return figures


async def reading(store: SqlLedger) -> Figures:
    """Seconds in which a report has read and added up all entries."""
    began = time.perf_counter()
    found = await store.rows(columns=COLUMNS)
    Amounts.of((row[4], row[5]) for row in found)
    Amounts.of((row[6], row[7]) for row in found)
    rows = time.perf_counter() - began
    began = time.perf_counter()
    n = len(await store.entries())
    return {
        "rows, seconds for 100,000": rows / n * 100_000,
        "entries, seconds for 100,000": (time.perf_counter() - began) / n * 100_000,
    }


async def added(store: SqlLedger, figures: Figures) -> None:
    """What calls wait for before they are sent."""
    waited: list[float] = []

    async def begin(n: int) -> None:
        for _ in range(n):
            one = call()
            start = time.perf_counter()
            await store.begin(one)
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


def four_processes(url: str, entries: int) -> Figures:
    """Four processes write at once; each entry must be there.

    They are forked from one that has imported everything, so that they write at the same time.
    """
    command = [sys.executable, __file__, "--writers", url, "--entries", str(entries)]
    seconds = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    async def take() -> list[str]:
        async with open_store(url) as store:
            found = [run_id for (run_id,) in await store.rows(columns=["run_id"])]
            await store.delete(everything=True)
        return found

    found = asyncio.run(take())
    expected = {f"{name}-{i}" for name in range(PROCESSES) for i in range(entries)}
    return {
        "four processes, entries per second": PROCESSES * entries / seconds,
        "four processes, lost": len(expected - set(found)),
        "four processes, doubled": len(found) - len(set(found)),
    }


def write_together(url: str, entries: int) -> float:
    """Seconds in which four processes have written so many entries each."""
    open_store(url)  # imports the rest, and opens nothing yet
    fork, began = multiprocessing.get_context("fork"), time.perf_counter()

    async def write(name: int) -> None:
        async with open_store(url) as store:
            for i in range(entries):
                store.append([decided(f"{name}-{i}")])

    writers = [
        fork.Process(target=lambda name: asyncio.run(write(name)), args=(name,))
        for name in range(PROCESSES)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return time.perf_counter() - began


async def budgets(url: str) -> Figures:
    """What a request waits for its money, and what that takes of CPU."""
    spending, day = Budgets(url), {"day": Decimal(10**6)}
    waited: list[float] = []

    async def one(number: int) -> None:
        start = time.perf_counter()
        granted = await spending.reserve(f"key-{number % 7}", Decimal("0.01"), day)  # type: ignore[arg-type]
        waited.append(time.perf_counter() - start)
        assert isinstance(granted, Reservation)
        spending.settle(granted, Decimal("0.002"))

    figures: Figures = {}
    for i in range(300):
        await one(i)
    figures |= percentiles("budget, one by one", waited)
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*map(one, range(500)))
    await spending.account("key-0")  # once all is written
    figures["budget, 500 at once, requests per second"] = 500 / (time.perf_counter() - began)
    figures["budget, 500 at once, CPU ms each"] = 2 * (time.process_time() - cpu)
    await spending.aclose()
    return figures


def kills(url: str, times: int) -> Figures:
    """Kill a process with 32 runs under way; the provider's log says what was sent."""
    rng, total = random.Random(0), Counter[str]()
    for _ in range(times):
        with tempfile.NamedTemporaryFile("r") as log:
            command = [sys.executable, __file__, "--victim", log.name, "--writers", url]
            victim, after, told = subprocess.Popen(command), rng.randint(100, RUNS), ""
            while told.count("\n") < after:  # a line may come in two parts
                assert victim.poll() is None, f"it ended too early: {victim.returncode}"
                told += log.read()
                time.sleep(0.001)
            victim.kill()
            victim.wait()
            told += log.read()
        total += asyncio.run(_left(url, Counter(told.splitlines())))
    named = {"calls sent": "sent", "listed as unknown": "unknown"}
    named |= {"lost": "lost", "doubled": "doubled"}
    return {"kills": times, **{f"kills, {name}": total[key] for name, key in named.items()}}


async def _left(url: str, sent: Counter[str]) -> Counter[str]:
    """How many calls were sent, are unknown, are lost, and stand in the ledger too often."""
    async with open_store(url) as store:
        kept = Counter(entry.id for entry in await store.entries())
        unknown = Counter(entry.id for entry in await store.unfinished())
        await store.delete(everything=True)
    lost, doubled = sent - kept - unknown, kept - sent
    counted = {"sent": sent, "unknown": unknown, "lost": lost, "doubled": doubled}
    return Counter({name: each.total() for name, each in counted.items()})


async def write_until_killed(url: str, log: str) -> None:
    """Begin calls, add each to the log as a provider that was sent it, and append its entry."""
    free, provider = asyncio.Semaphore(32), os.open(log, os.O_WRONLY | os.O_APPEND)
    async with open_store(url) as store:

        async def run(number: int) -> None:
            async with free:
                for node in ("draft", "expert"):
                    one = call(f"run-{number}", id=f"{node}-{number}")
                    await store.begin(one)
                    os.write(provider, f"{one.id}\n".encode())
                    await asyncio.sleep(random.uniform(0.001, 0.01))
                    store.append([one.model_copy(update={"outcome": "ok", "cost_usd": 1})])

        await asyncio.gather(*map(run, range(RUNS)))


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """The addresses of the databases that can be had here."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"SQLite": f"sqlite:///{folder}/ledger.db"}
        try:
            with postgres.running() as server:
                yield {**found, "PostgreSQL": server.url}
        except postgres.NoPostgresError as reason:
            print(f"PostgreSQL is left out: {reason}", file=sys.stderr)
            yield found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--writers", help=argparse.SUPPRESS)
    parser.add_argument("--victim", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.victim:
        asyncio.run(write_until_killed(arguments.writers, arguments.victim))
        return
    if arguments.writers:
        print(write_together(arguments.writers, arguments.entries))
        return
    with databases() as urls:
        for name, url in urls.items():
            figures = asyncio.run(one_process(url, arguments.entries))
            figures |= four_processes(url, arguments.entries // 10)
            figures |= asyncio.run(budgets(url))
            figures |= kills(url, arguments.kills)
            if arguments.json:
                print(json.dumps({"benchmark": "ledger_store", "database": name, **figures}))
                continue
            print(name)
            for figure, value in figures.items():
                print(f"  {figure:<42} {value:12,.3f}")


if __name__ == "__main__":
    main()
