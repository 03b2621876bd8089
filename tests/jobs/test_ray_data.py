"""Ray engine: the records of the local one, from replicas on a real cluster."""

import json
import os
import pickle
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from cascade._portal import run_sync
from cascade.cli.options import Models
from cascade.errors import ConfigurationError, MissingDependencyError, ModelUnavailableError
from cascade.jobs import Journal, Row, made_with, ray_data
from cascade.jobs.ray_data import Replica, run_on_ray
from cascade.ledger import open_store
from cascade.models.base import guard
from tests.acceptance.upstream import Answer, Seen, Upstream

PRICES = '["openai:small"]\ninput = 1\noutput = 1\n["openai:large"]\ninput = 10\noutput = 10\n'


def answer(seen: Seen) -> Answer:
    doubtful = int(seen.last.rsplit(maxsplit=1)[-1]) % 4 == 0
    return Answer(f"{seen.model} on {seen.last}", p=0.3 if doubtful else 0.97)


@pytest.fixture
def upstream(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Upstream]:
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prices.toml").write_text(PRICES)
    with getattr(request, "param", Upstream)(answer) as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.openai_url)
        yield running


def making(threshold: float = 0.8, prices: str = "prices.toml") -> Any:
    """What makes the cascade of a job."""
    models = Models(small="openai:small", large="openai:large", prices=Path(prices), max_tokens=20)
    return partial(models.open, ledger="sqlite:///ledger.db", threshold=threshold)


MAKE = making()


def expected() -> Any:
    """What the answers of a job depend on."""
    with ExitStack() as opened:
        return made_with(MAKE(opened))


def rows(n: int) -> list[Row]:
    return [*(Row(i, {"id": i}, f"question {i}") for i in range(n)), Row(n, {}, problem="no JSON")]


def said_by(replica: Replica, given: list[Row]) -> list[dict[str, Any]]:
    table = replica(pa.table({"row": [pickle.dumps(row) for row in given]}))
    return [json.loads(line) for line in table["said"].to_pylist()]


def test_a_replica_answers_in_order_and_books_it(upstream: Upstream, tmp_path: Path) -> None:
    replica = Replica(MAKE, expected(), tmp_path)
    found = said_by(replica, rows(5)[:-1])
    assert [(record["number"], record["tier"]) for record in found] == [
        (n, "large" if n % 4 == 0 else "small") for n in range(5)
    ]
    del replica
    with open_store("sqlite:///ledger.db") as store:
        booked = run_sync(store.entries())
    assert sum(entry.model is not None for entry in booked) == 5 + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [({"threshold": 0.5}, "not those of the job"), ({"prices": "none.toml"}, "none.toml")],
)
def test_a_replica_with_another_set_up_says_so_and_asks_nothing(
    change: dict[str, Any], message: str, upstream: Upstream, tmp_path: Path
) -> None:
    replica = Replica(making(**change), expected(), tmp_path)
    (found,) = said_by(replica, rows(3)[:-1])
    assert message in found["problem"]
    assert upstream.seen == []


def test_a_number_below_one_and_a_missing_package_are_named(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "j", expected()) as journal:
        with pytest.raises(ConfigurationError, match="concurrency=0"):
            run_on_ray(MAKE, rows(1), journal, concurrency=0)
        monkeypatch.setattr(ray_data, "find_spec", lambda name: None)
        with pytest.raises(MissingDependencyError, match="the extra `ray`"):
            run_on_ray(MAKE, rows(1), journal)


