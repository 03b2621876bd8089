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
import asyncio
import json
import logging
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _drivers import PROGRAM

from cascade.ledger import open_store
from tests.acceptance.setups import check_booked, environment, unfinished
from tests.acceptance.upstream import Answer, Seen, Upstream
from tests.faults.catalogue import FAULTS
from tests.faults.storm import Question, storm

LEAVES, AT_ONCE, ROWS = 0.05, 8, 60
DOUBTFUL = 3
"""Each third draft of a job is doubtful."""
PRICES = '["openai:small"]\ninput = 1\noutput = 2\n["openai:large"]\ninput = 10\noutput = 30\n'
JOB = (
    f"batch in.jsonl --output out.jsonl --prices prices.toml --concurrency {AT_ONCE} "
    "--small openai:small --large openai:large --ledger sqlite:///ledger.db"
)


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


def row_of(seen: Seen) -> int:
    """The row of a job that a call is for."""
    return int(seen.texts[0].split(":")[0].split()[1])


def answer(seen: Seen) -> Answer:
    """An answer that tells the row; the call's number is its input tokens."""
    sure = seen.model == "large" or row_of(seen) % DOUBTFUL
    text, wait_s = f"{row_of(seen)}, says {seen.model}", 0.01 * (1 + seen.number % 3)
    return Answer(text, p=0.98 if sure else 0.13, tokens=(seen.number + 1, 6), delay_s=wait_s)


def kill_and_resume(folder: Path, kills: int) -> tuple[dict[str, Any], list[str]]:
    """A job that is killed so often in mid-run and then comes to its end: figures, problems."""
    rows, kept = ROWS * (kills + 1), list[tuple[set[int], int]]()
    asked = (json.dumps({"question": f"Question {n}: which city is it?"}) for n in range(rows))
    (folder / "in.jsonl").write_text("\n".join(asked))
    (folder / "prices.toml").write_text(PRICES)
    with Upstream() as server, (folder / "said").open("w") as said:
        for model in ("small", "large"):
            server.says(model, answer)
        env = environment(OPENAI_BASE_URL=server.openai_url, OPENAI_API_KEY="none")

        def start() -> subprocess.Popen[bytes]:
            command = [PROGRAM, *JOB.split()]
            return subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said)

        for _ in range(kills):
            process = start()
            # Calls since the last kill, so that each kill finds some rows done and some under way.
            server.wait_for(len(server.seen) + ROWS)
            assert process.poll() is None, f"it ended too early: {process.returncode}"
            process.kill()
            process.wait()
            with closing(sqlite3.connect(folder / "out.jsonl.journal")) as file:
                done = file.execute("SELECT number FROM rows WHERE status = 'ok'").fetchall()
            kept.append(({number for (number,) in done}, len(server.seen)))
        assert start().wait(300) == 0, (folder / "said").read_text()
        calls = server.asked()
    problems = []
    for done_before, last in kept:
        again = {row_of(seen) for seen in calls[last:]} & done_before
        problems += [f"row {row} was paid again" for row in again]
    for row, line in enumerate((folder / "out.jsonl").read_text().splitlines()):
        wanted = f"{row}, says {'small' if row % DOUBTFUL else 'large'}"
        if json.loads(line)["answer"] != wanted:
            problems.append(f"row {row}: {line}, not {wanted!r}")
    if row + 1 != rows:
        problems.append(f"{row + 1} rows instead of {rows}")
    url = f"sqlite:///{folder}/ledger.db"
    try:
        asyncio.run(check_booked(url, calls, kills * AT_ONCE))
    except AssertionError as error:
        problems.append(f"the ledger: {error}")
    unknown = len(asyncio.run(unfinished(open_store(url))))
    figures = {"rows of the job": rows, "kills": kills, "calls of the job": len(calls)}
    return {**figures, "listed as unknown": unknown}, problems


def measure(seed: int, given: argparse.Namespace) -> dict[str, object]:
    """One storm and one job."""
    began, questions = time.perf_counter(), drawn(seed, given.requests, given.faulty)
    with tempfile.TemporaryDirectory() as folder:
        broken = storm(questions, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        job, problems = kill_and_resume(Path(folder), given.kills)
    outcomes = Counter(
        ("degraded" if q.result.degraded else q.result.tier)
        if q.result is not None
        else type(q.error).__name__
        for q in questions
    )
    return {
        "seed": seed,
        "requests": given.requests,
        "outcomes": dict(outcomes.most_common()),
        "calls": sum(len(q.calls) for q in questions),
        "faulty calls": sum(q.met for q in questions),
        **job,
        "seconds": round(time.perf_counter() - began, 1),
        "problems": [*broken, *problems],
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
