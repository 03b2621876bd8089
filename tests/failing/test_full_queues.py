"""The queue of a ledger is full, and its database stays away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascade.errors import LedgerError
from cascade.ledger.store import Store, open_store
from cascade.ledger.store.writer import Limits
from tests.failing.worlds import asking, entries, until

AWAY = "postgresql://nobody@127.0.0.1:9/x"
ROOT = Path(__file__).resolve().parents[2]

LEAVING = """
import sys
from cascade.ledger.store import open_store
from tests.failing.worlds import entries
store = open_store(sys.argv[1])
store.append(entries(3))
"""


def full(**limits: float) -> Store:
    chosen = Limits(queue=2, batch=1, **limits)  # type: ignore[arg-type]
    store = open_store(AWAY, crash_safe=False, limits=chosen)
    store.append(entries(2))
    return store


async def test_a_full_queue_holds_up_one_caller_once(caplog: pytest.LogCaptureFixture) -> None:
    store = full(full_s=0.3)
    with pytest.raises(LedgerError, match=r"full \(2 entries\) and nothing was written for 0\.3 s"):
        store.append(entries(2))
    began = time.monotonic()
    async with asking(store) as cascade:
        for _ in range(20):
            assert (await cascade.ainvoke("2 + 2?")).answer == "yes"
    assert time.monotonic() - began < 20 * 0.3
    assert store.lost > 20
    lost = [each for each in caplog.messages if "did not take an entry" in each]
    assert len(lost) == store.lost - 1
    store._writer._items.clear()


async def test_when_there_was_room_again_it_waits_again(sqlite_url: str) -> None:
    store = open_store(sqlite_url, limits=Limits(queue=1, batch=1, full_s=30))
    store._writer._stuck = True
    store.append(entries(1))
    await until(lambda: store.waiting == 0)
    store.append(entries(50))
    assert len(await store.query()) == 51
    await store.aclose()


def test_what_waits_when_the_process_ends_is_in_the_log() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, AWAY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    marked = [line for line in done.stderr.splitlines() if "before an entry was written" in line]
    lost = [json.loads(line[line.index("{") :]) for line in marked]
    assert [each["run_id"] for each in lost] == ["0", "1", "2"]
    assert {each["cost_usd"] for each in lost} == {"0.01"}
