"""What a report says about the runs of a ledger."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cascade.errors import ConfigurationError
from cascade.evaluation import report as reports
from cascade.evaluation.render import to_json, to_page, words
from cascade.evaluation.report import make_report
from cascade.ledger.base import Selection
from cascade.ledger.store import open_store
from tests.evaluation.ledgers import (
    CENT,
    HOUR,
    NOON,
    Story,
    accepted,
    audited,
    cells_of,
    entry,
    fact_of,
    fill,
    mixed,
    reported,
    table_of,
    text_of,
    usd,
)

DAY = timedelta(days=1)
BY_HAND = {"node": "person", "tier": "person"}
OTHER = {"tier": "other", "baseline_usd": usd("0.004"), "basis": "estimated"}
CACHED = Story().draft().accept(CENT, rate=1.0).call("audit", usd("0.004"))


def test_the_verified_saving_is_the_lower_end_of_the_interval() -> None:
    report = reported([*audited(30), *accepted(30, rate=0.5)])
    assert report.verdict == "saves"
    assert report.verified_usd == report.saving.saving.low
    assert report.document.tone == "good"
    assert "Saves: a verified net saving of at least $" in text_of(report)
    # What was checked comes first, and the bound after it.
    assert ". 0 of 30 checked drafts were worse" in report.document.sentence


def test_before_any_audit_the_saving_is_estimated_within_assumed_limits() -> None:
    report = reported(accepted(10, rate=0.1))
    spent = 10 * 0.0001
    assert report.verified_usd is None
    assert report.saving.saving.low == pytest.approx(10 * 0.01 / 5 - spent)
    assert report.saving.saving.high == pytest.approx(10 * 0.01 * 8 - spent)
    assert "by assumption, the saving is between $0.019 and" in report.reason
    assert "audit some drafts" not in text_of(report)  # audits are on, and none has come yet
    assert "audit some drafts" in text_of(reported(accepted(10)))


def test_with_nothing_accepted_the_saving_is_measured() -> None:
    report = reported([Story().escalated() for _ in range(3)])
    assert report.verdict == "loses"
    assert report.verified_usd == pytest.approx(-0.0003)
    assert report.quality.loss.high == 0
    assert report.document.tone == "bad"


def test_an_empty_ledger_says_so() -> None:
    report = reported([])
    assert (report.requests, report.escalation.value) == (0, None)
    assert "there are no requests" in text_of(report)
    assert "ledger=open_store(URL)" in report.advice
    assert report.document.tables == report.document.pictures == ()


def test_no_figure_has_two_values() -> None:
    report = reported([*audited(30), *accepted(30, rate=0.5), *(Story().escalated() for _ in "ab")])
    for title in ("By team", "By model", "By tier", "By day", "By node"):
        measured, estimated = cells_of(report, title, "total")[-2:]
        assert f"measured {measured}, estimated {estimated}" in fact_of(report, "saved")[1]


def test_cost_per_right_answer_counts_the_wrong_ones_out() -> None:
    told = [*audited(5, loss=1.0, rate=1.0), *audited(5, rate=1.0), Story().escalated()]
    report = reported(told)
    assert report.right_usd.value == pytest.approx((11 * 0.0001 + 10 * 0.02 + 0.01) / 6)
    assert reported(accepted(3)).right_usd.value is None


def test_calls_without_a_price_leave_nothing_verified() -> None:
    told = [Story().draft(None, note="price not set").accept(rate=1.0).audit() for _ in range(3)]
    report = reported(told)
    assert (report.verified_usd, report.right_usd.value) == (None, None)
    assert cells_of(report, "Unknown costs", "draft")[1:] == ["price not set", "3", "?"]
    assert "Tier(…, price=Price(…))" in report.advice
    # A cost that is missing may be anything: there is an upper end of the saving alone.
    assert fact_of(report, "saved")[0] == "? (? to $0.00)"


def test_audits_know_the_baseline_that_the_ledger_does_not() -> None:
    told = [*audited(40), *accepted(40, rate=0.5)]
    blind = [Story().draft().accept(None, rate=0.5).audit(usd("0.02")) for _ in range(40)]
    report = reported([*blind, *accepted(40, baseline=None, rate=0.5)])
    wanted = reported(told).saving.baseline.value
    assert report.saving.baseline.value == pytest.approx(wanted, rel=0.02)
    assert cells_of(report, "By tier", "small")[-1] == "?"  # the ledger has no share of it


def test_what_is_assumed_for_an_unknown_cost_counts_as_spent() -> None:
    story = Story().fails("draft", assumed_usd=usd("0.002")).draft()
    report = reported([story.accept(rate=1.0).audit()])
    assert report.verified_usd == report.saving.saving.low
    assert report.saving.saving.value == pytest.approx(-0.0001 - 0.002)
    assert "; $0.002 assumed for 1 unknown cost" in fact_of(report, "spent")[1]


@pytest.mark.parametrize(
    ("story", "outcome", "saved"),
    [
        (Story().fails("draft", usd("0.001")).draft().accept(), "accepted", "0.0089"),
        (Story().escalated(), "escalated", "-0.0001"),
        (Story().expert(), "escalated", "0"),
        (Story().draft().decide("escalate").fails("expert", usd("0.002")), "degraded", "-0.0021"),
        (Story().draft().decide("abstain"), "abstained", "-0.0001"),
        (Story().draft().decide("ask"), "person", "-0.0001"),
        (Story().draft().decide("ask").accept(node="person"), "accepted", "0.0099"),
        (Story().draft().decide("ask").accept(Decimal(0), **BY_HAND), "person", "-0.0001"),
        (Story().fails("draft", usd("0.001")), "unfinished", "-0.001"),
        (Story().draft().decide("escalate"), "unfinished", "-0.0001"),
        (Story().tell("cache"), "cached", "0"),
        (Story().tell("mine", note="answered by mine"), "cached", "0"),
        (Story().shadow(), "shadow", "-0.0001"),
        (Story().draft().accept(Decimal(0)), "accepted", "-0.0001"),
    ],
)
def test_each_end_of_a_run_has_its_place(story: Story, outcome: str, saved: str) -> None:
    report = reported([story])
    assert report.outcomes == {outcome: 1}
    assert report.saving.saving.value == pytest.approx(float(saved))


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        # Another large model in its place earns at most its own cost.
        (OTHER, (-0.0101, -0.0061, -0.0001)),
        # A prompt that the large model would have had in its cache.
        ({"baseline_usd": usd("0.008"), "basis": "measured"}, (-0.0021, -0.0021, -0.0021)),
    ],
)
def test_a_large_answer_earns_what_the_large_model_alone_would_have_cost(
    fields: dict[str, Any], ends: tuple[float, float, float]
) -> None:
    told = Story().draft().decide("escalate").expert(usd("0.01"), **fields)
    saving = reported([told]).saving.saving
    assert (saving.low, saving.value, saving.high) == pytest.approx(ends)
    assert saving.basis == fields["basis"]


def test_the_escalation_rate_is_of_decided_requests() -> None:
    told = [
        *(Story().escalated() for _ in range(2)),
        Story().draft().decide("escalate").fails("expert"),
        *accepted(6),
        Story().draft().decide("abstain"),
        Story().shadow(),
        Story().fails("draft"),
    ]
    rate = reported(told).escalation
    assert (rate.value, rate.n) == (0.3, 10)
    assert rate.low < 0.3 < rate.high


def test_an_audit_that_could_not_be_compared_counts_for_the_saving_alone() -> None:
    report = reported([*audited(10), *audited(10, loss=None), *accepted(20, rate=0.5)])
    assert (report.saving.saving.n, report.quality.checked) == (20, 10)
    all_came = reported([*audited(20), *accepted(20, rate=0.5)]).quality
    assert report.quality.loss.numbers[2] > all_came.loss.numbers[2]


@pytest.mark.parametrize(
    ("story", "bill", "saved"),
    [
        # A cache made the call of the audit cheaper: the result says by how much the prediction
        # was off.
        (CACHED.tell("audit", loss=0.0, baseline_usd=usd("-0.002")), 0.008, 0.008 - 0.0041),
        # A judge is spend, and no price of the large model.
        (Story().draft().accept(rate=1.0).audit(judge=usd("0.5")), 0.012, -0.5 - 0.0001),
        # It is measured also where the draft had no chance of it.
        (Story().draft().accept().audit(usd("0.02")), 0.02, -0.0001),
    ],
)
def test_an_audit_measures_the_baseline(story: Story, bill: float, saved: float) -> None:
    report = reported([story])
    assert report.saving.baseline.value == pytest.approx(bill)
    assert report.saving.saving.value == pytest.approx(saved)


def test_drafts_without_an_audit_enter_with_assumed_limits_and_are_noticed() -> None:
    half = [*audited(20), *accepted(20, rate=0.5)]
    rated, both = reported(half), reported([*half, *accepted(40)])
    gained = both.saving.saving.value - rated.saving.saving.value
    assert gained == pytest.approx(40 * (0.01 - 0.0001))
    low = both.saving.saving.low - rated.saving.saving.low
    assert low == pytest.approx(40 * (0.01 / 5 - 0.0001))
    assert "could not be audited (auditing off, or its budget used up): 40 of 80" in text_of(both)
    assert "Nothing is known about quality" in text_of(reported(accepted(5, rate=0.0)))
    assert "About 40 audits were due; 0 have a result" in text_of(reported(accepted(200, rate=0.2)))


def test_confidence_and_correctness_of_audited_drafts_are_drawn() -> None:
    told = [
        Story().draft().accept(rate=rate, confidence=confidence).audit(loss=loss)
        for confidence, rate, loss in [(0.6, 0.5, 1.0), (0.6, 0.25, 0.0), (0.9, 0.5, -1.0)] * 20
    ]
    picture = reported(told).document.pictures[-1]
    (low, below, *_), *_, (_, above, *_) = picture.series[1].points
    assert low == pytest.approx(0.6)
    assert below < 0.7 < above


def test_a_cascade_that_loses_is_to_be_switched_off() -> None:
    told = [Story().draft(usd("0.5")).decide("escalate").expert() for _ in range(20)]
    report = reported([*told, *audited(5), *accepted(5, rate=0.5)])
    assert report.verdict == "loses"
    assert "at best it has lost $" in report.reason
    assert report.advice.startswith("Switch it off")
    # A loss without a bill has no share of it.
    assert reported([Story().draft().decide("abstain")]).reason == "at best it has lost $0.0001"


def test_one_that_loses_by_audits_alone_is_told_to_audit_less() -> None:
    report = reported([Story().draft().accept(rate=1.0).audit(usd("0.02")) for _ in range(3)])
    assert report.saving.saving.high == pytest.approx(-0.0003)
    assert report.verdict == "cannot tell yet"
    assert "its audits cost $0.06, without which it would have saved up to $0.0597" in report.reason


def test_a_saving_at_the_price_of_quality_is_told_with_it() -> None:
    report = reported([*audited(40, loss=1.0), *accepted(400, rate=0.1)])
    assert (report.verdict, report.document.tone) == ("saves", "open")
    assert "; but it lost at least " in report.reason


def test_a_tier_whose_last_calls_failed_is_wrong_now() -> None:
    down = [Story(NOON + i * HOUR).fails("draft", usd(0)) for i in range(3)]
    over = reported([*down, Story(NOON + 4 * HOUR).draft().accept()])
    assert over.document.alarms == ()
    told = text_of(reported(down))
    assert "Wrong now: The last 3 calls of small failed, since 2026-03-01 12:00 UTC: the" in told


def test_calls_are_counted_by_how_they_ended_and_how_long_they_took() -> None:
    told = [
        *(Story().draft(latency_ms=ms).accept() for ms in (100.0, 200.0, 300.0)),
        *(Story().fails("draft", usd(0), outcome=end) for end in ("not_sent", "cancelled")),
        Story().fails("draft", usd(0)),
    ]
    report = reported(told)
    cells = ["3", "1", "1", "1", "200 ms", "290 ms", "298 ms"]
    assert cells_of(report, "Calls by tier", "small") == cells
    assert words(report.document.facts[-1].figure) == "25.0 %"


async def test_a_call_whose_process_died_is_told(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        store.append(Story().draft().accept().entries)
        await store.begin(entry("dead", "expert", None, outcome="begun", model="m"))
        report = await make_report(store)
    assert "Calls of unknown outcome: 1." in report.document.alarms[0]
    assert report.requests == 1


def test_teams_come_before_models_and_nodes_and_lines_of_days_and_tags_count_requests() -> None:
    titles = [table.title for table in reported(accepted(3)).document.tables]
    order = [titles.index(f"By {by}") for by in ("team", "model", "tier", "day", "node")]
    assert order == sorted(order)
    assert "By key" not in titles
    told = [Story(NOON + days * DAY).draft().accept() for days in (0, 0, 2)]
    report = reported(told)
    assert cells_of(report, "By day", "2026-03-01")[0] == "2"
    assert cells_of(report, "By day", "2026-03-03")[0] == "1"
    assert cells_of(report, "By team", "search")[0] == "3"


def test_long_tables_sum_up_what_they_leave_out() -> None:
    told = [Story(NOON + days * DAY).draft().accept() for days in range(40)]
    days = table_of(reported(told), "By day").rows
    assert (days[0][0], words(days[0][1]), len(days)) == ("(10 earlier)", "10", 32)
    many = [Story().draft(usd(i + 1), model=f"m{i}").accept() for i in range(35)]
    models = table_of(reported(many), "By model").rows
    assert (models[0][0], models[-2][0]) == ("m34", "(5 others)")


def test_events_verdicts_of_people_and_calls_under_way_are_no_requests() -> None:
    told = [
        entry("watch", "drift", at=NOON - DAY, note="of another period", tier=None),
        entry("watch", "drift", note="escalations rose", tier=None),
        Story().draft().accept(),
        entry("watch", "drift", at=NOON + HOUR, tier=None),
        entry("said", "feedback", Decimal(0), loss=1.0, tier=None),
        entry("begun", "draft", None, outcome="begun"),
    ]
    report = reported(told, Selection(since=NOON))
    assert table_of(report, "Events").rows == (("2026-03-01 12:00", "escalations rose"),)
    assert report.requests == 1


def test_other_thresholds_agree_with_the_report_at_the_one_in_force() -> None:
    report = reported(mixed(300))
    [now] = [choice for choice in report.what_if if choice.in_force]
    assert (now.threshold, now.saving) == (0.35, report.saving.saving)
    assert now.escalated == pytest.approx(report.escalation.value)
    wrong = report.quality.error_rate.numbers[2] * (1 - now.escalated)
    assert now.worse.high == pytest.approx(wrong)
    assert "→ 0.350" in text_of(report)
    # A higher one costs more and lets less through.
    for rising in ([c.cost_usd for c in report.what_if], [c.escalated for c in report.what_if]):
        assert rising == sorted(rising)
    first, last = report.what_if[0], report.what_if[-1]
    assert last.worse.numbers[2] < first.worse.numbers[2]


def test_drafts_that_were_not_compared_may_all_be_wrong_at_another_threshold() -> None:
    sure = [Story().draft().accept(confidence=0.8, calibrated=True) for _ in range(4)]
    everything = reported(sure).what_if[0]
    assert everything.worse.value == pytest.approx(0.2)
    assert (everything.worse.low, everything.worse.high) == (0.0, 1.0)
    assert reported(accepted(4)).what_if[0].worse.value is None


def test_shadow_runs_say_what_going_live_would_give() -> None:
    told = [Story().shadow(loss=float(i == 0), confidence=0.5 + i / 20) for i in range(10)]
    live, *_, none = reported(told).what_if
    assert (live.escalated, none.escalated) == (0.0, 1.0)
    assert live.worse.value == pytest.approx(0.1)
    assert live.saving.value == pytest.approx(10 * (0.01 - 0.0001))
    assert "live at" not in reported(told).reason
    assert reported(told).verdict == "cannot tell yet"
    told = [Story().shadow(loss=0.0, confidence=0.9, threshold=0.5) for _ in range(10)]
    report = reported(told)
    assert "live at 0.500 it would have saved $0.099, with 0.0 %" in report.reason
    assert "Escalation per day" not in to_page(report.document)  # nothing was decided


def test_a_run_belongs_to_the_period_in_which_it_begins_and_its_audit_to_its_own() -> None:
    story = Story(NOON - timedelta(seconds=2)).draft().accept(rate=1.0).audit()
    before = reported([story], Selection(until=NOON))
    after = reported([story], Selection(since=NOON))
    assert (before.requests, after.requests, before.quality.checked) == (1, 0, 1)
    story = Story(NOON - 5 * HOUR).draft().accept(rate=1.0)
    story.at = NOON
    report = reported([story.audit()], Selection(since=NOON))
    assert report.requests == 0
    assert cells_of(report, "By node", "audit")[1] == "$0.012"


def test_two_periods_are_compared_by_the_same_figures() -> None:
    told = [*(Story(NOON + hour * HOUR).draft().accept() for hour in (0, 1, 2, 3, 4))]
    period = Selection(since=NOON + 2 * HOUR, until=NOON + 4 * HOUR)
    report = reported(told, period)
    assert report.requests == reported(told, Selection(run_id=told[0].run)).requests + 1 == 2
    assert reported(told, Selection(tags={"team": "c"})).requests == 0
    assert cells_of(report, "Compared with the period before", "requests") == ["2", "2"]
    assert "Compared" not in text_of(reported(told))


@pytest.mark.parametrize(
    ("selection", "options", "message"),
    [
        (Selection(since=NOON, until=NOON), {}, "is empty"),
        (Selection(), {"tag": "user"}, "has a tag 'user'; .* team, model, tier, day, node"),
    ],
)
def test_a_wrong_use_is_named(selection: Selection, options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        reported(accepted(1), selection, **options)


async def test_a_ledger_of_weeks_is_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = mixed(80)
    told.append(Story(NOON + 8 * DAY).draft(None, note="no price").accept())
    told.append(Story(NOON + 30 * DAY).escalated())
    async with open_store(f"sqlite:///{tmp_path}/ledger.db") as store:
        assert (await make_report(store)).requests == 0
        fill(store, told)
        report = await make_report(store)
        week = await make_report(store, Selection(until=NOON + 9 * DAY))
    assert report.requests == len(told)
    assert week.requests == report.requests - 1
    monkeypatch.setattr(reports, "WINDOW", 100 * DAY)
    wanted = await asyncio.to_thread(reported, told)
    assert to_json(report.saving) == to_json(wanted.saving)
    assert (report.quality, report.outcomes) == (wanted.quality, wanted.outcomes)


def test_sums_hold_to_the_last_digit() -> None:
    amounts = [Decimal("1e-15"), Decimal("123456789.123456789012345"), Decimal("1e-15")] * 7
    report = reported([Story().draft(amount).decide("abstain") for amount in amounts])
    facts = {fact.label: fact.figure for fact in report.document.facts}
    saved: Any = table_of(report, "By tier").rows[-1][3]
    assert (facts["spent"].value, saved.value) == (sum(amounts), -sum(amounts))
