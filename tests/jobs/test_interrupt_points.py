"""A batch that is interrupted or killed at five random points ends as one that was left alone."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cascade.jobs import Journal
from cascade.models.base import guard
from tests.jobs.forked import Forks
from tests.servers import replies
from tests.servers.batches import BatchServer, Fault, Step

ROWS = 90
POINTS = 5
AT_ONCE = 4
HARD = 3
"""Each third draft is doubtful: 90 rows are 120 calls."""
CALLS = ROWS + ROWS // HARD
PRICES = (
    '["openai:gpt-4o-mini"]\ninput=0.15\noutput=0.6\n'
    '["openai:gpt-4o"]\ninput=2.5\noutput=10\nbatch_share=0.5\n'
)


class Upstream(BatchServer):
    async def _openai(self, request: Any) -> Any:
        return await self._answer(request, answered)

    def asked_live(self) -> Counter[tuple[str, str]]:
        """How often each model was asked each question, at once."""
        bodies = [r.body for r in self.received if r.path == "/v1/chat/completions"]
        return Counter((body["model"], body["messages"][-1]["content"]) for body in bodies)


def answered(body: Mapping[str, Any]) -> replies.Reply:
    question = str(body["messages"][-1]["content"])
    doubtful = int(question.rsplit(maxsplit=1)[-1]) % HARD == 0
    text = f"{body['model']} on {question}"
    told = [{"token": text, "logprob": math.log(0.3 if doubtful else 0.97), "top_logprobs": []}]
    given = told if body.get("logprobs") else None
    return replies.json_reply(replies.openai_body(text, logprobs=given), delay_s=0.01)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Upstream, Forks, Path]]:
    folder = tmp_path_factory.mktemp("interrupted")
    with Upstream() as upstream:
        environment = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": upstream.openai_url}
        with Forks(folder, environment) as forks:
            yield upstream, forks, folder


@pytest.fixture
def upstream(shared: tuple[Upstream, Forks, Path], monkeypatch: pytest.MonkeyPatch) -> Upstream:
    monkeypatch.setattr(guard, "forbidden", False)
    upstream, _, folder = shared
    for path in folder.iterdir():
        path.unlink()
    upstream.received.clear()
    upstream.remote.clear()
    upstream.files.clear()
    upstream.held.clear()
    (folder / "prices.toml").write_text(PRICES)
    return upstream


@pytest.fixture
def forks(shared: tuple[Upstream, Forks, Path]) -> Forks:
    return shared[1]


@pytest.fixture
def folder(shared: tuple[Upstream, Forks, Path]) -> Path:
    return shared[2]


def questions(folder: Path, n: int) -> None:
    lines = [json.dumps({"id": i, "question": f"question {i}"}) for i in range(n)]
    (folder / "in.jsonl").write_text("\n".join(lines))


def typed(output: str, *more: str) -> list[str]:
    models = ["--small", "openai:gpt-4o-mini", "--large", "openai:gpt-4o"]
    tuned = ["--prices", "prices.toml", "--concurrency", str(AT_ONCE), "--max-tokens", "20"]
    return ["batch", "in.jsonl", "-o", output, *models, *tuned, *more]


def written(path: Path) -> set[str]:
    """The questions of rows that are in a journal, whole."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    rows = [json.loads(line) for line in whole.splitlines()[1:]]
    return {f"question {row['number']}" for row in rows if row["status"] == "ok"}


