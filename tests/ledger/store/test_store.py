"""The store as a user holds it."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade import Cascade, Price, Tier
from cascade.errors import ConfigurationError, MissingDependencyError, RecordingMissError
from cascade.ledger import LedgerView, Total, tagged
from cascade.ledger.store import (
    MemoryBackend,
    Selection,
    Store,
    mask_secrets,
    open_store,
    opening,
    store,
)
from cascade.state import LedgerEntry
from cascade.testing import ScriptedModel

DAY = timedelta(days=1)
EXACT = Context(prec=200)
amounts = st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=15)
bases = st.sampled_from(["measured", "estimated", "unknown"])
entries = st.builds(
    LedgerEntry,
    run_id=st.sampled_from("abc"),
    node=st.sampled_from(["draft", "verify", "expert"]),
    cost_usd=amounts,
    saved_usd=amounts,
    baseline_usd=amounts,
    cost_basis=bases,
    basis=bases,
    outcome=st.sampled_from(["ok", "failed", "cancelled", "not_sent"]),
)


def entry(run: str = "r", **fields: object) -> LedgerEntry:
    return LedgerEntry(run_id=run, node="draft", **fields)  # type: ignore[arg-type]


def a_cascade(ledger: Store) -> Cascade:
    price = Price(input=1, output=1)
    small = Tier(ScriptedModel(["Paris"], logprobs=0.3), price=price)
    return Cascade(small, Tier(ScriptedModel(["Paris!"]), price=price), ledger=ledger)


async def test_a_cascade_writes_its_runs_into_it(url: str) -> None:
    async with open_store(url, tags={"app": "x"}) as ledger:
        with tagged(user="42"):
            result = await a_cascade(ledger).ainvoke("Capital of France?")
        kept = await ledger.query(Selection(run_id=result.run_id))
        tags = [stored.tags async for stored in ledger.stored()]
        assert await ledger.unfinished() == []
    assert sorted(kept, key=lambda e: e.node) == sorted(result.ledger, key=lambda e: e.node)
    assert {"draft", "expert"} <= {e.node for e in kept if e.attempt_id}
    assert tags == [{"app": "x", "user": "42"}] * len(kept)


def test_the_synchronous_cascade_does_too(sqlite_url: str) -> None:
    ledger = open_store(sqlite_url)
    with tagged(user="42"):
        a_cascade(ledger).batch(["one", "two"])
    ledger.close()
    with open_store(sqlite_url) as again:
        again.append([entry("later")])
    assert not again.waiting
    assert "aiosqlite" in repr(again._backend._url)  # type: ignore[attr-defined]


async def test_a_call_that_was_never_sent_leaves_no_attempt() -> None:
    async with open_store("memory://") as ledger:
        with pytest.raises(RecordingMissError):
            await Cascade(tiers=[ScriptedModel([RecordingMissError("?")])], ledger=ledger).ainvoke(
                "?"
            )
        assert await ledger.unfinished() == await ledger.query() == []


async def test_attempts_of_calls_under_way_can_be_told_from_old_ones() -> None:
    async with open_store("memory://") as ledger:
        attempt_id = await ledger.begin(run_id="r", node="draft", tier="small", model="m")
        (attempt,) = await ledger.unfinished()
        assert (attempt.attempt_id, attempt.run_id, attempt.model) == (attempt_id, "r", "m")
        assert await ledger.unfinished(older_than=DAY) == []


async def test_without_crash_safety_nothing_is_written_ahead() -> None:
    async with open_store("memory://", crash_safe=False) as ledger:
        assert await ledger.begin(run_id="r", node="draft") is None
        await a_cascade(ledger).ainvoke("?")
        assert {e.attempt_id for e in await ledger.query() if e.model is not None} == {None}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries, max_size=12))
async def test_sums_over_nodes_over_runs_and_over_entries_are_equal_to_the_last_decimal(
    sqlite_url: str, recorded: list[LedgerEntry]
) -> None:
    async with open_store(sqlite_url) as ledger:
        await ledger.delete(everything=True)
        ledger.append(recorded)
        kept = await ledger.query()
        by_node = await ledger.totals(by="node")
        by_run = await ledger.totals(by="run_id")
    assert sorted(map(repr, kept)) == sorted(map(repr, recorded))
    known = LedgerView(kept).known_cost_usd
    for totals in (by_node, by_run):
        assert sum(t.entries for t in totals.values()) == len(recorded)
        costs = [t.cost_usd for t in totals.values()]
        assert reduce(EXACT.add, (c.known for c in costs), Decimal(0)) == known
        assert sum(c.unknown for c in costs) == sum(e.cost_usd is None for e in recorded)


async def test_totals_keep_measured_and_estimated_apart_and_unknown_is_not_zero() -> None:
    async with open_store("memory://") as ledger:
        ledger.append(
            [
                entry(cost_usd=Decimal("0.1"), saved_usd=Decimal(1)),
                entry(cost_usd=Decimal("0.2"), cost_basis="estimated"),
                entry(at=datetime(2026, 1, 1, tzinfo=UTC)),
            ]
        )
        totals = await ledger.totals(by="day")
        tiers = await ledger.totals(by="tier")
    unknown, known = totals.values()
    assert next(iter(totals)) == "2026-01-01"
    assert known.cost_usd.measured == Decimal("0.1")
    assert known.cost_usd.estimated == Decimal("0.2")
    assert known.cost_usd.total == Decimal("0.3")
    assert known.saved_usd.unknown == 1
    assert (unknown.cost_usd.total, unknown.cost_usd.unknown) == (None, 1)
    assert [total.entries for total in tiers.values()] == [3]
    assert Total().cost_usd.total == 0


async def test_a_saving_is_counted_by_its_own_basis_where_another_figure_is_unknown() -> None:
    async with open_store("memory://") as ledger:
        ledger.append([entry(saved_usd=Decimal(1), basis="unknown")])
        (total,) = (await ledger.totals()).values()
    assert (total.saved_usd.measured, total.saved_usd.estimated) == (0, 1)


async def test_deletion_by_tag_and_age_but_never_of_everything_by_accident(url: str) -> None:
    now = datetime.now(UTC)
    async with open_store(url) as ledger:
        with tagged(user="1"):
            ledger.append([entry("mine")])
        ledger.append([entry("old", at=now - 90 * DAY), entry("new")])
        assert await ledger.delete(Selection(tags={"user": "1"})) == 1
        assert await ledger.delete(older_than=30 * DAY) == 1
        assert [e.run_id for e in await ledger.query()] == ["new"]
        with pytest.raises(ConfigurationError, match="whole ledger"):
            await ledger.delete(Selection())
        with pytest.raises(ConfigurationError, match="only one"):
            await ledger.delete(Selection(node="draft"), older_than=DAY)
        with pytest.raises(ConfigurationError, match="only one"):
            await ledger.delete(older_than=DAY, texts_older_than=DAY)
        assert await ledger.delete(everything=True) == 1


async def test_a_query_may_be_limited_and_runs_over_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAGE", 3)
    async with open_store("memory://") as ledger:
        ledger.append(entry(str(i)) for i in range(7))
        assert [e.run_id for e in await ledger.query()] == list("0123456")
        assert [e.run_id for e in await ledger.query(limit=4)] == list("0123")


async def exported(folder: Path, ending: str) -> tuple[Path, list[LedgerEntry]]:
    entries = [
        entry("a", cost_usd=Decimal("0.1000000000000000000001"), input_tokens=3, note="né, \"'\n"),
        entry("b", cost_usd=None, saved_usd=None),
        entry(
            "c",
            cache_write_tokens=2,
            tool_calls=1,
            action="accept",
            confidence=0.75,
            calibrated=True,
            signals={"mean_logprob": -0.5, "größe": 1e-9},
            audit_rate=0.05,
            large_usd=Decimal("0.30"),
            loss=-0.25,
            price="given",
            prompt_hash="ab",
        ),
    ]
    path = folder / f"ledger{ending}"
    async with open_store("memory://", tags={"user": "ü"}) as ledger:
        ledger.append(entries)
        assert await ledger.export(path) == len(entries)
    return path, entries


async def test_json_lines_round_trip(tmp_path: Path) -> None:
    path, entries = await exported(tmp_path, ".jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [row.pop("tags") for row in rows] == [{"user": "ü"}] * 3
    assert all(row.pop("id") for row in rows)
    assert [LedgerEntry.model_validate(row) for row in rows] == entries


def with_signals(row: dict[str, Any]) -> LedgerEntry:
    """The entry of a row of a format whose mappings are JSON text."""
    signals = row.pop("signals", None)
    return LedgerEntry.model_validate({**row, "signals": signals and json.loads(signals)})


async def test_csv_round_trips_and_leaves_unknown_empty(tmp_path: Path) -> None:
    path, entries = await exported(tmp_path, ".csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [json.loads(row.pop("tags")) for row in rows] == [{"user": "ü"}] * 3
    assert all(row.pop("id") for row in rows)
    given = [{k: v for k, v in row.items() if v or k == "note"} for row in rows]
    # A missing baseline is 0 by default; here an empty one would mean unknown.
    assert [with_signals(row) for row in given] == entries
    assert rows[1]["cost_usd"] == ""


async def test_parquet_round_trips(tmp_path: Path) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    path, entries = await exported(tmp_path, ".parquet")
    rows = pq.read_table(path).to_pylist()
    assert [row.pop("tags") for row in rows] == [[("user", "ü")]] * 3
    assert all(row.pop("id") for row in rows)
    assert [with_signals(row) for row in rows] == entries


async def test_an_export_says_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match=r"\.jsonl, \.csv, \.parquet"):
        await exported(tmp_path, ".xls")
    monkeypatch.setattr("cascade.ledger.store.export.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[parquet\]"):
        await exported(tmp_path, ".parquet")


@pytest.mark.parametrize(
    "url", ["ledger.db", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "sqlite://ledger.db"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sqlite:///ledger\.db"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "extra"), [("sqlite:///x.db", "store"), ("postgres://h/d", "postgres")]
)
def test_a_missing_driver_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, url: str, extra: str
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=rf"agent-cascade\[{extra}\]"):
        open_store(url)


async def test_secrets_are_masked_before_anything_is_stored() -> None:
    note = "400: no 'sk-abc123def456' for ada@example.org, card 4111 1111 1111 1111, in 12 s"
    async with open_store("memory://", redact=mask_secrets) as ledger:
        ledger.append([entry(note=note)])
        assert [e.note for e in await ledger.query()] == [
            "400: no '[…]' for […], card […], in 12 s"
        ]


async def test_a_redaction_that_fails_lets_nothing_through() -> None:
    def fails(text: str) -> str:
        raise KeyError(text)

    ledger = Store(MemoryBackend(), redact=fails)
    ledger.append([entry(note="secret")])
    assert [e.note for e in await ledger.query()] == ["[redaction failed]"]
    await ledger.aclose()
