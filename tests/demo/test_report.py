"""The figures of a run, against cases counted by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from cascade.demo.report import Share, auroc, cost_quality, summarise
from tests.demo.made import CENT, FOUR, outcome


def test_accuracies_and_the_escalation_rate_are_counted() -> None:
    overall = summarise(FOUR).overall
    assert (overall.small.count, overall.small.n) == (2, 4)
    assert overall.large == Share(3, 4)
    assert overall.cascade == Share(2, 4)
    assert overall.escalated == Share(2, 4)
    assert overall.accepted_right == Share(1, 2)


def test_each_kind_has_a_line_and_the_lines_add_up() -> None:
    report = summarise(FOUR)
    assert [line.kind for line in report.kinds] == ["capital", "plural"]
    assert sum(line.n for line in report.kinds) == report.overall.n
    assert sum(line.cascade.count for line in report.kinds) == report.overall.cascade.count


def test_costs_and_times_are_totals_and_means() -> None:
    report = summarise(FOUR)
    assert report.small_cost == 4 * CENT
    assert report.large_cost == 16 * CENT
    assert report.cascade_cost == 12 * CENT
    assert report.saved_share == pytest.approx(0.25)
    assert (report.small_ms, report.large_ms, report.cascade_ms) == (100, 500, 350)


def test_a_cascade_that_costs_more_than_the_large_model_shows_a_loss() -> None:
    saved = summarise([outcome(True, True, 0.1)]).saved_share
    assert saved == pytest.approx(-0.25)


def test_unknown_costs_stay_unknown() -> None:
    report = summarise([*FOUR, outcome(True, True, 0.9, priced=False)])
    assert report.large_cost is None
    assert report.cascade_cost is None
    assert report.saved_share is None


def test_the_large_model_is_unknown_where_it_was_not_asked_everything() -> None:
    report = summarise([*FOUR, outcome(True, None, 0.9)])
    assert report.overall.large is None
    assert report.large_ms is None
    assert report.curve is None


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no outcomes"):
        summarise([])


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_wilsons(count: int, n: int, low: float, high: float) -> None:
    assert Share(count, n).interval == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_is_zero() -> None:
    assert Share(0, 0).rate == 0


@pytest.mark.parametrize(
    ("scored", "expected"),
    [
        ([(0.9, True), (0.1, False)], 1.0),
        ([(0.1, True), (0.9, False)], 0.0),
        ([(0.5, True), (0.5, False)], 0.5),
        ([(0.9, True), (0.4, True), (0.5, False), (0.4, False)], 2.5 / 4),
        ([(0.9, True), (None, True), (0.1, False), (None, False)], 1.0),
        ([(0.9, True)], None),
        ([], None),
    ],
)
def test_auroc(scored: list[tuple[float | None, bool]], expected: float | None) -> None:
    assert auroc(scored) == expected


def test_the_curve_runs_from_accepting_all_drafts_to_accepting_none() -> None:
    curve = cost_quality(FOUR)
    assert curve is not None
    assert curve.unit == "dollars"
    assert [point.threshold for point in curve.points] == [0.2, 0.5, 0.85, 0.9, None]
    assert [point.cost for point in curve.points] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert [point.accuracy for point in curve.points] == [0.5, 0.75, 0.5, 0.75, 0.75]


def test_the_named_points_of_the_curve() -> None:
    curve = cost_quality(FOUR)
    assert curve is not None
    assert (curve.small.cost, curve.small.accuracy) == pytest.approx((0.01, 0.5))
    assert (curve.large.cost, curve.large.accuracy) == pytest.approx((0.04, 0.75))
    assert (curve.oracle.cost, curve.oracle.accuracy) == pytest.approx((0.03, 1.0))
    assert (curve.operating.cost, curve.operating.accuracy) == pytest.approx((0.03, 0.5))


def test_the_operating_point_lies_on_the_curve_of_its_threshold() -> None:
    curve = cost_quality(FOUR)
    assert curve is not None
    at = next(point for point in curve.points if (point.threshold or 0) >= 0.8)
    assert (curve.operating.cost, curve.operating.accuracy) == pytest.approx((at.cost, at.accuracy))


def test_a_draft_without_confidence_is_escalated_at_every_threshold() -> None:
    curve = cost_quality([outcome(True, False, None), outcome(True, True, 0.9)])
    assert curve is not None
    assert [point.accuracy for point in curve.points] == [0.5, 0.5]


def test_without_prices_the_curve_counts_answers_of_the_large_model() -> None:
    curve = cost_quality([outcome(True, True, c, priced=False) for c in (0.9, 0.1)])
    assert curve is not None
    assert curve.unit == "large share"
    assert [point.cost for point in curve.points] == [0.0, 0.5, 1.0]
    assert curve.operating.cost == 0.5


def test_a_free_large_model_leaves_no_cost_to_compare_with() -> None:
    report = summarise([outcome(True, True, 0.9)])
    assert report.saved_share is not None
    free = summarise([replace(FOUR[0], large_cost=Decimal(0))])
    assert free.large_cost == 0
    assert free.saved_share is None
