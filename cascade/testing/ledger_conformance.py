"""What every backend of the ledger has to do, as tests that any backend can run.

class TestMine(LedgerConformance):
    @pytest.fixture
    def make_backend(self, tmp_path):
        return lambda: MyBackend(tmp_path / "ledger")

`make_backend` gives a new `Backend` each time, for the same database, which is empty when a test
begins and outlives its backends where `durable` is True. Needs pytest and pytest-asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cascade.ledger.store import Attempt, Backend, Selection, Stored
from cascade.ledger.store.base import Batch, Withdrawn
from cascade.state import LedgerEntry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

EXACT = ("0.1000000000000000000000000001", "-1E-30", "12345678901234567890.123456789", "0", "1E+3")
"""Amounts that a floating-point column would change."""


def made(number: int, **fields: Any) -> Stored:
    """An entry for tests: each number is a second later, with its own id and run."""
    tags = fields.pop("tags", {})
    given = {"run_id": f"run-{number}", "node": "draft", "at": NOON + timedelta(seconds=number)}
    return Stored(f"id-{number:06d}", LedgerEntry(**{**given, **fields}), tags)


def begun(attempt_id: str, **fields: Any) -> Attempt:
    """An attempt for tests."""
    given = {"run_id": "run", "node": "expert", "begun_at": NOON}
    return Attempt(attempt_id=attempt_id, **{**given, **fields})


@asynccontextmanager
async def opened(make_backend: Callable[[], Backend]) -> AsyncGenerator[Backend]:
    """A backend that is open within."""
    backend = make_backend()
    await backend.open()
    try:
        yield backend
    finally:
        await backend.aclose()


async def everything(backend: Backend, selection: Selection | None = None) -> list[Stored]:
    """All entries that are meant."""
    return list(await backend.page(selection or Selection(), None, 1_000_000))


class LedgerConformance:
    """Inherit from it, and give the fixture `make_backend`."""

    durable = True
    """Whether a second backend finds what a first one wrote."""

    async def test_what_is_written_is_read_back_unchanged(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Each field comes back as it was, and unknown stays unknown."""
        full = made(
            1,
            tier="small",
            model="ollama:qwen",
            input_tokens=2**40,
            output_tokens=0,
            cached_tokens=3,
            reasoning_tokens=4,
            latency_ms=12.5,
            cost_usd=Decimal("0.25"),
            saved_usd=Decimal("-0.25"),
            baseline_usd=None,
            cost_basis="estimated",
            basis="unknown",
            outcome="failed",
            note="Größe ≠ 0 — 'quoted' \"twice\"\n🙂",
            attempt_id="id-000001",
            tags={"user": "42", "größe": "'; --"},
        )
        bare = made(2, baseline_usd=None)
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=[full, bare]))
            assert await everything(backend) == [full, bare]

    async def test_amounts_keep_every_digit(self, make_backend: Callable[[], Backend]) -> None:
        """An amount is never rounded."""
        kept = [made(i, cost_usd=Decimal(amount)) for i, amount in enumerate(EXACT)]
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=kept))
            found = [stored.entry.cost_usd for stored in await everything(backend)]
        assert found == [Decimal(amount) for amount in EXACT]

    async def test_times_are_kept_in_utc_to_the_microsecond(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Entries of other time zones are ordered by the moment they mean."""
        east = datetime.fromisoformat("2026-03-01T14:00:00.000001+05:00")
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=[made(1), made(2, at=east)]))
            found = [stored.entry.at for stored in await everything(backend)]
        assert found == [east, NOON + timedelta(seconds=1)]
        assert {at.utcoffset() for at in found} == {timedelta()}

    async def test_text_that_databases_dislike_does_no_harm(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """NUL and halves of surrogate pairs may be replaced, but the entry is kept."""
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=[made(1, note="a\0b"), made(2, note="a\ud800b")]))
            notes = [stored.entry.note for stored in await everything(backend)]
        assert [note[0] + note[-1] for note in notes] == ["ab", "ab"]

    async def test_a_batch_that_comes_twice_is_kept_once(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """It comes twice when a connection broke before the answer to its commit."""
        batch = Batch(attempts=[begun("a")], entries=[made(1), made(2)])
        async with opened(make_backend) as backend:
            await backend.write(batch)
            await backend.write(batch)
            assert len(await everything(backend)) == 2
            assert len(await backend.unfinished(Selection())) == 1

    async def test_an_attempt_is_unfinished_until_its_entry_comes(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Attempts that were withdrawn are forgotten."""
        attempts = [begun("a", tier="large", model="m", tags={"user": "1"}), begun("b"), begun("c")]
        async with opened(make_backend) as backend:
            await backend.write(Batch(attempts=attempts))
            assert list(await backend.unfinished(Selection())) == attempts
            await backend.write(
                Batch(entries=[made(1, attempt_id="b")], withdrawn=[Withdrawn("c")])
            )
            assert list(await backend.unfinished(Selection())) == attempts[:1]
            assert list(await backend.unfinished(Selection(run_id="other"))) == []

    async def test_a_selection_means_what_it_says(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Conditions are joined by and; the end of a span of time is not in it."""
        entries = [
            made(0, run_id="r", tier="small", tags={"user": "1", "app": "x"}),
            made(1, run_id="r", node="expert", tier="large", tags={"user": "1"}),
            made(2, tier="large", tags={"user": "2"}),
            made(3),
        ]
        second = timedelta(seconds=1)
        cases = [
            (Selection(), [0, 1, 2, 3]),
            (Selection(run_id="r"), [0, 1]),
            (Selection(node="expert"), [1]),
            (Selection(tier="large"), [1, 2]),
            (Selection(since=NOON + second), [1, 2, 3]),
            (Selection(until=NOON + 2 * second), [0, 1]),
            (Selection(since=NOON + second, until=NOON + 3 * second), [1, 2]),
            (Selection(run_id="r", tier="large"), [1]),
            (Selection(run_id="none"), []),
            (Selection(tags={"user": "1"}), [0, 1]),
            (Selection(tags={"user": "1", "app": "x"}), [0]),
            (Selection(tags={"no": "1"}), []),
        ]
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=entries))
            for selection, which in cases:
                found = await everything(backend, selection)
                assert found == [entries[i] for i in which], selection

    async def test_pages_follow_one_another_without_gaps(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Also where many entries have the same time."""
        entries = [made(i, at=NOON + timedelta(seconds=i // 4)) for i in range(10)]
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=entries[::-1]))
            found: list[Stored] = []
            while page := await backend.page(Selection(), found[-1] if found else None, 3):
                assert len(page) <= 3
                found += page
        assert found == entries

    async def test_what_is_deleted_is_gone_and_the_rest_stays(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """By run, by tag and by age, attempts included."""
        late = NOON + timedelta(days=1)
        entries = [made(0, run_id="r"), made(1, tags={"user": "1"}), made(2), made(3, at=late)]
        attempts = [begun("a", run_id="r"), begun("b", tags={"user": "1"}), begun("c")]
        async with opened(make_backend) as backend:
            await backend.write(Batch(attempts=attempts, entries=entries))
            assert await backend.delete(Selection(run_id="r")) == 1
            assert await backend.delete(Selection(tags={"user": "1"})) == 1
            assert [a.attempt_id for a in await backend.unfinished(Selection())] == ["c"]
            assert await backend.delete(Selection(until=late)) == 1
            assert await everything(backend) == entries[3:]
            assert await backend.unfinished(Selection()) == []
            assert await backend.delete(Selection()) == 1

    async def test_a_second_backend_finds_what_a_first_one_wrote(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Opening a ledger that is there already changes nothing in it."""
        if not self.durable:
            return
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=[made(1)]))
        async with opened(make_backend) as backend:
            assert await everything(backend) == [made(1)]

    async def test_many_may_open_and_write_at_once(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Whoever comes first makes the schema; nobody sees an error."""
        if not self.durable:
            return

        async def write(number: int) -> None:
            async with opened(make_backend) as backend:
                for i in range(10):
                    await backend.write(Batch(entries=[made(number * 10 + i)]))

        await asyncio.gather(*map(write, range(5)))
        async with opened(make_backend) as backend:
            assert await everything(backend) == [made(i) for i in range(50)]
