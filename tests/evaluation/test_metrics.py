"""Quality of scores, and intervals, where the truth is known."""

import numpy as np
import pytest

from cascade.evaluation.verdict import bootstrap, curve_of, grading, ranking

SMALL = np.array([1.0, 1.0, 0.0, 0.0])
LARGE = np.array([1.0, 1.0, 1.0, 1.0])
PERFECT = np.array([0.0, 0.1, 0.8, 0.9])


def costs(kept: float, escalated: float) -> tuple[np.ndarray, np.ndarray]:
    return np.full(4, kept), np.full(4, escalated)


def test_the_curve_goes_from_all_small_to_all_large() -> None:
    share, quality = curve_of(PERFECT, SMALL, LARGE)
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert quality.tolist() == [0.5, 0.75, 1, 1, 1]
    assert curve_of(PERFECT, *costs(0.1, 1.1))[1] == pytest.approx([0.1, 0.35, 0.6, 0.85, 1.1])
    assert curve_of(0 * PERFECT, SMALL, LARGE)[0].tolist() == [0, 1]


def test_figures_of_a_perfect_order_a_random_one_and_the_worst() -> None:
    def of(score: np.ndarray) -> dict[str, float]:
        return ranking(score, SMALL, LARGE, *costs(0, 1))

    perfect, chance, worst = of(PERFECT), of(0 * PERFECT), of(-PERFECT)
    known = {"nAUC": 1, "AUDC": 0.875, "APGR": 0.75, "CPT 50": 0.25, "CPT 80": 0.4, "AIQ": 0.875}
    assert perfect == pytest.approx({**known, "ΔIBC": perfect["ΔIBC"], "AUROC of gain": 1})
    assert (chance["nAUC"], chance["ΔIBC"]) == pytest.approx((0, 0))
    assert (worst["nAUC"], worst["AUROC of gain"]) == pytest.approx((-1, 0))
    assert perfect["ΔIBC"] > 0.5
    assert worst["ΔIBC"] < -0.5
    assert worst["AIQ"] == pytest.approx(0.75)  # the hull takes no point below a chord


def test_without_a_gap_nothing_can_be_recovered() -> None:
    found = ranking(PERFECT, SMALL, SMALL, *costs(0, 0))
    assert {name for name, figure in found.items() if np.isfinite(figure)} == {"AUDC", "AIQ"}
    assert found["AIQ"] == 0.5
    no_dearer = ranking(PERFECT, SMALL, LARGE, *costs(1, 1))
    assert np.isnan(no_dearer["ΔIBC"])


def test_risk_over_coverage_of_a_perfect_and_a_useless_confidence() -> None:
    assert grading(-PERFECT, SMALL)["AURC"] == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert grading(0 * PERFECT, SMALL)["AURC"] == pytest.approx(0.5)


def test_an_interval_holds_its_figure_also_where_resampling_moves_it() -> None:
    def figures(values: np.ndarray) -> dict[str, float]:
        again = 1 - len(set(values.tolist())) / len(values)  # 0 of the rows, 0.37 of a draw
        return {"mean": float(values.mean()), "again": again, "none": np.nan}

    found = bootstrap(figures, np.random.default_rng(0).random(500))
    assert found["mean"].low < found["mean"].value < found["mean"].high
    assert found["again"].low == 0.0 == found["again"].value < found["again"].high
    assert np.isnan(found["none"].low)
