"""What cannot be written of a job's output, and that nothing half-written is left."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs import Journal, Record, Row, write_output


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal", {}) as opened:
        yield opened


def done(journal: Journal, *columns: dict[str, Any]) -> list[Row]:
    given = [Row(n, row, f"question {n}") for n, row in enumerate(columns)]
    for row in given:
        journal.add(
            Record(row.number, row.key, "ok", answer=f"answer {row.number}", degraded=False)
        )
    return given


def test_a_row_that_was_not_asked_or_has_changed_since_is_left_out(
    journal: Journal, tmp_path: Path
) -> None:
    given = done(journal, {"id": 0}, {"id": 1})
    changed = [given[0], Row(1, {"id": 1}, "another"), Row(2, {"id": 2}, "never asked")]
    assert write_output(tmp_path / "o.jsonl", changed, journal, prefix="c_") == 1
    (line,) = (tmp_path / "o.jsonl").read_text().splitlines()
    assert json.loads(line)["c_answer"] == "answer 0"


def test_lists_and_truths_go_into_a_csv_as_json(journal: Journal, tmp_path: Path) -> None:
    given = done(journal, {"tags": ["a", "ü"]}, {"tags": None})
    write_output(tmp_path / "o.csv", given, journal)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["tags"], second["tags"], first["degraded"]) == ('["a", "ü"]', "", "false")


def test_no_rows_make_an_empty_file(journal: Journal, tmp_path: Path) -> None:
    for name in ("o.csv", "o.jsonl"):
        assert write_output(tmp_path / name, [], journal) == 0
        assert (tmp_path / name).read_text() == ""


def test_where_it_cannot_be_written_the_answers_are_said_to_be_kept(
    journal: Journal, tmp_path: Path
) -> None:
    given = done(journal, {"id": 0})
    with pytest.raises(LedgerError, match="The answers are in"):
        write_output(tmp_path / "none" / "o.jsonl", given, journal)
    with pytest.raises(ConfigurationError, match=r"ends with \.jsonl or \.csv"):
        write_output(tmp_path / "o.parquet", given, journal)
    assert [path.name for path in tmp_path.glob(".o*")] == []
