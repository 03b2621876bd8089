"""Conformance suite of ledger stores, for ours and for those of others.

    class TestMine(LedgerConformance):
        @pytest.fixture
        def make_store(self, tmp_path):
            return lambda: MyStore(tmp_path / "ledger")

Each check is a test of pytest with pytest-asyncio, skipped where a store has no such method of its
own; without them, await it with `make_store`. That makes a store anew each time, for the same
database where it is durable, which is empty before each check.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import SkipTest

from cascade.ledger.base import LedgerStore, Selection
from cascade.ledger.entries import LedgerEntry
from cascade.state import Decision

NOON, SECOND = datetime(2026, 3, 1, 12, tzinfo=UTC), timedelta(seconds=1)


def made(number: int, **fields: Any) -> LedgerEntry:
    """A sample entry, so many seconds after noon."""
    given = {"id": f"id-{number:06}", "run_id": "run", "node": "draft"}
    return LedgerEntry(**{**given, "at": NOON + number * SECOND, **fields})


def full(number: int) -> LedgerEntry:
    """A sample entry with every field set."""
    counts = {"input_tokens": 2**40, "output_tokens": 0, "cached_tokens": 3, "reasoning_tokens": 4}
    decision = Decision(
        action="escalate",
        reason="0.3 < 0.8",
        confidence=0.1 + 0.2,
        calibrated=True,
        expected_cost_accept_usd=Decimal("0.012345678901234567890123456789"),
        signals={"mean_logprob": -1e-300, "größe": 0.1},
        audit_rate=0.05,
    )
    return made(
        number,
        tier="small",
        model="ollama:qwen",
        **counts,
        cache_write_tokens=2**40,
        latency_ms=12.5,
        cost_usd=Decimal("0.25"),
        cost_basis="estimated",
        saved_usd=Decimal("-0.25"),
        basis="unknown",
        baseline_usd=None,
        baseline_range=(Decimal("-0.1"), Decimal("0.10")),
        assumed_usd=Decimal("1E-30"),
        price="set by you",
        outcome="failed",
        note="Größe ≠ 0 — 'quoted' \"twice\"\n🙂",
        decision=decision,
        loss=-1.0,
    )


@asynccontextmanager
async def having(methods: str, make_store: Callable[[], Any]) -> AsyncGenerator[Any]:
    """A new store; the check is skipped where it has no such methods of its own."""
    async with make_store() as store:
        for name in methods.split():
            if getattr(type(store), name, None) is getattr(LedgerStore, name, None):
                raise SkipTest(f"{type(store).__name__} has no {name} of its own")
        yield store


class LedgerConformance:
    """The checks; give the fixture `make_store`. What is `durable` is there for a second store."""

    durable = True

    async def test_comes_back_unchanged(self, make_store: Any) -> None:
        """Unknown stays unknown, no amount is rounded as a floating-point column would, and times
        are kept to the microsecond, whatever zone they came in."""
        async with having("of_run", make_store) as store:
            assert full(1).model_fields_set == set(LedgerEntry.model_fields), "the sample has all"
            # The bare one is first: columns that are set only later in a batch are kept, too.
            entries = [made(0, baseline_usd=None), full(1)]
            digits = "0.1000000000000000000000000001 -1E-30 0 1E+3 12345678901234567890.123456789"
            entries += [made(i, cost_usd=Decimal(d)) for i, d in enumerate(digits.split(), 2)]
            entries.append(made(9, at=datetime.fromisoformat("2026-03-01T18:00:00.000001+05:00")))
            store.append(entries, {"user": "42", "größe": "'; --"})
            found = await _of_run(store)
            assert found == entries, [each for each in found if each not in entries]

    async def test_keeps_an_id_once(self, make_store: Any) -> None:
        """A repetition is left as the first one was."""
        async with having("of_run", make_store) as store:
            store.append([made(0, note="first"), made(1)])
            store.append([made(0, note="second")])
            assert [entry.note for entry in await _of_run(store)] == ["first", ""]

    async def test_takes_any_text(self, make_store: Any) -> None:
        """NUL and halves of surrogate pairs may be replaced, but the entry is kept."""
        async with having("of_run", make_store) as store:
            bad = Decision(action="accept", reason="a\0b\ud800")
            told = [made(1, note="a\0b", decision=bad), made(2, note="a\ud800b")]
            store.append(told, {"t": "\0"})
            found = [entry.note for entry in await _of_run(store)]
            assert [note[0] + note[-1] for note in found] == ["ab", "ab"], found

    async def test_a_begun_call_is_no_entry_until_it_is_completed(self, make_store: Any) -> None:
        """`append` with the same id completes it, once."""
        async with having("begin of_run", make_store) as store:
            call = made(0, outcome="begun", tier="large", model="m")
            await store.begin(call, {"user": "1"})
            assert await _of_run(store) == []
            done = made(0, tier="large", model="m", cost_usd=Decimal(1))
            store.append([done], {"user": "1"})
            store.append([done], {"user": "1"})
            assert await _of_run(store) == [done]

    async def test_spending_counts_unknown_costs_at_what_is_assumed(self, make_store: Any) -> None:
        """Sums are exact to the last digit."""
        async with having("spent", make_store) as store:
            entries = [
                made(0, node="audit", cost_usd=Decimal("12345678901234567890.123456789")),
                made(1, node="audit", cost_usd=Decimal("1E-30")),
                made(2, node="audit", cost_usd=Decimal("0.5"), cost_basis="estimated"),
                made(3, node="audit", assumed_usd=Decimal("0.25"), cost_basis="unknown"),
                made(4, node="audit", cost_basis="unknown"),
                made(5, cost_usd=Decimal(7)),
            ]
            exact = Decimal("12345678901234567890.873456789000000000000000000001")
            store.append(entries)
            found = await store.spent("audit", NOON)
            assert found == exact, found
            assert await store.spent("audit", NOON + 3 * SECOND) == Decimal("0.25")
            assert await store.spent("none", NOON) == 0

    async def test_a_selection_means_what_it_says(self, make_store: Any) -> None:
        """Conditions are joined by and; the end of a span of time is not in it."""
        async with having("entries", make_store) as store:
            tags = [{"user": "1", "app": "x"}, {"user": "1"}, {"user": "2"}, {}]
            given = [made(i, run_id="r" if i < 2 else "run") for i in range(4)]
            for entry, of in [*zip(given, tags, strict=True)][::-1]:
                store.append([entry], of)
            cases: list[tuple[Selection, list[int]]] = [
                (Selection(), [0, 1, 2, 3]),
                (Selection(run_id="r"), [0, 1]),
                (Selection(since=NOON + SECOND, until=NOON + 3 * SECOND), [1, 2]),
                (Selection(run_id="r", since=NOON + SECOND), [1]),
                (Selection(run_id="none"), []),
                (Selection(tags={"user": "1"}), [0, 1]),
                (Selection(tags={"user": "1", "app": "x"}), [0]),
                (Selection(tags={"no": "1"}), []),
            ]
            for selection, which in cases:
                found = await store.entries(selection)
                assert found == [given[i] for i in which], (selection, found)
            assert await store.rows(columns=["tags"]) == [(of or None,) for of in tags]

    async def test_rows_are_columns_of_entries(self, make_store: Any) -> None:
        """Columns may also be tags and parts of the decision."""
        async with having("rows", make_store) as store:
            names = "id cost_usd at baseline_high_usd tags tags.user decision.action "
            names += "decision.confidence decision.calibrated decision.audit_rate decision.signals"
            sample: Any = full(0)
            store.append([sample], {"user": "1"})
            store.append([made(1)])
            first, second = await store.rows(columns=names.split())
            assert first == (
                sample.id, sample.cost_usd, NOON, sample.baseline_range[1], {"user": "1"}, "1",
                "escalate", 0.1 + 0.2, True, 0.05, sample.decision.signals,
            ), first  # fmt: skip
            assert second == (made(1).id, None, NOON + SECOND, *[None] * 8), second

    async def test_calls_that_were_never_completed_are_listed(self, make_store: Any) -> None:
        """Those that were withdrawn are forgotten."""
        async with having("unfinished", make_store) as store:
            calls = [made(i, id=name, outcome="begun", run_id=name) for i, name in enumerate("abc")]
            for call in calls:
                await store.begin(call, {"user": call.run_id})
            store.append([made(0, id="b", run_id="b")])
            store.withdraw("c")
            assert await store.unfinished() == calls[:1]
            assert await store.unfinished(Selection(tags={"user": "a"})) == calls[:1]
            assert await store.unfinished(Selection(run_id="b")) == []
            assert await store.unfinished(Selection(until=NOON)) == []

    async def test_what_is_deleted_is_gone_and_the_rest_stays(self, make_store: Any) -> None:
        """By run, by tag and by age, with begun calls."""
        async with having("delete", make_store) as store:
            late = NOON + timedelta(days=1)
            store.append([made(0, run_id="r"), made(2), made(3, at=late)])
            store.append([made(1)], {"user": "1"})
            await store.begin(made(4, run_id="r", outcome="begun"))
            assert await store.delete(Selection(run_id="r")) == 1
            assert await store.unfinished() == []
            assert await store.delete(Selection(tags={"user": "1"})) == 1
            assert await store.delete(Selection(until=late)) == 1
            assert await store.entries() == [made(3, at=late)]
            assert await store.delete(everything=True) == 1

    async def test_a_second_store_finds_what_the_first_wrote(self, make_store: Any) -> None:
        """Of several stores that write at once, no entry is lost."""
        if not self.durable:
            return

        async def work(name: str) -> None:
            async with make_store() as store:
                for i in range(50):
                    entry = made(i, id=f"{name}-{i}", run_id="run")
                    await store.begin(entry.model_copy(update={"outcome": "begun"}))
                    store.append([entry])

        async with having("of_run", make_store) as store:
            await store.flush()
            await asyncio.gather(*map(work, "abcd"))
            found = sorted(entry.id for entry in await store.of_run("run"))
            assert found == sorted(f"{name}-{i}" for name in "abcd" for i in range(50))


async def _of_run(store: LedgerStore) -> list[LedgerEntry]:
    await store.flush()
    return await store.of_run("run")
