"""Parts of a journal: what replicas have done is taken up, once, whoever is killed."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import pyarrow as pa
import pytest

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs import Journal, Record, Row, made_with, run_job
from cascade.jobs import parts as parts_module
from cascade.jobs.parts import Part, new_run, parts_of
from cascade.jobs.ray_replica import (
    MOST_LOST,
    STOP,
    Answers,
    Problem,
    Replica,
    Work,
    from_bytes,
    to_bytes,
)
from cascade.testing import ScriptedModel, reply

PRICE = Price(input=1, output=1)
SET_UP = {"models": ["a"], "settings": "x"}


def rows(*numbers: int) -> list[Row]:
    return [Row(n, {}, f"question {n}") for n in numbers]


def record(number: int, **more: Any) -> Record:
    return Record(number, rows(number)[0].key, "ok", counted_usd=Decimal(1), **more)


class Asked(list[str]):
    """What was asked of the small model, in order."""

    def answer(self, request: Any) -> Any:
        self.append(str(request.messages[-1].text))
        return reply(self[-1].upper(), probability=0.95)

    @contextmanager
    def cascade(self, **options: Any) -> Iterator[Cascade]:
        small = Tier(ScriptedModel(self.answer, returns_logprobs=True), price=PRICE)
        with Cascade(small, Tier(ScriptedModel("x", name="large"), price=PRICE), **options) as made:
            yield made


def work(asked: Asked, parts: Path, **changed: Any) -> Work:
    with asked.cascade() as cascade:
        depends = made_with(cascade)
    told = Work(asked.cascade, depends, "night", parts, Path.cwd(), 4, None)
    return replace(told, **changed)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run, with the part of one block."""
    made = new_run(tmp_path / "j", SET_UP)
    (made / "0.part").touch()
    return made


def done(answers: Answers | Problem) -> Answers:
    assert not isinstance(answers, Problem), answers
    return answers


def test_a_block_that_is_given_again_asks_only_what_was_not_answered(
    asked: Asked, folder: Path
) -> None:
    with Part(folder / "0.part") as part:
        part.begin(1)
        part.add(record(1, answer="before"))
        part.begin(2)  # and killed
    answers = done(Replica(work(asked, folder)).answer(0, rows(1, 2, 3)))
    assert sorted(asked) == ["question 2", "question 3"]
    assert [answers[n].answer for n in (1, 2, 3)] == ["before", "QUESTION 2", "QUESTION 3"]
    assert [answers[n].lost for n in (1, 2, 3)] == [None, 1, None]


def test_a_row_that_was_changed_is_not_taken_for_the_one_that_was_answered(
    asked: Asked, folder: Path
) -> None:
    with Part(folder / "0.part") as part:
        part.add(replace(record(1), key="another"))
    assert done(Replica(work(asked, folder)).answer(0, rows(1)))[1].answer == "QUESTION 1"


def test_a_block_that_the_journal_has_is_not_asked_again(asked: Asked, folder: Path) -> None:
    (folder / "0.part").unlink()
    assert done(Replica(work(asked, folder)).answer(0, rows(1))) == {}
    assert asked == []


def test_half_a_line_of_a_process_that_was_killed_is_cut_off(asked: Asked, folder: Path) -> None:
    with (folder / "0.part").open("wb") as file:
        file.write(b'{"begun": 1}\n{"number": 1, "ke')
    answers = done(Replica(work(asked, folder)).answer(0, rows(1)))
    assert (answers[1].answer, answers[1].lost) == ("QUESTION 1", 1)
    with Part(folder / "0.part") as part:
        assert part.find(1, rows(1)[0].key) == answers[1]


def test_a_row_that_ends_each_replica_is_given_up(asked: Asked, folder: Path) -> None:
    with Part(folder / "0.part") as part:
        for _ in range(MOST_LOST):
            part.begin(1)
    answers = done(Replica(work(asked, folder)).answer(0, rows(1, 2)))
    assert (answers[1].status, answers[1].lost) == ("error", MOST_LOST)
    assert "3 replica(s) ended while it was under way" in str(answers[1].error)
    assert asked == ["question 2"]


def test_after_a_stop_no_row_is_begun(asked: Asked, folder: Path) -> None:
    replica = Replica(work(asked, folder))
    (folder / STOP).touch()
    with Part(folder / "0.part") as part:
        part.begin(2)  # and killed: what that cost is not forgotten
    answers = done(replica.answer(0, rows(1, 2)))
    assert [(n, record.status, record.lost) for n, record in answers.items()] == [(2, "error", 1)]
    assert asked == []


def test_two_processes_are_not_at_one_block_at_once(asked: Asked, folder: Path) -> None:
    replica, answers = Replica(work(asked, folder)), []
    with Part(folder / "0.part") as first:
        other = threading.Thread(target=lambda: answers.append(replica.answer(0, rows(1))))
        other.start()
        first.begin(1)
        first.add(record(1, answer="mine"))
    other.join(30)
    assert done(answers[0])[1].answer == "mine"
    assert asked == []


