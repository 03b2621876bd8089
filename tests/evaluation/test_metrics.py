"""Metrics by hand and by law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cascade.evaluation.metrics import (
    MOST_RESAMPLED,
    aiq,
    apgr,
    audc,
    aurc,
    bootstrap,
    bootstrap_rows,
    cpt,
    deferral_curve,
    delta_ibc,
    excess_aurc,
    nauc,
)

SMALL = np.array([0.0, 1.0, 0.0, 1.0])
LARGE = np.array([1.0, 1.0, 1.0, 0.0])
SCORE = np.array([4.0, 3.0, 2.0, 1.0])

outcomes = st.lists(
    st.tuples(st.floats(-3, 3), st.booleans(), st.booleans()), min_size=2, max_size=40
)


def columns(drawn: list[tuple[float, bool, bool]]) -> tuple[np.ndarray, ...]:
    score, small, large = (np.array(column, dtype=float) for column in zip(*drawn, strict=True))
    return score, small, large


def test_the_curve_escalates_the_highest_scores_first() -> None:
    curve = deferral_curve(SCORE, SMALL, LARGE)
    assert curve.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 0.75, 1.0, 0.75]
    assert np.isnan(curve.cost).all()


def test_equal_scores_are_escalated_together() -> None:
    curve = deferral_curve(np.array([2.0, 2.0, 1.0, 1.0]), SMALL, LARGE)
    assert curve.share.tolist() == [0, 0.5, 1]
    assert curve.quality.tolist() == [0.5, 0.75, 0.75]


def test_the_area_is_that_under_the_straight_lines() -> None:
    # (0.5 + 0.75)/2 + (0.75 + 0.75)/2 + (0.75 + 1)/2 + (1 + 0.75)/2, a quarter each
    assert float(audc(deferral_curve(SCORE, SMALL, LARGE))) == pytest.approx(3.125 / 4)


def test_nauc_is_the_area_above_random_over_that_of_the_oracle() -> None:
    # random: (0.5 + 0.75)/2; oracle: rows 0 and 2 first, then the tie, then the loss
    oracle = (0.625 + 0.875 + 1.0 + 0.875) / 4
    assert float(nauc(SCORE, SMALL, LARGE)) == pytest.approx((0.78125 - 0.625) / (oracle - 0.625))


def test_costs_grow_with_what_is_escalated() -> None:
    curve = deferral_curve(
        SCORE, SMALL, LARGE, kept_cost=np.ones(4), escalated_cost=np.array([11.0, 5, 5, 5])
    )
    assert curve.cost.tolist() == [4, 14, 18, 22, 26]


def test_apgr_averages_the_recovered_gap() -> None:
    assert float(apgr(deferral_curve(SCORE, SMALL, LARGE))) == pytest.approx((0.78125 - 0.5) / 0.25)


@pytest.mark.parametrize(("recovered", "share"), [(0.0, 0.0), (0.5, 0.125), (1.0, 0.25)])
def test_cpt_is_the_first_share_that_recovers_enough(recovered: float, share: float) -> None:
    assert float(cpt(deferral_curve(SCORE, SMALL, LARGE), recovered)) == pytest.approx(share)


def test_without_a_gap_nothing_can_be_recovered() -> None:
    curve = deferral_curve(SCORE, LARGE, LARGE)
    assert math.isnan(float(apgr(curve)))
    assert math.isnan(float(cpt(curve, 0.5)))
    assert math.isnan(float(nauc(SCORE, LARGE, LARGE)))


def test_aiq_is_the_mean_height_of_the_upper_hull() -> None:
    # (1, 0.5) lies below the chord from (0, 0.4) to (2, 0.8)
    cost, quality = np.array([0.0, 1.0, 2.0]), np.array([0.4, 0.5, 0.8])
    assert aiq(cost, quality) == pytest.approx(0.6)
    assert aiq(np.array([1.0, 1.0]), np.array([0.3, 0.7])) == 0.7


def test_aiq_never_falls_with_cost() -> None:
    assert aiq(np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.9, 0.1])) == pytest.approx(0.8)


def test_delta_ibc_compares_with_the_line() -> None:
    small, large = (1.0, 0.5), (11.0, 0.9)
    assert delta_ibc(6.0, 0.7, small, large) == pytest.approx(0.0)
    assert delta_ibc(3.5, 0.7, small, large) == pytest.approx(1.0)
    assert math.isnan(delta_ibc(1.0, 0.5, small, large))


def test_aurc_is_the_mean_risk_over_coverages() -> None:
    confidence, correct = np.array([0.9, 0.8, 0.7]), np.array([1.0, 0.0, 1.0])
    assert aurc(confidence, correct) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert excess_aurc(confidence, correct) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3 - 1 / 9)


@given(outcomes)
def test_the_oracle_has_an_nauc_of_one_and_nothing_has_more(
    drawn: list[tuple[float, bool, bool]],
) -> None:
    score, small, large = columns(drawn)
    value = float(nauc(score, small, large))
    assume(not math.isnan(value))
    assert float(nauc(large - small, small, large)) == pytest.approx(1.0)
    assert value <= 1.0 + 1e-9


@given(outcomes)
def test_a_constant_score_is_the_random_mix(drawn: list[tuple[float, bool, bool]]) -> None:
    _, small, large = columns(drawn)
    value = float(nauc(np.zeros(len(small)), small, large))
    assume(not math.isnan(value))
    assert value == pytest.approx(0.0, abs=1e-9)


@given(outcomes, st.randoms())
def test_the_order_of_the_rows_does_not_matter(
    drawn: list[tuple[float, bool, bool]], random: object
) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    first, second = (float(audc(deferral_curve(*columns(rows)))) for rows in (drawn, shuffled))
    assert first == pytest.approx(second)


@given(outcomes, st.integers(0, 2**32 - 1))
def test_a_weight_counts_like_a_repeated_row(
    drawn: list[tuple[float, bool, bool]], seed: int
) -> None:
    score, small, large = columns(drawn)
    weight = np.random.default_rng(seed).integers(0, 4, len(score))
    assume(weight.sum() > 0)
    repeated = [np.repeat(column, weight) for column in (score, small, large)]
    weighted = nauc(score, small, large, weight[None].astype(float))
    assert weighted.shape == (1,)
    assert weighted[0] == pytest.approx(float(nauc(*repeated)), nan_ok=True)


def test_a_random_order_is_near_the_random_mix() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.random((2, 4000)) < 0.5).astype(float)
    assert abs(float(nauc(rng.random(4000), small, large))) < 0.08


@pytest.mark.parametrize("n", [400, 2 * MOST_RESAMPLED])
def test_the_interval_of_a_mean_is_as_wide_as_theory_says(n: int) -> None:
    values = (np.random.default_rng(1).random(n) < 0.3).astype(float)
    found = bootstrap(lambda rows, w: {"mean": w @ values[rows] / w.sum(axis=-1)}, n)["mean"]
    error = math.sqrt(0.3 * 0.7 / n)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.25)


@pytest.mark.parametrize("n", [400, 2 * MOST_RESAMPLED])
def test_draws_row_by_row_say_the_same(n: int) -> None:
    values = (np.random.default_rng(1).random(n) < 0.3).astype(float)
    found = bootstrap_rows(lambda rows: {"mean": float(values[rows].mean())}, n, draws=300)["mean"]
    error = math.sqrt(0.3 * 0.7 / n)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_a_figure_that_is_never_known_has_no_interval() -> None:
    found = bootstrap_rows(lambda rows: {"x": float("nan")}, 5, draws=3)["x"]
    assert all(math.isnan(bound) for bound in found)
