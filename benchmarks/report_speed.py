"""The report of a large ledger: seconds, and peak memory of reading it in a stream.

    python benchmarks/report_speed.py [--entries 200000] [--json]

The ledger is synthetic, in SQLite: three quarters of the runs are accepted, one in ten of these is
audited. `kept` is what the report holds of a run; the peak is of Python's own memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from cascade.ledger.store import Store, open_store
from cascade.report import make_report
from cascade.state import LedgerEntry

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
RATE = 0.1


def run(number: int, rng: random.Random) -> list[LedgerEntry]:
    """The entries of one run."""
    at = BEGIN + timedelta(seconds=30 * number)
    run_id = f"{number:032x}"
    cost, large = Decimal("0.0001"), Decimal(rng.randint(50, 400)).scaleb(-4)

    def call(node: str, tier: str, usd: Decimal, baseline: Decimal = Decimal(0)) -> LedgerEntry:
        return LedgerEntry(
            run_id=run_id,
            node=node,
            tier=tier,
            model=tier,
            input_tokens=300,
            output_tokens=80,
            cost_usd=usd,
            saved_usd=baseline - usd,
            baseline_usd=baseline,
            at=at,
            price="listed",
        )

    def decision(node: str, saved: Decimal, **fields: object) -> LedgerEntry:
        made = LedgerEntry(run_id=run_id, node=node, tier="small", cost_usd=Decimal(0), at=at)
        return made.model_copy(update={"saved_usd": saved, **fields})

    signals = {"mean": 0.9, "minimum": 0.5, "margin": 0.7}
    told = [call("draft", "small", cost), decision("self_check", Decimal(0))]
    if rng.random() < 0.25:
        told.append(decision("verify", Decimal(0), action="escalate", signals=signals))
        return [*told, call("expert", "large", large, large)]
    guess = Decimal("0.02")
    told.append(
        decision(
            "verify",
            guess,
            action="accept",
            signals=signals,
            confidence=rng.random(),
            audit_rate=RATE,
            baseline_usd=guess,
            baseline_low_usd=guess / 4,
            baseline_high_usd=guess * 8,
            basis="estimated",
        )
    )
    if rng.random() < RATE:
        told.append(call("audit", "large", large))
        found: dict[str, object] = {"large_usd": large, "loss": float(rng.random() < 0.05)}
        told.append(decision("audit", large - guess, baseline_usd=large - guess, **found))
    return told


def fill(store: Store, entries: int) -> tuple[int, int]:
    """Write runs until there are so many entries; returns both counts."""
    rng, written, runs = random.Random(0), 0, 0
    while written < entries:
        told = run(runs, rng)
        store.append(told)
        written, runs = written + len(told), runs + 1
    return written, runs


async def measure(url: str, entries: int) -> dict[str, float]:
    """Fill a ledger, then make its report twice: for the time, and for the memory."""
    async with open_store(url, crash_safe=False) as store:
        written, runs = await asyncio.to_thread(fill, store, entries)
    async with open_store(url) as store:
        began, cpu = time.perf_counter(), time.process_time()
        await make_report(store)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        began = time.process_time()
        async for _ in store.stored():
            pass
        reading = time.process_time() - began
        tracemalloc.start()
        await make_report(store)
        peak = tracemalloc.get_traced_memory()[1]
    return {
        "entries": written,
        "runs": runs,
        "seconds": seconds,
        "CPU seconds": cpu,
        "of which reading": reading,
        "peak MB": peak / 1e6,
        "kept, bytes per run": peak / runs,
        "process, peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'ledger.db'}"
        figures = asyncio.run(measure(url, arguments.entries))
    if arguments.json:
        print(json.dumps({"benchmark": "report_speed", **figures}))
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:20} {value:12,.1f}\n")


if __name__ == "__main__":
    main()
