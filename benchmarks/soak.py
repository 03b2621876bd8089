"""Heavy: the gateway for half an hour, and whether anything in it grows.

    python benchmarks/soak.py [--minutes 30] [--rate 150] [--streamed 0.2] [--json]

`cascade serve` runs with a key that has a budget and a ledger in SQLite before the upstream of
`_upstream.py`, so that 30 % of the requests are escalated; load, gateway and upstream are processes
of their own. Requests arrive at random at a constant rate, whether or not those before them are
answered, and their latencies count from the moment when they were due.

Each period of `--every` seconds gives a row: requests per second, latencies, and of the gateway's
process its memory, open descriptors, threads, tasks of its event loops, blocks of Python's memory,
CPU, and the size of its ledger on the disk; beside it the cores of the machine that had nothing to
do. At the end stands the trend of each figure, without the first tenth, and a verdict. It leaves
with 1 where something grows or a request was not answered with 200.

`--growth 8` tells at the end where memory was asked for that is held since the first look; that
makes the gateway several times slower, so give a lower rate with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from _arrivals import Arrivals
from _trend import Trend, trend_of
from _upstream import upstream
from gateway import PATH, Server, configured, free_port, serving

WATCHED = Path(__file__).resolve().parent / "_watched.py"
FEWEST = 6
"""Rows that a trend needs."""

Row = dict[str, float]

ALLOWED = {
    "memory MB": 0.02,
    "descriptors": 8.0,
    "threads": 2.0,
    "tasks": 8.0,
    "blocks": 0.02,
    "p50 ms": 0.25,
}
"""By how much the last third of a flat series may be above the first; below 1 it is a share."""


def looked_at(server: Server, folder: Path, watched: Path) -> Row:
    """What the gateway's process holds now."""
    assert server.process is not None, "it is ours"
    process = Path(f"/proc/{server.process.pid}")
    files = folder.glob("ledger.db*")
    seen = last_seen(watched)
    return {
        "memory MB": server.memory_mb,
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "tasks": float(seen.get("tasks", 0)),
        "blocks": float(seen.get("blocks", 0)),
        "ledger MB": sum(file.stat().st_size for file in files) / 2**20,
    }


def last_seen(watched: Path) -> dict[str, Any]:
    """The last whole line of what `_watched.py` writes."""
    lines = watched.read_text(encoding="utf-8").splitlines() if watched.exists() else []
    seen: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return seen


