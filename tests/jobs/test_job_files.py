"""Files of a job: what is a problem of a row, and what of a file; what is written, and what not."""

import csv
import json
import os
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs import Journal, Row, check_rows, read_rows, write_output


def test_json_lines_csv_and_parquet_give_the_same_questions(tmp_path: Path) -> None:
    rows = [{"id": str(n), "question": f"What is {n}?"} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (tmp_path / "a.csv").write_text("id,question\n" + "".join(f"{n},What is {n}?\n" for n in "012"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        found = list(read_rows(tmp_path / name))
        assert [(r.number, r.question, dict(r.columns)) for r in found] == [
            (n, row["question"], row) for n, row in enumerate(rows)
        ]


def test_a_folder_is_read_in_the_order_of_its_names_and_numbered_through(tmp_path: Path) -> None:
    for name, ending in (("c", "JSONL"), ("a", "jsonl"), ("b", "jsonl")):
        file = tmp_path / f"{name}.{ending}"
        file.write_text(f'{{"prompt": "{name}1"}}\n{{"prompt": "{name}2"}}')
    (tmp_path / "notes.txt").write_text("no rows")
    found = list(read_rows(tmp_path))
    assert [row.question for row in found] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert [row.number for row in found] == list(range(6))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "x"}', "there is nothing in messages or question or prompt"),
        ('{"question": ""}', "there is nothing in"),
        ('{"question": "  "}', "the question is empty"),
        ('{"question": 7}', "of type int"),
        ('{"messages": "[{]"}', "messages: "),
        ('{"messages": []}', "the list of messages is empty"),
    ],
)
def test_a_row_that_cannot_be_asked_stops_no_other(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "one"}}\n{line}\n{{"question": "two"}}\n')
    check_rows(path)
    first, odd, last = read_rows(path)
    assert (first.question, odd.question, last.question) == ("one", None, "two")
    assert problem in str(odd.problem)


