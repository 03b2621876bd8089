"""The disk of an SQLite ledger is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade import Cascade
from cascade.errors import LedgerError
from cascade.ledger.store import open_store
from cascade.ledger.store.writer import Limits
from cascade.testing import ScriptedModel
from tests.failing.worlds import asking, ballast, entries, runs_of, small_disk, until


@pytest.fixture
def disk() -> Iterator[Path]:
    with small_disk() as folder:
        yield folder


async def test_entries_wait_for_room_on_the_disk_and_are_written_in_order(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"sqlite:///{disk}/ledger.db", limits=Limits(batch=50))
    store.append(entries(50))
    await store.flush()
    with ballast(disk):
        store.append(entries(500, first=50))
        await until(lambda: "is full" in caplog.text)
    assert await runs_of(store) == [str(number) for number in range(550)]
    assert f"the ledger {disk}/ledger.db: " in caplog.text
    assert store.lost == 0
    await store.aclose()


async def test_a_crash_safe_question_is_refused_before_it_is_paid_for(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.ledger.store.store.GRACE_S", 30.0)  # on a busy machine, too
    store = open_store(f"sqlite:///{disk}/ledger.db", limits=Limits(patience_s=0.2))
    async with asking(store) as cascade:
        store.append(entries(1))
        await store.flush()
        with ballast(disk):
            with pytest.raises(LedgerError, match="is full"):
                await asked_again_and_again(cascade)
            model = cascade.tiers[0].model
            assert isinstance(model, ScriptedModel)
            asked = len(model.requests)
        await store.flush()
        drafts = [each for each in await store.query() if each.model and each.node == "draft"]
        assert len(drafts) == asked
        assert (await cascade.ainvoke("2 + 2?")).answer == "yes"
    await store.aclose()


async def asked_again_and_again(cascade: Cascade) -> None:
    while True:  # what is left of the last page takes a few
        await cascade.ainvoke("2 + 2?")


async def test_who_is_not_crash_safe_has_the_answer_and_the_ledger_has_it_later(
    disk: Path,
) -> None:
    store = open_store(f"sqlite:///{disk}/ledger.db", crash_safe=False)
    async with asking(store) as cascade:
        store.append(entries(1))
        await store.flush()
        with ballast(disk):
            results = [await cascade.ainvoke("2 + 2?") for _ in range(40)]
        kept = await runs_of(store)
    assert {result.run_id for result in results} <= set(kept)
    await store.aclose()
