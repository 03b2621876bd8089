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
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

from cascade.ledger import Amounts, Pending, Texts
from cascade.ledger.store import Backend, Batch, Claim, Dropped, Selection, Stored, Withdrawn
from cascade.state import LedgerEntry
from cascade.testing.ledger_samples import (
    NOON,
    SECOND,
    begun,
    drawn,
    everything,
    made,
    opened,
    said,
)

EXACT = ("0.1000000000000000000000000001", "-1E-30", "12345678901234567890.123456789", "0", "1E+3")
"""Amounts that a floating-point column would change."""


class LedgerConformance:
    """Inherit from it, and give the fixture `make_backend`."""

    durable = True
    """Whether a second backend finds what a first one wrote."""

    async def test_what_is_written_is_read_back_unchanged(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Each field comes back as it was, and unknown stays unknown."""
        # bare is first: columns that are set only later in a batch are kept, too
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
            price="set by you",
            marginal_usd=Decimal("0.125"),
            assumed_usd=Decimal("1E-30"),
            baseline_low_usd=Decimal("-0.1"),
            baseline_high_usd=Decimal("0.10"),
            prompt_hash="0f" * 16,
            answer_hash="f0" * 16,
            action="escalate",
            confidence=0.1 + 0.2,
            calibrated=True,
            signals={"mean_logprob": -1e-300, "größe": 0.1},
            audit_rate=0.05,
            large_usd=Decimal("0.3"),
            loss=-1.0,
            cache_write_tokens=2**40,
            tool_calls=2,
            tags={"user": "42", "größe": "'; --"},
        )
        bare = made(0, baseline_usd=None)
        assert full.entry.model_fields_set == set(LedgerEntry.model_fields)
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=[bare, full]))
            assert await everything(backend) == [bare, full]

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

    async def test_an_attempt_that_is_kept_at_once_is_like_any_other(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """A backend may decline; either way, writing it afterwards keeps it once."""
        async with opened(make_backend) as backend:
            kept = backend.write_now(Batch(attempts=[begun("a"), begun("b")]))
            found = list(await backend.unfinished(Selection()))
            assert found == ([begun("a"), begun("b")] if kept else [])
            await backend.write(Batch(attempts=[begun("a"), begun("b")]))
            assert list(await backend.unfinished(Selection())) == [begun("a"), begun("b")]
            await backend.write(Batch(entries=[made(1, attempt_id="a")]))
            assert list(await backend.unfinished(Selection())) == [begun("b")]

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

    async def test_texts_are_read_back_unchanged_and_in_pages(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """An answer that never came stays None; a selection means texts as it does entries."""
        kept = [said(i, tier="small", tags={"n": str(i)}) for i in range(3)]
        kept.append(said(3, texts=Texts("[]", None), node="expert"))
        async with opened(make_backend) as backend:
            await backend.write(Batch(texts=kept))
            await backend.write(Batch(texts=kept[:1]))
            first = list(await backend.texts(Selection(), None, 3))
            assert first + list(await backend.texts(Selection(), first[-1], 3)) == kept
            for selection in (Selection(node="expert"), Selection(since=NOON + 3 * SECOND)):
                assert list(await backend.texts(selection, None, 9)) == kept[3:]
            assert list(await backend.texts(Selection(tags={"n": "1"}), None, 9)) == kept[1:2]

    async def test_a_pending_audit_stays_until_it_is_dropped(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """A run has one; a second one of the same run changes nothing."""
        audits = [drawn(0, tags={"user": "1"}), drawn(1), drawn(2)]
        async with opened(make_backend) as backend:
            await backend.write(Batch(pending=[*audits, drawn(1, payload="other")]))
            assert list(await backend.pending(Selection())) == audits
            assert list(await backend.pending(Selection(tags={"user": "1"}))) == audits[:1]
            assert list(await backend.pending(Selection(node="draft"))) == []
            await backend.write(Batch(pending=[drawn(3)], dropped=[Dropped("run-3")]))
            await backend.write(Batch(dropped=[Dropped("run-1"), Dropped("none")]))
            assert list(await backend.pending(Selection())) == [audits[0], audits[2]]

    async def test_a_claimed_audit_is_nobody_elses_until_its_lease_ends(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """Only those that were drawn long enough ago can be claimed."""
        audits = [drawn(0), drawn(1), drawn(2)]

        def claim(by: str, at: datetime) -> Claim:
            return Claim(by=by, at=at, drawn_until=NOON + SECOND, lapsed=at - 60 * SECOND)

        async with opened(make_backend) as backend:
            await backend.write(Batch(pending=audits))
            now = NOON + 10 * SECOND
            assert list(await backend.claim(claim("a", now))) == audits[:2]
            assert list(await backend.claim(claim("b", now + SECOND))) == []
            assert list(await backend.pending(Selection())) == audits
            await backend.write(Batch(dropped=[Dropped("run-0")]))
            assert list(await backend.claim(claim("b", now + 60 * SECOND))) == audits[1:2]
            assert list(await backend.claim(claim("a", now + 61 * SECOND))) == []

    async def test_of_those_who_claim_at_once_each_gets_others(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """No audit is done twice, and none is left out."""
        if not self.durable:
            return
        audits = [drawn(i) for i in range(20)]

        async def claim(by: str) -> list[Pending]:
            async with opened(make_backend) as backend:
                now = NOON + 60 * SECOND
                mine = Claim(by=by, at=now, drawn_until=now, lapsed=now - 60 * SECOND)
                return list(await backend.claim(mine))

        async with opened(make_backend) as backend:
            await backend.write(Batch(pending=audits))
            claimed = [p for found in await asyncio.gather(*map(claim, "abcd")) for p in found]
        assert sorted(claimed, key=lambda pending: pending.at) == audits

    async def test_spending_counts_unknown_costs_at_what_is_assumed(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """To the last digit, and where nothing is assumed, unknown stays unknown."""
        entries = [
            made(0, node="audit", cost_usd=Decimal("12345678901234567890.123456789")),
            made(1, node="audit", cost_usd=Decimal("1E-30")),
            made(2, node="audit", cost_usd=Decimal("0.5"), cost_basis="estimated"),
            made(3, node="audit", assumed_usd=Decimal("0.25"), cost_basis="unknown"),
            made(4, node="audit", cost_basis="unknown"),
            made(5, cost_usd=Decimal(7)),
        ]
        exact = Decimal("12345678901234567890.123456789000000000000000000001")
        async with opened(make_backend) as backend:
            await backend.write(Batch(entries=entries))
            assert await backend.spent(Selection(node="audit")) == Amounts(
                measured=exact, estimated=Decimal("0.75"), unknown=1
            )
            since = Selection(node="audit", since=NOON + 3 * SECOND)
            assert await backend.spent(since) == Amounts(estimated=Decimal("0.25"), unknown=1)
            assert await backend.spent(Selection(node="none")) == Amounts()

    async def test_texts_and_pending_audits_go_with_their_entries(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """By run, tag, age and node; pending audits have no node."""
        user = {"user": "1"}
        audits = [drawn(0), drawn(1, tags=user), drawn(2), drawn(3)]
        texts = [said(0), said(1, tags=user), said(2), said(3, node="expert"), said(4)]
        cases = [
            (Selection(run_id="run-0"), [1, 2, 3, 4], [1, 2, 3]),
            (Selection(tags=user), [2, 3, 4], [2, 3]),
            (Selection(until=NOON + 3 * SECOND), [3, 4], [3]),
            (Selection(node="expert"), [4], [3]),
            (Selection(), [], []),
        ]
        async with opened(make_backend) as backend:
            await backend.write(Batch(texts=texts, pending=audits))
            for selection, kept, open_audits in cases:
                assert await backend.delete(selection) == 0
                found = await backend.texts(Selection(), None, 9)
                assert list(found) == [texts[i] for i in kept], selection
                assert list(await backend.pending(Selection())) == [audits[i] for i in open_audits]

    async def test_texts_can_be_deleted_before_their_entries(
        self, make_backend: Callable[[], Backend]
    ) -> None:
        """They may have a shorter life than figures; pending audits are texts, too."""
        attempts, entries = [begun("a")], [made(0), made(1)]
        async with opened(make_backend) as backend:
            await backend.write(Batch(attempts=attempts, entries=entries, texts=[said(0), said(1)]))
            await backend.write(Batch(pending=[drawn(0), drawn(1)]))
            assert await backend.delete_texts(Selection(until=NOON + SECOND)) == 2
            assert list(await backend.texts(Selection(), None, 9)) == [said(1)]
            assert list(await backend.pending(Selection())) == [drawn(1)]
            assert await everything(backend) == entries
            assert list(await backend.unfinished(Selection())) == attempts

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