def test_messages_may_be_text_and_a_system_message_goes_before_texts(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}]
    path = tmp_path / "a.jsonl"
    lines = [{"messages": turns}, {"messages": json.dumps(turns)}, {"question": "hello"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    given, told, plain = read_rows(path, system="Be brief.")
    assert given.question == told.question == turns
    assert plain.question == [("system", "Be brief."), ("human", "hello")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": '{"question": "x"}\n{'}, "a.jsonl:2"),
        ({"a.csv": "id,text\n1,x\n"}, "has no column messages or question or prompt: it has id"),
        ({"a.csv": "question,answer\nx,y\n"}, "column 'answer' already"),
        ({"a.csv": "question\nA\n", "b.jsonl": '{"question": "B", "x": 1}\n'}, "several kinds"),
    ],
)
def test_files_that_are_no_questions_are_refused_before_anything_is_asked(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        check_rows(tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal", {}) as opened:
        yield opened


def done(journal: Journal, *columns: dict[str, Any]) -> list[Row]:
    given = [Row(n, row, f"question {n}") for n, row in enumerate(columns)]
    for n, row in enumerate(given):
        journal.add(row.record(status="ok", answer=f"answer {n}", degraded=False))
    return given


def test_a_row_that_is_new_or_has_changed_is_left_out(journal: Journal, tmp_path: Path) -> None:
    given = done(journal, {"id": 0}, {"id": 1})
    changed = [given[0], Row(1, {"id": 1}, "another"), Row(2, {"id": 2}, "never asked")]
    assert write_output(tmp_path / "o.jsonl", changed, journal, prefix="c_") == 1
    (line,) = (tmp_path / "o.jsonl").read_text().splitlines()
    assert json.loads(line)["c_answer"] == "answer 0"


def test_a_csv_has_the_columns_of_all_rows_and_lists_and_truths_as_json(
    journal: Journal, tmp_path: Path
) -> None:
    given = done(journal, {"tags": ["a", "ü"], "tier": 0}, {"tags": None, "at": Decimal("1E-7")})
    write_output(tmp_path / "o.csv", given, journal)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["tags"], second["tags"], first["degraded"]) == ('["a", "ü"]', "", "false")
    assert (first["at"], second["at"], first["tier"]) == ("", "0.0000001", "")
    assert (tmp_path / "o.csv").read_text().startswith("tags,tier,at,answer,confidence,")
    for name in ("o.csv", "o.jsonl"):
        assert write_output(tmp_path / name, [], journal) == 0
        assert (tmp_path / name).read_text() == ""


def test_where_it_cannot_be_written_answers_are_kept(journal: Journal, tmp_path: Path) -> None:
    given = done(journal, {"id": 0})
    with pytest.raises(LedgerError, match="The answers are in"):
        write_output(tmp_path / "none" / "o.jsonl", given, journal)
    with pytest.raises(ConfigurationError, match=r"ends with \.jsonl or \.csv"):
        write_output(tmp_path / "o.parquet", given, journal)
    assert [path.name for path in tmp_path.glob(".o*")] == []


MADE = {"models": ["a", "b"], "settings": "x"}


def test_what_is_added_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    amount = Decimal("0.0000010")
    paid = Row(7, {}).record(status="ok", answer="ä\ud800", cost_usd=amount, counted_usd=amount)
    with Journal(tmp_path / "j", MADE) as journal:
        journal.add(paid)
        journal.add(Row(2, {}).record(status="error", error="E: no"))
        journal.note("batch", ids=["1"])
        journal.note("batch", batch_id="b")
    with Journal(tmp_path / "j", MADE) as journal:
        assert journal.find(7) == paid
        assert journal.find(2) == Row(2, {}).record(status="error", error="E: no")
        assert journal.find(0) is journal.find(99) is None
        assert journal.spent_usd == amount
        assert journal.batches == {"batch": {"ids": ["1"], "batch_id": "b"}}
    assert os.listdir(tmp_path) == ["j"]  # noqa: PTH208
    with Journal(tmp_path / "j", {}, fresh=True) as journal:
        assert (journal.find(7), journal.spent_usd, journal.batches) == (None, 0, {})


def test_a_row_that_was_asked_again_counts_once_and_its_money_twice(tmp_path: Path) -> None:
    last = Row(0, {}).record(status="ok", answer="yes", counted_usd=Decimal(2))
    with Journal(tmp_path / "j", MADE) as journal:
        journal.add(Row(0, {}).record(status="error", counted_usd=Decimal(1), error="E: no"))
        journal.add(last)
        assert journal.spent_usd == 3
    with Journal(tmp_path / "j", MADE) as journal:
        assert (journal.spent_usd, journal.find(0)) == (3, last)


def test_what_rows_wait_for_is_expected_until_they_are_done(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE) as journal:
        for n in range(3):
            journal.add(Row(n, {}).record(status="waiting", expected_usd=Decimal(n)))
        journal.add(Row(3, {}).record(status="waiting"))
        journal.add(Row(1, {}).record(status="error"))
        assert (journal.expected_usd, journal.waiting()) == (2, [0, 2, 3])
    with Journal(tmp_path / "j", MADE) as journal:
        assert (journal.expected_usd, journal.waiting()) == (2, [0, 2, 3])


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"hello, these are words of mine\n" * 9)
    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE rows (mine)")
    other.close()
    for name in ("j", "other"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ConfigurationError, match="no journal of a batch"):
            Journal(tmp_path / name, MADE)
        assert (tmp_path / name).read_bytes()[100:] == before[100:]


def test_two_processes_do_not_work_on_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE), pytest.raises(ConfigurationError, match="another process"):
        Journal(tmp_path / "j", MADE)
    Journal(tmp_path / "j", MADE).__exit__()


def test_where_it_cannot_be_written_the_error_says_so_and_what_is_kept(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be written: unable to open"):
        Journal(tmp_path / "no" / "j", MADE)
    with Journal(tmp_path / "j", MADE) as journal:
        journal.add(Row(0, {}).record(status="ok"))
        (pages,) = journal._file.execute("PRAGMA page_count").fetchone()
        journal._file.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match=r"is full\. What is in it is kept"):
            journal.add(Row(1, {}).record(status="ok", answer="x" * 100_000))
        assert (journal.find(0) is None, journal.find(1)) == (False, None)
