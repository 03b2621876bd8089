"""Heavy: a million rows through `cascade batch`, and whether its memory grows with them.

    python benchmarks/million.py [--rows 1000000] [--every 5] [--engine local] [--folder F] [--json]

The models are recordings (`replay:`) of 400 questions, of 15 tokens with log-probabilities each,
that the rows repeat; a fifth of the drafts is escalated. So what is measured is the cascade and the
job around it, and no model. `cascade batch` runs in a process of its own; beside it stand the rows
in its journal, its memory and its CPU, every `--every` seconds, and at the end how memory goes with
the rows (a line with a 95 % interval, after the first twentieth). Then the same command is typed
again: all rows are known, and the output is written anew. Both outputs have to be the same.

With `--folder` an interrupted measurement goes on where it was; its figures are of the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _children import child_process
from _trend import trend_of
from langchain_core.messages import HumanMessage

from cascade.models import Recorder, Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

QUESTIONS = 400
DOUBTFUL = 5
MAX_TOKENS = 40
PRICES = '["replay:small.jsonl"]\ninput = 0.1\noutput = 0.4\n'
PRICES += '["replay:large.jsonl"]\ninput = 2.5\noutput = 10\n'
TICKS = os.sysconf("SC_CLK_TCK")

Sample = dict[str, float]


def question(number: int) -> str:
    """What a row asks."""
    return f"What is question number {number % QUESTIONS}"


def answered(request: Request) -> Completion:
    """Every fifth draft is doubtful."""
    number = int(str(request.messages[-1].text).rsplit(maxsplit=1)[-1])
    doubtful = number % DOUBTFUL == 0
    text = f"the answer to question number {number} is that it is {number} and no other"
    return reply(text, probability=0.3 if doubtful else 0.95)


async def prepare(folder: Path, rows: int) -> None:
    """The recordings, their prices, and the questions."""
    for name in ("small", "large"):
        model = ScriptedModel(answered, returns_logprobs=True, name=name)
        recorder = Recorder(model, folder / f"{name}.jsonl")
        for number in range(QUESTIONS):
            asked = (HumanMessage(question(number)),)
            await recorder.complete(Request(asked, max_tokens=MAX_TOKENS, logprobs=True))
    (folder / "prices.toml").write_text(PRICES)
    with (folder / "in.jsonl").open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"id": number, "question": question(number)}) + "\n")


class Rows:
    """Counts the rows of a journal while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._lines = -1  # the head

    def count(self) -> int:
        """How many there are by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                while part := file.read(2**20):
                    self._read += len(part)
                    self._lines += part.count(b"\n")
        return max(0, self._lines)


def looked_at(process: int) -> Sample:
    """Memory and CPU of a process and of those that it has started."""
    memory = peak = seconds = 0.0
    for one in (process, *children(process)):
        try:
            status = Path(f"/proc/{one}/status").read_text()
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        kept = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" in kept:  # a process that ends has none any more
            memory += int(kept["VmRSS"].split()[0]) / 1024
            peak += int(kept["VmHWM"].split()[0]) / 1024
        seconds += (int(fields[11]) + int(fields[12])) / TICKS
    return {"memory MB": memory, "peak MB": peak, "CPU s": seconds}


def children(process: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have."""
    try:
        listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in map(int, listed):
        yield child
        yield from children(child)


def run(folder: Path, engine: str, every_s: float, *, shown: bool) -> list[Sample]:
    """Type the command; samples of its process until it has ended."""
    models = ["--small", "replay:small.jsonl", "--large", "replay:large.jsonl"]
    tuned = ["--prices", "prices.toml", "--max-tokens", str(MAX_TOKENS)]
    chosen = [] if engine == "local" else ["--engine", engine]
    command = ["batch", "in.jsonl", "-o", "out.jsonl", *models, *tuned, *chosen, "--json"]
    program = [sys.executable, "-c", "from cascade.cli import main; main()", *command]
    rows, samples, begun = Rows(folder / "out.jsonl.journal"), [], time.monotonic()
    with (
        (folder / "said.json").open("w") as said,
        child_process(program, cwd=folder, stdout=said) as process,
    ):
        while process.poll() is None:
            sample = looked_at(process.pid)
            sample |= {"rows": rows.count(), "seconds": time.monotonic() - begun}
            sample["load"] = os.getloadavg()[0]
            if sample["memory MB"]:
                samples.append(sample)
            if shown:
                told = "  ".join(f"{name} {value:,.1f}" for name, value in sample.items())
                print(told, file=sys.stderr, flush=True)
            try:
                process.wait(every_s)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        sys.exit(f"the command left with {process.returncode}")
    samples.append({**samples[-1], "rows": rows.count(), "seconds": time.monotonic() - begun})
    return samples


def told(samples: list[Sample], rows: int) -> dict[str, Any]:
    """What the samples of a first run say."""
    before, last = samples[0]["rows"], samples[-1]
    done = last["rows"] - before
    under_way = [s for s in samples if before + rows * 0.05 < s["rows"] < rows]
    found: dict[str, Any] = {
        "rows": done,
        "rows per second": done / last["seconds"],
        "CPU ms per row": last["CPU s"] * 1000 / done,
        "rows per CPU second": done / last["CPU s"],
        "seconds": last["seconds"],
        "peak memory MB": max(s["peak MB"] for s in samples),
        "load": [min(s["load"] for s in samples), max(s["load"] for s in samples)],
    }
    if len(under_way) >= 6:
        millions = [s["rows"] / 1e6 for s in under_way]
        trend = trend_of(millions, [s["memory MB"] for s in under_way])
        found["memory MB per million rows"] = [trend.per_hour, trend.low, trend.high]
        found["memory MB, first and last third"] = [trend.first, trend.last]
    return found


def digest(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(
    rows: int, engine: str, every_s: float, kept: Path | None, *, shown: bool
) -> dict[str, Any]:
    """Both runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = kept or Path(name)
        if not (folder / "in.jsonl").exists():
            folder.mkdir(parents=True, exist_ok=True)
            asyncio.run(prepare(folder, rows))
        samples = run(folder, engine, every_s, shown=shown)
        first = json.loads((folder / "said.json").read_text())
        written = digest(folder / "out.jsonl")
        sizes = {file: (folder / file).stat().st_size for file in ("out.jsonl", "in.jsonl")}
        sizes["out.jsonl.journal"] = (folder / "out.jsonl.journal").stat().st_size
        again = run(folder, engine, every_s, shown=shown)
        second = json.loads((folder / "said.json").read_text())
        return {
            **told(samples, rows),
            "answered": first["answered"],
            "escalated": first["escalated"],
            "again: resumed": second["resumed"],
            "again: seconds": again[-1]["seconds"],
            "again: peak memory MB": max(s["peak MB"] for s in again),
            "the same output": digest(folder / "out.jsonl") == written,
            "bytes": sizes,
        }


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description="A million rows through `cascade batch`.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--folder", type=Path, help="kept; what is done there is gone on with")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.rows, given.engine, given.every, given.folder, shown=not given.json)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name}: {value:,.2f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
