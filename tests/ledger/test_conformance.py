"""Our stores pass the suite that we publish, and the suite finds what is wrong with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import get_args

import pytest

from cascade.ledger.base import NO_TAGS, LedgerStore, MemoryLedger
from cascade.ledger.store import open_store
from cascade.state import LedgerEntry
from cascade.testing.ledger_conformance import Capability, Check, checks_of
from tests.ledger.samples import call, entry

EVERYTHING = set(get_args(Capability))


@pytest.mark.parametrize("check", checks_of(EVERYTHING - {"durable"}))
async def test_a_database_in_memory_does_all_but_outlive_its_process(check: Check) -> None:
    await check(lambda: open_store("memory://"))


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


async def test_a_strangers_store_is_told_what_it_does_wrong() -> None:
    wrong = set()
    for check in checks_of({"append"}):
        try:
            await check(Rounding)
        except AssertionError:
            wrong.add(check.__name__)  # type: ignore[attr-defined]
    assert wrong == {"keeps_every_digit", "keeps_an_id_once"}


@pytest.mark.parametrize("check", checks_of({"append", "begin"}))
async def test_the_list_in_memory_does_what_it_can(check: Check) -> None:
    await check(MemoryLedger)


async def test_a_store_that_only_appends_says_of_the_rest_that_it_cannot() -> None:
    with Rounding() as store:
        store.append([entry()])
    async with Rounding() as store:
        await store.begin(call())
        store.withdraw("none")
        await store.flush()
        assert await store.spent("draft", datetime.now(UTC)) is None
        assert await LedgerStore.of_run(store, "r") == []
        assert await store.ready() is None
