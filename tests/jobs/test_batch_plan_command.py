"""`cascade batch --plan`, as typed: killed while it drafts and while it escalates."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cascade import Tier
from cascade.agents import Task
from cascade.cli import app
from cascade.confidence.calibration import ModelIdentity
from cascade.models.base import guard
from cascade.setup import task_hash
from tests.jobs.test_batch_plan import calibration
from tests.servers import replies
from tests.servers.fake import FakeServer

ROWS, AT_ONCE = 60, 4
SMALL, LARGE = "openai:gpt-4o-mini", "openai:gpt-4o"
PRICES = f'["{SMALL}"]\ninput=0.15\noutput=0.6\n["{LARGE}"]\ninput=2.5\noutput=10\n'


class Upstream(FakeServer):
    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, answer)

    def asked(self) -> Counter[tuple[str, str]]:
        """How often each model was asked each question."""
        return Counter((r.body["model"], r.body["messages"][-1]["content"]) for r in self.received)


def answer(body: Mapping[str, Any]) -> replies.Reply:
    question = str(body["messages"][-1]["content"])
    sure = random.Random(question).uniform(0.1, 0.95)
    text = f"{body['model']} on {question}"
    told = [{"token": text, "logprob": math.log(sure), "top_logprobs": []}]
    given = told if body.get("logprobs") else None
    return replies.json_reply(replies.openai_body(text, logprobs=given), delay_s=0.02)


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
    Path("in.jsonl").write_text("\n".join(lines))
    Path("prices.toml").write_text(PRICES)
    small = Tier(SMALL, max_tokens=20).open("small")
    made_for = {"small": ModelIdentity(name=SMALL), "task_hash": task_hash(Task(), small)}
    calibration().model_copy(update=made_for).save("calibration.json")
    return tmp_path


def typed(*more: str, output: str = "out.jsonl") -> list[str]:
    models = ["--small", SMALL, "--large", LARGE, "--calibration", "calibration.json"]
    tuned = ["--prices", "prices.toml", "--concurrency", str(AT_ONCE), "--max-tokens", "20"]
    money = ["--plan", "--budget-usd", "0.0014"]
    return ["batch", "in.jsonl", "-o", output, *models, *tuned, *money, *more]


def started(folder: Path, output: str = "out.jsonl") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from cascade.cli import main; main()", *typed(output=output)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complained = process.communicate(timeout=120)
    return process.returncode, complained


def test_killed_while_it_drafts_and_while_it_escalates_it_ends_as_if_it_had_not_been(
    upstream: Upstream, folder: Path
) -> None:
    code, complained = finished(started(folder, "whole.jsonl"))
    assert code == 0, complained
    assert "expected to set right: " in complained
    calls = upstream.asked()
    escalated = sum(model == "gpt-4o" for model, _ in calls)
    assert 8 < escalated < ROWS
    assert set(calls.values()) == {1}
    upstream.received.clear()
    for calls_before in (20, ROWS + 5):
        process = started(folder)
        until = time.monotonic() + 60
        while sum(upstream.asked().values()) < calls_before and time.monotonic() < until:
            time.sleep(0.002)
        process.kill()
        finished(process)
    code, complained = finished(started(folder))
    assert code == 0, complained
    assert (folder / "out.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert upstream.asked().keys() == calls.keys()
    again = sum(n - 1 for n in upstream.asked().values())
    assert again <= 2 * AT_ONCE, "a call of each of the rows under way, twice"


def test_its_totals_can_be_read_by_machines_and_its_options_go_together(folder: Path) -> None:
    result = CliRunner().invoke(app, typed("--json"))
    assert result.exit_code == 0, result.output
    totals = json.loads(result.stdout)
    assert (totals["rows"], totals["drafted"], totals["failed"]) == (ROWS, ROWS, 0)
    assert 0 < totals["gain"] <= totals["most_gain"]
    assert totals["gain_left"] > 0
    for options, complaint in (
        (["--threshold", "0.5"], "decides about each request alone"),
        (["--scorer", "exact"], "--scorer goes with --sample"),
    ):
        refused = CliRunner().invoke(app, typed(*options, output="other.jsonl"))
        assert refused.exit_code == 2
        assert complaint in " ".join(refused.output.split())
