"""`cascade batch`, as typed: interrupted, killed, out of money, and gone on with."""

from __future__ import annotations

import asyncio
import json
import math
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cascade.cli import batch
from cascade.models.base import guard
from tests.cli.conftest import Run
from tests.servers import replies
from tests.servers.fake import FakeServer

ROWS = 60
PRICES = '["openai:gpt-4o-mini"]\ninput=0.15\noutput=0.6\n["openai:gpt-4o"]\ninput=2.5\noutput=10\n'
HARD = 3
"""Each third draft is doubtful."""


class Upstream(FakeServer):
    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, answer)

    def asked(self) -> Counter[tuple[str, str]]:
        """How often each model was asked each question."""
        return Counter((r.body["model"], r.body["messages"][-1]["content"]) for r in self.received)


def answer(body: Mapping[str, Any]) -> replies.Reply:
    question = str(body["messages"][-1]["content"])
    doubtful = int(question.rsplit(maxsplit=1)[-1]) % HARD == 0
    text = f"{body['model']} on {question}"
    told = [{"token": text, "logprob": math.log(0.3 if doubtful else 0.97), "top_logprobs": []}]
    given = told if body.get("logprobs") else None
    return replies.json_reply(replies.openai_body(text, logprobs=given), delay_s=0.01)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def folder(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command is typed, with the upstream as its provider."""
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.openai_url)
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": n, "question": f"question {n}"}) for n in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "prices.toml").write_text(PRICES)
    return tmp_path


def typed(*more: str, output: str = "out.jsonl") -> list[str]:
    models = ["--small", "openai:gpt-4o-mini", "--large", "openai:gpt-4o"]
    tuned = ["--prices", "prices.toml", "--concurrency", "4", "--max-tokens", "20"]
    return ["batch", "in.jsonl", "-o", output, *models, *tuned, *more]


def started(folder: Path, output: str = "out.jsonl") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from cascade.cli import main; main()", *typed(output=output)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, complained = process.communicate(timeout=120)
    return process.returncode, said, complained


def wait_for(upstream: FakeServer, calls: int) -> None:
    until = time.monotonic() + 60
    while len(upstream.received) < calls and time.monotonic() < until:
        time.sleep(0.002)


def test_interrupted_at_random_points_it_ends_with_the_same_output_and_repeats_no_call(
    upstream: Upstream, folder: Path
) -> None:
    code, _, complained = finished(started(folder, "whole.jsonl"))
    assert code == 0, complained
    calls = upstream.asked()
    assert set(calls.values()) == {1}
    upstream.received.clear()
    rng = random.Random(7)
    for part in range(2):
        process = started(folder)
        wait_for(upstream, len(upstream.received) + rng.randint(3, 9) * (part > 0) + 1)
        process.send_signal(signal.SIGINT)
        code, _, complained = finished(process)
        assert code == 130, complained
        assert "it was interrupted. Run the same command again to go on." in complained
        assert complained.splitlines()[-1].startswith("next: cascade batch ")
    code, _, complained = finished(started(folder))
    assert code == 0, complained
    assert (folder / "out.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert upstream.asked() == calls


def test_killed_it_loses_nothing_but_the_rows_that_were_under_way(
    upstream: Upstream, folder: Path
) -> None:
    process = started(folder)
    wait_for(upstream, 30)
    process.kill()
    finished(process)
    code, _, complained = finished(started(folder))
    assert code == 0, complained
    found = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(ROWS))
    again = sum(n - 1 for n in upstream.asked().values())
    assert again <= 2 * 4, "two calls of each of the four rows under way"


def test_the_ledger_of_a_configuration_is_kept_as_that_says(
    run: Run, upstream: Upstream, folder: Path
) -> None:
    tier = {"base_url": upstream.openai_url, "api_key": "${OPENAI_API_KEY}"}
    tiers = [{**tier, "model": f"openai:{name}"} for name in ("gpt-4o-mini", "gpt-4o")]
    named = ["batch", "in.jsonl", "-o", "out.jsonl", "--config", "c.yaml"]
    ledger = {"url": "sqlite:///ledger.db", "texts": "all"}
    service = {"cascades": {"one": {"tiers": tiers}}, "ledger": ledger}
    (folder / "c.yaml").write_text(json.dumps(service))
    run(*named)
    with closing(sqlite3.connect(folder / "ledger.db")) as database:
        (texts,) = database.execute("SELECT count(*) FROM ledger_texts").fetchone()
    assert texts == len(upstream.received)
    service["ledger"] = {**ledger, "hash_key_env": "NO_SUCH"}
    (folder / "c.yaml").write_text(json.dumps(service))
    assert "NO_SUCH is not set" in run(*named, code=2).stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--config", "c.yaml", "--threshold", "0.5"], "--threshold was given beside --config"),
        (["--config", "c.yaml", "--large", "openai:x"], "--large was given beside --config"),
        (["--config", "c.yaml", "--ledger", "memory://"], "--ledger was given beside --config"),
        (["--cascade", "one"], "--cascade is for a cascade of --config"),
        (["--config", "no.yaml"], "cannot be read"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    more: list[str], message: str, run: Run, folder: Path
) -> None:
    refused = run("batch", "in.jsonl", "-o", "out.jsonl", *more, code=2)
    assert message in " ".join(refused.stderr.split())


async def test_a_second_interrupt_leaves_what_is_under_way() -> None:
    stop = asyncio.Event()
    with batch._interrupts(stop):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(stop.wait(), 10)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(10)


def test_out_of_budget_it_stops_and_a_larger_one_goes_on(
    run: Run, upstream: Upstream, folder: Path
) -> None:
    stopped = run(*typed("--budget-usd", "0.0008"), code=1)
    assert "the budget of $0.0008 does not cover another row" in stopped.stderr
    first = len(upstream.received)
    told = json.loads(run(*typed("--budget-usd", "1", "--json")).stdout)
    assert told["resumed"] + told["answered"] == told["written"] == ROWS
    assert len(upstream.received) == first + told["answered"] + told["escalated"]


def test_a_row_that_cannot_be_read_keeps_its_place_and_the_exit_code_says_so(
    run: Run, folder: Path
) -> None:
    with (folder / "in.jsonl").open("a") as file:
        file.write('\nno json\n{"question": "question 61"}')
    told = run(*typed(output="out.parquet"), code=1)
    assert "rows that failed: 1" in told.stderr
    rows = pq.read_table(folder / "out.parquet").to_pylist()
    assert "the line is no JSON" in rows[ROWS]["error"]
    assert rows[ROWS + 1]["question"] == "question 61"


def test_what_asks_by_batch_is_imported_by_large_batch_alone(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("cascade.jobs.provider")]:
        monkeypatch.delitem(sys.modules, name)
    run(*typed())
    assert not [name for name in sys.modules if name.startswith("cascade.jobs.provider")]


def test_fresh_asks_and_pays_anew(run: Run, upstream: Upstream, folder: Path) -> None:
    run(*typed())
    run(*typed())
    once = len(upstream.received)
    run(*typed("--fresh"))
    assert len(upstream.received) == 2 * once


def test_costs_that_nobody_knows_are_not_told_as_nothing(run: Run, folder: Path) -> None:
    (folder / "prices.toml").write_text('["openai:another"]\ninput=1\noutput=1\n')
    told = " ".join(run(*typed()).stderr.split())
    assert f"and what {ROWS} rows cost that nobody knows" in told
    assert "saved against the large model alone: unknown" in told


@pytest.mark.parametrize(
    ("more", "output", "message"),
    [
        ([], "in.jsonl", "is a part of the input"),
        ([], "out.txt", "ends with .jsonl"),
        (["--column", "nope"], "out.jsonl", "has no column nope"),
        (["--threshold", "0.5", "--price-of-error", "1"], "out.jsonl", "each of them decides"),
        (["--prefix", "", "--column", "id"], "out.jsonl", "has a column 'tier' already"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_asked(
    more: list[str], output: str, message: str, run: Run, upstream: Upstream, folder: Path
) -> None:
    if "tier" in message:
        (folder / "in.jsonl").write_text('{"id": "1", "tier": "mine"}')
    refused = run(*typed(*more, output=output), code=2)
    assert message in " ".join(refused.stderr.split())
    assert upstream.received == []


def test_without_a_large_model_it_says_how_to_name_one(run: Run, folder: Path) -> None:
    assert "CASCADE_LARGE" in run("batch", "in.jsonl", "-o", "o.csv", code=2).stderr


def test_a_cascade_of_a_services_configuration_answers_too(
    run: Run, upstream: Upstream, folder: Path
) -> None:
    tier = {"base_url": upstream.openai_url, "api_key": "${OPENAI_API_KEY}"}
    tiers = [
        {**tier, "model": "openai:gpt-4o-mini", "price": {"input": "0.15", "output": "0.6"}},
        {**tier, "model": "openai:gpt-4o", "price": {"input": "2.5", "output": "10"}},
    ]
    cascades = {name: {"tiers": tiers, "threshold": 0.8} for name in ("first", "second")}
    service = {"cascades": cascades, "ledger": {"url": "sqlite:///ledger.db"}}
    (folder / "c.yaml").write_text(json.dumps(service))
    named = ["batch", "in.jsonl", "-o", "out.jsonl", "--config", "c.yaml"]
    assert "say which one, --cascade NAME" in run(*named, code=2).stderr
    assert "has no cascade 'third'" in run(*named, "--cascade", "third", code=2).stderr
    run(*named, "--cascade", "second")
    assert len(upstream.received) == ROWS + ROWS // HARD
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        (count,) = ledger.execute("SELECT count(DISTINCT run_id) FROM ledger_entries").fetchone()
    assert count == ROWS


def test_a_ledger_of_its_own_gets_every_row(run: Run, folder: Path) -> None:
    run(*typed("--ledger", "sqlite:///own.db", "--run-ids"))
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    with closing(sqlite3.connect(folder / "own.db")) as ledger:
        found = {run_id for (run_id,) in ledger.execute("SELECT run_id FROM ledger_entries")}
    assert found == {row["run_id"] for row in rows}