def _idle_s() -> float:
    """Seconds in which processors of this machine had nothing to do."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


class Soak:
    """A gateway under a load, with a row for each period.

    Args:
        server: the gateway.
        folder: where its ledger is.
        watched: what `_watched.py` writes.
        given: the arguments.
    """

    def __init__(
        self, server: Server, folder: Path, watched: Path, given: argparse.Namespace
    ) -> None:
        self._server, self._folder, self._watched = server, folder, watched
        self._given = given
        self._minutes: float = given.minutes
        self._every: float = given.every
        headers = {"authorization": f"Bearer {server.key}"}
        self._load = Arrivals(
            server.port, PATH, model=server.model, headers=headers, streamed=given.streamed
        )
        self.rows: list[Row] = []
        self.statuses: Counter[int] = Counter()

    async def run(self) -> None:
        """All of it.

        Raises:
            RuntimeError: the gateway has ended.
            SystemExit: it is lost in more than it can answer.
        """
        looking = asyncio.create_task(self._look())
        asking = asyncio.create_task(self._load.run(self._given.rate, 60 * self._minutes))
        await asyncio.wait([looking, asking], return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            asking.cancel()
            looking.result()
        looking.cancel()
        if failed := asking.exception():
            raise SystemExit(f"{failed}")
        self.statuses.update(self._load.taken().statuses)  # since the last row

    async def _look(self) -> None:
        began = time.perf_counter()
        cpu, idle, at = self._server.cpu_s, _idle_s(), began
        while True:
            await asyncio.sleep(at + self._every - time.perf_counter())
            self._check()
            found, now = self._load.taken(), time.perf_counter()
            found.seconds = now - at
            self.statuses.update(found.statuses)
            row: Row = {
                "minute": (now - began) / 60,
                "requests/s": found.per_second,
                "p50 ms": found.ms(50),
                "p99 ms": found.ms(99),
                **looked_at(self._server, self._folder, self._watched),
                "CPU": (self._server.cpu_s - cpu) / (now - at),
                "idle cores": (_idle_s() - idle) / (now - at),
            }
            cpu, idle, at = self._server.cpu_s, _idle_s(), now
            self.rows.append(row)
            if len(self.rows) == 1:
                print(" ".join(f"{name:>11}" for name in row), file=sys.stderr)
            print(" ".join(f"{value:11.2f}" for value in row.values()), file=sys.stderr, flush=True)

    def _check(self) -> None:
        process = self._server.process
        if process is not None and process.poll() is not None:
            log = (self._folder / "log").read_text(encoding="utf-8")
            raise RuntimeError(f"the gateway has ended with {process.returncode}:\n{log[-2000:]}")

    @property
    def kept(self) -> list[Row]:
        """The rows without the first tenth: caches and pools fill in it."""
        return self.rows[max(1, len(self.rows) // 10) :]


def trends(rows: list[Row]) -> dict[str, tuple[Trend, bool]]:
    """The trend of each figure, and whether it grows."""
    hours = [row["minute"] / 60 for row in rows]
    found = {}
    for name in [*ALLOWED, "ledger MB"]:
        trend = trend_of(hours, [row[name] for row in rows])
        allowed = ALLOWED.get(name, 0.0)
        allowed = allowed * trend.first if 0 < allowed < 1 else allowed
        # A ledger grows by what is written into it: that is what it is for.
        found[name] = (trend, name in ALLOWED and trend.grows(allowed))
    return found


def told(soak: Soak, given: argparse.Namespace) -> bool:
    """Print the end of it; returns whether all is well."""
    found = trends(soak.kept)
    grows = [name for name, (_, growing) in found.items() if growing]
    answered = set(soak.statuses) == {200}
    requests = sum(soak.statuses.values())
    grown_mb = soak.rows[-1]["ledger MB"] - soak.rows[0]["ledger MB"]
    between = max(1.0, 60 * sum(row["requests/s"] for row in soak.rows[1:]) * given.every / 60)
    if given.json:
        figures = {
            name: {"per hour": trend.per_hour, "low": trend.low, "high": trend.high}
            | {"first third": trend.first, "last third": trend.last, "grows": growing}
            for name, (trend, growing) in found.items()
        }
        seen = {"rows": soak.rows, "trends": figures, "statuses": dict(soak.statuses)}
        print(json.dumps({**seen, "flat": not grows}))
        return answered and not grows
    print(f"{'':12}{'first third':>13}{'last third':>13}{'per hour':>13}   95 % interval")
    for name, (trend, growing) in found.items():
        figures_of = f"{trend.first:13.2f}{trend.last:13.2f}{trend.per_hour:+13.2f}"
        interval = f"   {trend.low:+.2f} to {trend.high:+.2f}"
        print(f"{name:12}{figures_of}{interval}{'   GROWS' if growing else ''}")
    print(f"ledger: {1e6 * grown_mb * 1.048576 / between:,.0f} bytes a request")
    print(f"{requests:,} requests: {dict(soak.statuses)}")
    if grows:
        print(f"not flat: {', '.join(grows)}")
    else:
        print("flat")
    return answered and not grows


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=150)
    parser.add_argument("--every", type=float, default=60, help="seconds of a row")
    parser.add_argument("--streamed", type=float, default=0.2, help="share of streams")
    parser.add_argument("--growth", type=int, default=0, help="tracemalloc, so many frames deep")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if 60 * given.minutes / given.every < FEWEST + 2:
        raise SystemExit(
            f"{given.minutes:g} minutes in rows of {given.every:g} s are fewer than {FEWEST + 2} "
            f"rows: give --every {60 * given.minutes / (FEWEST + 2):.0f} or less."
        )
    with upstream() as behind, tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        watched = folder / "watched.jsonl"
        key = configured(folder, behind, port)
        looks = (str(watched), str(given.every / 2), str(given.growth))
        program = (sys.executable, str(WATCHED), *looks)
        with serving(folder, port, program) as process:
            soak = Soak(Server(port, "assistant", key, process), folder, watched, given)
            uvloop.run(soak.run())
        for where in last_seen(watched).get("grown", []):
            print(where, file=sys.stderr)
    if not told(soak, given):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
