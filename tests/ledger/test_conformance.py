"""Our stores pass the suite that we publish, and the suite finds what is wrong with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any
from unittest import SkipTest

import pytest

from cascade.ledger.base import NO_TAGS, LedgerStore, MemoryLedger
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.store import SqlLedger, open_store
from cascade.testing.ledger_conformance import LedgerConformance
from tests.ledger.samples import call, entry


class TestDatabaseInMemory(LedgerConformance):
    """It does not outlive its process."""

    durable = False

    @pytest.fixture
    def make_store(self) -> Any:
        return lambda: open_store("memory://")


class TestList(LedgerConformance):
    durable = False

    @pytest.fixture
    def make_store(self) -> Any:
        return MemoryLedger


class Rounding(LedgerStore):
    """A stranger's store that keeps dollars as floats."""

    def __init__(self) -> None:
        self.kept: list[LedgerEntry] = []

    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        for one in entries:
            cost = None if one.cost_usd is None else type(one.cost_usd)(float(one.cost_usd))
            self.kept.append(one.model_copy(update={"cost_usd": cost}))

    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        return [entry for entry in self.kept if entry.run_id == run_id]


class Blind(Rounding):
    """One that writes and cannot read, so that nobody can tell."""

    of_run, begin = LedgerStore.of_run, SqlLedger.begin


async def test_a_strangers_store_is_told_what_it_does_wrong() -> None:
    suite, wrong = LedgerConformance(), set()
    for name, store in product(vars(LedgerConformance), (Rounding, Blind)):
        suite.durable = store is Blind
        try:
            await getattr(suite, name)(store) if name.startswith("test_") else None
        except SkipTest:
            pass
        except AssertionError:
            wrong.add((name, store))
    assert wrong == {(f"test_{n}", Rounding) for n in ("comes_back_unchanged", "keeps_an_id_once")}


async def test_a_store_that_only_appends_says_of_the_rest_that_it_cannot() -> None:
    with Rounding() as store:
        store.append([entry()])
    async with Rounding() as store:
        await store.begin(call())
        store.withdraw("none")
        await store.flush()
        assert await store.spent("draft", datetime.now(UTC)) is None
        assert await LedgerStore.of_run(store, "r") == []