def test_where_all_is_done_no_cluster_is_begun(upstream: Upstream, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with Journal(tmp_path / "j", expected()) as journal:
        assert run_on_ray(MAKE, [], journal).rows == 0


class FailedError(Exception):
    """As Ray's own errors."""


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ("replica", ConfigurationError, "a replica cannot begin: other options"),
        ("node", ModelUnavailableError, "a node has died"),
        ("cluster", ConfigurationError, "cannot be reached: nobody listens"),
    ],
)
def test_what_is_wrong_with_a_replica_or_with_ray_is_told(
    wrong: str,
    error: type[Exception],
    words: str,
    upstream: Upstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = mock.MagicMock()
    ray.exceptions.RayError = FailedError
    ray.is_initialized.return_value = wrong != "cluster"
    ray.init.side_effect = ConnectionError("nobody listens")
    ray.cluster_resources.return_value = {}
    answers = ray.from_items.return_value.map_batches.return_value.iter_rows
    answers.side_effect = FailedError("a node has died") if wrong == "node" else None
    answers.return_value = [{"said": json.dumps({"problem": "other options"})}]

    def module(name: str) -> Any:
        return ray if name.startswith("ray") else import_module(name)

    monkeypatch.setattr(ray_data, "import_module", module)
    with Journal(tmp_path / "j", expected()) as journal, pytest.raises(error, match=words):
        run_on_ray(MAKE, rows(3), journal)


@pytest.fixture
def _cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})  # on whatever machine
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.mark.heavy
@pytest.mark.filterwarnings(r"ignore")  # of Ray's own settings
@pytest.mark.usefixtures("_cluster")
def test_a_cluster_answers_every_row_once_and_for_all(upstream: Upstream, tmp_path: Path) -> None:
    with Journal(tmp_path / "j", expected()) as journal:
        done = run_on_ray(MAKE, rows(40), journal, concurrency=4)
        assert (done.answered, done.failed, done.escalated) == (40, 1, 10)
        assert journal.spent_usd == done.spent_usd > Decimal(0)
        found = [journal.find(n) for n in range(40)]
        assert [record and record.answer for record in found] == [
            f"{'large' if n % 4 == 0 else 'small'} on question {n}" for n in range(40)
        ]
        asked = len(upstream.seen)
        assert asked == 50
        again = run_on_ray(MAKE, rows(40), journal)
        assert (again.resumed, again.answered, len(upstream.seen)) == (40, 0, asked)


class Killing(Upstream):
    """Kills the replicas when it gets its twentieth request, which is under way in one of them."""

    killed = 0

    async def _asked(self, request: Any) -> Any:
        if len(self.seen) == 20:
            for replica in replicas_of(self.openai_url):
                os.kill(replica, signal.SIGKILL)
                self.killed += 1
        return await super()._asked(request)


def replicas_of(url: str) -> Iterator[int]:
    """Processes that Ray has made for a job whose models are there."""
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            ours = url.encode() in (process / "environ").read_bytes()
            if ours and b"MapWorker" in (process / "cmdline").read_bytes():
                yield int(process.name)


@pytest.mark.heavy
@pytest.mark.filterwarnings(r"ignore")  # of Ray's own settings
@pytest.mark.usefixtures("_cluster")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds replicas in /proc")
@pytest.mark.parametrize("upstream", [Killing], indirect=True)
def test_of_killed_replicas_nothing_is_lost_or_doubled(upstream: Killing, tmp_path: Path) -> None:
    with Journal(tmp_path / "j", expected()) as journal:
        done = run_on_ray(MAKE, rows(60), journal, concurrency=4)
        answers = [record and record.answer for record in map(journal.find, range(60))]
    assert upstream.killed >= 1
    assert (done.answered, done.failed, done.escalated) == (60, 1, 15)
    assert answers == [f"{'large' if n % 4 == 0 else 'small'} on question {n}" for n in range(60)]
    with open_store("sqlite:///ledger.db") as store:
        booked = [entry for entry in run_sync(store.entries()) if entry.model is not None]
        unfinished = run_sync(store.unfinished())
    # Of each call that was sent there is an entry, or a trace of unknown cost.
    assert len(booked) <= len(upstream.seen) <= len(booked) + len(unfinished)
    assert 1 <= len(unfinished) <= 2 * 2 * 4
    assert 60 + 15 < len(upstream.seen) <= 60 + 15 + 2 * 2 * 4  # their blocks anew
