"""Heavy: the simulated fleet beside the real gateway, and what a request writes (7 minutes).

    python benchmarks/fleet.py [--seconds 60] [--replications 30] [--only busy,shedding] [--seed 0]
    python benchmarks/fleet.py --ledger [--requests 4000]

One worker of `cascade serve` before a model server whose small model has slots and a queue
(`_slots.py`); requests arrive at random. Times of the models are far above what the gateway and the
machine add. The simulator gets the set-up, the share of the questions of which the small model is
unsure, and two figures of a calm run right before: the processor time of a request, and what a call
takes beside model and processor. It runs the same seconds many times, and `range` is where the
middle 95 % of those runs lie: chance alone moves a measured figure within it. `formula` is that of
`cascade.fleet.laws`.

`--ledger`: rows, bytes, connections and processor time of a request, in PostgreSQL and SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import uvloop
from _arrivals import Arrivals
from _load import Load
from _slots import slots_server
from _upstream import unsure, upstream
from gateway import PATH, Server, configured, free_port, serving
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cascade.fleet import LognormalTime, Scenario
from cascade.fleet.laws import in_system, mean_wait, wait_quantile
from cascade.fleet.simulation import Simulated, quantile, simulate
from cascade.resilience import Bulkhead
from tests.ledger.store import postgres

SMALL = LognormalTime(mean_s=0.3, cv=0.7)
LARGE = LognormalTime(mean_s=0.6, cv=0.7)
SLOTS = 4
WARM = 100
CALM_S = 15.0
Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One set-up that is measured and simulated.

    Attributes:
        rate: requests a second.
        bulkhead: of the small model.
        gate: `concurrency` and `queue` of the cascade.
    """

    rate: float
    bulkhead: Bulkhead = field(default_factory=Bulkhead)
    gate: tuple[int, int] = (512, 4096)

    def settings(self) -> Mapping[str, object]:
        """Keys of the cascade in the gateway's configuration."""
        given = self.bulkhead
        places = {"most": given.most, "waiting": given.waiting, "wait_s": given.wait_s}
        tiers = {"small": {"bulkhead": places}}
        concurrency, queue = self.gate
        return {"concurrency": concurrency, "queue": queue, "resilience": {"tiers": tiers}}

    def scenario(self, unsure_of: float, calm: Figures) -> Scenario:
        """The same for the simulator."""
        return Scenario(
            rate=self.rate,
            escalation=unsure_of,
            small=SMALL,
            large=LARGE,
            gateway_cpu_ms=calm["CPU, ms"],
            network_ms=calm["beside the model, ms"],
            concurrency=self.gate[0],
            queue=self.gate[1],
            slots=SLOTS,
            small_bulkhead=self.bulkhead,
        )


CASES = {
    "half full": Case(8.0),
    "busy": Case(11.0),
    "shedding": Case(18.0, bulkhead=Bulkhead(most=4, waiting=6, wait_s=0.4)),
    "refusing": Case(15.0, gate=(8, 6)),
}


CALM = Case(5.0)


def measured(case: Case, seconds: float, seed: int) -> Figures:
    """Figures of the real gateway."""
    with (
        slots_server(SLOTS, SMALL, LARGE, seed + 1) as behind,
        tempfile.TemporaryDirectory() as name,
    ):
        port, folder = free_port(), Path(name)
        key = configured(folder, behind, port, more=case.settings())
        with serving(folder, port) as process:
            server = Server(port, "assistant", key, process)
            server.ask(WARM, 4)
            _told(behind)
            cpu_s = server.cpu_s
            found = uvloop.run(_arriving(server, case.rate, seconds, seed))
            arrived = sum(found.statuses.values())
            cpu_ms = 1000 * (server.cpu_s - cpu_s) / arrived
            told = _told(behind)
    waits_s, answered = told["waits_s"], found.statuses.get(200, 0)
    figures = {
        "CPU, ms": cpu_ms,
        "beside the model, ms": _beside_ms(found, told, cpu_ms),
        "unsure": statistics.fmean(
            unsure("small", f"Question {number}: which city is it?")
            for number in range(1, arrived + 1)
        ),
        "answers/s": answered / seconds,
        "refused": (arrived - answered) / arrived,
        "to the large model": len(told["large_s"]) / max(1, answered),
        "slots busy": sum(told["small_s"]) / SLOTS / seconds,
        "waiting for a slot": sum(waits_s) / seconds,
        "wait, mean ms": 1000 * statistics.fmean(waits_s),
        "wait, p99 ms": 1000 * quantile(waits_s, 0.99),
        "large calls at a time": sum(told["large_s"]) / seconds,
    }
    if arrived == answered:  # times of refusals would be among them
        figures |= {f"answer, p{percent} ms": found.ms(percent) for percent in (50, 95, 99)}
    return figures


