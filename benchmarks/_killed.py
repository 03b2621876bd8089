"""`cascade batch` in a process that is killed in mid-run, and run again."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cascade import LedgerEntry
from cascade.ledger import open_store
from tests.acceptance.setups import environment
from tests.acceptance.upstream import Answer, Seen, Upstream

PRICES = '["openai:small"]\ninput = 1\noutput = 2\n["openai:large"]\ninput = 10\noutput = 30\n'
PROGRAM = (sys.executable, "-c", "from cascade.cli import main; main()")
DOUBTFUL = 3
"""Each third draft is doubtful."""


def question(number: int) -> str:
    """What a row asks."""
    return f"Question {number}: which city is it?"


def answer(seen: Seen) -> Answer:
    """An answer that tells the question; the call's number is its input tokens."""
    sure = seen.model == "large" or row_of(seen) % DOUBTFUL
    text = f"The city of {row_of(seen)}, says {seen.model}"
    wait_s = 0.01 * (1 + seen.number % 3)
    return Answer(text, p=0.98 if sure else 0.13, tokens=(seen.number + 1, 6), delay_s=wait_s)


def row_of(seen: Seen) -> int:
    return int(seen.texts[0].split(":")[0].split()[1])


@dataclass
class Aftermath:
    """What the disk and the provider hold after some kills and one run to the end.

    Attributes:
        done_before: rows that were in the journal at each kill, with the number of calls by then.
        answers: by row, of the output.
        calls: that the provider saw, in order.
        entries: of calls in the ledger.
        unfinished: calls whose outcome the ledger does not know.
        kills: how often the process was killed in mid-run.
    """

    done_before: list[tuple[set[int], int]]
    answers: dict[int, str]
    calls: list[Seen]
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
            again = {row_of(seen) for seen in self.calls[last:]} & done
            found += [f"row {row} was paid again" for row in again]
        known = Counter(entry.input_tokens or 0 for entry in self.entries)
        found += [f"call {n} is booked {times} times" for n, times in known.items() if times > 1]
        lost = Counter(f"openai:{c.model}" for c in self.calls if c.number + 1 not in known)
        begun = Counter(entry.model for entry in self.unfinished)
        for tier, times in lost.items():
            # A call may be begun and not yet sent at the kill; none is sent that is not begun.
            if times > begun[tier]:
                found.append(f"{times} calls of {tier} are lost, {begun[tier]} listed as unknown")
        if len(self.unfinished) > self.kills * at_once:
            found.append(f"{len(self.unfinished)} unfinished calls, {at_once} were under way")
        return found


def kill_and_resume(folder: Path, *, rows: int, kills: int, at_once: int) -> Aftermath:
    """Run a job of so many rows, kill it so often, and let it come to its end."""
    source = "".join(json.dumps({"question": question(n)}) + "\n" for n in range(rows))
    (folder / "in.jsonl").write_text(source)
    (folder / "prices.toml").write_text(PRICES)
    done_before: list[tuple[set[int], int]] = []
    with Upstream() as server:
        for model in ("small", "large"):
            server.says(model, answer)
        for kill in range(kills):
            process = _start(folder, server, at_once)
            # Calls since the last kill, so that each kill finds some rows done and some under way.
            more = max(at_once + 1, rows // (kills + 1))
            server.wait_for(len(server.seen) + more, within_s=300)
            assert process.poll() is None, f"it ended too early: {process.returncode}"
            process.kill()
            process.wait()
            done_before.append((_journaled(folder), len(server.seen)))
            assert len(done_before[-1][0]) < rows, f"kill {kill} came too late"
        assert _start(folder, server, at_once).wait(300) == 0, (folder / "said").read_text()
        calls = server.asked()
    lines = (folder / "out.jsonl").read_text().splitlines()
    answers = {n: json.loads(line)["answer"] for n, line in enumerate(lines)}
    entries, unfinished = asyncio.run(_ledger(folder))
    asked = [entry for entry in entries if entry.model is not None]
    return Aftermath(done_before, answers, calls, asked, unfinished, kills)


def _start(folder: Path, server: Upstream, at_once: int) -> subprocess.Popen[str]:
    command = [*PROGRAM, "batch", "in.jsonl", "--output", "out.jsonl", "--prices", "prices.toml"]
    command += ["--small", "openai:small", "--large", "openai:large"]
    command += ["--ledger", "sqlite:///ledger.db", "--concurrency", str(at_once)]
    env = environment(OPENAI_BASE_URL=server.openai_url, OPENAI_API_KEY="none")
    with (folder / "said").open("w") as said:
        return subprocess.Popen(
            command, cwd=folder, env=env, text=True, stdout=said, stderr=subprocess.STDOUT
        )


def _journaled(folder: Path) -> set[int]:
    """Rows with an answer in the journal."""
    with closing(sqlite3.connect(folder / "out.jsonl.journal")) as file:
        return {number for (number,) in file.execute("SELECT number FROM rows WHERE status = 'ok'")}


async def _ledger(folder: Path) -> tuple[list[LedgerEntry], list[LedgerEntry]]:
    async with open_store(f"sqlite:///{folder}/ledger.db") as store:
        return await store.entries(), await store.unfinished()
