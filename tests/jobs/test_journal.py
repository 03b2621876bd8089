"""The journal of a job: what is in it is never lost, and never taken for something else."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import ConfigurationError, LedgerError
from cascade.jobs import Journal, Record

MADE = {"models": ["a", "b"], "settings": "x"}


def record(number: int, **more: object) -> Record:
    return Record(number, f"key{number}", "ok", **{"answer": f"answer {number}", **more})  # type: ignore[arg-type]


def test_what_is_added_is_found_again_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "j"
    paid = record(7, cost_usd=Decimal("0.0000010"), counted_usd=Decimal("0.0000010"), tier="small")
    with Journal(path, MADE) as journal:
        journal.add(paid)
        journal.add(Record(2, "k", "error", error="E: no"))
    with Journal(path, MADE) as journal:
        assert journal.find(7) == paid
        assert journal.find(2) == Record(2, "k", "error", error="E: no")
        assert journal.find(0) is journal.find(99) is None
        assert journal.spent_usd == Decimal("0.0000010")


def test_a_row_that_was_asked_again_counts_once_and_its_money_twice(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, MADE) as journal:
        journal.add(Record(0, "k", "error", counted_usd=Decimal(1), error="E: no"))
        journal.add(Record(0, "k", "ok", answer="yes", counted_usd=Decimal(2)))
        assert journal.spent_usd == 3
    with Journal(path, MADE) as journal:
        assert journal.spent_usd == 3
        assert journal.find(0) == Record(0, "k", "ok", answer="yes", counted_usd=Decimal(2))


@given(st.data())
def test_cut_off_anywhere_it_keeps_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "j"
    ends = []
    with Journal(path, MADE) as journal:
        head = path.stat().st_size
        for n in range(4):
            journal.add(record(n, answer="ä\n" * n))
            ends.append(path.stat().st_size)
    size = data.draw(st.integers(0, ends[-1]))
    path.write_bytes(path.read_bytes()[:size])
    whole = sum(end <= size for end in ends) if size >= head else 0
    with Journal(path, MADE) as journal:
        assert sum(journal.find(n) is not None for n in range(4)) == whole
        journal.add(record(9))
    with Journal(path, MADE) as journal:
        found = [n for n in range(10) if journal.find(n) is not None]
        assert found == [*range(whole), 9]


def test_notes_are_added_up_and_found_by_the_next_process(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE) as journal:
        journal.note("batch", ids=["1"])
        journal.add(record(1))
        journal.note("batch", batch_id="b")
        assert journal.notes == {"batch": {"ids": ["1"], "batch_id": "b"}}
    with Journal(tmp_path / "j", MADE) as journal:
        assert journal.notes == {"batch": {"ids": ["1"], "batch_id": "b"}}
        assert journal.find(1) == record(1)


def test_what_rows_wait_for_is_expected_until_they_are_done(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE) as journal:
        for n in range(3):
            journal.add(Record(n, "k", "waiting", expected_usd=Decimal(n)))
        journal.add(Record(3, "k", "waiting"))
        journal.add(Record(1, "k", "error", expected_usd=Decimal(1)))
    with Journal(tmp_path / "j", MADE) as journal:
        assert journal.expected_usd == 2


def test_another_set_up_is_refused_by_name(tmp_path: Path) -> None:
    Journal(tmp_path / "j", MADE).__exit__(None, None, None)
    with pytest.raises(ConfigurationError, match="begun with another models"):
        Journal(tmp_path / "j", {**MADE, "models": ["c"]})


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b'{"journal": 99}\n'])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(ConfigurationError, match="no journal of a batch"):
        Journal(tmp_path / "j", MADE)
    assert (tmp_path / "j").read_bytes() == content


@pytest.mark.parametrize(
    "line", [b"rubbish\n", b"[1]\n", b'{"x": 1}\n', b'{"note": "a"}\n', b"7\n"]
)
def test_a_broken_line_in_the_middle_is_told_and_not_skipped(line: bytes, tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE) as journal:
        journal.add(record(0))
    with (tmp_path / "j").open("ab") as file:
        file.write(line)
    with pytest.raises(ConfigurationError, match="no journal of a batch"):
        Journal(tmp_path / "j", MADE)


def test_two_processes_do_not_work_on_one_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", MADE), pytest.raises(ConfigurationError, match="another process"):
        Journal(tmp_path / "j", MADE)
    Journal(tmp_path / "j", MADE).__exit__(None, None, None)


def test_where_it_cannot_be_written_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be written: No such file"):
        Journal(tmp_path / "no" / "j", MADE)


def test_where_there_is_no_room_the_error_says_that_what_is_there_is_kept(tmp_path: Path) -> None:
    class Full:
        def seek(self, *where: int) -> int:
            return 0

        def write(self, line: bytes) -> int:
            raise OSError(28, "No space left on device")

    with Journal(tmp_path / "j", MADE) as journal:
        file, journal._file = journal._file, Full()  # type: ignore[assignment]
        with pytest.raises(LedgerError, match=r"No space left on device\. What is in it is kept"):
            journal.add(record(0))
        journal._file = file
        assert journal.find(0) is None
