"""Processes that claim pending audits at once.

python -m tests.ledger.store.claiming URL
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from cascade.ledger.store import open_store

ROOT = Path(__file__).resolve().parents[3]


def claim_together(url: str, processes: int) -> list[list[str]]:
    """The runs whose audits each process got; all begin when the last is ready."""
    command = [sys.executable, "-m", "tests.ledger.store.claiming", url]
    claimants = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for claimant in claimants:
        assert claimant.stdout is not None
        assert claimant.stdout.readline() == "ready\n"
    for claimant in claimants:
        assert claimant.stdin is not None
        claimant.stdin.write("\n")
        claimant.stdin.flush()
    return [claimant.communicate(timeout=60)[0].split() for claimant in claimants]


async def _claim(url: str) -> None:
    async with open_store(url, texts="pending") as store:
        await store.flush()
        print("ready", flush=True)
        sys.stdin.readline()
        for pending in await store.claim_pending(timedelta()):
            print(pending.run_id)


if __name__ == "__main__":
    asyncio.run(_claim(sys.argv[1]))
