"""Heavy: thousands of requests while a third of the upstream's replies is broken (an hour).

    python benchmarks/chaos.py [--seeds 1,2,3] [--requests 20000] [--faulty 0.3] [--json]

Five cascades in both protocols with a deadline and a ledger are asked in all ways that there are,
from coroutines, threads and batches; some callers go away. The upstream, a process of its own,
fails in the ways of `tests/servers/faults.py` and witnesses each call. Checked are outcomes, the
ledger against the witness, the callers and itself, deadlines, and what is left behind:
`docs/chaos.md` says how. It leaves with 1 where anything is wrong.

`--store postgresql` keeps the ledger in a PostgreSQL server of its own, where one is installed.
`--growth` shows with tracemalloc which lines hold more memory after a run than before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.faults.chaos_running import Found, Settings, run
from tests.ledger.store import postgres
from tests.servers.faults import Group
from tests.servers.faulty import FINE

FRAMES = 8
"""Of the origin of memory, as deep as an entry is below whoever asked for it."""


@contextmanager
def store(kind: str) -> Iterator[str | None]:
    """The address of a ledger; None for SQLite in a temporary file of each run."""
    if kind == "sqlite":
        yield None
        return
    try:
        with postgres.server() as url:
            yield url
    except postgres.NoPostgresError as reason:
        raise SystemExit(f"--store postgresql: {reason}") from None


def figures(found: Found) -> dict[str, object]:
    """A run as one flat record, as far as it goes."""
    books = asdict(found.books)
    del books["wrong"]
    return {
        "seed": found.seed,
        "requests": found.requests,
        "outcomes": dict(found.outcomes.most_common()),
        "ways": dict(found.ways.most_common()),
        "calls that arrived": found.sent.total(),
        "of them faulty": found.sent.total() - found.sent[FINE],
        "faults": dict(sorted(found.sent.items())),
        "ledger": books,
        "slowest s": found.slowest_s,
        "seconds": found.took_s,
        "process behind s": found.behind_s,
        "computed without a pause s": found.computed_s,
        "memory MB": found.memory_mb,
        "left behind": found.left,
        "problems": {kind: [n, *found.examples[kind]] for kind, n in found.problems.items()},
    }


def show(found: Found, settings: Settings) -> None:
    """A run as text."""
    books, (took, how) = found.books, found.slowest_s
    groups = ", ".join(f"{kind} {n:,}" for kind, n in found.outcomes.most_common())
    faulty = found.sent.total() - found.sent[FINE]
    ledger = f"{books.entries:,} entries, {books.calls:,} of calls, {books.unknown:,} unknown"
    missing = f"lost {books.lost}, doubled {books.doubled}, unfinished {books.unfinished}"
    memory = ", ".join(f"{mb:.0f}" for mb in found.memory_mb)
    lines = {
        "requests": f"{found.requests:,} in {found.took_s:,.0f} s: {groups}",
        "calls that arrived": f"{found.sent.total():,}, {faulty:,} of them met a fault",
        "ledger": f"{ledger}; {missing}; {books.unsent:,} never arrived",
        "slowest": f"{took:.2f} s of {settings.deadline_s:g} + {settings.slack_s:g} ({how}), "
        f"an event loop computed {found.computed_s:.2f} s without a pause at most",
        "memory MB in thirds": memory,
        "left behind": str(found.left or "nothing"),
        "wrong": str(sum(found.problems.values()) or "nothing"),
    }
    print(f"seed {found.seed}")
    for name, text in lines.items():
        print(f"  {name:20} {text}")
    for kind, n in found.problems.most_common():
        print(f"    {n} × {kind}")
        for example in found.examples[kind]:
            print(f"        {example}")


async def watched(seed: int, settings: Settings, growth: bool) -> Found:
    """A run, with a look at what holds more memory than before."""
    if not growth:
        return await run(seed, settings)
    tracemalloc.start(FRAMES)
    before = tracemalloc.take_snapshot()
    found = await run(seed, settings)
    more = tracemalloc.take_snapshot().compare_to(before, "traceback")[:10]
    tracemalloc.stop()
    for line in more:
        about = f"{line.size_diff / 2**20:+.2f} MB in {line.count_diff:+,} blocks"
        print(about, *line.traceback.format()[-6:], sep="\n", file=sys.stderr)
    return found


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--faulty", type=float, default=0.3, help="share of replies")
    parser.add_argument("--groups", default="", help=f"of faults: {', '.join(get_args(Group))}")
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--deadline", type=float, default=2.0)
    parser.add_argument("--slack", type=float, default=1.0, help="beyond the deadline")
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    groups = tuple(filter(None, given.groups.split(",")))
    if unknown := set(groups) - set(get_args(Group)):
        raise SystemExit(f"--groups {', '.join(unknown)}: {', '.join(get_args(Group))} are there.")
    wrong = 0
    with store(given.store) as address:
        for seed in map(int, given.seeds.split(",")):
            settings = Settings(
                requests=given.requests,
                faulty=given.faulty,
                groups=groups,
                at_once=given.at_once,
                deadline_s=given.deadline,
                slack_s=given.slack,
                ledger=address,
            )
            found = asyncio.run(watched(seed, settings, given.growth))
            wrong += sum(found.problems.values())
            if given.json:
                print(json.dumps({"benchmark": "chaos", **figures(found)}), flush=True)
            else:
                show(found, settings)
                sys.stdout.flush()
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
