"""A process that writes calls into a ledger, and is killed in the middle.

python benchmarks/_kills.py URL LOG
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cascade.ledger import open_store  # noqa: E402
from tests.ledger.samples import call  # noqa: E402

RUNS, AT_ONCE = 1_000, 32


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
    command = [sys.executable, __file__, url, str(log)]
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
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


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:]))
