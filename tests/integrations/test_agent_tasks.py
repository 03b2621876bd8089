"""The agents of `benchmarks/assistants` on their thirty tasks: replayed, and two tasks live."""

from __future__ import annotations

import importlib
import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cascade import Tier
from cascade.errors import ModelNotFoundError
from cascade.ledger import MemoryLedger
from cascade.models.llamacpp import find_weights

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "agents_tasks.md"
NAMES = ("small alone", "large alone", "cascade")


@pytest.fixture(scope="module")
def benchmark() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("agent_tasks")


@pytest.fixture(scope="module")
def runs(benchmark: Any) -> dict[str, Any]:
    """The three runs, out of the recordings alone."""
    return {run.name: run for run in benchmark.runs(benchmark.recorded())}


@pytest.fixture
def tasks(benchmark: Any) -> dict[str, Any]:
    return {task.id: task for task in benchmark.TASKS}


def rows() -> dict[str, list[str]]:
    """The table of the document."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells if row[0] in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_the_document_is_what_the_recordings_give(
    runs: dict[str, Any], name: str
) -> None:
    row = runs[name].figures()
    assert rows()[name] == [
        f"{row['solved']} of {row['tasks']}",
        f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
        f"{row['cost_usd']}",
        str(row["steps"]),
        str(row["escalated"]),
        str(row["calls"]),
        f"{row['seconds']:.0f}",
    ]


def test_the_cascade_solves_what_the_large_model_solves(runs: dict[str, Any]) -> None:
    solved = {name: {done.task.id for done in runs[name].done if done.solved} for name in NAMES}
    assert solved["cascade"] == solved["large alone"]
    assert solved["small alone"] == set()


def test_each_call_that_was_paid_is_in_the_ledger(runs: dict[str, Any]) -> None:
    cascade = runs["cascade"]
    steps = sum(done.steps for done in cascade.done)
    escalated = sum(done.escalated for done in cascade.done)
    assert cascade.figures()["calls"] == steps + escalated
    assert all(entry.cost_usd is not None for entry in cascade.ledger if entry.model)


def test_a_step_that_repeats_the_one_before_it_is_never_the_small_models(
    runs: dict[str, Any],
) -> None:
    """Without this rule most tasks end in a circle, of whose calls the small model is sure."""
    for done in runs["cascade"].done:
        steps = [message for message in done.messages if message.type == "ai"]
        for before, step in pairwise(steps):
            made = [(call["name"], call["args"]) for call in before.tool_calls]
            again = [(call["name"], call["args"]) for call in step.tool_calls]
            assert step.response_metadata["tier"] == "large" or again != made


def test_there_are_thirty_tasks_with_one_and_with_more_steps(tasks: dict[str, Any]) -> None:
    kinds = [task.kind for task in tasks.values()]
    assert (len(kinds), kinds.count("sql"), kinds.count("files")) == (30, 15, 15)
    assert {task.steps for task in tasks.values()} == {2, 3}


def test_no_task_is_solved_by_an_agent_that_does_nothing(
    tasks: dict[str, Any], tmp_path: Path
) -> None:
    for name, task in tasks.items():
        folder = tmp_path / name
        folder.mkdir()
        place = task.prepare(folder)
        assert not task.solved(place, "I do not know."), name
        assert not task.solved(place, ""), name


@pytest.mark.parametrize(
    ("name", "answer", "solved"),
    [
        ("price of the lamp", "It costs $24.50.", True),
        ("price of the lamp", "24.5", True),
        ("price of the lamp", "24.5 or 80", False),
        ("price of the lamp", "124.5", False),
        ("customers in Oslo", "There are 2 customers.", True),
        ("customers in Oslo", "1. run_query 2. Result", False),
        ("category of the kettle", "['light', 'furniture', 'kitchen']", False),
        ("most expensive", "The Desk, at 199", True),
        ("most expensive", "Lamp, Chair, Desk", False),
        ("furniture", "Desk, Shelf and Chair", True),
        ("furniture", "Desk and Shelf", False),
        ("count files", "There are six files.", True),
        ("first item", "buy milk", True),
        ("umbrella", "meeting.txt", True),
        ("umbrella", "meeting.txt or trip.txt", False),
    ],
)
def test_an_answer_has_to_say_the_right_thing_and_no_other(
    tasks: dict[str, Any], tmp_path: Path, name: str, answer: str, solved: bool
) -> None:
    assert tasks[name].solved(tasks[name].prepare(tmp_path), answer) is solved


@pytest.mark.parametrize(
    ("name", "statement", "solved"),
    [
        ("set the stock", "UPDATE products SET stock = 9 WHERE id = 3", True),
        ("set the stock", "UPDATE products SET stock = 9", False),
        ("add a customer", "INSERT INTO customers VALUES (6, 'Zoe', 'Rome')", True),
        ("add a customer", "INSERT INTO customers VALUES (7, 'Zoe', 'Rome')", False),
        ("count products", "DELETE FROM orders", False),
    ],
)
def test_the_database_has_to_hold_the_change_and_no_other(
    tasks: dict[str, Any], tmp_path: Path, name: str, statement: str, solved: bool
) -> None:
    path = tasks[name].prepare(tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    assert tasks[name].solved(path, "There are 7 products.") is solved


@pytest.mark.parametrize(
    ("name", "file", "text", "solved"),
    [
        ("write a number", "answer.txt", "42\n", True),
        ("write a number", "answer.txt", "the answer", False),
        ("copy", "copy.txt", "buy milk\ncall the bank", True),
        ("extract", "rent.txt", "900", True),
        ("extract", "budget.txt", "900", False),
        ("rent", "notes.txt", "900", False),
    ],
)
def test_the_folder_has_to_hold_the_file_and_no_other(
    tasks: dict[str, Any], tmp_path: Path, name: str, file: str, text: str, solved: bool
) -> None:
    place = tasks[name].prepare(tmp_path)
    (place / file).write_text(text, encoding="utf-8")
    assert tasks[name].solved(place, "900") is solved


def test_the_agents_know_nothing_of_a_cascade() -> None:
    for name in ("sql_assistant", "file_assistant"):
        source = (ROOT / "benchmarks" / "assistants" / f"{name}.py").read_text(encoding="utf-8")
        assert not re.search(r"\bcascade\b", source, re.IGNORECASE)


@pytest.mark.live
def test_the_agents_run_with_the_embedded_model(benchmark: Any, tasks: dict[str, Any]) -> None:
    pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
    try:
        find_weights("smollm2-135m")
    except ModelNotFoundError as missing:
        pytest.skip(str(missing))
    tier = Tier(
        "llamacpp:smollm2-135m",
        price=benchmark.PRICES["small"],
        max_tokens=40,
        temperature=0,
        options={"n_ctx": 4096, "n_parallel": 1},
    )
    chosen = [tasks["city of Ada"], tasks["time of the meeting"]]

    def alone(ledger: MemoryLedger) -> Any:
        return benchmark.Cascade(tiers=[tier], ledger=ledger)

    run = benchmark.run_tasks("small alone", alone, chosen)
    assert all(done.steps >= 1 for done in run.done)
    called = [
        call["name"]
        for done in run.done
        for message in done.messages
        if message.type == "ai"
        for call in message.tool_calls
    ]
    assert called, "the model is forced to call"
    assert len(run.ledger) == sum(done.steps for done in run.done)
