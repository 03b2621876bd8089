"""Seconds of a ledger's report and page, and peak memory.

    python benchmarks/report_speed.py [--entries 100000] [--json]

The ledger is synthetic, in SQLite: three quarters of the runs are accepted, one in ten of these is
audited. Times are of a process that has loaded its modules; `loading` is what that takes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from cascade.ledger.entries import LedgerEntry
from cascade.ledger.store import open_store
from cascade.state import Decision

BEGIN = datetime.now(UTC) - timedelta(days=20)
RATE = 0.1


def run(number: int, rng: random.Random) -> list[LedgerEntry]:
    """The entries of one run."""
    large, sure = Decimal(rng.randint(50, 400)).scaleb(-4), rng.random()
    common = {"run_id": f"{number:032x}", "at": BEGIN + timedelta(minutes=number)}

    def call(node: str, tier: str, usd: Decimal, baseline: Decimal = Decimal(0)) -> LedgerEntry:
        told: dict[str, Any] = {"tier": tier, "model": f"provider:{tier}", "price": "listed"}
        tokens = {"input_tokens": 300, "output_tokens": 80, "latency_ms": rng.expovariate(0.002)}
        money = {"cost_usd": usd, "saved_usd": baseline - usd, "baseline_usd": baseline}
        return LedgerEntry(node=node, **common, **told, **tokens, **money)

    def free(node: str, **fields: Any) -> LedgerEntry:
        return LedgerEntry(node=node, tier="small", cost_usd=Decimal(0), **common, **fields)

    decision = Decision(
        action="accept" if sure >= 0.25 else "escalate",
        reason="by confidence",
        confidence=sure,
        threshold=0.25,
        calibrated=True,
        signals={"mean": 0.9, "minimum": 0.5, "margin": 0.7},
        audit_rate=RATE if sure >= 0.25 else None,
    )
    told = [call("draft", "small", Decimal("0.0001")), free("self_check")]
    if decision.action == "escalate":
        return [*told, free("verify", decision=decision), call("expert", "large", large, large)]
    guess = Decimal("0.02")
    earned = {"baseline_usd": guess, "baseline_range": (guess / 4, guess * 8), "saved_usd": guess}
    told.append(free("verify", decision=decision, basis="estimated", **earned))
    if rng.random() < RATE:
        told += [call("audit", "large", large), free("audit", loss=float(rng.random() < 0.05))]
    return told


async def fill(url: str, entries: int) -> None:
    """Write runs until there are so many entries."""
    rng, written, number = random.Random(0), 0, 0
    async with open_store(url) as store:
        while written < entries:
            told = run(number, rng)
            team = rng.choice(("search", "support", "sales"))
            store.append(told, {"cascade": "support", "team": team})
            written, number = written + len(told), number + 1
            if number % 2_000 == 0:
                await store.flush()


async def measure(url: str) -> dict[str, float]:
    """Make the report of a ledger, and its page."""
    began = time.perf_counter()
    from cascade.evaluation.render import to_page, to_text  # noqa: PLC0415 - timed
    from cascade.evaluation.report import make_report  # noqa: PLC0415

    loading = time.perf_counter() - began
    async with open_store(url, read_only=True) as store:
        await store.rows(columns=["id"], limit=1)
        began, cpu = time.perf_counter(), time.process_time()
        report = await make_report(store)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    began = time.perf_counter()
    to_text(report.document)
    to_page(report.document)
    return {
        "loading, s": loading,
        "report, s": took,
        "report, CPU s": cpu,
        "text and page, s": time.perf_counter() - began,
        "runs": report.requests,
        "peak MB of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'ledger.db'}"
        asyncio.run(fill(url, arguments.entries))
        figures = asyncio.run(measure(url))
    from cascade.evaluation.render import to_json  # noqa: PLC0415 - timed above

    if arguments.json:
        found = {"benchmark": "report_speed", "entries": arguments.entries, **figures}
        print(to_json(found, indent=None))
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:24} {value:12,.2f}\n")


if __name__ == "__main__":
    main()
