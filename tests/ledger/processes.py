"""Processes that use one ledger at once, and one that is killed in the middle.

python -m tests.ledger.processes work|spend URL ...
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from cascade.ledger import Budgets, open_store
from cascade.ledger.shared import Reservation
from tests.ledger.samples import call

ROOT = Path(__file__).resolve().parents[2]

RUNS, AT_ONCE = 1_000, 32


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.ledger.processes", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@dataclass(frozen=True)
class Aftermath:
    """How often each call was sent, is in the ledger, and is listed as unknown."""

    sent: Counter[str]
    kept: Counter[str]
    unknown: Counter[str]

    @property
    def lost(self) -> list[str]:
        """Calls that were sent and that the ledger does not know."""
        return list((self.sent - self.kept - self.unknown).elements())

    @property
    def doubled(self) -> list[str]:
        """Entries of calls that were not sent so often."""
        return list((self.kept - self.sent).elements())


def kill_in_the_middle(url: str, log: Path, after: int) -> Aftermath:
    """Kill a process once it has sent so many calls, and look what is left.

    The log, to which each call is added when it is sent, is what a provider knows.
    """
    log.write_text("")
    victim = start("work", url, str(log))
    deadline = time.monotonic() + 120
    while log.read_text().count("\n") < after:
        if victim.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"it ended too early: {victim.returncode}")
        time.sleep(0.001)
    victim.kill()
    victim.wait()
    sent = Counter(log.read_text().splitlines())
    return asyncio.run(_look(url, sent))


async def _look(url: str, sent: Counter[str]) -> Aftermath:
    async with open_store(url) as store:
        kept = Counter(entry.id for entry in await store.entries())
        unknown = Counter(entry.id for entry in await store.unfinished())
        await store.delete(everything=True)
    return Aftermath(sent, kept, unknown)


async def _work(url: str, log: str) -> None:
    free = asyncio.Semaphore(AT_ONCE)
    provider = os.open(log, os.O_WRONLY | os.O_APPEND)
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


async def _spend(url: str, limit: str, log: str) -> None:
    """Spend a budget with 50 requests at once, for ever; each that is granted is logged first."""
    budgets, limits = Budgets(url, lease_s=2.0), {"day": Decimal(limit)}
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
            await budgets.settle(granted, cost)

    await asyncio.gather(*(ask() for _ in range(50)))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    asyncio.run(_work(*rest) if what == "work" else _spend(*rest))
