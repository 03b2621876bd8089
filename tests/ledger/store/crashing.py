"""`kill -9` in the middle of many runs, with the upstream server's own log as the witness.

    python -m tests.ledger.store.crashing LEDGER SERVER

is the victim: it asks until it is killed. `benchmarks/ledger_store.py` does this ten times.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade import Cascade, Price, Tier
from cascade.ledger import tagged
from cascade.ledger.store import open_store
from tests.servers import replies
from tests.servers.fake import FakeServer

ROOT = Path(__file__).resolve().parents[3]
RUNS, IN_FLIGHT = 1_000, 32

Call = tuple[str, str]
"""A question and a model."""


@dataclass(frozen=True)
class Aftermath:
    """How often each call was seen by the server, is in the ledger, and is listed as unknown."""

    seen: Counter[Call]
    kept: Counter[Call]
    unknown: Counter[Call]

    @property
    def lost(self) -> list[Call]:
        """Requests that the server saw and the ledger does not know."""
        return list((self.seen - self.kept - self.unknown).elements())

    @property
    def doubled(self) -> list[Call]:
        """Entries of requests that the server did not see so often."""
        return list((self.kept - self.seen).elements())


def kill_in_the_middle(ledger: str, after: int) -> Aftermath:
    """Kill the victim once the server has seen so many requests, and look what is left."""
    with FakeServer() as server:
        server.will(*[_answer] * (4 * RUNS))
        command = [sys.executable, "-m", "tests.ledger.store.crashing", ledger, server.openai_url]
        victim = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 60
        while len(server.received) < after:
            if victim.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{len(server.received)} of {after} requests arrived")
            time.sleep(0.001)
        victim.kill()
        victim.wait()
        time.sleep(0.1)  # for what is still in the server's sockets
        seen = Counter(_call(received.body) for received in server.received)
    return asyncio.run(_look(ledger, seen))


async def _look(ledger: str, seen: Counter[Call]) -> Aftermath:
    async with open_store(ledger) as store:
        kept = Counter([(s.tags["q"], str(s.entry.model)) async for s in store.stored()])
        unknown = Counter((a.tags["q"], str(a.model)) for a in await store.unfinished())
    # The verifier decides without a model.
    return Aftermath(seen, Counter({c: n for c, n in kept.items() if c[1] != "None"}), unknown)


def _call(body: Mapping[str, Any]) -> Call:
    found = re.search(r"question-(\d+)", json.dumps(body))
    assert found is not None
    return found[1], f"openai:{body['model']}"


def _answer(body: Mapping[str, Any]) -> replies.Reply:
    return replace(replies.openai_echo(body), delay_s=random.uniform(0.001, 0.03))


async def _ask(ledger: str, server: str) -> None:
    price = Price(input=1, output=2)
    tiers = [
        Tier(f"openai:{name}", name=name, base_url=server, api_key="k", price=price)
        for name in ("small", "large")
    ]
    cascade = Cascade(tiers=tiers, ledger=open_store(ledger))
    free = asyncio.Semaphore(IN_FLIGHT)

    async def ask(number: int) -> None:
        async with free:
            with tagged(q=str(number)):
                await cascade.ainvoke(f"question-{number}")

    await asyncio.gather(*map(ask, range(RUNS)))


if __name__ == "__main__":
    asyncio.run(_ask(*sys.argv[1:]))
