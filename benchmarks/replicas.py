"""Four replicas of the gateway on one PostgreSQL: what they share, under load.

    python benchmarks/replicas.py [budget|killed|cost|revoked|rollout …] [--replicas 4] [--json]

Each replica is a `cascade serve` of its own; PostgreSQL, the upstream of `_upstream.py` and the
clients share this machine. `budget`: one key may spend $1 a day, a request costs $0.0029 or twice
that and puts twice $0.004 aside; clients ask until nobody gets anything any more, and meanwhile the
account is looked at. `killed`: the same, and one replica gets SIGKILL at half of the budget.
`cost`: the same requests with a key with a budget and one without, in turn; medians over rounds.
`revoked`: when the last request got in with a key that was revoked. `rollout`: calibrations that
accept everything and nothing take turns, and each request is held against its ledger entries.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from _upstream import upstream
from gateway import PATH, PROGRAM, configured, free_port, serving

from cascade.confidence.calibration import Calibration
from cascade.ledger.store import open_store
from cascade.service.keys import Keys
from cascade.service.shared import SharedDatabase
from cascade.service.shared.calibrations import Calibrations
from tests.ledger.store import postgres
from tests.service import calibrated

BUDGET = Decimal(1)
TOKENS = 40
MORE = {"threshold": 0.5, "answer_tokens": TOKENS}
PRICES = {"input": 0, "output": 100}
LEASE_S = 2
LOOK_S = 0.02
CLIENTS = 32
PARTS = ("budget", "killed", "cost", "revoked", "rollout")
Figures = dict[str, Any]


@dataclass
class Fleet:
    """Replicas that run, and what they share."""

    url: str
    folder: Path
    ports: list[int]
    processes: list[subprocess.Popen[str]]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def key(self, *settings: str) -> str:
        """The secret of a new key."""
        command = [PROGRAM, "keys", "create", self.url, f"k{next(self.numbers)}", *settings]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        found: list[str] = re.findall(r"csk_\S+", made.stdout)
        return found[0]


@dataclass
class Answer:
    """One request as its client saw it."""

    begun_at: float
    took_s: float
    status: int
    port: int
    run: str | None = None
    tier: str | None = None


@contextmanager
def fleet(n: int, late_ms: int) -> Iterator[Fleet]:
    """Start so many replicas on a database of their own."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres.server())
        behind = stack.enter_context(upstream(late_ms))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports, processes = [free_port() for _ in range(n)], []
        for number, port in enumerate(ports):
            folder = root / str(number)
            folder.mkdir()
            configured(folder, behind, port, ledger=url, more=MORE)
            config = json.loads((folder / "cascade.yaml").read_text())
            for tier in config["cascades"]["assistant"]["tiers"]:
                tier["price"] = PRICES
            config |= {"replicas": {"lease_s": LEASE_S}, "log": {"requests": False}}
            (folder / "cascade.yaml").write_text(json.dumps(config))
        for number, port in enumerate(ports):
            processes.append(stack.enter_context(serving(root / str(number), port)))
        yield Fleet(url, root, ports, processes)


@asynccontextmanager
async def clients(secret: str) -> AsyncGenerator[aiohttp.ClientSession]:
    """A session for all of them."""
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {secret}"}
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield session


async def ask(session: aiohttp.ClientSession, port: int, text: str) -> Answer:
    """One request, without settings: a calibration holds for the task that it was made for."""
    body = {"model": "assistant", "messages": [{"role": "user", "content": text}]}
    began = time.monotonic()
    try:
        async with session.post(f"http://127.0.0.1:{port}{PATH}", json=body) as reply:
            said = await reply.json()
            answer = Answer(began, time.monotonic() - began, reply.status, port)
    except (aiohttp.ClientError, OSError):
        return Answer(began, time.monotonic() - began, 0, port)
    if answer.status == 200:
        answer.run, answer.tier = said["cascade"]["run_id"], said["cascade"]["tier"]
    return answer


