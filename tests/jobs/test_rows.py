"""Rows of files: what is read, what is a problem of one row, and what of the whole file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.errors import ConfigurationError
from cascade.jobs import count_rows, read_rows
from cascade.jobs.rows import first_row


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
        assert count_rows(tmp_path / name) == 3


def test_a_folder_is_read_in_the_order_of_its_names_and_numbered_through(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name}1"}}\n{{"prompt": "{name}2"}}')
    (tmp_path / "notes.txt").write_text("no rows")
    found = list(read_rows(tmp_path))
    assert [row.question for row in found] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    assert [row.number for row in found] == list(range(6))
    assert count_rows(tmp_path) == 6


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('{"text": "x"}', "no column messages or question or prompt: this row has text"),
        ('{"question": ""}', "question is empty"),
        ('{"question": "  "}', "the question is empty"),
        ('{"question": 7}', "of type int"),
        ('{"messages": "[{]"}', "messages: "),
        ('{"messages": []}', "the list of messages is empty"),
    ],
)
def test_a_row_that_cannot_be_asked_says_why_and_stops_no_other(
    line: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "one"}}\n{line}\n{{"question": "two"}}\n')
    first, odd, last = read_rows(path)
    assert (first.question, odd.question, last.question) == ("one", None, "two")
    assert problem in str(odd.problem)


def test_bytes_that_are_no_text_are_a_problem_of_their_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "caf\xe9"}\n{"question": "two"}\n')
    odd, fine = read_rows(path)
    assert odd.problem is not None
    assert fine.question == "two"


def test_a_csv_row_with_too_few_or_too_many_fields_is_a_problem_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,question\n1\n2,b,c\n3,d\n")
    few, many, fine = read_rows(path)
    assert "line 2 has not the 2 columns" in str(few.problem)
    assert "line 3 has not the 2 columns" in str(many.problem)
    assert fine.question == "d"
    assert count_rows(path) == 3


def test_messages_may_be_a_list_or_its_text_and_a_system_message_goes_before_texts_only(
    tmp_path: Path,
) -> None:
    turns = [{"role": "user", "content": "hi"}]
    path = tmp_path / "a.jsonl"
    lines = [{"messages": turns}, {"messages": json.dumps(turns)}, {"question": "hello"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    given, told, plain = read_rows(path, system="Be brief.")
    assert given.question == told.question == turns
    assert plain.question == [("system", "Be brief."), ("human", "hello")]


def test_the_column_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,text\nno,yes\n")
    (row,) = read_rows(path, "text")
    assert row.question == "yes"


def test_a_changed_question_has_another_key_and_another_column_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "x": 1}\n{"question": "a", "x": 2}\n{"question": "b"}')
    one, same, other = read_rows(path)
    assert one.key == same.key != other.key


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "does not exist"),
        ("a.txt", b"", "ends with .jsonl"),
        ("a.parquet", b"no", "is no Parquet file"),
        ("a.csv", b"question\ncaf\xe9\n", "is not UTF-8"),
        ("a.csv", b'question\n"x"y\n', "is no CSV"),
        ("empty", "folder", "has no file that ends with"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_way_out(
    name: str, content: bytes | str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        list(read_rows(path))


def test_a_folder_of_several_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question\nx\n")
    (tmp_path / "b.jsonl").write_text('{"question": "x"}')
    with pytest.raises(ConfigurationError, match="several kinds"):
        list(read_rows(tmp_path))


def test_the_first_row_that_can_be_read_shows_whether_there_are_questions(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('broken\n{"id": 1, "prompt": ""}\n')
    assert first_row(path).columns == {"id": 1, "prompt": ""}
    with pytest.raises(ConfigurationError, match="has no column text: it has id, prompt"):
        first_row(path, "text")
    path.write_text("broken\n\n")
    with pytest.raises(ConfigurationError, match="has no row that can be read"):
        first_row(path)


def test_a_csv_file_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,question,id\n1,x,2\n")
    with pytest.raises(ConfigurationError, match="the column id more than once"):
        list(read_rows(path))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_that_goes_away_meanwhile_is_told(kind: str, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.{kind}").write_text('question\n{"question": "x"}\n')
    reading = read_rows(tmp_path)
    next(reading)
    (tmp_path / f"b.{kind}").unlink()
    with pytest.raises(ConfigurationError, match=f"b.{kind} cannot be read"):
        list(reading)
