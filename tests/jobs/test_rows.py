"""Rows of files: what is read, what is a problem of one row, and what of the whole file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.errors import ConfigurationError
from cascade.jobs import check_rows, read_rows


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
    for name in "cab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt": "{name}1"}}\n{{"prompt": "{name}2"}}')
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
def test_a_row_that_cannot_be_asked_says_why_and_stops_no_other(
    line: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"question": "one"}}\n{line}\n{{"question": "two"}}\n')
    check_rows(path)
    first, odd, last = read_rows(path)
    assert (first.question, odd.question, last.question) == ("one", None, "two")
    assert problem in str(odd.problem)


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


def test_a_changed_question_has_another_key_and_another_column_has_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "x": 1}\n{"question": "a", "x": 2}\n{"question": "b"}')
    one, same, other = read_rows(path)
    assert one.key == same.key != other.key


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jsonl": '{"question": "x"}\n{'}, "a.jsonl:2"),
        ({"a.jsonl": ""}, "it has no rows"),
        ({"a.csv": "id,text\n1,x\n"}, "has no column messages or question or prompt: it has id"),
        ({"a.csv": "question,answer\nx,y\n"}, "column 'answer' already"),
        ({"a.txt": ""}, "has no file that ends with"),
        ({"a.csv": "question\nx\n", "b.jsonl": '{"question": "x"}'}, "several kinds"),
    ],
)
def test_files_that_are_no_questions_are_refused_before_anything_is_asked(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        check_rows(tmp_path)


def test_the_column_may_be_named_and_the_new_ones_have_another_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,text,answer\nno,yes,mine\n")
    check_rows(path, "text", prefix="c_")
    (row,) = read_rows(path, "text")
    assert row.question == "yes"
    with pytest.raises(ConfigurationError, match="has no column words: it has question, text"):
        check_rows(path, "words")
