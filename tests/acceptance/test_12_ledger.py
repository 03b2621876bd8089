"""Row 12: the ledger in SQLite and PostgreSQL: conformance, crash safety, no loss, no double."""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, CascadeError, ConfigurationError, LedgerEntry, LedgerView
from cascade.ledger.store import open_store
from cascade.testing.ledger_conformance import LedgerConformance
from tests.acceptance.setups import (
    CHEAP,
    PAIR,
    check_booked,
    entries_of,
    pair,
    start,
    stored,
    unfinished,
)
from tests.acceptance.upstream import Answer, Held, Seen, Upstream


class TestStores(LedgerConformance):
    """The published suite of what a ledger has to do."""

    @pytest.fixture
    def make_store(self, url: str) -> Any:
        return lambda: open_store(url)


def made(run: str, node: str = "draft", **fields: Any) -> LedgerEntry:
    return LedgerEntry(run_id=run, node=node, **fields)


# --- what a cascade writes


async def test_a_run_is_in_the_ledger_as_its_result_tells_it(upstream: Upstream, url: str) -> None:
    async with open_store(url) as ledger, pair(upstream, 0.3, ledger=ledger) as cascade:
        result = await cascade.ainvoke("Capital of Australia?")
        assert await unfinished(ledger) == []
    async with open_store(url) as again:  # it outlives the one that wrote it
        kept = await stored(again)
    fields = ("run_id", "node", "tier", "model", "cost_usd", "saved_usd", "basis", "outcome", "at")
    told, found = (
        Counter(tuple(getattr(entry, field) for field in fields) for entry in entries)
        for entries in (entries_of(result), kept)
    )
    assert found == told


async def test_totals_are_exact_and_keep_measured_estimated_and_unknown_apart(url: str) -> None:
    tiny = Decimal("0.1000000000000000000000000001")
    async with open_store(url) as ledger:
        estimated = made("r", cost_usd=Decimal("0.2"), cost_basis="estimated")
        ledger.append([made("r", cost_usd=tiny), estimated, made("r", node="expert")])
        totals = LedgerView(await ledger.entries()).by_node()
    draft, expert = totals["draft"].cost, totals["expert"].cost
    assert (draft.measured, draft.estimated) == (tiny, Decimal("0.2"))
    assert draft.total == Decimal("0.3000000000000000000000000001")
    assert (expert.total, expert.unknown) == (None, 1)


async def test_what_is_old_is_deleted_and_never_all_by_accident(
    upstream: Upstream, url: str
) -> None:
    old = datetime.now(UTC) - timedelta(days=90)
    async with open_store(url) as ledger, pair(upstream, ledger=ledger) as cascade:
        result = await cascade.ainvoke("?")
        ledger.append([made("old", at=old)])
        await stored(ledger)
        assert await ledger.delete(older_than=timedelta(days=30)) == 1
        with pytest.raises(ConfigurationError):
            await ledger.delete()
        assert {e.run_id for e in await stored(ledger)} == {result.run_id}


def test_an_export_is_a_table_and_no_prompt_is_kept_unasked(
    upstream: Upstream, sqlite_url: str, tmp_path: Path
) -> None:
    with open_store(sqlite_url) as ledger, pair(upstream, ledger=ledger) as cascade:
        cascade.invoke("a very secret question")
        written = asyncio.run(ledger.export(tmp_path / "ledger.csv"))
    rows = list(csv.DictReader((tmp_path / "ledger.csv").read_text().splitlines()))
    assert len(rows) == written
    assert {"draft", "verify"} <= {row["node"] for row in rows}
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret question" not in kept
    assert b"small: a very" not in kept


# --- crash safety


async def test_a_call_is_written_down_before_it_is_sent(upstream: Upstream, url: str) -> None:
    held = Held()
    upstream.says("only", Answer("x", held=held))
    async with open_store(url) as ledger, open_store(url) as another:
        cascade = Cascade(tiers=[upstream.tier("only", price=CHEAP)], ledger=ledger)
        asking = asyncio.create_task(cascade.ainvoke("?"))
        await upstream.has_asked(1)
        assert [node for _, node in await unfinished(another)] == ["expert"]
        held.release()
        result = await asking
        await stored(ledger)
        assert await unfinished(another) == []
        kept = [entry for entry in await stored(another) if entry.model]
        assert [(entry.run_id, entry.outcome) for entry in kept] == [(result.run_id, "ok")]
        await cascade.aclose()


async def test_a_cancelled_question_leaves_no_call_open(upstream: Upstream, url: str) -> None:
    upstream.says("only", Answer("x", held=Held()))
    async with open_store(url) as ledger:
        cascade = Cascade(tiers=[upstream.tier("only", price=CHEAP)], ledger=ledger)
        asking = asyncio.create_task(cascade.ainvoke("?"))
        await upstream.has_asked(1)
        asking.cancel()
        await asyncio.wait([asking])
        (kept,) = await stored(ledger)
        assert (kept.node, kept.outcome, kept.cost_usd) == ("expert", "cancelled", None)
        assert await unfinished(ledger) == []
        await cascade.aclose()


def test_a_ledger_that_cannot_be_written_stops_a_question_before_it_costs_anything(
    upstream: Upstream, tmp_path: Path
) -> None:
    ledger = open_store(f"sqlite:///{tmp_path}/no/such/folder/ledger.db")
    with pair(upstream, ledger=ledger) as cascade, pytest.raises(CascadeError):
        cascade.invoke("?")
    assert upstream.seen == []


def test_readers_change_nothing(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url, read_only=True) as ledger, pytest.raises(CascadeError):
        asyncio.run(stored(ledger))
    assert list(tmp_path.iterdir()) == []


ASKS = """
async def main(url, server):
    cascade, free = pair(server, ledger=open_store(url)), asyncio.Semaphore(16)
    async def ask(i):
        async with free:
            await cascade.ainvoke(f"question-{i}")
    await asyncio.gather(*map(ask, range(2_000)))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [40, 150])
async def test_after_kill_9_each_request_is_in_the_ledger_once_or_listed_as_unknown(
    upstream: Upstream, url: str, after: int
) -> None:
    def say(seen: Seen) -> Answer:
        p = 0.3 + 0.6 * (seen.number % 2)
        return Answer("x", p=p, tokens=(seen.number + 1, 2), delay_s=0.005)

    for name in ("small", "large"):
        upstream.says(name, say)
    victim = start(PAIR + ASKS, url, upstream.openai_url)
    await upstream.has_asked(after)
    victim.kill()
    _, complaints = victim.communicate()
    assert victim.returncode == -9, complaints
    await check_booked(url, upstream.asked(), 2 * 16)


WRITES = """
entries = [LedgerEntry(run_id=f"{sys.argv[2]}-{i}", node="draft") for i in range(300)]
open_store(sys.argv[1]).append(entries)
"""


async def test_processes_that_write_at_once_and_just_end_lose_nothing(url: str) -> None:
    writers = [start(PAIR + WRITES, url, name) for name in range(2)]
    ends = [writer.communicate(timeout=300) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], ends
    async with open_store(url) as ledger:
        runs = Counter(entry.run_id for entry in await stored(ledger))
    assert runs == Counter(f"{name}-{i}" for name in range(2) for i in range(300))
