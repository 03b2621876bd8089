"""Heavy: a million rows through `cascade batch`, and whether its memory grows with them.

    python benchmarks/million.py [--rows 1000000] [--every 5] [--engine local] [--json]

The models are recordings (`replay:`) of 400 questions that the rows repeat; a fifth of the drafts
is escalated. So the cascade and the job around it are measured, and no model. Beside the process
stand the rows in its journal, its memory and its CPU. Then the same command is typed again: all
rows are known, the output is written anew, and both outputs have to be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _drivers import PROGRAM, cpu_of
from _upstream import child_process
from langchain_core.messages import HumanMessage

from cascade.models import Recorder, Request
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

QUESTIONS, DOUBTFUL, MAX_TOKENS = 400, 5, 40
PRICES = '["replay:small"]\ninput = 0.1\noutput = 0.4\n'
PRICES += '["replay:large"]\ninput = 2.5\noutput = 10\n'


def question(number: int) -> str:
    """What a row asks."""
    return f"What is question number {number % QUESTIONS}"


def answered(request: Request) -> Completion:
    """Every fifth draft is doubtful."""
    number = int(str(request.messages[-1].text).rsplit(maxsplit=1)[-1])
    text = f"the answer to question number {number} is that it is {number} and no other"
    return reply(text, probability=0.95 if number % DOUBTFUL else 0.3)


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
        file.writelines(json.dumps({"question": question(n)}) + "\n" for n in range(rows))


def memory_mb(process: int) -> float:
    """Resident memory of a process; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0]) / 1024 if found else 0.0


def run(folder: Path, engine: str, every_s: float) -> dict[str, Any]:
    """Type the command, and look at its process until it has ended."""
    command = [PROGRAM, "batch", "in.jsonl", "--output", "out.jsonl", "--engine", engine, "--json"]
    command += ["--small", "replay:small.jsonl", "--large", "replay:large.jsonl"]
    command += ["--prices", "prices.toml", "--max-tokens", str(MAX_TOKENS)]
    memory, cpu, begun = list[float](), 0.0, time.monotonic()
    with (
        (folder / "said.json").open("w") as said,
        child_process(command, cwd=folder, stdout=said) as process,
    ):
        while process.poll() is None:
            if megabytes := memory_mb(process.pid):
                memory.append(megabytes)
                cpu = cpu_of(process.pid)
                print(f"{time.monotonic() - begun:8.0f} s {megabytes:8.1f} MB", file=sys.stderr)
            try:
                process.wait(every_s)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        sys.exit(f"the command left with {process.returncode}")
    third = max(1, len(memory) // 3)
    return {
        **json.loads((folder / "said.json").read_text()),
        "seconds": time.monotonic() - begun,
        "CPU s": cpu,
        "MB, second third": statistics.median(memory[third : 2 * third] or memory),
        "MB, last third": statistics.median(memory[-third:]),
        "MB, most": max(memory),
        "sha256": hashlib.sha256((folder / "out.jsonl").read_bytes()).hexdigest()[:16],
    }


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(prepare(Path(name), given.rows))
        runs = [run(Path(name), given.engine, given.every) for _ in range(2)]
    if runs[0]["sha256"] != runs[1]["sha256"]:
        sys.exit("the second output is another than the first")
    if given.json:
        print(json.dumps({"benchmark": "million", "rows": given.rows, "runs": runs}))
        return
    for name, first in runs[0].items():
        print(f"{name:20} {first!s:>24} {runs[1][name]!s:>24}")
    per_s, cpu_ms = given.rows / runs[0]["seconds"], 1000 * runs[0]["CPU s"] / given.rows
    print(f"rows per second {per_s:,.0f}; CPU per row {cpu_ms:.3f} ms")


if __name__ == "__main__":
    main()
