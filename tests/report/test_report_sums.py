"""Sum over nodes is the run, over runs the report, to the last decimal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Context, Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.ledger import LedgerView
from cascade.ledger.store import Selection
from cascade.report import Line, Report, make_report
from tests.report.ledgers import NOON, Story, store_of, usd

EXACT = Context(prec=200)
ADDED = (
    "entries",
    "unknown",
    "unpriced",
    "cost_usd",
    "assumed_usd",
    "marginal_usd",
    "baseline_measured_usd",
    "baseline_estimated_usd",
    "saved_measured_usd",
    "saved_estimated_usd",
    "input_tokens",
    "output_tokens",
    "no_tokens",
)

ENDS = (
    "accepted",
    "audited",
    "escalated",
    "degraded",
    "abstained",
    "asked",
    "aborted",
    "shadow",
    "routed",
)
TABLES = ("node", "tier", "day", "model", "tag:team")

money = st.decimals(0, 3, allow_nan=False, allow_infinity=False, places=17)
rates = st.none() | st.floats(0.01, 1)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """One run: retries, failures, aborts, audits, unknown costs, shadow, degraded, people."""
    minutes = draw(st.integers(0, 3 * 24 * 60))
    story = Story(NOON + timedelta(minutes=minutes))
    assumed = draw(money)
    for _ in range(draw(st.integers(0, 2))):
        ended = draw(st.sampled_from(["failed", "cancelled"]))
        story.fails("draft", draw(st.none() | money), assumed_usd=assumed, outcome=ended)
    end = draw(st.sampled_from(ENDS))
    if end == "shadow":
        return story.shadow(draw(money), 0.5)
    if end != "routed":
        cost = draw(st.none() | money)
        cached = draw(st.sampled_from([None, 0, 90]))
        story.draft(cost, assumed_usd=assumed, cached_tokens=cached, marginal_usd=draw(money))
        story.check(draw(money))
    _finish(story, end, draw)
    return story


def _finish(story: Story, end: str, draw: st.DrawFn) -> None:
    match end:
        case "accepted":
            story.accept(draw(st.none() | money), rate=draw(rates))
        case "audited":
            story.accept(draw(st.none() | money), rate=draw(st.floats(0.01, 1)))
            large, judge = draw(money), draw(st.none() | money)
            story.audit(large, draw(st.none() | st.floats(-1, 1)), judge=judge)
        case "escalated" | "routed":
            if end == "escalated":
                story.decide("escalate")
            story.fails("expert", assumed_usd=draw(money))
            story.expert(draw(st.none() | money), assumed_usd=draw(money))
        case "degraded":
            story.decide("escalate").fails("expert", assumed_usd=draw(money))
        case "abstained":
            story.decide("abstain")
        case "asked":
            story.decide("ask").decide("ask", node="ask", confidence=None)


def reported(told: Iterable[Story], run_id: str | None = None) -> Report:
    async def make() -> Report:
        store = await store_of(told)
        with closing(store):
            return await make_report(
                store, Selection(run_id=run_id), by=("node", "tier", "day", "model", "tag:team")
            )

    return asyncio.run(make())


def added(lines: Iterable[Line], name: str) -> Decimal:
    total = Decimal(0)
    for line in lines:
        total = EXACT.add(total, Decimal(getattr(line, name)))
    return total


def each(told: list[Story]) -> Iterator[Report]:
    return (reported(told, run_id=story.run) for story in told)


@settings(deadline=None, max_examples=40)
@given(st.lists(stories(), max_size=8))
def test_sums_over_groups_are_the_total_to_the_last_decimal(told: list[Story]) -> None:
    report = reported(told)
    for table in report.tables:
        for name in ADDED:
            assert added(table.lines, name) == getattr(report.total, name), (table.by, name)


@settings(deadline=None, max_examples=25)
@given(st.lists(stories(), max_size=5))
def test_sums_over_runs_are_the_report_to_the_last_decimal(told: list[Story]) -> None:
    report = reported(told)
    parts = [part.total for part in each(told)]
    for name in ADDED:
        assert added(parts, name) == getattr(report.total, name), name
    assert report.requests == len(told) == sum(report.outcomes.values())


@settings(deadline=None, max_examples=40)
@given(st.lists(stories(), max_size=6))
def test_the_total_is_what_the_entries_say(told: list[Story]) -> None:
    report = reported(told)
    known = Decimal(0)
    for story in told:
        known = EXACT.add(known, LedgerView(story.entries).known_cost_usd)
    assert report.total.cost_usd == known
    if all(e.saved_usd is not None for story in told for e in story.entries):
        saved = Decimal(0)
        for story in told:
            saved = EXACT.add(saved, LedgerView(story.entries).saved_usd or Decimal(0))
        assert EXACT.add(report.total.saved_measured_usd, report.total.saved_estimated_usd) == saved


@settings(deadline=None, max_examples=40)
@given(st.lists(stories(), max_size=6))
def test_the_measured_part_of_the_saving_is_that_of_the_sums(told: list[Story]) -> None:
    report = reported(told)
    assert abs(report.saving.measured_usd - float(report.total.saved_measured_usd)) < 1e-9


def test_an_audit_turns_the_estimate_of_its_draft_into_a_measured_baseline() -> None:
    story = Story().draft(usd("0.001")).accept(usd("0.01"), rate=0.5).audit(usd("0.03"))
    total = reported([story]).total
    assert total.baseline_estimated_usd == 0
    assert total.baseline_measured_usd == usd("0.03")
    assert total.saved_measured_usd == usd("0.03") - usd("0.001") - usd("0.03")


def test_a_digit_is_never_lost() -> None:
    tiny, big = usd("0.00000000000000000000000001"), usd("123456789")
    report = reported([Story().draft(tiny), Story().draft(big), Story().draft(tiny)])
    assert str(report.total.cost_usd) == "123456789.00000000000000000000000002"
    assert '"123456789.00000000000000000000000002"' in report.model_dump_json()
