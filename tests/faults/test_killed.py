"""A job whose process is killed goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killed import kill_and_resume

pytestmark = pytest.mark.heavy


def test_a_killed_job_loses_no_answer_and_no_money_and_pays_nothing_twice(tmp_path: Path) -> None:
    after = kill_and_resume(tmp_path, rows=120, kills=2, at_once=8)
    assert after.problems(rows=120, at_once=8) == []
    assert all(done for done, _ in after.done_before)
