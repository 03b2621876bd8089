"""Row 12: the ledger in SQLite and PostgreSQL: conformance, crash safety, nothing lost or doubled."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, CascadeError, ConfigurationError, LedgerEntry, LedgerError, Price
from cascade.ledger import tagged
from tests.acceptance import edition
from tests.acceptance.upstream import Answer, Held, Upstream

PRICE = Price(input="0.13", output="0.57")

TestSQLite = edition.conformance("sqlite_url")
TestPostgreSQL = pytest.mark.heavy(edition.conformance("postgres_url"))


def pair(upstream: Upstream, ledger: Any, p: float = 0.3, **options: Any) -> Cascade:
    upstream.says("small", Answer("Sydney", p=p))
    small, large = (upstream.tier(name, price=PRICE) for name in ("small", "large"))
    return Cascade(small, large, ledger=ledger, **options)


def made(run: str, node: str = "draft", **fields: Any) -> LedgerEntry:
    return LedgerEntry(run_id=run, node=node, **fields)


# --- what a cascade writes


async def test_a_run_is_in_the_ledger_as_its_result_tells_it(upstream: Upstream, url: str) -> None:
    async with edition.open_ledger(url) as ledger, pair(upstream, ledger) as cascade:
        result = await cascade.ainvoke("Capital of Australia?")
        kept = await edition.stored(ledger)
        assert await edition.unfinished(ledger) == []

    def figures(entries: list[edition.Entry]) -> Counter[Any]:
        fields = ("node", "tier", "model", "cost_usd", "saved_usd", "basis", "outcome", "at")
        return Counter(tuple(getattr(e, field) for field in fields) for e in entries)

    assert figures(kept) == figures(edition.entries_of(result))
    assert {entry.run_id for entry in kept} == {result.run_id}


async def test_a_ledger_outlives_its_process(upstream: Upstream, url: str) -> None:
    async with edition.open_ledger(url) as ledger, pair(upstream, ledger) as cascade:
        await cascade.ainvoke("?")
    async with edition.open_ledger(url) as again:
        assert {"draft", "verify", "expert"} <= {e.node for e in await edition.stored(again)}


def test_the_synchronous_cascade_writes_too(upstream: Upstream, sqlite_url: str) -> None:
    ledger = edition.open_ledger(sqlite_url)
    with pair(upstream, ledger) as cascade:
        cascade.batch(["one", "two"])
    ledger.close()
    kept = edition.run(
        "import asyncio, sys; from tests.acceptance import edition\n"
        "store = edition.open_ledger(sys.argv[1])\n"
        "print(len({e.run_id for e in asyncio.run(edition.stored(store))}))",
        sqlite_url,
    )
    assert kept == "2"


@pytest.mark.parametrize("amount", ["0.1000000000000000000000000001", "-1E-30", "12345678901.5"])
async def test_amounts_keep_every_digit(url: str, amount: str) -> None:
    async with edition.open_ledger(url) as ledger:
        ledger.append([made("r", cost_usd=Decimal(amount), saved_usd=None)])
        (kept,) = await edition.stored(ledger)
    assert (kept.cost_usd, kept.saved_usd) == (Decimal(amount), None)


async def test_totals_keep_measured_estimated_and_unknown_apart(url: str) -> None:
    async with edition.open_ledger(url) as ledger:
        ledger.append(
            [
                made("r", cost_usd=Decimal("0.1")),
                made("r", cost_usd=Decimal("0.2"), cost_basis="estimated"),
                made("r", node="expert"),
            ]
        )
        totals = await ledger.totals(by="node")
    draft, expert = totals["draft"].cost_usd, totals["expert"].cost_usd
    assert (draft.measured, draft.estimated, draft.total) == (
        Decimal("0.1"),
        Decimal("0.2"),
        Decimal("0.3"),
    )
    assert (expert.total, expert.unknown) == (None, 1)


async def test_tags_find_and_delete_what_is_theirs(upstream: Upstream, url: str) -> None:
    async with edition.open_ledger(url) as ledger, pair(upstream, ledger) as cascade:
        with tagged(user="ada"):
            await cascade.ainvoke("hers")
        result = await cascade.ainvoke("another's")
        await edition.stored(ledger)
        assert await ledger.delete(edition.selection(tags={"user": "ada"})) >= 3
        assert {e.run_id for e in await edition.stored(ledger)} == {result.run_id}


async def test_a_retention_deletes_what_is_old_and_never_all_by_accident(url: str) -> None:
    old = datetime.now(UTC) - timedelta(days=90)
    async with edition.open_ledger(url) as ledger:
        ledger.append([made("old", at=old), made("new")])
        assert await ledger.delete(older_than=timedelta(days=30)) == 1
        with pytest.raises(ConfigurationError):
            await ledger.delete()
        assert [e.run_id for e in await edition.stored(ledger)] == ["new"]


async def test_an_export_is_a_table(upstream: Upstream, sqlite_url: str, tmp_path: Path) -> None:
    async with edition.open_ledger(sqlite_url) as ledger, pair(upstream, ledger) as cascade:
        await cascade.ainvoke("?")
        written = await ledger.export(tmp_path / "ledger.csv")
    rows = list(csv.DictReader((tmp_path / "ledger.csv").open()))
    assert len(rows) == written >= 3
    assert {"draft", "verify", "expert"} <= {row["node"] for row in rows}
    assert all(Decimal(row["cost_usd"]) >= 0 for row in rows if row["model"])


async def test_prompts_and_answers_are_not_kept_unless_asked_for(
    upstream: Upstream, sqlite_url: str, tmp_path: Path
) -> None:
    async with edition.open_ledger(sqlite_url) as ledger, pair(upstream, ledger) as cascade:
        await cascade.ainvoke("a very secret question")
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret question" not in kept
    assert b"Sydney" not in kept


# --- crash safety


async def test_a_call_is_written_down_before_it_is_sent(upstream: Upstream, url: str) -> None:
    held = Held()
    upstream.says("only", Answer("x", held=held))
    ledger = edition.open_ledger(url)
    cascade = Cascade(tiers=[upstream.tier("only", price=PRICE)], ledger=ledger)
    asking = edition.spawn(cascade.ainvoke("?"))
    await upstream.has_asked(1)
    async with edition.open_ledger(url) as another:
        assert [node for _, node in await edition.unfinished(another)] == ["expert"]
        held.release()
        result = await asking
        await edition.stored(ledger)
        assert await edition.unfinished(another) == []
        kept = [entry for entry in await edition.stored(another) if entry.model]
    assert [(entry.run_id, entry.outcome) for entry in kept] == [(result.run_id, "ok")]
    await cascade.aclose()
    await ledger.aclose()


async def test_a_cancelled_question_leaves_no_call_open(upstream: Upstream, url: str) -> None:
    upstream.says("only", Answer("x", held=Held()))
    async with edition.open_ledger(url) as ledger:
        cascade = Cascade(tiers=[upstream.tier("only", price=PRICE)], ledger=ledger)
        asking = edition.spawn(cascade.ainvoke("?"))
        await upstream.has_asked(1)
        asking.cancel()
        await edition.settled(asking)
        kept = await edition.stored(ledger)
        assert [(entry.node, entry.outcome) for entry in kept] == [("expert", "cancelled")]
        assert kept[0].cost_usd is None
        assert await edition.unfinished(ledger) == []
        await cascade.aclose()


def test_a_ledger_that_cannot_be_written_stops_a_question_before_it_costs_anything(
    upstream: Upstream, tmp_path: Path
) -> None:
    ledger = edition.open_ledger(f"sqlite:///{tmp_path}/no/such/folder/ledger.db")
    with pair(upstream, ledger) as cascade, pytest.raises(CascadeError) as raised:
        cascade.invoke("?")
    assert isinstance(raised.value, LedgerError | ConfigurationError)
    assert upstream.seen == []


async def test_readers_change_nothing(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(CascadeError):
        async with edition.open_ledger(sqlite_url, read_only=True) as ledger:
            await edition.stored(ledger)
    assert list(tmp_path.iterdir()) == []


ASKS = """
import asyncio, sys
from cascade import Cascade, Price, Tier
from cascade.ledger import tagged
from tests.acceptance import edition

