"""Our stores pass the suite that we publish, and the suite finds what is wrong with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import pytest

from cascade.ledger.base import NO_TAGS, LedgerStore, MemoryLedger
from cascade.ledger.store import open_store
from cascade.state import LedgerEntry
from cascade.testing.ledger_conformance import Capability, Check, check_store, checks_of

IN_MEMORY = {"append", "begin", "spent"}
EVERYTHING = set(get_args(Capability))


@pytest.mark.parametrize("check", checks_of(IN_MEMORY))
async def test_the_list_in_memory_does_what_it_can(check: Check) -> None:
    await check(MemoryLedger)


@pytest.mark.parametrize("check", checks_of(EVERYTHING - {"durable"}))
async def test_a_database_in_memory_does_all_but_outlive_its_process(check: Check) -> None:
    await check(lambda: open_store("memory://", jobs=True))


@pytest.mark.parametrize("check", checks_of(EVERYTHING))
async def test_sqlite_does_everything(check: Check, url: str) -> None:
    await check(lambda: open_store(url, jobs=True))


class Rounding(LedgerStore):
    """A stranger's store that keeps dollars as floats."""

    def __init__(self) -> None:
        self.kept: list[LedgerEntry] = []

    def append(self, entries: Sequence[LedgerEntry], tags: Mapping[str, str] = NO_TAGS) -> None:
        for entry in entries:
            cost = None if entry.cost_usd is None else type(entry.cost_usd)(float(entry.cost_usd))
            self.kept.append(entry.model_copy(update={"cost_usd": cost}))

    async def of_run(self, run_id: str) -> list[LedgerEntry]:
        return [entry for entry in self.kept if entry.run_id == run_id]


async def test_a_strangers_store_is_told_what_it_does_wrong() -> None:
    emptied = []

    async def empty() -> None:
        emptied.append(1)

    report = await check_store(Rounding, {"append"}, empty=empty)
    assert set(report.failures) == {"keeps_every_digit", "keeps_an_id_once"}
    assert not report.passed
    assert len(emptied) == report.checks
    assert "left out: begin" in str(report)
    assert (await check_store(MemoryLedger, IN_MEMORY)).passed
