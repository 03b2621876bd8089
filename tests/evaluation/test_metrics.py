from __future__ import annotations

import numpy as np
import pytest

from cascade.evaluation import metrics

SMALL = np.array([1.0, 1.0, 0.0, 0.0])
LARGE = np.array([1.0, 1.0, 1.0, 1.0])
PERFECT = np.array([0.0, 0.1, 0.8, 0.9])


def test_the_curve_goes_from_all_small_to_all_large() -> None:
    curve = metrics.deferral_curve(PERFECT, SMALL, LARGE, 0.1 * np.ones(4), 1.1 * np.ones(4))
    assert curve.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 1, 1, 1]
    assert curve.cost == pytest.approx([0.4, 1.4, 2.4, 3.4, 4.4])
    assert metrics.deferral_curve(0 * PERFECT, SMALL, LARGE).share.tolist() == [0, 1]


def test_a_perfect_order_is_1_a_random_one_0_and_the_worst_minus_1() -> None:
    assert metrics.nauc(PERFECT, SMALL, LARGE) == pytest.approx(1)
    assert metrics.nauc(0 * PERFECT, SMALL, LARGE) == pytest.approx(0)
    assert metrics.nauc(-PERFECT, SMALL, LARGE) == pytest.approx(-1)
    assert np.isnan(metrics.nauc(PERFECT, LARGE, LARGE))


def test_areas_and_calls_of_a_known_curve() -> None:
    curve = metrics.deferral_curve(PERFECT, SMALL, LARGE, np.zeros(4), np.ones(4))
    assert metrics.audc(curve) == pytest.approx(0.875)
    assert metrics.apgr(curve) == pytest.approx(0.75)
    assert metrics.cpt(curve, 0.5) == pytest.approx(0.25)
    assert metrics.cpt(curve, 0.8) == pytest.approx(0.4)
    assert metrics.cpt(curve, 0.0) == 0
    assert metrics.aiq(curve) == pytest.approx(0.875)


def test_the_benefit_of_a_dollar_is_compared_with_that_of_the_large_model() -> None:
    def of(deferral: np.ndarray) -> float:
        curve = metrics.deferral_curve(deferral, SMALL, LARGE, np.zeros(4), np.ones(4))
        return metrics.delta_ibc(curve)

    assert of(PERFECT) > 0.5
    assert of(0 * PERFECT) == pytest.approx(0)
    assert of(-PERFECT) < -0.5


def test_without_a_gap_nothing_can_be_recovered() -> None:
    curve = metrics.deferral_curve(PERFECT, SMALL, SMALL)
    assert np.isnan([metrics.apgr(curve), metrics.cpt(curve, 0.5), metrics.delta_ibc(curve)]).all()
    assert metrics.aiq(curve) == 0.5
    # The hull takes no point below a chord.
    curve = metrics.deferral_curve(-PERFECT, SMALL, LARGE, np.zeros(4), np.ones(4))
    assert metrics.aiq(curve) == pytest.approx(0.75)


def test_risk_over_coverage_of_a_perfect_and_a_useless_confidence() -> None:
    assert metrics.aurc(-PERFECT, SMALL) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert metrics.aurc(0 * PERFECT, SMALL) == pytest.approx(0.5)


def test_an_interval_holds_its_figure_also_where_resampling_moves_it() -> None:
    values = np.random.default_rng(0).random(500)

    def figures(rows: np.ndarray) -> dict[str, float]:
        again = 1 - len(set(rows.tolist())) / len(rows)  # 0 of the rows, 0.37 of a draw
        return {"mean": float(values[rows].mean()), "again": again, "none": np.nan}

    found = metrics.bootstrap(figures, len(values))
    assert found["mean"].low < found["mean"].value < found["mean"].high
    assert found["again"].low == 0.0 == found["again"].value < found["again"].high
    assert np.isnan(found["none"].low)