def points(seed: int) -> list[int]:
    return sorted(random.Random(seed).sample(range(1, CALLS - 2 * AT_ONCE), POINTS))


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGKILL])
def test_the_output_is_the_same_and_no_row_that_was_done_is_asked_again(
    told: signal.Signals, upstream: Upstream, forks: Forks, folder: Path
) -> None:
    questions(folder, ROWS)
    assert forks.run(*typed("whole.jsonl")) == 0, forks.words()
    calls = upstream.asked_live()
    assert (set(calls.values()), sum(calls.values())) == ({1}, CALLS)
    upstream.received.clear()
    seen: set[str] = set()
    seed = int(time.time()) if os.environ.get("CASCADE_RANDOM_POINTS") else 9
    for point in points(seed):
        before = upstream.asked_live()
        code = forks.run(
            *typed("out.jsonl"),
            until=lambda point=point: len(upstream.received) >= point,  # type: ignore[misc]
            told=told,
        )
        assert code == (130 if told == signal.SIGINT else -told), forks.words()
        more = upstream.asked_live() - before
        assert not {question for _, question in more} & seen
        seen = written(folder / "out.jsonl.journal")
    before = upstream.asked_live()
    assert forks.run(*typed("out.jsonl")) == 0, forks.words()
    assert not {question for _, question in upstream.asked_live() - before} & seen
    assert (folder / "out.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    repeated = upstream.asked_live() - calls
    assert set(upstream.asked_live()) == set(calls)
    most = 0 if told == signal.SIGINT else POINTS * 2 * AT_ONCE
    assert sum(repeated.values()) <= most


FEW = 9
ASKED: dict[str, str] = {}
"""The output of a job by batch that was left alone."""


@pytest.mark.parametrize("step", ["upload", "create", "retrieve", "content"])
@pytest.mark.parametrize("fault", ["hang_before", "hang_after"])
def test_killed_at_any_step_of_a_batch_it_is_sent_and_paid_once(
    step: Step, fault: Fault, upstream: Upstream, forks: Forks, folder: Path
) -> None:
    questions(folder, FEW)
    upstream.looks = 0
    if not ASKED:
        assert forks.run(*typed("whole.jsonl", "--large-batch")) == 0, forks.words()
        ASKED["whole"] = (folder / "whole.jsonl").read_text()
        upstream.received.clear()
        upstream.remote.clear()
    upstream.fails(step, fault)
    command = typed("out.jsonl", "--large-batch")
    assert forks.run(*command, until=upstream.held.is_set) == -signal.SIGKILL
    assert forks.run(*command) == 0, forks.words()
    assert (folder / "out.jsonl").read_text() == ASKED["whole"]
    assert upstream.batched == Counter({f"question {n}": 1 for n in range(0, FEW, HARD)})
    assert set(upstream.asked_live().values()) == {1}
    assert {model for model, _ in upstream.asked_live()} == {"gpt-4o-mini"}
    assert not (folder / "out.jsonl.batches").exists()


def test_interrupted_while_it_waits_it_ends_at_once_and_says_what_is_under_way(
    upstream: Upstream, forks: Forks, folder: Path
) -> None:
    questions(folder, FEW)
    upstream.looks = 10**6
    command = typed("out.jsonl", "--large-batch")

    def waits() -> bool:
        return any(batch.looks for batch in upstream.remote.values())

    assert forks.run(*command, until=waits, told=signal.SIGINT) == 130
    said = " ".join(forks.words().split())
    assert "at the provider: 0 of 3 rows answered in 1 batches, which may take 24 hours" in said
    assert "it was interrupted. Run the same command again to go on." in said
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [n for n in range(FEW) if n % HARD]
    assert forks.run(*command, "--fresh") == 2
    assert "has batches that were sent" in " ".join(forks.words().split())
    assert forks.run(*typed("out.jsonl")) == 2
    assert "begun with another large_model" in " ".join(forks.words().split())
    upstream.looks = 0
    assert forks.run(*command) == 0, forks.words()
    assert len((folder / "out.jsonl").read_text().splitlines()) == FEW
    assert len(upstream.remote) == 1
    with Journal(folder / "out.jsonl.journal", _head(folder)) as journal:
        assert (journal.answered, journal.waiting) == (FEW, 0)


def _head(folder: Path) -> Mapping[str, Any]:
    with (folder / "out.jsonl.journal").open() as file:
        head: Mapping[str, Any] = json.loads(file.readline())["made_with"]
    return head
