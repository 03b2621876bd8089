"""A process that spends a budget, for as long as it lives.

python -m tests.ledger.processes URL LIMIT LOG
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from cascade.ledger.shared import Budgets, Reservation

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ledger.processes", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def _spend(url: str, limit: str, log: str) -> None:
    """Spend a budget with 50 requests at once, for ever; each that is granted is logged first."""
    budgets, limits = Budgets(url), {"day": Decimal(limit)}
    budgets.lease = timedelta(seconds=2)
    paid = os.open(log, os.O_WRONLY | os.O_APPEND)
    print("ready", flush=True)

    async def ask() -> None:
        while True:
            granted = await budgets.reserve("key", Decimal("0.01"), limits)  # type: ignore[arg-type]
            if not isinstance(granted, Reservation):
                await asyncio.sleep(0.05)
                continue
            cost = Decimal(random.randint(1, 10)) / 1000
            os.write(paid, f"{cost}\n".encode())
            await asyncio.sleep(random.uniform(0, 0.01))
            budgets.settle(granted, cost)

    await asyncio.gather(*(ask() for _ in range(50)))


if __name__ == "__main__":
    asyncio.run(_spend(*sys.argv[1:]))
