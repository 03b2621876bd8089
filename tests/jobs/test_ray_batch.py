"""`--engine ray` on a real cluster of several processes: killed, stopped, out of money."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cascade.cli import app
from cascade.cli.recipe import Recipe
from cascade.jobs import Done, Journal, made_with, read_rows, run_job
from cascade.jobs.parts import parts_of
from cascade.models.base import guard
from tests.servers import replies
from tests.servers.fake import FakeServer

pytest.importorskip("ray", reason="the extra ray is not installed")

from cascade.jobs.ray_cluster import cluster
from cascade.jobs.ray_crew import pids
from cascade.jobs.ray_engine import run_job_on_ray
from tests.servers.ray_node import sparing

# Ray Data reads its own settings that it has set aside.
pytestmark = pytest.mark.filterwarnings(r"ignore:`\w+` is deprecated")

ROWS, REPLICAS, AT_ONCE = 240, 2, 4
HARD = 4
"""Each fourth draft is doubtful."""

KEY = "KEY_OF_THE_UPSTREAM"


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
    return replies.json_reply(replies.openai_body(text, logprobs=given), delay_s=0.02)


@pytest.fixture(scope="module")
def _ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cluster for all tests: starting it takes most of the time."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        environment.delenv("RAY_ADDRESS", raising=False)
        environment.setenv(KEY, "k")  # replicas have the environment of their cluster
        # Ray ends its processes too hard for them to say what they have covered.
        environment.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        with ExitStack() as opened:
            with sparing():
                opened.enter_context(cluster(None, REPLICAS))
            yield
        assert list(Path(os.environ["HOME"]).iterdir()) == []


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def folder(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv(KEY, "k")
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": n, "question": f"question {n}"}) for n in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "no json"]))
    tier = {"base_url": upstream.openai_url, "api_key_env": KEY, "max_tokens": 20}
    tiers = [
        {**tier, "model": "openai:small", "price": {"input": "0.15", "output": "0.6"}},
        {**tier, "model": "openai:large", "price": {"input": "2.5", "output": "10"}},
    ]
    for name in ("ray", "local"):
        cascades = {"one": {"tiers": tiers, "threshold": 0.8}}
        service = {"cascades": cascades, "ledger": {"url": f"sqlite:///{name}.db"}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(service))
    return tmp_path


def recipe(name: str) -> Recipe:
    nothing: dict[str, Any] = dict.fromkeys(Recipe.__dataclass_fields__)
    return Recipe(**{**nothing, "config": Path(f"{name}.yaml")})


def typed(*more: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["batch", "in.jsonl", *map(str, more)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def read_back(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def entries(path: Path) -> list[tuple[str, Decimal]]:
    """Each entry's run and cost."""
    with closing(sqlite3.connect(path)) as ledger:
        found = ledger.execute("SELECT run_id, cost_usd FROM ledger_entries").fetchall()
    return [(run_id, Decimal(str(cost or 0))) for run_id, cost in found]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--replicas", 2], "--replicas goes with --engine ray"),
        (["--replica-cpus", 2], "--replica-cpus goes with --engine ray"),
        (["--ray-address", "auto"], "--ray-address goes with --engine ray"),
        (["--engine", "ray", "--plan"], "--plan is done in one process"),
        (["--engine", "ray", "--large-batch"], "--large-batch is done in one process"),
        (["--engine", "ray", "--replica-cpus", 0], "replica_cpus=0.0: must be more than 0"),
        (["--engine", "ray", "--ray-address", "127.0.0.1:9"], "at 127.0.0.1:9 cannot be reached"),
    ],
)
def test_what_an_engine_would_ignore_or_cannot_do_is_refused(
    more: list[object], message: str, upstream: Upstream, folder: Path
) -> None:
    refused = typed("-o", "out.jsonl", "--config", "ray.yaml", *more, code=2)
    assert message in " ".join(refused.stderr.split())
    assert upstream.received == []


def test_without_ray_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cascade.jobs.ray_cluster.find_spec", lambda _: None)
    refused = typed("-o", "out.jsonl", "--config", "ray.yaml", "--engine", "ray", code=2)
    assert 'pip install "agent-cascade[ray]"' in " ".join(refused.stderr.split())


@pytest.mark.usefixtures("_ray")
def test_a_replica_is_killed_and_the_job_stopped_and_the_other_engine_ends_it_all_the_same(
    upstream: Upstream, folder: Path
) -> None:
    path = folder / "out.jsonl.journal"
    killed: list[int] = []
    stop = asyncio.Event()

    def show(done: Done) -> None:
        if done.answered == ROWS // 3 and not killed:
            killed.append(living(path)[0])
            os.kill(killed[0], signal.SIGKILL)
        if done.answered >= 3 * ROWS // 4 and len(living(path)) == REPLICAS:
            stop.set()

    with recipe("ray")() as cascade, Journal(path, made_with(cascade)) as journal:
        working = run_job_on_ray(
            recipe("ray"),
            read_rows(folder / "in.jsonl"),
            journal,
            replicas=REPLICAS,
            concurrency=AT_ONCE,
            progress=show,
            stop=stop,
        )
        done = asyncio.run(working)
        lost = {n for n in range(ROWS) if (found := journal.find(n)) and found.lost}
        assert not parts_of(path).exists()
        assert done.stopped in (None, "it was interrupted")
        assert 3 * ROWS // 4 <= done.answered <= ROWS
        assert len(lost) == done.lost <= AT_ONCE, "what the replica had under way"
        rest = asyncio.run(run_job(cascade, read_rows(folder / "in.jsonl"), journal))
        assert (rest.resumed, rest.answered, rest.failed) == (
            done.answered,
            ROWS - done.answered,
            1,
        )
    again = {question for (_, question), n in upstream.asked().items() if n > 1}
    assert again <= {f"question {n}" for n in lost}
    typed("-o", "out.jsonl", "--run-ids", "--config", "ray.yaml", code=1)
    upstream.received.clear()
    typed("-o", "whole.jsonl", "--config", "local.yaml", code=1)
    rows = read_back(folder / "out.jsonl")
    runs = {row.pop("run_id") for row in rows} - {None}
    assert rows == read_back(folder / "whole.jsonl")
    told = sum(cost for run_id, cost in entries(folder / "ray.db") if run_id in runs)
    assert told == sum(cost for _, cost in entries(folder / "local.db"))
    assert told == sum(Decimal(row["cost_usd"]) for row in rows[:ROWS])


def living(path: Path) -> list[int]:
    return [pid for run in parts_of(path).iterdir() for pid in pids(run)]


@pytest.mark.usefixtures("_ray")
def test_as_typed_it_goes_on_with_what_was_begun_here_and_keeps_the_budget(
    upstream: Upstream, folder: Path
) -> None:
    same = ["-o", "out.jsonl", "--config", "ray.yaml", "--concurrency", str(AT_ONCE), "--json"]
    first = json.loads(typed(*same, "--budget-usd", "0.001", code=1).stdout)
    on_ray = [*same, "--engine", "ray", "--replicas", str(REPLICAS), "--budget-usd"]
    then = json.loads(typed(*on_ray, "0.002", code=1).stdout)
    assert "the budget of $0.002 does not cover another row" in then["stopped"]
    assert then["resumed"] == first["answered"] > 0
    assert then["answered"] > 0
    spent = sum(cost for _, cost in entries(folder / "ray.db"))
    assert spent == Decimal(then["before_usd"]) + Decimal(then["spent_usd"])
    assert Decimal("0.001") < spent <= Decimal("0.002")
    assert set(upstream.asked().values()) == {1}