def test_who_does_not_let_go_of_a_block_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PATIENCE_S", 0.1)
    with (
        Part(folder / "0.part"),
        pytest.raises(ConfigurationError, match=r"is still at .*0\.part"),
    ):
        Part(folder / "0.part")


def test_blocks_come_and_go_as_tables(asked: Asked, folder: Path) -> None:
    cells = {"index": [0], "rows": pa.array([pickle.dumps(rows(7))], pa.large_binary())}
    told = Replica(work(asked, folder))(pa.table(cells)).to_pylist()
    assert told[0]["index"] == 0
    assert done(from_bytes(told[0]["answers"]))[7].answer == "QUESTION 7"


def test_what_a_replica_says_is_what_the_job_hears() -> None:
    told = record(7, answer="a\nb\r\x0b\u2028\udc80", saved_usd=Decimal("-0.10"), confidence=0.1)
    for said in ({}, {7: told, 8: record(8, paused={"a": [1]})}, Problem("LedgerError", "é\n")):
        assert from_bytes(to_bytes(said)) == said


class Ended:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        raise AttributeError("in the user's factory")


def test_what_fails_while_a_replica_closes_is_told(
    asked: Asked, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda found: told.append(str(found.exc_value)))
    replica = Replica(work(asked, folder, factory=Ended))
    assert isinstance(replica.answer(0, rows(1)), Problem)  # it is no cascade
    del replica
    gc.collect()
    assert told == ["in the user's factory"]


def test_a_replica_that_was_not_made_has_nothing_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda found: told.append(str(found.exc_value)))
    with pytest.raises(AttributeError, match="concurrency"):
        Replica(cast("Work", None))
    gc.collect()
    assert told == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"made_with": {"models": []}}, "its cascade is not that of the job"),
        ({"folder": Path("/nowhere")}, "have to see the folder of the output"),
        ({"directory": Path("/nowhere")}, "works where the job was started"),
        ({"factory": lambda: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_replica_that_cannot_begin_says_why(
    changed: Any, message: str, asked: Asked, folder: Path
) -> None:
    problem = Replica(work(asked, folder, **changed)).answer(0, rows(1))
    assert isinstance(problem, Problem)
    assert isinstance(problem.error(), ConfigurationError)
    assert message in str(problem.error())
    assert asked == []


def test_a_part_that_cannot_be_written_is_an_error_of_the_ledger(
    asked: Asked, folder: Path
) -> None:
    (folder / "0.part").unlink()
    (folder / "0.part").mkdir()
    problem = Replica(work(asked, folder)).answer(0, rows(1))
    assert isinstance(problem, Problem)
    assert isinstance(problem.error(), LedgerError)


async def test_a_journal_takes_up_what_replicas_of_a_killed_job_have_done(
    asked: Asked, tmp_path: Path
) -> None:
    with asked.cascade() as cascade:
        path, depends = tmp_path / "j", made_with(cascade)
        folder = new_run(path, depends)
        (folder / "0.part").touch()
        with Part(folder / "0.part") as part:
            part.begin(0)
            part.add(record(0, answer="paid", run_id="r"))
            part.begin(1)
        with Journal(path, depends) as journal:
            found = journal.find(0)
            assert found is not None
            assert (found.answer, journal.spent_usd) == ("paid", 1)
            told = await run_job(cascade, rows(0, 1), journal)
            assert (told.resumed, told.answered) == (1, 1)
    assert asked == ["question 1"]
    assert not parts_of(path).exists()


def test_what_the_journal_has_already_is_not_counted_twice(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, SET_UP) as journal:
        journal.add(record(0, run_id="r"))
    folder = new_run(path, SET_UP)
    (folder / "0.part").touch()
    with Part(folder / "0.part") as part:
        part.add(record(0, run_id="r"))
    with Journal(path, SET_UP) as journal:
        assert (journal.spent_usd, journal.answered) == (1, 1)


def test_parts_of_another_set_up_are_refused(tmp_path: Path) -> None:
    new_run(tmp_path / "j", SET_UP)
    with pytest.raises(ConfigurationError, match="answers of another set-up"):
        Journal(tmp_path / "j", {**SET_UP, "settings": "y"})


def test_a_replica_that_was_left_behind_begins_nothing_once_its_parts_are_taken_up(
    asked: Asked, folder: Path, tmp_path: Path
) -> None:
    replica = Replica(work(asked, folder))
    Journal(tmp_path / "j", SET_UP).__exit__()
    assert isinstance(replica.answer(0, rows(1)), Problem)
    assert asked == []


def test_entries_are_in_the_ledger_before_a_row_is_told(asked: Asked, folder: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            self.entries: list[Any] = []
            self.told = b""

        def append(self, entries: Any) -> None:
            self.entries += entries

        async def flush(self) -> None:
            await asyncio.sleep(0.05)
            self.told = (folder / "0.part").read_bytes()

    store = Slow()
    told = work(asked, folder, factory=partial(asked.cascade, ledger=store))
    assert done(Replica(told).answer(0, rows(1)))[1].answer == "QUESTION 1"
    assert store.entries
    assert b'"begun"' in store.told
    assert b'"answer"' not in store.told