async def until_over(
    session: aiohttp.ClientSession, ports: list[int], over: asyncio.Event, n: int = CLIENTS
) -> list[Answer]:
    """So many clients ask one question after the other; who gets no answer waits a moment."""
    seen: list[Answer] = []

    async def client(number: int) -> None:
        for count in itertools.count():
            if over.is_set():
                return
            port = ports[(number + count) % len(ports)]
            answer = await ask(session, port, f"Question {number}.{count}: which city is it?")
            seen.append(answer)
            if answer.status != 200:
                await asyncio.sleep(0.05)

    await asyncio.gather(*(client(number) for number in range(n)))
    return seen


async def account(database: SharedDatabase) -> tuple[Decimal, Decimal]:
    """What the database says is spent, and put aside, of all keys."""
    [row] = await database.ask(
        "SELECT (SELECT coalesce(sum(cost_usd), 0) FROM service_spent) AS spent,"
        " (SELECT coalesce(sum(reserved_usd), 0) FROM service_accounts) AS reserved"
    )
    return row["spent"], row["reserved"]


async def budget(found: Fleet, *, kill: bool) -> Figures:
    """Clients spend a budget of $1 over all replicas."""
    secret, database = found.key("--day-usd", f"{BUDGET}"), SharedDatabase(found.url)
    over, killed_at = asyncio.Event(), Decimal(0)
    last, before = time.monotonic(), Decimal(-1)
    async with clients(secret) as session:
        load = asyncio.create_task(until_over(session, found.ports, over))
        while time.monotonic() < last + 4 * LEASE_S:  # longer than a lease nothing has changed
            spent, reserved = await account(database)
            if spent + reserved != before:
                last, before = time.monotonic(), spent + reserved
            if kill and not killed_at and spent >= BUDGET / 2:
                os.kill(found.processes[0].pid, signal.SIGKILL)
                killed_at = spent
            await asyncio.sleep(LOOK_S)
        over.set()
        seen = await load
    spent, reserved = await account(database)
    await database.aclose()
    return {
        **await _books(found, seen),
        "spent by the account": spent,
        "put aside": reserved,
        "killed at": killed_at,
    }


async def _books(found: Fleet, seen: list[Answer]) -> Figures:
    async with open_store(found.url) as store:
        entries = await store.query()
        lost = await store.unfinished()
    cost = sum((entry.cost_usd or Decimal(0) for entry in entries), Decimal(0))
    statuses = Counter(answer.status for answer in seen)
    aside = {call.run_id: Decimal(call.tags["reserved_usd"]) for call in lost}
    return {
        "entries cost": cost,
        "overspent": max(Decimal(0), cost - BUDGET),
        "runs begun and cut off": len(aside),
        "at their bound": sum(aside.values(), Decimal(0)),
        "answered": statuses[200],
        "402": statuses[402],
        "without an answer": statuses[0],
        "other": sum(statuses.values()) - statuses[200] - statuses[402] - statuses[0],
    }


async def cost(found: Fleet, rounds: int, requests: int) -> Figures:
    """What a budget costs a request, one at a time and with many at once."""
    secrets = {"with": found.key("--day-usd", "100000"), "without": found.key()}
    took: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, secret in secrets.items():
            for n in (1, CLIENTS):
                async with clients(secret) as session:
                    rate, median = await _measured(session, found.ports, n, requests)
                if number:  # the first round opens connections
                    took.setdefault(f"{name} {n} rate", []).append(rate)
                    took.setdefault(f"{name} {n} ms", []).append(median)
    figures = {name: statistics.median(values) for name, values in took.items()}
    for n in (1, CLIENTS):
        figures[f"added ms, {n} at once"] = figures[f"with {n} ms"] - figures[f"without {n} ms"]
    return figures


async def _measured(
    session: aiohttp.ClientSession, ports: list[int], n: int, requests: int
) -> tuple[float, float]:
    numbers, took = itertools.count(), list[float]()
    most = max(50, requests // 4) if n == 1 else requests

    async def client() -> None:
        while (number := next(numbers)) < most:
            answer = await ask(session, ports[number % len(ports)], f"Question {number}?")
            assert answer.status == 200, answer
            took.append(answer.took_s)

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(n)))
    return len(took) / (time.monotonic() - began), 1000 * statistics.median(took)


