"""What other thresholds would have given, on ledgers of which the truth is known."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from cascade.ledger.store import Selection
from cascade.report.making import report_of
from cascade.report.reading import Books, read
from cascade.report.thresholds import Choice, Thresholds, thresholds_of
from tests.report.ledgers import CENT, DRAFT, MORE, Story, World, store_of


async def books_of(stories: Iterable[Story]) -> Books:
    with closing(await store_of(stories)) as store:
        return await read(store, Selection())


async def found(stories: Iterable[Story], **options: Any) -> Thresholds:
    made = thresholds_of(await books_of(stories), **options)
    assert made is not None
    return made


def at(thresholds: Thresholds, cut: float) -> Choice:
    """The first choice at this threshold or above."""
    return next(c for c in thresholds.choices if c.threshold is not None and c.threshold >= cut)


def accepted(confidence: float, **more: Any) -> Story:
    return Story().draft().accept(rate=0.5, confidence=confidence, **more)


def escalated(confidence: float | None = 0.3, **more: Any) -> Story:
    return Story().draft().decide("escalate", confidence=confidence, **more).expert()


async def test_the_decisions_that_were_made_give_the_figures_of_the_report() -> None:
    stories, _ = World(400, seed=1).stories(rate=0.2, seed=2)
    books = await books_of(stories)
    report, thresholds = report_of(books, Selection()), thresholds_of(books)
    assert thresholds is not None
    assert thresholds.made.saving == report.saving.saving
    assert thresholds.made.share == report.saving.share
    assert thresholds.made.quality == report.quality
    assert thresholds.made.escalated == report.escalation


async def test_where_one_threshold_decided_its_step_repeats_the_decisions() -> None:
    stories, _ = World(400, seed=1).stories(rate=0.2, seed=2)
    thresholds = await found(stories)
    same = at(thresholds, 0.35)
    assert same.model_copy(update={"threshold": None}) == thresholds.made


@pytest.mark.parametrize("cut", [0.0, 0.35, 0.5, 0.7, 0.9])
async def test_the_true_saving_of_another_threshold_lies_within_its_interval(cut: float) -> None:
    world = World(1_500, seed=3)
    stories, _ = world.stories(rate=0.2, seed=4)
    audited = world.accepted & (np.random.default_rng(4).random(1_500) < 0.2)
    choice = at(await found(stories), cut)
    known = np.where(world.accepted, world.confidence, 0.3)  # of all escalations of these stories
    taken = known >= choice.threshold
    # The audit of a draft that would have been escalated is that escalation's call.
    paid = world.draft * len(taken) + world.large[audited & taken].sum()
    assert choice.saving.low <= world.large[taken].sum() - paid <= choice.saving.high
    assert choice.escalated.value == pytest.approx(1 - taken.mean())


async def test_a_higher_threshold_pays_the_large_model_for_what_it_sends_up() -> None:
    thresholds = await found([accepted(0.9), accepted(0.6), escalated()])
    now, higher = at(thresholds, 0.6), at(thresholds, 0.9)
    assert now.cost_usd == pytest.approx(float(3 * DRAFT + CENT))
    assert higher.cost_usd == pytest.approx(float(3 * DRAFT + 2 * CENT))
    assert higher.saving.value == pytest.approx(float(CENT - 3 * DRAFT))


async def test_a_lower_threshold_spares_the_call_that_was_made() -> None:
    thresholds = await found([accepted(0.9), escalated(0.3)])
    everything = at(thresholds, 0.0)
    assert everything.escalated.value == 0
    assert everything.cost_usd == pytest.approx(float(2 * DRAFT))
    assert everything.saving.value == pytest.approx(float(2 * CENT - 2 * DRAFT))


async def test_an_audit_of_a_draft_that_goes_up_becomes_the_escalation() -> None:
    thresholds = await found([accepted(0.6).audit(MORE), accepted(0.9)])
    higher = at(thresholds, 0.9)
    assert higher.cost_usd == pytest.approx(float(2 * DRAFT + MORE))


async def test_drafts_that_nobody_compared_may_all_be_wrong() -> None:
    stories = [accepted(0.9).audit() for _ in range(8)] + [escalated(0.3) for _ in range(8)]
    lower = at(await found(stories), 0.0)
    assert lower.unjudged == 0.5
    assert lower.harm.value is None
    assert lower.harm.high >= 0.5
    assert lower.harm.source == "audits"


async def test_a_calibrated_confidence_tells_how_many_of_them_are_expected_to_be_wrong() -> None:
    stories = [accepted(0.9, calibrated=True).audit() for _ in range(8)]
    stories += [escalated(0.3, calibrated=True) for _ in range(8)]
    thresholds = await found(stories)
    lower = at(thresholds, 0.0)
    assert thresholds.calibrated == 1
    assert lower.harm.source == "audits and calibration"
    assert lower.harm.value == pytest.approx(0.5 * 0.7)


async def test_without_audits_nothing_but_the_calibration_is_known() -> None:
    calibrated = await found([accepted(0.9, calibrated=True), accepted(0.8, calibrated=True)])
    raw = await found([accepted(0.9), accepted(0.8)])
    assert calibrated.made.quality is None
    assert calibrated.made.harm.source == "calibration"
    assert calibrated.made.harm.value == pytest.approx(0.15)
    assert (raw.made.harm.value, raw.made.harm.low, raw.made.harm.high) == (None, 0, 1)
    assert raw.made.harm.source == "nothing"
    assert raw.calibrated == 0


async def test_where_nothing_is_accepted_nothing_is_wrong() -> None:
    thresholds = await found([escalated(0.3), escalated(0.4)])
    assert thresholds.made.harm.high == 0
    assert thresholds.made.unjudged == 0


async def test_drafts_of_a_shadow_start_were_compared_at_every_threshold() -> None:
    stories = [Story().shadow(loss=float(i % 4 == 0)) for i in range(40)]
    thresholds = await found(stories)
    everything = at(thresholds, 0.0)
    assert thresholds.audits == 40
    assert thresholds.made.escalated.value == 1
    assert everything.escalated.value == 0
    assert everything.unjudged == 0
    assert everything.harm.value == pytest.approx(0.25)
    assert everything.saving.value > 0 > thresholds.made.saving.value


async def test_what_no_threshold_decides_stays_as_it_was() -> None:
    routed = Story().expert()
    abstained = Story().draft().decide("abstain")
    by_a_person = Story().draft().accept(confidence=None, node="ask")
    thresholds = await found([accepted(0.9), routed, abstained, by_a_person])
    nothing = at(thresholds, 1.0)
    # The person's answer and the abstention are decided otherwise, and stay.
    assert nothing.escalated.value == 0.5
    assert nothing.cost_usd == pytest.approx(float(3 * DRAFT + 2 * CENT))


async def test_of_many_requests_the_latest_are_looked_at_with_their_own_costs() -> None:
    stories = [escalated(0.3) for _ in range(5)] + [accepted(0.9), accepted(0.8)]
    thresholds = await found(stories, most=2)
    assert (thresholds.requests, thresholds.left_out) == (2, 5)
    assert thresholds.made.cost_usd == pytest.approx(float(2 * DRAFT))
    assert thresholds.made.escalated.value == 0


async def test_confidences_are_counted_by_what_became_of_the_drafts() -> None:
    thresholds = await found([accepted(0.97), accepted(1.0), escalated(0.31), escalated(None)])
    counted = {
        round(b.low, 2): (b.accepted, b.escalated)
        for b in thresholds.confidences
        if b.accepted or b.escalated
    }
    assert counted == {0.95: (2, 0), 0.3: (0, 1)}


async def test_without_a_confidence_there_is_nothing_to_try() -> None:
    assert thresholds_of(await books_of([])) is None
    assert thresholds_of(await books_of([Story().expert()])) is None


async def test_a_call_of_unknown_cost_does_not_stop_it() -> None:
    thresholds = await found([accepted(0.9), escalated(0.3).draft(None, assumed_usd=Decimal("1"))])
    assert thresholds.made.cost_usd > 1