def _beside_ms(found: Load, told: Mapping[str, list[float]], cpu_ms: float) -> float:
    """Milliseconds of a call that neither the model nor the gateway's processor accounts for."""
    calls = len(told["small_s"]) + len(told["large_s"])
    rest_s = sum(found.taken_s) - sum(sum(each) for each in told.values())
    return max(0.0, (1000 * rest_s - cpu_ms * len(found.taken_s)) / calls)


async def _arriving(server: Server, rate: float, seconds: float, seed: int) -> Load:
    headers = {"authorization": f"Bearer {server.key}"}
    arrivals = Arrivals(server.port, PATH, model=server.model, headers=headers, seed=seed)
    await arrivals.run(rate, seconds)
    return arrivals.taken()


def _told(port: int) -> dict[str, list[float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/figures") as answer:
        told: dict[str, list[float]] = json.load(answer)
    return told


def simulated(scenario: Scenario, seconds: float, replications: int) -> list[Figures]:
    """The same figures of many simulated runs of the same length, which begin empty too."""
    return [
        _figures(simulate(scenario, seconds=seconds, warmup_s=0.0, seed=seed))
        for seed in range(replications)
    ]


def _figures(found: Simulated) -> Figures:
    return {
        "answers/s": found.per_second,
        "refused": (found.refused + found.failed) / found.arrived,
        "to the large model": found.escalated / found.answered,
        "slots busy": found.small_busy or 0.0,
        "waiting for a slot": found.small_waiting,
        "wait, mean ms": 1000 * found.small_wait_mean_s,
        "wait, p99 ms": 1000 * found.small_wait_p99_s,
        "large calls at a time": found.large_in_flight,
        "answer, p50 ms": 1000 * found.p50_s,
        "answer, p95 ms": 1000 * found.p95_s,
        "answer, p99 ms": 1000 * found.p99_s,
    }


def formulas(case: Case, asked: float) -> Figures:
    """Where there are any: nothing is bounded, and the slots keep up."""
    rate = case.rate
    if in_system(rate, SMALL.mean_s) >= SLOTS or case.bulkhead.most <= SLOTS:
        return {}
    wait_s = mean_wait(rate, SMALL.mean_s, SLOTS, cv=SMALL.cv)
    return {
        "answers/s": rate,
        "refused": 0.0,
        "to the large model": asked,
        "slots busy": in_system(rate, SMALL.mean_s) / SLOTS,
        "waiting for a slot": in_system(rate, wait_s),
        "wait, mean ms": 1000 * wait_s,
        "wait, p99 ms": 1000 * wait_quantile(0.99, rate, SMALL.mean_s, SLOTS, cv=SMALL.cv),
        "large calls at a time": in_system(rate * asked, LARGE.mean_s),
    }


def compared(case: Case, given: argparse.Namespace) -> dict[str, Figures]:
    """A row for each figure."""
    seconds, replications = given.seconds, given.replications
    calm = measured(CALM, CALM_S, given.seed)
    real = measured(case, seconds, given.seed)
    asked = real.pop("unsure")
    runs = simulated(case.scenario(asked, calm), seconds, replications)
    by_formula = formulas(case, asked)
    beside = "beside the model, ms"
    rows: dict[str, Figures] = {
        name: {"measured": real.pop(name), "simulated": calm[name]} for name in ("CPU, ms", beside)
    }
    if not by_formula:  # what was waited for within the gateway is in it
        del rows[beside]["measured"]
    for name, value in real.items():
        values = sorted(run[name] for run in runs)
        mean = statistics.fmean(values)
        row = {"measured": value, "simulated": mean}
        row["low"], row["high"] = quantile(values, 0.025), quantile(values, 0.975)
        if mean:  # a share of 0 has no relative error
            row["error"] = value / mean - 1
        if name in by_formula:
            row["formula"] = by_formula[name]
        rows[name] = row
    return rows


def show(name: str, case: Case, rows: dict[str, Figures]) -> None:
    """One case as a table of Markdown."""
    load = os.getloadavg()[0]
    print(f"\n{name}: {case.rate:g} requests/s, {SLOTS} slots; load average {load:.1f}\n")
    print("| figure | measured | simulated | range | error | formula |\n|---|---|---|---|---|---|")
    for figure, row in rows.items():
        spread = f"{row['low']:.3g} to {row['high']:.3g}" if "low" in row else ""
        if spread and not row["low"] <= row["measured"] <= row["high"]:
            spread += " (outside)"
        error = f"{100 * row['error']:+.1f} %" if "error" in row else ""
        keys = ("measured", "simulated", "formula")
        real, run, law = (f"{row[key]:.3g}" if key in row else "" for key in keys)
        print(f"| {figure} | {real} | {run} | {spread} | {error} | {law} |", flush=True)


def written(ledger: str, requests: int, look: Callable[[], Figures]) -> Figures:
    """What a request writes to a ledger, and takes of the gateway's processor."""
    with upstream() as behind, tempfile.TemporaryDirectory() as name:
        port, folder = free_port(), Path(name)
        url = ledger.format(folder=folder)
        key = configured(folder, behind, port, ledger=url)
        before = look()
        with serving(folder, port) as process:
            server = Server(port, "assistant", key, process)
            server.ask(WARM, 8)
            cpu_s = server.cpu_s
            server.ask(requests, 64)
            figures: Figures = {"CPU, ms": 1000 * (server.cpu_s - cpu_s) / requests}
            connections = look().pop("connections", 0.0)
        after = look()  # the service has written all when it has ended, and its counters are there
        size = (folder / "ledger.db").stat().st_size if "sqlite" in url else 0
    for figure in ("rows inserted", "rows deleted", "bytes"):
        if figure in after:
            figures[figure] = (after[figure] - before[figure]) / (requests + WARM)
    if size:
        figures["bytes"] = size / (requests + WARM)
    return {**figures, "connections": connections} if connections else figures


ROWS = "SELECT sum(n_tup_ins), sum(n_tup_del) FROM pg_stat_user_tables"
SIZE = (
    "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
    " WHERE relname <> 'ledger_attempts'"  # it is emptied as calls end
)
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def looking_at(url: str) -> Callable[[], Figures]:
    """Counters of a PostgreSQL server."""

    async def ask() -> Figures:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        try:
            async with engine.connect() as connection:
                inserted, deleted = (await connection.execute(text(ROWS))).one()
                size = (await connection.execute(text(SIZE))).scalar_one()
                others = (await connection.execute(text(OTHERS))).scalar_one()
        finally:
            await engine.dispose()
        found = {"rows inserted": inserted, "rows deleted": deleted, "bytes": size}
        return {name: float(value or 0) for name, value in found.items()} | {"connections": others}

    return lambda: asyncio.run(ask())


def ledgers(requests: int) -> dict[str, Figures]:
    """Both databases."""
    found = {"SQLite": written("sqlite:///{folder}/ledger.db", requests, dict)}
    try:
        with postgres.server() as url:
            found["PostgreSQL"] = written(url, requests, looking_at(url))
    except postgres.NoPostgresError as reason:
        print(f"PostgreSQL is left out: {reason}", file=sys.stderr)
    return found


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--replications", type=int, default=30)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and of the models' times")
    parser.add_argument("--ledger", action="store_true")
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.ledger:
        found: dict[str, Any] = ledgers(given.requests)
        for database, figures in found.items() if not given.json else ():
            print(database, " ".join(f"{name}: {value:.3g}" for name, value in figures.items()))
    else:
        found = {}
        for name in given.only.split(","):
            found[name] = compared(CASES[name], given)
            if not given.json:
                show(name, CASES[name], found[name])
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