async def main(url, server):
    tiers = [Tier(f"openai:{name}", name=name, base_url=server, api_key="k",
                  price=Price(input=1, output=2)) for name in ("small", "large")]
    cascade, free = Cascade(tiers=tiers, ledger=edition.open_ledger(url)), asyncio.Semaphore(16)
    async def ask(i):
        async with free:
            with tagged(q=str(i)):
                await cascade.ainvoke(f"question-{i}")
    await asyncio.gather(*map(ask, range(2_000)))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("after", [40, 150])
async def test_after_kill_9_each_request_is_in_the_ledger_once_or_listed_as_unknown(
    upstream: Upstream, url: str, after: int
) -> None:
    upstream.says("small", lambda seen: Answer("x", p=0.3 + 0.6 * (seen.number % 2), delay_s=0.005))
    upstream.says("large", lambda seen: Answer("y", delay_s=0.005))
    victim = edition.start(ASKS, url, upstream.openai_url)
    await upstream.has_asked(after)
    victim.kill()
    _, complaints = victim.communicate()
    assert victim.returncode == -9, complaints
    seen = upstream.models()
    async with edition.open_ledger(url) as ledger:
        kept = [entry for entry in await edition.stored(ledger) if entry.model]
        unknown = await edition.unfinished(ledger)
    assert len({entry.id for entry in kept}) == len(kept)
    for node, model in (("draft", "small"), ("expert", "large")):
        ended = sum(entry.node == node for entry in kept)
        begun = sum(name == node for _, name in unknown)
        assert ended <= seen.count(model) <= ended + begun
    assert len(unknown) <= 2 * 16


WRITES = """
import sys
from cascade import LedgerEntry
from tests.acceptance import edition
store = edition.open_ledger(sys.argv[1])
store.append([LedgerEntry(run_id=f"{sys.argv[2]}-{i}", node="draft") for i in range(300)])
"""


async def test_processes_that_write_at_once_and_just_end_lose_nothing(url: str) -> None:
    writers = [edition.start(WRITES, url, str(name)) for name in range(2)]
    ends = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], ends
    async with edition.open_ledger(url) as ledger:
        runs = Counter(entry.run_id for entry in await edition.stored(ledger))
    assert runs == Counter(f"{name}-{i}" for name in range(2) for i in range(300))


def test_a_ledger_in_use_refuses_to_work_in_a_forked_child(tmp_path: Path) -> None:
    code = """
import os, sys
from cascade import LedgerEntry, CascadeError
from tests.acceptance import edition
store = edition.open_ledger(sys.argv[1])
store.append([LedgerEntry(run_id="r", node="draft")])
child = os.fork()
if child == 0:
    try:
        store.append([LedgerEntry(run_id="child", node="draft")])
    except CascadeError:
        os._exit(7)
    os._exit(0)
sys.stdout.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, f"sqlite:///{tmp_path}/ledger.db"],
        capture_output=True,
        text=True,
        env=edition.environment(),
        timeout=60,
        check=False,
    )
    assert done.stdout == "7", done.stderr
