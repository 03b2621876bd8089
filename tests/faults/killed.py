"""`cascade batch` in a process that is killed in mid-run, and run again."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cascade import LedgerEntry
from cascade.ledger import open_store
from tests.servers.faulty import Call, FaultyServer
from tests.servers.saying import Asked, Said

PRICES = '["openai:small"]\ninput = 1\noutput = 2\n["openai:large"]\ninput = 10\noutput = 30\n'
PROGRAM = (sys.executable, "-c", "from cascade.cli import main; main()")
DOUBTFUL = 3
"""Each third draft is doubtful."""
ROOT = Path(__file__).resolve().parents[2]


def question(number: int) -> str:
    """What a row asks."""
    return f"Question {number}: which city is it?"


def answer(asked: Asked) -> Said:
    """An answer that tells the question; the call's number is its input tokens."""
    row = int(asked.topic.split(":")[0].split()[1])
    sure = asked.model == "large" or row % DOUBTFUL
    text = f"The city of {row}, says {asked.model}"
    counts = {"input_tokens": asked.number, "output_tokens": 6}
    return Said.of(text, logprob=-0.02 if sure else -2.0, **counts)


@dataclass
class Aftermath:
    """What the disk and the provider hold after some kills and one run to the end.

    Attributes:
        done_before: rows that were in the journal at each kill, with the number of the last call.
        answers: by row, of the output.
        calls: that the provider saw, in order.
        entries: of calls in the ledger.
        unfinished: calls whose outcome the ledger does not know.
        kills: how often the process was killed in mid-run.
    """

    done_before: list[tuple[set[int], int]]
    answers: dict[int, str]
    calls: list[Call]
    entries: list[LedgerEntry]
    unfinished: list[LedgerEntry]
    kills: int

    def problems(self, rows: int, at_once: int) -> list[str]:
        """Broken promises."""
        found = []
        for row in range(rows):
            said = f"The city of {row}, says {'small' if row % DOUBTFUL else 'large'}"
            if self.answers.get(row) != said:
                found.append(f"row {row}: {self.answers.get(row)!r}, not {said!r}")
        if len(self.answers) != rows:
            found.append(f"{len(self.answers)} rows instead of {rows}")
        for done, last in self.done_before:
            again = [c for c in self.calls if c.number > last and _row(c) in done]
            found += [f"row {_row(call)} was paid again" for call in again]
        known = Counter(entry.input_tokens or 0 for entry in self.entries)
        found += [f"call {n} is booked {times} times" for n, times in known.items() if times > 1]
        lost = [call for call in self.calls if call.number not in known]
        begun = Counter(entry.model for entry in self.unfinished)
        for tier, times in Counter(f"openai:{call.asked.model}" for call in lost).items():
            # A call may be begun and not yet sent at the kill; none is sent that is not begun.
            if times > begun[tier]:
                found.append(f"{times} calls of {tier} are lost, {begun[tier]} listed as unknown")
        if len(self.unfinished) > self.kills * at_once:
            found.append(f"{len(self.unfinished)} unfinished calls, {at_once} were under way")
        return found


def _row(call: Call) -> int:
    return int(call.asked.topic.split(":")[0].split()[1])


def kill_and_resume(folder: Path, *, rows: int, kills: int, at_once: int) -> Aftermath:
    """Run a job of so many rows, kill it so often, and let it come to its end."""
    source = "".join(json.dumps({"question": question(n)}) + "\n" for n in range(rows))
    (folder / "in.jsonl").write_text(source)
    (folder / "prices.toml").write_text(PRICES)
    done_before: list[tuple[set[int], int]] = []
    with FaultyServer(answering=answer, median_s=0.02, kept=10 * rows) as server:
        for kill in range(kills):
            process = _start(folder, server, at_once)
            # Calls since the last kill, so that each kill finds some rows done and some under way.
            _wait(process, server, server.n_sent + max(at_once + 1, rows // (kills + 1)))
            process.kill()
            process.wait()
            done_before.append((_journaled(folder), server.n_sent))
            assert len(done_before[-1][0]) < rows, f"kill {kill} came too late"
        assert _start(folder, server, at_once).wait(300) == 0, (folder / "said").read_text()
        calls = list(server.calls)
    lines = (folder / "out.jsonl").read_text().splitlines()
    answers = {n: json.loads(line)["answer"] for n, line in enumerate(lines)}
    entries, unfinished = asyncio.run(_ledger(folder))
    asked = [entry for entry in entries if entry.model is not None]
    return Aftermath(done_before, answers, calls, asked, unfinished, kills)


def _start(folder: Path, server: FaultyServer, at_once: int) -> subprocess.Popen[str]:
    command = [*PROGRAM, "batch", "in.jsonl", "--output", "out.jsonl", "--prices", "prices.toml"]
    command += ["--small", "openai:small", "--large", "openai:large"]
    command += ["--ledger", "sqlite:///ledger.db", "--concurrency", str(at_once)]
    own = {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "none"}
    env = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            command, cwd=folder, env=env, text=True, stdout=said, stderr=subprocess.STDOUT
        )


def _wait(process: subprocess.Popen[str], server: FaultyServer, calls: int) -> None:
    until = time.monotonic() + 120
    while server.n_sent < calls:
        assert process.poll() is None, f"it ended too early: {process.returncode}"
        assert time.monotonic() < until, f"{server.n_sent} calls in two minutes"
        time.sleep(0.002)


def _journaled(folder: Path) -> set[int]:
    """Rows with an answer in the journal."""
    with closing(sqlite3.connect(folder / "out.jsonl.journal")) as file:
        return {number for (number,) in file.execute("SELECT number FROM rows WHERE status = 'ok'")}


async def _ledger(folder: Path) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    async with open_store(f"sqlite:///{folder}/ledger.db") as store:
        return await store.entries(), await store.unfinished()
