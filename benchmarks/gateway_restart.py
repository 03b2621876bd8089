"""A gateway that is stopped and killed under load: what clients saw, what the ledger holds.

    python benchmarks/gateway_restart.py [--clients 32] [--seconds 4] [--late-ms 300] [--json]

`cascade serve` runs with a real key and a ledger in SQLite before an upstream that takes so long
for each call. Clients ask one question after the other, every second one as a stream. In the midst
of it the process gets SIGTERM and is started again, then SIGKILL, and is started again. At the end
the upstream's count of calls is held against the ledger, and what the service says that the key has
spent against the sum of the ledger and of what was put aside for the calls that were cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import tempfile
import urllib.request
from collections import Counter
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from _upstream import upstream
from gateway import PATH, configured, free_port, serving

from cascade.ledger.store import open_store

Seen = Counter[str]
PAUSE_S = 0.25
"""Of a client that was refused."""


async def client(number: int, port: int, secret: str, seen: Seen, over: asyncio.Event) -> None:
    """Ask until it is over, and note what came of each request."""
    stream = bool(number % 2)
    headers = {"authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        count = 0
        while not over.is_set():
            count += 1
            asked = [{"role": "user", "content": f"Question {number}.{count}: which city is it?"}]
            body = {"model": "assistant", "messages": asked, "stream": stream}
            outcome = await _asked(session, f"http://127.0.0.1:{port}{PATH}", body)
            seen[outcome] += 1
            if outcome != "answered":
                await asyncio.sleep(PAUSE_S)


async def _asked(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> str:
    try:
        async with session.post(url, json=body) as reply:
            said = await reply.read()
    except aiohttp.ClientConnectorError:
        return "no connection"
    except (aiohttp.ClientError, OSError):
        return "cut off"
    if reply.status == 200:
        whole = not body["stream"] or said.rstrip().endswith(b"data: [DONE]")
        return "answered" if whole else "error in a stream"
    try:
        return f"{reply.status} {json.loads(said)['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{reply.status}"


async def under_load(
    given: argparse.Namespace, folder: Path, behind: int
) -> tuple[dict[str, Seen], Decimal]:
    """What clients saw, by what was done to the service; and what it says the key has spent."""
    port = free_port()
    secret = configured(folder, behind, port, "--admin")
    over, seen, phases = asyncio.Event(), Seen(), dict[str, Seen]()
    clients: list[asyncio.Task[None]] = []
    told = Decimal(0)
    for number in (signal.SIGTERM, signal.SIGKILL, None):
        with ExitStack() as stack:
            process = await asyncio.to_thread(stack.enter_context, serving(folder, port))
            if not clients:
                each = range(given.clients)
                clients = [asyncio.create_task(client(n, port, secret, seen, over)) for n in each]
            await asyncio.sleep(given.seconds)
            if number is None:
                over.set()
                await asyncio.gather(*clients)
                told = await asyncio.to_thread(_told, port, secret)
                phases["end"] = Seen(seen)
                break
            process.send_signal(number)
            code = await asyncio.to_thread(process.wait)
            await asyncio.sleep(PAUSE_S)  # what clients see of it belongs to this step
            phases[f"{number.name}, left with {code}"] = Seen(seen)
            seen.clear()
    return phases, told


def _told(port: int, secret: str) -> Decimal:
    url = f"http://127.0.0.1:{port}/admin/budgets"
    asked = urllib.request.Request(url, headers={"authorization": f"Bearer {secret}"})
    with urllib.request.urlopen(asked, timeout=30) as reply:
        (budget,) = json.load(reply, parse_float=Decimal)
    return Decimal(budget["day_spent_usd"])


async def books(folder: Path) -> dict[str, Any]:
    """What the ledger holds."""
    async with open_store(f"sqlite:///{folder / 'ledger.db'}") as store:
        entries = await store.query()
        unfinished = await store.unfinished()
    calls = [entry for entry in entries if entry.model is not None]
    spent = sum((entry.cost_usd or entry.assumed_usd or Decimal(0) for entry in entries), Decimal())
    aside = {call.run_id: Decimal(call.tags["reserved_usd"]) for call in unfinished}
    return {
        "calls with an entry": len(calls),
        "of them cancelled": sum(call.outcome == "cancelled" for call in calls),
        "calls that were begun and cut off": len(unfinished),
        "entries cost": spent,
        "put aside for runs that were cut off": sum(aside.values(), Decimal()),
    }


def calls_of(behind: int) -> int:
    """The calls that the upstream has counted."""
    with urllib.request.urlopen(f"http://127.0.0.1:{behind}/stats", timeout=30) as reply:
        return sum(json.load(reply)["calls"].values())


def main() -> None:
    """Run it and print; leaves with 1 where a call or a dollar is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--late-ms", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with upstream(given.late_ms) as behind, tempfile.TemporaryDirectory() as name:
        phases, told = asyncio.run(under_load(given, Path(name), behind))
        held = asyncio.run(books(Path(name)))
        asked = calls_of(behind)
    missing = max(
        0, asked - held["calls with an entry"] - held["calls that were begun and cut off"]
    )
    known = held["entries cost"] + held["put aside for runs that were cut off"]
    figures = {
        "calls that the upstream saw": asked,
        **held,
        "spent, as the service says": told,
        "calls that are missing": missing,
        "dollars that are missing": known - told,
    }
    if given.json:
        seen = {phase: dict(outcomes) for phase, outcomes in phases.items()}
        print(json.dumps({"clients": seen, "ledger": figures}, default=str))
    else:
        for phase, outcomes in phases.items():
            print(f"{phase:28}", *(f"{what}: {n};" for what, n in sorted(outcomes.items())))
        for what, figure in figures.items():
            print(f"{what:40} {figure}")
    if missing or known != told:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
