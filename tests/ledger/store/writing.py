"""Processes that write many entries at once.

python -m tests.ledger.store.writing URL PROCESSES ENTRIES
"""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

from cascade.ledger.store import open_store
from cascade.state import LedgerEntry

ROOT = Path(__file__).resolve().parents[3]


def entry(run_id: str) -> LedgerEntry:
    """An entry with every field that a call or a decision may set, the hashes left out."""
    cost = Decimal("0.000123456789")
    return LedgerEntry(
        run_id=run_id,
        node="verify",
        tier="small",
        model="ollama:qwen2.5:3b",
        input_tokens=200,
        output_tokens=100,
        cached_tokens=50,
        reasoning_tokens=0,
        cache_write_tokens=0,
        latency_ms=12.5,
        cost_usd=cost,
        saved_usd=-cost,
        baseline_usd=10 * cost,
        baseline_low_usd=5 * cost,
        baseline_high_usd=20 * cost,
        marginal_usd=cost,
        basis="estimated",
        price="list price of 2026-11-01",
        action="accept",
        confidence=0.93,
        calibrated=True,
        signals={"mean_logprob": -0.05, "min_logprob": -1.25, "length": 100.0},
        audit_rate=0.05,
    )


def write_together(url: str, *, processes: int, entries: int) -> tuple[float, str]:
    """Seconds in which all have written, and what they complained about.

    They are forked from one that has imported everything, so that they write at the same time.
    """
    command = [sys.executable, "-m", "tests.ledger.store.writing", url, str(processes)]
    done = subprocess.run(
        [*command, str(entries)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return float(done.stdout), done.stderr


async def _write(url: str, name: int, entries: int) -> None:
    async with open_store(url) as store:
        for i in range(entries):
            store.append([entry(f"{name}-{i}")])


def _main(url: str, processes: int, entries: int) -> None:
    open_store(url)  # imports the rest, and opens nothing yet
    began = time.perf_counter()
    fork = multiprocessing.get_context("fork")
    writers = [
        fork.Process(target=lambda name: asyncio.run(_write(url, name, entries)), args=(name,))
        for name in range(processes)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    print(time.perf_counter() - began)
    sys.exit(any(writer.exitcode for writer in writers))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
