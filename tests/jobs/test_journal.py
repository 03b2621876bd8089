"""The journal of a job: what is in it is never lost, and never taken for something else."""

from __future__ import annotations

import os
import sqlite3
from decimal import Decimal
from pathlib import Path

import pytest

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs import Journal, RowRecord

MADE = {"models": ["a", "b"], "settings": "x"}


def test_what_is_added_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    amount = Decimal("0.0000010")
    paid = RowRecord(
        7, "k", "ok", answer="ä\ud800", tier="small", cost_usd=amount, counted_usd=amount
    )
    with Journal(tmp_path / "j", MADE) as journal:
        journal.add(paid)
        journal.add(RowRecord(2, "k", "error", error="E: no"))
        journal.note("batch", ids=["1"])
        journal.note("batch", batch_id="b")
    with Journal(tmp_path / "j", MADE) as journal:
        assert journal.find(7) == paid
        assert journal.find(2) == RowRecord(2, "k", "error", error="E: no")
        assert journal.find(0) is journal.find(99) is None
        assert journal.spent_usd == amount
        assert journal.batches == {"batch": {"ids": ["1"], "batch_id": "b"}}
    assert os.listdir(tmp_path) == ["j"]  # noqa: PTH208
    with Journal(tmp_path / "j", {}, fresh=True) as journal:
        assert (journal.find(7), journal.spent_usd, journal.batches) == (None, 0, {})


def test_a_row_that_was_asked_again_counts_once_and_its_money_twice(tmp_path: Path) -> None:
    last = RowRecord(0, "k", "ok", answer="yes", counted_usd=Decimal(2))
    with Journal(tmp_path / "j", MADE) as journal:
        journal.add(RowRecord(0, "k", "error", counted_usd=Decimal(1), error="E: no"))
        journal.add(last)
        assert journal.spent_usd == 3
    with Journal(tmp_path / "j", MADE) as journal:
        assert (journal.spent_usd, journal.find(0)) == (3, last)


def test_what_rows_wait_for_is_expected_until_they_are_done(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE) as journal:
        for n in range(3):
            journal.add(RowRecord(n, "k", "waiting", expected_usd=Decimal(n)))
        journal.add(RowRecord(3, "k", "waiting"))
        journal.add(RowRecord(1, "k", "error", expected_usd=Decimal(1)))
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
        journal.add(RowRecord(0, "k", "ok"))
        (pages,) = journal._file.execute("PRAGMA page_count").fetchone()
        journal._file.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match=r"is full\. What is in it is kept"):
            journal.add(RowRecord(1, "k", "ok", answer="x" * 100_000))
        assert (journal.find(0) is None, journal.find(1)) == (False, None)
