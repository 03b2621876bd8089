"""What a report says about the runs of a ledger."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import cascade.report as package
from cascade import Cascade, Price, Tier
from cascade._words import dollars
from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.ledger.judges import DISAGREED, PLANTED_WRONG
from cascade.ledger.store import Selection, open_store
from cascade.report import Report, make_report
from cascade.report.figures import thinned
from cascade.report.reading import MOST_REASONS
from cascade.state import Usage
from cascade.testing import ScriptedModel, reply
from tests.report.ledgers import HOUR, NOON, Story, World, entry, reported, usd


def audits(n: int, *, large: str = "0.02", loss: float | None = 0.0) -> list[Story]:
    return [
        Story(NOON + i * HOUR / 10).draft().accept(rate=0.5).audit(usd(large), loss)
        for i in range(n)
    ]


def accepted(n: int, **fields: Any) -> list[Story]:
    return [Story(NOON + i * HOUR / 10).draft().accept(**fields) for i in range(n)]


# The headline


def test_the_verified_saving_is_the_lower_end_of_the_interval() -> None:
    told = [*audits(30), *accepted(30, rate=0.5)]
    report = reported(told)
    assert report.status == "verified"
    assert report.verified_usd == report.saving.saving.low
    assert report.verified_share == report.saving.share.low
    assert report.audits == 30
    assert "Verified net saving" in report.text()


def test_before_any_audit_the_saving_is_estimated_within_assumed_limits() -> None:
    report = reported(accepted(10, rate=0.1))
    spent = 10 * 0.0001
    assert report.status == "estimated"
    assert report.verified_usd is None
    assert report.verified_share is None
    assert report.saving.saving.low == pytest.approx(10 * 0.01 / 5 - spent)
    assert report.saving.saving.high == pytest.approx(10 * 0.01 * 8 - spent)
    assert "Estimated, no audits yet" in report.text()
    assert "Verified" not in report.text()


def test_with_nothing_accepted_the_saving_is_measured() -> None:
    report = reported([Story().draft().decide("escalate").expert() for _ in range(3)])
    assert report.status == "measured"
    assert report.verified_usd == pytest.approx(-0.0003)
    assert report.saving.saving.basis == "measured"
    assert report.quality is not None
    assert report.quality.loss.high == 0
    assert report.verdict == "loses"
    assert "nothing to audit" not in report.text()


def test_an_empty_ledger_says_so() -> None:
    report = reported([])
    assert report.status == "empty"
    assert (report.requests, report.escalation, report.days) == (0, None, ())
    assert report.verdict == "cannot tell yet"
    assert "No requests." in report.text()


# Costs that nobody knows


def test_calls_that_nobody_can_price_leave_nothing_verified() -> None:
    told = [Story().draft(None, note="price not set").accept(rate=1.0).audit() for _ in range(3)]
    report = reported(told)
    assert report.status == "unknown"
    assert report.verified_usd is None
    [unknown] = report.unknown
    assert (unknown.reason, unknown.entries, unknown.unpriced) == ("price not set", 3, 3)
    assert "No verified saving: 3 calls" in report.text()
    assert "Tier(…, price=Price(…))" in report.advice


def test_what_is_assumed_for_an_unknown_cost_counts_as_spent() -> None:
    without = reported([Story().draft(usd(0)).accept(rate=1.0).audit() for _ in range(3)])
    told = [
        Story().draft(None, assumed_usd=usd("0.002")).accept(rate=1.0).audit() for _ in range(3)
    ]
    report = reported(told)
    assert report.status == "measured"
    assert report.total.assumed_usd == usd("0.006")
    assert report.saving.saving.value == pytest.approx(without.saving.saving.value - 0.006)


def test_a_failed_call_without_an_assumption_is_taken_for_the_mean_of_its_model() -> None:
    told = [Story().draft(usd("0.001")).draft(usd("0.003")).fails("draft").accept(rate=1.0).audit()]
    report = reported(told)
    assert report.status == "measured"
    assert report.total.assumed_usd == usd("0.002")
    assert (report.total.unknown, report.total.unpriced) == (1, 0)
    assert report.unknown[0].assumed_usd == usd("0.002")


def test_a_large_answer_of_unknown_cost_neither_saves_nor_loses() -> None:
    told = [Story().draft().decide("escalate").expert(usd(c)) for c in ("0.01", "0.03")]
    lost = reported(told).saving.saving.value
    told.append(Story().draft(usd(0)).decide("escalate").expert(None))
    report = reported(told)
    assert report.total.assumed_usd == usd("0.02")
    assert report.saving.saving.value == pytest.approx(lost)
    assert report.saving.baseline.value == pytest.approx(0.06)


def test_a_large_model_that_reports_no_usage_is_not_told_to_lose_its_own_price() -> None:
    told = Story().draft().decide("escalate").expert(None, assumed_usd=usd("0.02"))
    report = reported([told])
    assert report.saving.saving.value == pytest.approx(-0.0001)
    assert report.saving.baseline.value == pytest.approx(0.02)


def test_what_an_older_version_accepted_is_an_estimate() -> None:
    old = {"action": None, "confidence": None, "baseline_low_usd": None, "baseline_high_usd": None}
    told = [Story().draft().accept(**old) for _ in range(3)]
    report = reported([*told, Story().draft().accept(None, **old), Story().draft().expert()])
    assert report.outcomes == {"accepted": 4, "escalated": 1}
    assert (report.status, report.verified_usd) == ("estimated", None)
    assert report.total.baseline_estimated_usd == 3 * usd("0.01")
    assert report.saving.baseline.low == pytest.approx(0.01)
    assert report.saving.baseline.high == pytest.approx(0.01 + 3 * 0.08)


async def test_a_real_large_model_without_usage_neither_saves_nor_loses() -> None:
    silent = replace(reply("Canberra"), usage=Usage())
    async with open_store("memory://") as store:
        small = Tier(
            ScriptedModel([reply("Sydney", probability=0.3)]), price=Price(input=1, output=1)
        )
        cascade = Cascade(
            small, Tier(ScriptedModel([silent]), price=Price(input=2, output=8)), ledger=store
        )
        result = await cascade.ainvoke("What is the capital of Australia?")
        report = await make_report(store)
    assert report.total.assumed_usd > 0
    assert -report.total.saved_measured_usd == result.ledger.by_node()["draft"].cost_usd


def test_without_any_baseline_nobody_can_say_that_it_loses() -> None:
    report = reported([*accepted(3, baseline=None, rate=0.1), *accepted(3, baseline=None)])
    assert report.verdict == "cannot tell yet"
    assert "nobody knows what the large model would have cost" in report.reason


def test_a_draft_without_a_baseline_saves_nothing_until_it_is_audited() -> None:
    blind = reported(accepted(1, baseline=None, rate=1.0))
    assert blind.saving.saving.high == pytest.approx(-0.0001)
    assert "Accepted drafts without a baseline" in blind.text()
    seen = reported([Story().draft().accept(None, rate=1.0).audit(usd("0.02"))])
    assert seen.saving.baseline.value == pytest.approx(0.02)


def test_reasons_are_told_apart_up_to_a_limit() -> None:
    told = [Story().fails("draft", note=f"error {i}") for i in range(MOST_REASONS + 5)]
    report = reported(told)
    assert len(report.unknown) == MOST_REASONS + 1
    assert sum(u.entries for u in report.unknown) == MOST_REASONS + 5
    assert any(u.reason == "other reasons" for u in report.unknown)


def test_killed_calls_are_listed() -> None:
    async def make() -> Report:
        async with open_store("memory://") as store:
            for began in (NOON, datetime.now(UTC)):
                attempt = await store.begin(run_id="r", node="expert", tier="large", model="m")
                assert attempt is not None
                backend: Any = store._backend
                known = backend._attempts[attempt]
                object.__setattr__(known, "begun_at", began)
            return await make_report(store)

    report = asyncio.run(make())
    [lost] = report.unfinished  # the second may still be under way
    assert (lost.begun_at, lost.node, lost.model) == (NOON, "expert", "m")
    assert "Unknown outcome\n- 2026-03-01 12:00  expert m, run r" in report.text()


# How runs end


@pytest.mark.parametrize(
    ("story", "outcome", "saved"),
    [
        (Story().fails("draft", usd("0.001")).draft().accept(), "accepted", "0.0089"),
        (Story().draft().decide("escalate").expert(), "escalated", "-0.0001"),
        (Story().expert(), "escalated", "0"),
        (
            Story().draft().decide("escalate").fails("expert", usd("0.002")),
            "degraded",
            "-0.0021",
        ),
        (Story().draft().decide("abstain"), "abstained", "-0.0001"),
        (Story().draft().decide("ask").decide("ask", node="ask"), "person", "-0.0001"),
        (Story().draft().decide("ask").accept(node="ask"), "accepted", "0.0099"),
        (Story().draft().decide("observe").check(usd("0.001")).accept(), "accepted", "0.0089"),
        (Story().fails("draft", usd("0.001")), "unfinished", "-0.001"),
        (Story().draft().decide("escalate"), "unfinished", "-0.0001"),
        (Story().shadow(), "shadow", "-0.0001"),
    ],
)
def test_each_end_of_a_run_has_its_place(story: Story, outcome: str, saved: str) -> None:
    report = reported([story])
    assert report.outcomes == {outcome: 1}
    total = report.total
    assert total.saved_measured_usd + total.saved_estimated_usd == usd(saved)


def test_a_shadow_start_is_not_told_to_be_switched_off() -> None:
    report = reported([Story().shadow() for _ in range(5)])
    assert report.verdict == "cannot tell yet"
    assert "shadow start" in report.reason
    assert report.escalation is None


def test_the_escalation_rate_is_of_decided_requests() -> None:
    told = [
        *(Story().draft().decide("escalate").expert() for _ in range(2)),
        Story().draft().decide("escalate").fails("expert"),
        *accepted(6),
        Story().draft().decide("abstain"),
        Story().shadow(),
        Story().fails("draft"),
    ]
    rate = reported(told).escalation
    assert rate is not None
    assert (rate.value, rate.n) == (0.3, 10)
    assert rate.low < 0.3 < rate.high


# Audits


def test_an_audit_that_nobody_could_compare_counts_for_the_saving_alone() -> None:
    told = [*audits(10), *audits(10, loss=None), *accepted(20, rate=0.5)]
    report = reported(told)
    assert report.saving.saving.audits == 20
    assert report.quality is not None
    assert report.quality.loss.audits == 10
    assert report.quality.assumed_finished < 1
    assert "Only 50.0 % of the audits" in report.text()


def test_an_audit_without_the_large_models_cost_counts_for_quality_alone() -> None:
    told = [*audits(10), Story().draft().accept(rate=0.5).audit(None, 1.0)]
    report = reported(told)
    assert report.saving.saving.audits == 10
    assert report.quality is not None
    assert report.quality.loss.audits == 11


def test_drafts_that_could_not_be_audited_enter_with_assumed_limits() -> None:
    half = [*audits(20), *accepted(20, rate=0.5)]
    rated, both = reported(half), reported([*half, *accepted(40)])
    gained = both.saving.saving.value - rated.saving.saving.value
    assert gained == pytest.approx(40 * (0.01 - 0.0001))
    assert both.saving.saving.low - rated.saving.saving.low == pytest.approx(
        40 * (0.01 / 5 - 0.0001)
    )
    assert both.assumed_baseline_usd == pytest.approx(0.4)
    assert both.quality is not None
    assert both.quality.represented == 0.5
    assert "stand for 50.0 %" in both.text()


def test_without_any_chance_of_audits_nothing_is_known_about_quality() -> None:
    report = reported(accepted(5, rate=0.0))
    assert report.quality is None
    assert "Nothing is known about quality" in report.text()


def test_an_audit_of_a_draft_without_a_rate_is_measured() -> None:
    report = reported([Story().draft().accept().audit(usd("0.02"))])
    assert report.status == "measured"
    assert report.saving.baseline.value == pytest.approx(0.02)


def test_audits_that_never_came_are_noticed() -> None:
    rates = np.full(1000, 0.1)
    came = np.zeros(1000, dtype=bool)
    assert thinned(rates, came)[1] == 1.0
    came[:95] = True
    assert thinned(rates, came)[1] == 1.0
    came[40:] = False
    sample, share = thinned(rates, came)
    assert share == pytest.approx(0.4)
    assert sample.rates[0] == pytest.approx(0.04)
    assert "audits were due and none has a result" in reported(accepted(200, rate=0.2)).text()


def test_calibrated_and_wrong_drafts_show_in_the_reliability_table() -> None:
    told = [
        Story().draft().accept(rate=rate, confidence=confidence).audit(loss=loss)
        for confidence, rate, loss in [(0.6, 0.5, 1.0), (0.6, 0.25, 0.0), (0.9, 0.5, -1.0)] * 20
    ]
    low, middle, high = reported(told).reliability
    assert low.confidence == pytest.approx(0.6)
    assert low.correct.value < high.correct.value == 1.0
    assert sum(group.correct.n for group in (low, middle, high)) == 60


def test_few_escalated_requests_leave_the_spread_to_the_ranges_of_the_predictions() -> None:
    few = reported([*audits(5), *accepted(20, rate=0.5)])
    steady = [Story().draft().decide("escalate").expert() for _ in range(20)]
    many = reported([*audits(5), *accepted(20, rate=0.5), *steady])
    width_of = [r.saving.saving.high - r.saving.saving.low for r in (few, many)]
    assert width_of[0] > 5 * width_of[1] > 0


def test_a_judge_that_contradicts_itself_is_told() -> None:
    told = [
        Story().draft().accept(rate=0.5).audit(judge=usd("0.001"), signals={DISAGREED: wrong})
        for wrong in (0.0, 1.0, 1.0, 0.0)
    ]
    told.append(Story().draft().accept(rate=0.5).audit(signals={PLANTED_WRONG: 1.0}))
    report = reported(told)
    assert (report.judge.repeated, report.judge.disagreed, report.judge.planted_wrong) == (4, 2, 1)
    assert "said something else in 2 of 4 comparisons (50.0 %)" in report.text()
    assert "preferred one of two equal answers in 1 of 1" in report.text()


# Verdicts


def test_a_cascade_that_saves() -> None:
    report = reported([*audits(40), *accepted(40, rate=0.5)])
    assert report.verdict == "saves"
    assert "Verdict: saves; at least $" in report.text()


def test_a_cascade_that_loses_is_to_be_switched_off() -> None:
    told = [Story().draft(usd("0.5")).decide("escalate").expert() for _ in range(20)]
    report = reported([*told, *audits(5), *accepted(5, rate=0.5)])
    assert report.verdict == "loses"
    assert "Verdict: loses: switch it off; at best it has lost $" in report.text()
    assert report.advice.startswith("Switch it off")


def test_who_loses_by_audits_alone_is_told_to_audit_less() -> None:
    report = reported([Story().draft().accept(rate=1.0).audit(usd("0.02")) for _ in range(3)])
    assert report.saving.saving.high == pytest.approx(-0.0003)
    assert report.verdict == "cannot tell yet"
    assert "its audits cost $0.0600" in report.reason
    assert "would have saved up to $0.0597: audit a smaller share" in report.reason


def test_a_loss_without_a_bill_has_no_share_of_it() -> None:
    report = reported([Story().draft().decide("abstain")])
    assert report.reason == "at best it has lost $0.000100"


def test_who_saves_at_the_price_of_quality_is_told_both() -> None:
    report = reported([*audits(40, loss=1.0), *accepted(400, rate=0.1)])
    assert report.verdict == "saves"
    assert "; but it lost at least " in report.reason


def test_a_cascade_loses_also_when_some_costs_are_unknown() -> None:
    told = [Story().draft(usd("0.5")).decide("escalate").expert() for _ in range(3)]
    report = reported([*told, Story().draft(None, model="other").decide("escalate").expert()])
    assert (report.status, report.verdict) == ("unknown", "loses")


def test_an_interval_that_holds_both_answers_is_open() -> None:
    told = [Story().draft(usd("0.01")).accept(rate=0.5) for _ in range(50)]
    told += [
        Story().draft(usd("0.01")).accept(rate=0.5).audit(usd(large))
        for large in ("0.001", "0.05", "0.002", "0.03")
    ]
    report = reported(told)
    assert report.verdict == "cannot tell yet"
    assert "the saving is between −$" in report.reason


def test_the_number_of_audits_for_a_precision_is_said_in_advance() -> None:
    none = reported(accepted(10, rate=0.1))
    assert none.needed.assumed
    assert (none.needed.audits, none.needed.days) == (961, None)
    assert "take 961 audits if one draft in ten differs" in none.advice
    assert "audit_rate" in none.advice
    told = audits(20)
    wide, fine = reported(told, precision=0.2), reported(told, precision=0.02)
    assert wide.needed.missing == 0
    assert "they are there" in wide.advice
    assert fine.needed.missing == fine.needed.audits - 20
    assert fine.needed.days == pytest.approx(fine.needed.missing / 20)


# Periods, tags, events


def test_a_run_belongs_to_the_period_in_which_it_begins() -> None:
    story = Story(NOON - timedelta(seconds=2)).draft().accept(rate=1.0).audit()
    before = reported([story], Selection(until=NOON))
    after = reported([story], Selection(since=NOON))
    assert (before.requests, before.total.entries, before.audits) == (1, 4, 1)
    assert (after.requests, after.total.entries) == (0, 0)


def test_times_without_a_zone_are_utc() -> None:
    told = [Story(NOON).draft(), Story(NOON + HOUR).draft()]
    naive = datetime(2026, 3, 1, 12, 30)  # noqa: DTZ001 - that is the case
    assert reported(told, Selection(since=naive)).requests == 1


def test_lines_of_days_and_tags_count_requests() -> None:
    told = [Story(NOON + timedelta(days=d)).draft().accept() for d in (0, 0, 2)]
    days, teams = reported(told, by=("day", "tag:team")).tables
    assert [(line.name, line.requests) for line in days.lines] == [
        ("2026-03-01", 2),
        ("2026-03-03", 1),
    ]
    assert [(line.name, line.requests) for line in teams.lines] == [("search", 3)]


def test_each_day_has_its_own_interval() -> None:
    told = [*audits(5), Story(NOON + timedelta(days=1)).draft().accept(rate=0.5)]
    first, second = reported(told).days
    assert (first.saving.audits, second.saving.audits) == (5, 0)
    assert second.saving.low < second.saving.value < second.saving.high


def test_events_stand_in_order_and_are_no_requests() -> None:
    told = [
        entry("watch", "drift", at=NOON, note="escalations rose", tier=None),
        Story().draft().accept(),
        entry("watch", "mode", at=NOON + HOUR, note="back to shadow", tier=None),
    ]
    report = reported(told)
    assert [event.text for event in report.events] == ["escalations rose", "back to shadow"]
    assert report.requests == 1
    assert "2026-03-01 12:00  drift: escalations rose" in report.text()
    assert reported(told, Selection(since=NOON + HOUR)).events[0].node == "mode"


def test_prices_are_listed_with_their_calls() -> None:
    told = [Story().draft(price="given: $1 and $2").accept() for _ in range(3)]
    [price] = reported(told).prices
    assert (price.model, price.price, price.calls) == ("small-model", "given: $1 and $2", 3)


def test_the_marginal_cost_leaves_the_hardware_out() -> None:
    told = [Story().draft(usd("0.01"), marginal_usd=usd("0.001")).accept()]
    total = reported(told).total
    assert (total.cost_usd, total.marginal_usd) == (usd("0.01"), usd("0.001"))


# Text and JSON


def test_a_report_comes_back_from_its_json() -> None:
    report = reported([*audits(5), Story().fails("draft"), *accepted(3)])
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_a_terminal_shows_the_last_month_and_the_last_events() -> None:
    told = [Story(NOON + timedelta(days=d)).draft().accept() for d in range(40)]
    events = [entry("watch", "drift", at=NOON, note=f"event {i}.") for i in range(30)]
    failed = [Story().fails("draft", note=f"reason {i}.") for i in range(30)]
    often = [Story().fails("draft", note="often.") for _ in range(2)]
    report = reported([*told, *events, *failed, *often])
    text = report.text()
    assert "Unknown costs\n- 2 × draft small-model: often." in text
    assert "- (11 more)" in text
    assert len(report.days) == 40
    assert "(9 earlier)" in text
    assert "2026-03-09  " not in text
    assert "2026-03-10  " in text
    assert "- (10 before these)" in text
    assert "event 9." not in text
    assert "event 29." in text


def test_the_rounding_of_floats_is_not_shown_as_money() -> None:
    assert dollars(-1e-17) == "$0.00"
    assert dollars(None) == "unknown"


# Wrong use


@pytest.mark.parametrize(
    ("selection", "options", "message"),
    [
        (Selection(node="draft"), {}, "about whole runs"),
        (Selection(tier="small"), {}, "about whole runs"),
        (Selection(since=NOON, until=NOON), {}, "is empty"),
        (Selection(), {"by": ["team"]}, "by='team'"),
        (Selection(), {"by": ["tag:"]}, "by='tag:'"),
        (Selection(), {"precision": 0.0}, "precision=0"),
    ],
)
def test_a_wrong_use_is_named(selection: Selection, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        reported([], selection, **options)


def test_without_numpy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"agent-cascade\[calibrate\]"):
        importlib.reload(package)


# A world of which the truth is known


def test_the_intervals_cover_the_truth() -> None:
    """Of 200 worlds; 93 % or more, as 95 % intervals do with all but certainty."""
    inside = np.zeros(2)
    for seed in range(200):
        world = World(250, seed)
        told, paid = world.stories(0.15, 1000 + seed)
        report = reported(told, by=())
        saving, quality = report.saving.saving, report.quality
        assert quality is not None
        truth = world.saved - paid
        inside += (
            saving.low <= truth <= saving.high,
            quality.loss.low <= world.lost <= quality.loss.high,
        )
    assert inside.min() >= 0.93 * 200


def test_the_estimate_is_not_off_although_every_prediction_is() -> None:
    """The ledger's predictions are 30 % too low, in all worlds; the audits put that right."""
    off, naive = [], []
    for seed in range(30):
        world = World(250, seed)
        told, paid = world.stories(0.3, 500 + seed)
        report = reported(told, by=())
        ledger = float(report.total.saved_measured_usd + report.total.saved_estimated_usd)
        off.append(report.saving.saving.value / (world.saved - paid) - 1)
        naive.append(ledger / (world.saved - paid) - 1)
    assert abs(np.mean(off)) < 0.05
    assert np.mean(naive) < -0.2
