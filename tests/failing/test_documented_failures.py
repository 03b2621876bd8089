"""Each row of docs/failures.md is tried by tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = (FOLDER.parents[1] / "docs" / "failures.md").read_text(encoding="utf-8")


def test_each_row_names_tests_that_are_there_and_each_file_of_tests_has_a_row() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(test_\w+)`", row.rstrip("| ").rpartition("|")[2]) for row in rows]
    assert len(rows) > 15
    assert all(named)
    own = {path.stem for path in FOLDER.glob("test_*.py")} - {Path(__file__).stem}
    there = {path.stem for path in FOLDER.parent.rglob("test_*.py")}
    said = {name for names in named for name in names}
    assert said <= there
    assert own <= said
