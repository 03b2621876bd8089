"""The same entries make the same report, whatever keeps them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from cascade.ledger.store import open_store
from cascade.report import Report, make_report
from tests.ledger.store import postgres
from tests.report.ledgers import NOON, Story, World, entry, store_of, usd


def stories() -> list[Story]:
    told, _ = World(120, 5).stories(0.3, 6)
    later = NOON + timedelta(days=1)
    return [
        *told,
        Story(later).draft(None, note="no usage").decide("escalate").fails("expert").expert(),
        Story(later).draft(usd("0.1234567890123456789")).accept(None, rate=0.3),
        Story(later).shadow().tell(entry("watch", "drift", note="signals moved")),
    ]


async def reports(url: str) -> tuple[Report, Report]:
    """From memory, and from a database."""
    told = stories()
    async with open_store(url) as store:
        for story in told:
            store.append(story.entries)
        return await make_report(await store_of(told)), await make_report(store)


def test_a_ledger_in_sqlite_makes_the_same_report(tmp_path: Path) -> None:
    expected, found = asyncio.run(reports(f"sqlite:///{tmp_path / 'ledger.db'}"))
    assert found == expected
    assert found.text() == expected.text()


def test_a_ledger_in_postgresql_makes_the_same_report() -> None:
    try:
        with postgres.server() as url:
            expected, found = asyncio.run(reports(url))
    except postgres.NoPostgresError as reason:
        pytest.skip(str(reason))
    assert found == expected
    assert found.text() == expected.text()
