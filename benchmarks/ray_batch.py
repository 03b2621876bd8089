"""Heavy: `cascade batch --engine ray` against the local engine, on a Ray cluster on this machine.

    python benchmarks/ray_batch.py --data FOLDER [--rows 10000] [--embedded 500] [--json]

Three runs of a command as it is typed, each with a ledger in SQLite:

    local       in one process
    ray         two replicas, each a process of its own
    ray killed  the same, and one replica is killed when half of the rows are done

The models are recordings (`replay:`) of real models' answers in FOLDER, with their tokens: texts
where there are any, and log-probabilities where there are any; where there are none, a probability
is drawn by the row's id, which decides only what is escalated. With `--embedded` so many of the
shortest questions go through the embedded model instead (8 tokens of answer, one row at a time in
each process), and nobody is killed.

Figures: seconds of the whole command and rows per second from the first row to the last; rows whose
answer, tier, confidence or cost differs from the local engine's; dollars of the output and of the
ledger; runs in the ledger that are no row's, with their dollars, and calls that were never ended:
what a killed replica had under way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from _children import child_process
from langchain_core.messages import HumanMessage

from cascade.evaluation import Outcome, Transcript, read_transcripts
from cascade.jobs.parts import parts_of
from cascade.jobs.ray_crew import pids
from cascade.models import Request
from cascade.models.recording import Header, answer_line, header_line
from cascade.testing import reply

SETS = (
    ("lub_mmlu", "Yi-34B", "gpt-4-1106-preview"),
    ("routellm_mmlu", "Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"),
)
EMBEDDED = "llamacpp:smollm2-135m"
REPLAYED = "replay:small.jsonl"
LARGE = "replay:large.jsonl"
PRICES = "".join(
    f'["{name}"]\ninput = {given}\noutput = {taken}\n'
    for name, given, taken in ((REPLAYED, 0.6, 0.6), (EMBEDDED, 0.01, 0.01), (LARGE, 10, 30))
)
LIMIT = 8
"""Tokens of an answer of the embedded model."""

COMPARED = ("answer", "tier", "confidence", "cost_usd", "error")


def recorded(data: Path) -> Iterator[tuple[Transcript, Outcome, Outcome]]:
    """Rows that both models have answered; of two with the same prompt, the first."""
    seen: set[str] = set()
    for name, small, large in SETS:
        for path in sorted(data.glob(f"{name}.*")):
            for row in read_transcripts(path):
                if small in row.models and large in row.models and row.prompt not in seen:
                    seen.add(row.prompt)
                    yield row, row.models[small], row.models[large]


def probability(row: Transcript, outcome: Outcome) -> float:
    """Of the recorded answer."""
    options = outcome.signals.get("option_logprobs")
    if isinstance(options, dict | list):
        values = options.values() if isinstance(options, dict) else options
        known = [float(v) for v in values if isinstance(v, int | float)]
        if known:
            return math.exp(min(0.0, max(known)))
    return int(hashlib.sha256(row.id.encode()).hexdigest()[:8], 16) / 2**32


def prepare(folder: Path, data: Path, rows: int, limit: int | None) -> int:
    """Write questions, recordings and prices; returns how many questions there are."""
    every = recorded(data)
    found = list(islice(every, rows)) if limit is None else sorted(every, key=_length)[:rows]
    with (folder / "in.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": r.id, "question": r.prompt}) + "\n" for r, _, _ in found)
    for name, place in (("small", 1), ("large", 2)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.write(header_line(Header(model=f"recorded:{name}")))
            for each in found:
                row, outcome = each[0], each[place]
                assert isinstance(outcome, Outcome)
                answer = reply(
                    (outcome.pred or outcome.output or "")[:200] or "A",
                    probability=probability(row, outcome),
                    input_tokens=outcome.input_tokens or 1,
                    output_tokens=outcome.output_tokens or 1,
                )
                request = Request((HumanMessage(row.prompt),), max_tokens=limit)
                file.write(answer_line(request, answer))
    (folder / "prices.toml").write_text(PRICES)
    return len(found)


def _length(found: tuple[Transcript, Outcome, Outcome]) -> int:
    return len(found[0].prompt)


def run(folder: Path, name: str, small: str, options: list[str], *, kill: int | None) -> float:
    """One command; returns its seconds from the first row to the last."""
    command = ["batch", "in.jsonl", "-o", f"{name}.jsonl", "--run-ids", *options]
    if small == EMBEDDED:
        (folder / f"{name}.yaml").write_text(json.dumps(configuration(name)))
        command += ["--config", f"{name}.yaml"]
    else:
        command += ["--small", small, "--large", LARGE, "--threshold", "0.8"]
        command += ["--prices", "prices.toml", "--ledger", f"sqlite:///{name}.db"]
    program = [sys.executable, "-c", "from cascade.cli import main; main()", *command]
    journal = folder / f"{name}.jsonl.journal"
    first = 0.0
    with (
        (folder / f"{name}.log").open("w") as log,
        child_process(program, cwd=folder, stdout=log, stderr=log) as process,
    ):
        while process.poll() is None:
            time.sleep(0.2)
            done = lines(journal) - 1
            if done > 0 and not first:
                first = time.perf_counter()
            if kill is not None and done >= kill:
                living = [pid for run in parts_of(journal).iterdir() for pid in pids(run)]
                os.kill(living[0], signal.SIGKILL)
                kill = None
    if process.returncode or kill is not None:
        sys.exit((folder / f"{name}.log").read_text())
    return time.perf_counter() - first


def configuration(name: str) -> dict[str, Any]:
    """One cascade with the embedded model.

    Which other prompts llama.cpp computes at the same time, or has computed before, changes the
    last digits of a log-probability: one at a time, and as little kept as it lets one say.
    """
    alone = {"n_parallel": 1, "cache_prompt": False}
    small = {"model": EMBEDDED, "options": alone, "price": {"input": "0.01", "output": "0.01"}}
    large = {"model": LARGE, "price": {"input": "10", "output": "30"}}
    tiers = [{**tier, "max_tokens": LIMIT} for tier in (small, large)]
    cascades = {"one": {"tiers": tiers, "threshold": 0.8}}
    return {"cascades": cascades, "ledger": {"url": f"sqlite:///{name}.db"}}


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read_back(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def told(folder: Path, name: str, took_s: float, whole_s: float) -> dict[str, Any]:
    """The figures of one run, against those of the local engine."""
    rows, local = read_back(folder / f"{name}.jsonl"), read_back(folder / "local.jsonl")
    runs = {row["run_id"] for row in rows}
    with closing(sqlite3.connect(folder / f"{name}.db")) as ledger:
        entries = ledger.execute("SELECT run_id, cost_usd FROM ledger_entries").fetchall()
        (unended,) = ledger.execute(
            "SELECT count(*) FROM ledger_attempts WHERE attempt_id NOT IN "
            "(SELECT attempt_id FROM ledger_entries WHERE attempt_id IS NOT NULL)"
        ).fetchone()
    costs = [(run_id, Decimal(str(cost or 0))) for run_id, cost in entries]
    apart = {run_id for run_id, _ in costs} - runs
    lost = [json.loads(line).get("lost", 0) for line in (folder / f"{name}.jsonl.journal").open()]
    return {
        "run": name,
        "rows": len(rows),
        "seconds": round(whole_s, 1),
        "rows_per_s": round(len(rows) / took_s, 1),
        **{
            f"other_{column}": sum(a[column] != b[column] for a, b in zip(rows, local, strict=True))
            for column in COMPARED
        },
        "output_usd": str(sum(Decimal(row["cost_usd"]) for row in rows)),
        "ledger_usd": str(sum(cost for run_id, cost in costs if run_id in runs)),
        "asked_again": sum(lost),
        "runs_apart": len(apart),
        "apart_usd": str(sum(cost for run_id, cost in costs if run_id in apart)),
        "calls_unended": unended,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of recordings")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--embedded", type=int, default=0, help="questions for the embedded model")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit = LIMIT if given.embedded else None
    small = EMBEDDED if given.embedded else REPLAYED
    tuned = ["--concurrency", "1"] if given.embedded else []
    on_ray = [*tuned, "--engine", "ray", "--replicas", "2"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = prepare(folder, given.data, given.embedded or given.rows, limit)
        runs: list[tuple[str, list[str], int | None]] = [
            ("local", tuned, None),
            ("ray", on_ray, None),
        ]
        if not given.embedded:
            runs.append(("ray killed", on_ray, rows // 2))
        for run_name, options, kill in runs:
            began = time.perf_counter()
            took_s = run(folder, run_name, small, options, kill=kill)
            figures = told(folder, run_name, took_s, time.perf_counter() - began)
            print(json.dumps(figures) if given.json else "  ".join(map(str, figures.items())))


if __name__ == "__main__":
    main()
