"""What cannot be written of a job's output, and that nothing half-written is left."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cascade.errors import ConfigurationError, LedgerError, MissingDependencyError
from cascade.jobs import Journal, Record, Row, rows, write_output


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal", {}) as opened:
        yield opened


def done(journal: Journal, *columns: dict[str, Any]) -> list[Row]:
    given = [Row(n, row, f"question {n}") for n, row in enumerate(columns)]
    for row in given:
        journal.add(Record(row.number, row.key, "ok", answer=f"answer {row.number}"))
    return given


def test_a_row_that_was_not_asked_or_has_changed_since_is_left_out(
    journal: Journal, tmp_path: Path
) -> None:
    given = done(journal, {"id": 0}, {"id": 1})
    changed = [given[0], Row(1, {"id": 1}, "another"), Row(2, {"id": 2}, "never asked")]
    assert write_output(tmp_path / "o.jsonl", changed, journal) == 1
    (line,) = (tmp_path / "o.jsonl").read_text().splitlines()
    assert json.loads(line)["answer"] == "answer 0"


def test_lists_go_into_a_csv_as_json(journal: Journal, tmp_path: Path) -> None:
    given = done(journal, {"tags": ["a", "ü"]}, {"tags": None})
    write_output(tmp_path / "o.csv", given, journal)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["tags"], second["tags"]) == ('["a", "ü"]', "")


def test_parquet_is_written_in_parts_with_columns_of_one_kind(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.jobs.output.PARQUET_ROWS", 2)
    given = done(journal, *({"id": n} for n in range(5)))
    journal.add(Record(4, given[4].key, "ok", answer="a", confidence=0.5, escalated=True))
    write_output(tmp_path / "o.parquet", given, journal)
    found = pq.read_table(tmp_path / "o.parquet").to_pylist()
    assert [row["id"] for row in found] == list(range(5))
    assert (found[0]["confidence"], found[4]["confidence"]) == (None, 0.5)
    assert (found[0]["escalated"], found[4]["escalated"]) == (None, True)


def test_rows_that_fit_into_no_column_are_refused(journal: Journal, tmp_path: Path) -> None:
    given = done(journal, {"x": 1}, {"x": "one"})
    with pytest.raises(ConfigurationError, match=r"do not fit .* Write \.jsonl"):
        write_output(tmp_path / "o.parquet", given, journal)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal"]


def test_no_rows_make_an_empty_file(journal: Journal, tmp_path: Path) -> None:
    for name in ("o.parquet", "o.csv", "o.jsonl"):
        assert write_output(tmp_path / name, [], journal) == 0
        assert (tmp_path / name).exists()


def test_where_it_cannot_be_written_the_answers_are_said_to_be_kept(
    journal: Journal, tmp_path: Path
) -> None:
    given = done(journal, {"id": 0})
    with pytest.raises(LedgerError, match="The answers are in"):
        write_output(tmp_path / "none" / "o.jsonl", given, journal)


def test_parquet_without_pyarrow_names_the_extra(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"the extra `parquet`"):
        write_output(tmp_path / "o.parquet", done(journal, {"id": 0}), journal)
