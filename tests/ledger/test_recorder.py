"""Entries reach the store at once and their run in the end."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cascade import Cascade
from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger import MemoryLedger, Recorder, collecting, recorder
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel


def entry(run: str, node: str = "draft") -> LedgerEntry:
    return LedgerEntry(run_id=run, node=node)


def test_the_store_has_an_entry_the_moment_it_arises() -> None:
    store = MemoryLedger()
    first = Recorder(store).record(entry("r"))
    assert store.entries == [first]


@pytest.mark.parametrize("store", ["sqlite:///ledger.db", 5])
def test_what_is_no_store_is_refused(store: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is no store: give open_store"):
        Recorder(store)


def test_a_run_takes_its_own_entries_once_and_in_order() -> None:
    kept = Recorder()
    first, _, third = (
        kept.record(entry("a", "1")),
        kept.record(entry("b")),
        kept.record(entry("a", "3")),
    )
    assert kept.take("a") == [first, third]
    assert kept.take("a") == []


def test_abandoned_runs_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_PENDING_RUNS", 3)
    kept = Recorder()
    for run in "abcd":
        kept.record(entry(run))
    assert kept.take("a") == []
    assert [len(kept.take(run)) for run in "bcd"] == [1, 1, 1]


def test_collecting_gathers_what_is_recorded_within() -> None:
    kept = Recorder()
    kept.record(entry("before"))
    with collecting() as entries:
        kept.record(entry("within"))
    kept.record(entry("after"))
    assert [e.run_id for e in entries] == ["within"]


def test_the_inner_of_two_collections_gathers_alone() -> None:
    kept = Recorder()
    with collecting() as outer:
        with collecting() as inner:
            kept.record(entry("inner"))
        kept.record(entry("outer"))
    assert [e.run_id for e in inner] == ["inner"]
    assert [e.run_id for e in outer] == ["outer"]


def test_threads_lose_no_entry() -> None:
    store = MemoryLedger()
    kept = Recorder(store)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: kept.record(entry(str(i % 5))), range(400)))
    assert len(store.entries) == 400
    assert sum(len(kept.take(str(i))) for i in range(5)) == 400


class FullStore:
    """A store whose queue is full."""

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        raise LedgerError("the queue is full")


async def test_an_answer_that_is_paid_for_comes_although_the_store_takes_no_entry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cascade = Cascade(ScriptedModel("4", logprobs=0.95), ScriptedModel("four"), ledger=FullStore())
    result = await cascade.ainvoke("2 + 2?")
    assert result.answer == "4"
    assert [entry.node for entry in result.ledger] == ["draft", "self_check", "verify"]
    lost = [record.getMessage() for record in caplog.records if "did not take" in record.message]
    assert len(lost) == 3
    assert all(f'"run_id":"{result.run_id}"' in message for message in lost)
