"""Nothing is lost: not by several processes, not by an exit, not by `kill -9`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cascade.ledger.store import open_store
from tests.ledger.store.crashing import kill_in_the_middle
from tests.ledger.store.writing import ROOT, write_together

PROCESSES, ENTRIES = 4, 1_000

LEAVING = """
import logging, sys
from cascade.ledger.store import open_store
from tests.ledger.store.writing import entry
store = open_store(sys.argv[1])
store.append(entry(str(i)) for i in range(500))
{ending}
"""


async def test_four_processes_write_at_once_without_a_loss_or_a_complaint(url: str) -> None:
    _, complaints = write_together(url, processes=PROCESSES, entries=ENTRIES)
    assert complaints == ""
    async with open_store(url) as store:
        runs = {e.run_id for e in await store.query()}
    assert runs == {f"{name}-{i}" for name in range(PROCESSES) for i in range(ENTRIES)}


def test_after_kill_9_each_request_is_in_the_ledger_once_or_listed_as_unknown(url: str) -> None:
    left = kill_in_the_middle(url, after=300)
    assert left.lost == left.doubled == []
    assert left.kept.total() > 100
    assert 0 < left.unknown.total() <= 2 * 32
    assert left.seen.total() >= 300


def leave(tmp_path: Path, ending: str) -> tuple[int, str]:
    url = f"sqlite:///{tmp_path}/ledger.db"
    command = [sys.executable, "-c", LEAVING.format(ending=ending), url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


async def test_a_program_that_just_ends_has_written_all(tmp_path: Path, sqlite_url: str) -> None:
    assert leave(tmp_path, "") == (0, "")
    async with open_store(sqlite_url) as store:
        assert len(await store.query()) == 500


async def test_a_program_that_fails_has_written_all(tmp_path: Path, sqlite_url: str) -> None:
    assert leave(tmp_path, "raise KeyError")[0] == 1
    async with open_store(sqlite_url) as store:
        assert len(await store.query()) == 500