async def revoked(found: Fleet) -> Figures:
    """A key is revoked under load by a process that is no replica."""
    secret, keys, over = found.key(), Keys(found.url), asyncio.Event()
    name = [key.name for key in await keys.list()][-1]
    async with clients(secret) as session:
        load = asyncio.create_task(until_over(session, found.ports, over))
        await asyncio.sleep(2)
        asked_at = time.monotonic()
        await keys.revoke(name)
        done_at = time.monotonic()
        await asyncio.sleep(3)
        over.set()
        seen = await load
    await keys.aclose()
    let_in = [answer.begun_at for answer in seen if answer.status == 200]
    return {
        "let in before": sum(at < asked_at for at in let_in),
        "let in while it was revoked": sum(asked_at <= at < done_at for at in let_in),
        "revoking took ms": 1000 * (done_at - asked_at),
        "let in afterwards": sum(at >= done_at for at in let_in),
        "last one begun after ms": 1000 * (max(let_in) - done_at),
        "refused": sum(answer.status == 401 for answer in seen),
    }


async def rollout(found: Fleet, times: int = 6) -> Figures:
    """Versions are rolled out under load; `small` answers all by one, `large` all by the other."""
    secret, calibrations, over = found.key(), Calibrations(found.url), asyncio.Event()
    database = SharedDatabase(found.url)
    file, waited, spread = found.folder / "calibration.json", list[float](), list[float]()
    async with clients(secret) as session:
        load = asyncio.create_task(until_over(session, found.ports, over))
        for number in range(times):
            calibrated.write(file, 0.1 if number % 2 else 0.9)
            document = Calibration.load(file).model_dump_json()
            waited.append((await calibrations.push("assistant", document)).waited_s)
            await asyncio.sleep(1.5)
            [row] = await database.ask(
                "SELECT extract(epoch FROM max(p.switched_at) - r.switched_at) AS s, count(*) AS n"
                " FROM service_prepared p JOIN service_rollouts r USING (number)"
                " WHERE p.number = (SELECT max(number) FROM service_rollouts)"
                " GROUP BY r.switched_at"
            )
            assert row["n"] == len(found.ports), row
            spread.append(float(row["s"]))
        over.set()
        seen = await load
    await calibrations.aclose()
    await database.aclose()
    return {
        **await _mixtures(found, seen),
        "versions": times,
        "median ms to prepare": 1000 * statistics.median(waited),
        "median ms until the last had switched": 1000 * statistics.median(spread),
        "most ms until the last had switched": 1000 * max(spread),
    }


async def _mixtures(found: Fleet, seen: list[Answer]) -> Figures:
    versions: dict[str, set[str | None]] = {}
    async with open_store(found.url) as store:
        async for stored in store.stored():
            version = stored.tags.get("calibration")
            versions.setdefault(stored.entry.run_id, set()).add(version)
    mixed = wrong = checked = 0
    for answer in seen:
        if answer.run is None:
            continue
        named = versions[answer.run]
        mixed += len(named) > 1
        [version] = named if len(named) == 1 else [None]
        if version is not None:
            checked += 1
            wrong += answer.tier != ("small" if int(version) % 2 else "large")
    statuses = Counter(answer.status for answer in seen)
    return {
        "requests": len(seen),
        "not answered": {status: n for status, n in statuses.items() if status != 200},
        "by a version": checked,
        "with entries of two versions": mixed,
        "answered by another than their version says": wrong,
    }


def run(part: str, given: argparse.Namespace) -> Figures:
    """One part, with replicas of its own."""
    late_ms = {"killed": 200, "budget": 50, "cost": 0}.get(part, 20)
    with fleet(given.replicas, late_ms) as found:
        if part in ("budget", "killed"):
            return asyncio.run(budget(found, kill=part == "killed"))
        if part == "cost":
            return asyncio.run(cost(found, given.rounds, given.requests))
        return asyncio.run(revoked(found) if part == "revoked" else rollout(found))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"{', '.join(unknown)}: there are {', '.join(PARTS)}")
    try:
        found = {part: run(part, given) for part in given.parts or PARTS}
    except postgres.NoPostgresError as reason:
        raise SystemExit(str(reason)) from None
    if given.json:
        print(json.dumps(found, default=str))
        return
    for part, figures in found.items():
        print(part)
        for name, value in figures.items():
            print(
                f"  {name:44} {value:.2f}" if isinstance(value, float) else f"  {name:44} {value}"
            )
    print("load average", *os.getloadavg())


if __name__ == "__main__":
    main()
