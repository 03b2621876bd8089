"""Heavy: an upstream that fails, callers who go away, and `kill -9` of jobs (10 minutes).

    python benchmarks/chaos.py [--seeds 1,2,3] [--requests 3000] [--faulty 0.3] [--kills 5] [--json]

Cascades in both protocols, with a ledger in SQLite, are asked whole and streamed, 24 questions at a
time. The upstream fails in the ways of `tests/faults/catalogue.py`, at the small or the large
model; one caller in twenty goes away in the middle. Then `cascade batch` is killed in mid-run so
often and run again. Promised are: no answer is lost, no call that the upstream saw is missing in
the ledger or booked twice or wrongly, and a row that was answered is not paid again. It leaves with
1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _killed import kill_and_resume

from tests.faults.catalogue import FAULTS
from tests.faults.storm import Question, storm

LEAVES, AT_ONCE = 0.05, 8


def drawn(seed: int, requests: int, faulty: float) -> list[Question]:
    """Questions with faults and forms by chance."""
    chance, questions = random.Random(seed), []
    for number in range(requests):
        fault = chance.choice(FAULTS) if chance.random() < faulty else None
        place = chance.choice(("small", "large"))
        protocol = chance.choice(("openai", "ollama") if fault is None else fault.protocols)
        form = chance.choice(("plain", "stream") if fault is None else fault.forms)
        leaves = chance.uniform(0, 0.05) if chance.random() < LEAVES else None
        questions.append(Question(number, fault, place, protocol, form, leaves))  # type: ignore[arg-type]
    return questions


def measure(seed: int, given: argparse.Namespace) -> dict[str, object]:
    """One storm and one job."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        world = storm(drawn(seed, given.requests, given.faulty), Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows = 60 * (given.kills + 1)
        job = kill_and_resume(Path(folder), rows=rows, kills=given.kills, at_once=AT_ONCE)
    outcomes = Counter(
        ("degraded" if q.result.degraded else q.result.tier)
        if q.result is not None
        else type(q.error).__name__
        for q in world.questions
    )
    return {
        "seed": seed,
        "requests": given.requests,
        "outcomes": dict(outcomes.most_common()),
        "calls": sum(map(len, world.calls.values())),
        "faulty calls": sum(c.fault != "fine" for calls in world.calls.values() for c in calls),
        "rows of the job": rows,
        "kills": job.kills,
        "calls of the job": len(job.calls),
        "listed as unknown": len(job.unfinished),
        "seconds": round(time.perf_counter() - began, 1),
        "problems": [*world.problems(), *job.problems(rows, AT_ONCE)],
    }


def main() -> int:
    """Run it and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--faulty", type=float, default=0.3, help="share of questions")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.getLogger("cascade").setLevel(logging.CRITICAL)  # degraded answers are counted here
    broken = False
    for seed in map(int, given.seeds.split(",")):
        found = measure(seed, given)
        broken |= bool(found["problems"])
        if given.json:
            print(json.dumps({"benchmark": "chaos", **found}), flush=True)
            continue
        for name, value in found.items():
            print(f"{name:20} {value}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
