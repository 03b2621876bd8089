"""Fits of calibrators and gain heads: few labels change little, many find what is there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from cascade.confidence.calibrators import (
    FittedCalibrator,
    GainHead,
    Linear,
    VennAbersBand,
    sigmoid,
)
from cascade.confidence.columns import Columns, margin_of, owner, raw_score, score_logit
from cascade.confidence.fitting import (
    cross_fitted,
    cross_fitted_gain,
    fit_calibrator,
    fit_gain,
    fit_venn_abers,
    minority,
    step_share,
    stratified_folds,
)
from cascade.confidence.metrics import auroc, auroc_error, brier, ece, ece_noise

Array = NDArray[np.float64]


def scores(n: int, *, seed: int = 0, slope: float = 1.0, other: float = 0.8) -> tuple[Array, Array]:
    """(n, 3) features, the logit of a score first, and labels drawn at σ(slope·(x₀ + other·x₁))."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.5, (n, 3))
    p = sigmoid(slope * (x[:, 0] + other * x[:, 1]))
    return x, (rng.random(n) < p).astype(np.float64)


# --- metrics


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_metrics_are_those_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    score = np.array([value / 5 for value, _ in rows])
    label = np.array([float(right) for _, right in rows])
    assert brier(score, label) == pytest.approx(brier_score_loss(label, score, pos_label=1))
    if len(set(label)) == 2:
        assert auroc(score, label) == pytest.approx(roc_auc_score(label, score))
    else:
        assert math.isnan(auroc(score, label))


def test_the_standard_error_of_an_auroc_is_that_of_its_paper() -> None:
    """Hanley and McNeil 1982, table II: area .893 of 58 normal and 51 abnormal: 0.032."""
    assert auroc_error(0.893, 51, 58) == pytest.approx(0.032, abs=1e-3)
    assert auroc_error(1.0, 5, 5) == 0.0


def test_calibration_error_does_not_depend_on_the_order_of_ties() -> None:
    rng = np.random.default_rng(0)
    p = rng.integers(0, 4, 200) / 4
    labels = (rng.random(200) < p).astype(np.float64)
    order = rng.permutation(200)
    assert ece(p[order], labels[order]) == pytest.approx(ece(p, labels))
    assert ece(np.full(10, 0.3), np.ones(10)) == pytest.approx(0.7)


def test_noise_of_the_calibration_error_shrinks_with_the_rows() -> None:
    few, many = (float(ece_noise(np.full(n, 0.5)).mean()) for n in (50, 5000))
    assert few > 5 * many > 0


# --- columns


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20, unique=True))
def test_the_scale_of_a_users_signal_keeps_its_order(values: list[float]) -> None:
    rows = [{"mine": value} for value in sorted(values)]
    columns = Columns.of(rows, ["other"])
    scaled = columns.matrix(rows)[:, columns.names.index("mine")].tolist()
    assert scaled == sorted(scaled)


def test_a_score_is_on_the_logit_scale_and_an_unbounded_value_on_its_own() -> None:
    rows = [{"score": 0.5, "tests": 0.0, "token_count": 9.0}, {"score": 1.0, "tests": 7.0}]
    columns = Columns.of(rows, ["logprobs"])
    table = columns.matrix(rows)
    assert columns.linear == ("tests",)
    named = dict(zip(columns.names, table.T, strict=True))
    assert named["score"] == pytest.approx([0.0, math.log(0.98 / 0.02)])
    assert named["tests"].tolist() == [0.0, 7.0]
    assert named["token_count"][0] == pytest.approx(math.log(10))
    later = columns.matrix([{"score": 3.0, "tests": float("inf")}])
    assert later[0, columns.names.index("score")] == pytest.approx(math.log(0.98 / 0.02))
    assert math.isnan(later[0, columns.names.index("tests")])


def test_sure_scores_are_not_tied_and_votes_are_no_certainties() -> None:
    sure = score_logit(np.array([0.5, 0.99, 0.9999, 0.99999]))
    assert len(set(sure.tolist())) == 4
    assert margin_of(np.array([0.0, 0.2, 1.0])) == 0.02
    assert margin_of(np.array([0.0, 1.0, np.nan])) == 0.02
    votes = score_logit(np.array([0.95, 1.0, np.nan]))
    assert votes[1] == pytest.approx(math.log(0.98 / 0.02))
    assert math.isnan(votes[2])


def test_columns_come_in_the_order_of_trust_and_the_only_score_is_not_there_twice() -> None:
    features = {"prompt_words": 3.0, "logprob_mean": -0.5, "p_true": 0.4, "mine": 0.2}
    rows = [features, {**features, "p_true": 0.1}]
    several = Columns.of(rows, ["logprobs", "p_true", "mine", "prompt"])
    assert several.names == ("raw", "p_true", "mine", "logprob_mean", "prompt_words")
    alone = Columns.of(rows, ["p_true", "prompt"])
    assert alone.names == ("raw", "logprob_mean", "mine", "prompt_words")
    assert raw_score(features, several.signals) == 0.2
    assert raw_score({"a": float("nan")}, ["a"]) is None


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        *(("logprob_mean", "logprobs"), ("prompt_words", "prompt"), ("p", "p"), ("p_other", "p")),
        *(("prompt_votes", "prompt_votes"), ("prompt_votes_top", "prompt_votes")),
        *(("p_true", "p_true"), ("logprob_x", "logprob_x"), ("stranger", None)),
    ],
)
def test_a_feature_is_of_the_signal_that_is_called_so(feature: str, expected: str | None) -> None:
    names = ["p", "p_true", "logprobs", "logprob_x", "prompt", "prompt_votes"]
    assert owner(feature, names) == expected


# --- calibrators


def test_a_weak_prior_gives_the_weights_of_scikit_learn() -> None:
    x, labels = scores(400)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    head = fit_gain(x, labels, labels, scored=False, strength=1.0)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(z, labels)
    assert head.large.weights == pytest.approx(model.coef_[0].tolist(), abs=1e-3)
    assert head.large.intercept == pytest.approx(float(model.intercept_[0]), abs=1e-2)


def test_a_calibrated_score_is_left_nearly_alone() -> None:
    x, labels = scores(500, other=0.0)
    fitted = fit_calibrator(x, labels)
    assert fitted.base.raw == pytest.approx(1.0, abs=0.2)
    assert np.abs(fitted.predict(x) - sigmoid(x[:, 0])).mean() < 0.05


def test_an_overconfident_score_is_brought_down() -> None:
    x, labels = scores(300, slope=0.3, other=0.0)
    fitted = fit_calibrator(x, labels)
    unseen, truth = scores(3000, seed=1, slope=0.3, other=0.0)
    assert fitted.kind == "temperature"
    assert ece(fitted.predict(unseen), truth) < 0.5 * ece(sigmoid(unseen[:, 0]), truth)


def test_few_labels_stay_near_the_raw_score() -> None:
    x, labels = scores(8, slope=-1.0, other=0.0)
    fitted = fit_calibrator(x, labels)
    assert fitted.kind in ("temperature", "base rate")
    assert fitted.full is None


def test_more_columns_are_taken_where_they_pay_and_no_more_than_labels_allow() -> None:
    x, labels = scores(600)
    fitted = fit_calibrator(x, labels)
    assert fitted.kind == "logistic"
    assert fitted.share > 0.8
    unseen, truth = scores(2000, seed=1)
    base = FittedCalibrator(base=fitted.base)
    assert brier(fitted.predict(unseen), truth) < 0.9 * brier(base.predict(unseen), truth)
    wide = np.hstack([x[:60], np.random.default_rng(0).normal(size=(60, 50))])
    full = fit_calibrator(wide, labels[:60]).full
    assert full is None or len(full.columns) < minority(labels[:60]) / 10


def test_noise_is_not_worth_a_step() -> None:
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.normal(size=300), rng.normal(size=(300, 20))])
    labels = (rng.random(300) < sigmoid(x[:, 0])).astype(np.float64)
    assert fit_calibrator(x, labels).share < 0.5


def test_a_score_that_falls_with_the_truth_becomes_the_base_rate() -> None:
    x, labels = scores(200, slope=-1.0, other=0.0)
    fitted = fit_calibrator(x[:, :1], labels)
    assert fitted.kind == "base rate"
    assert fitted.predict(x)[0] == pytest.approx(labels.mean(), abs=0.01)


def test_without_a_score_there_is_the_base_rate_or_what_the_columns_say() -> None:
    x, labels = scores(400)
    x[:, 0] = np.nan
    alone = fit_calibrator(x[:, :1], labels)
    assert (alone.kind, alone.width) == ("base rate", 1)
    assert alone.predict(x) == pytest.approx(np.full(400, (labels.sum() + 1) / 402))
    assert auroc(fit_calibrator(x, labels).predict(x), labels) > 0.65


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_kind_make_a_calibrator_all_the_same(label: float) -> None:
    x = scores(30)[0]
    p = cross_fitted(x, np.full(30, label))
    assert np.abs(p - label).mean() < 0.25


def test_missing_values_count_as_the_mean() -> None:
    x, labels = scores(600)
    fitted = fit_calibrator(x, labels)
    row = np.array([[1.0, np.nan, np.nan]])
    mean = np.array([[1.0, *x[:, 1:].mean(axis=0)]])
    assert fitted.predict(row) == pytest.approx(fitted.predict(mean))


def test_a_score_without_any_slope_is_called_raw_where_nothing_was_fitted() -> None:
    assert FittedCalibrator(base=Linear(intercept=0.0, raw=1.0)).kind == "raw"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=40)
)
def test_the_share_of_a_step_is_a_share(rows: list[tuple[float, float, bool]]) -> None:
    before, after, actual = np.array(rows, dtype=np.float64).T
    assert 0.0 <= step_share(before, after, actual) <= 1.0
    assert step_share(before, before, actual) == 0.0


def test_a_clear_step_is_taken_whole() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(2000)
    actual = (rng.random(2000) < p).astype(np.float64)
    assert step_share(np.full(2000, 0.5), p, actual) > 0.85
    assert step_share(p, np.full(2000, 0.5), actual) < 0.05


@pytest.mark.parametrize("folds", [2, 5, 50])
def test_each_row_is_held_out_once(folds: int) -> None:
    labels = np.array([0.0] * 5 + [1.0] * 15)
    parts = list(stratified_folds(labels, folds))
    held = np.concatenate([out for _, out in parts])
    assert sorted(held.tolist()) == list(range(20))
    if folds == 5:
        assert all(labels[out].sum() == 3 for _, out in parts)


def test_a_venn_abers_band_holds_the_truth_and_narrows_with_labels() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (100, 2000):
        p = rng.random(n)
        band = fit_venn_abers(p, (rng.random(n) < p).astype(np.float64))
        ends = [band.interval(at) for at in (0.2, 0.5, 0.8)]
        widths.append(np.mean([high - low for low, high in ends]))
        assert all(
            low - 0.15 <= at <= high + 0.15
            for at, (low, high) in zip((0.2, 0.5, 0.8), ends, strict=True)
        )
    assert widths[1] < widths[0] / 3


# --- gain heads


def answered(n: int, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """(n, 4) features with gaps, and which model was right."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    small = (rng.random(n) < sigmoid(x[:, 0])).astype(np.float64)
    large = (rng.random(n) < sigmoid(1.5 + 0.5 * x[:, 1])).astype(np.float64)
    x[:, 1:][rng.random((n, 3)) < 0.05] = np.nan
    return x, small, large


def test_with_few_labels_a_gain_head_ranks_as_the_raw_score_does() -> None:
    x, small, large = answered(20)
    gain = fit_gain(x, small, large).predict(x)
    rank = np.corrcoef(np.argsort(np.argsort(gain)), np.argsort(np.argsort(-x[:, 0])))[0, 1]
    assert rank > 0.9


def test_with_many_labels_a_gain_head_ranks_better_than_the_raw_score() -> None:
    x, small, large = answered(4000)
    unseen, small_right, large_right = answered(4000, seed=1)
    won = (large_right > small_right).astype(np.float64)
    head = fit_gain(x, small, large)
    assert auroc(head.predict(unseen), won) > auroc(-unseen[:, 0], won)
    assert brier(head.p_large(unseen), large_right) < brier(
        np.full(4000, large.mean()), large_right
    )


def test_cross_fitted_gain_tells_something_about_rows_it_has_not_seen() -> None:
    x, small, large = answered(800)
    won = (large > small).astype(np.float64)
    assert auroc(cross_fitted_gain(x, small, large), won) > 0.6
    noise = np.random.default_rng(0).normal(size=(800, 30))
    found = cross_fitted_gain(noise, small, large, scored=False)
    assert auroc(found, won) == pytest.approx(0.5, abs=0.06)
    assert np.isfinite(cross_fitted_gain(x[:12], small[:12], large[:12], folds=50)).all()


def test_a_small_prior_scale_shrinks_a_column() -> None:
    x, small, large = answered(300)
    moved = x.copy()
    moved[:, 1] = np.nan_to_num(moved[:, 1]) + 1.0
    change = []
    for spread in (1.0, 0.01):
        head = fit_gain(x, small, large, spread=np.array([1.0, spread, 1.0, 1.0]))
        change.append(np.abs(head.predict(moved) - head.predict(x)).mean())
    assert change[1] < change[0] / 20


def test_columns_that_say_nothing_or_are_never_there_do_not_count() -> None:
    x, small, large = answered(200)
    wide = np.column_stack([x, np.ones(200), np.full(200, np.nan)])
    later = np.column_stack([x, np.full(200, 7.0), np.full(200, 7.0)])
    expected = fit_gain(x, small, large).predict(x)
    assert fit_gain(wide, small, large).predict(later) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_large_model_that_is_always_or_never_right_is_no_obstacle(right: float) -> None:
    x, small, _ = answered(200)
    head = fit_gain(x, small, np.full(200, right))
    assert np.abs(head.p_large(x) - right).max() < 0.02
    assert np.isfinite(head.predict(x)).all()


def test_records_read_from_json_predict_the_same_numbers() -> None:
    x, small, large = answered(300)
    head, fitted = fit_gain(x, small, large), fit_calibrator(x, small)
    assert GainHead.model_validate_json(head.model_dump_json()) == head
    read = FittedCalibrator.model_validate_json(fitted.model_dump_json())
    assert (read.predict(x) == fitted.predict(x)).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Linear(intercept=float("nan")),
        lambda: Linear(intercept=0.0, columns=(1,)),
        lambda: Linear(intercept=0.0, columns=(1,), mean=(0.0,), scale=(0.0,), weights=(1.0,)),
        lambda: Linear(intercept=0.0, columns=(-1,), mean=(0.0,), scale=(1.0,), weights=(1.0,)),
        lambda: FittedCalibrator(base=Linear(intercept=0.0), share=1.5),
        lambda: VennAbersBand(scores=(), low=(), high=()),
        lambda: VennAbersBand(scores=(0.5,), low=(0.1,), high=(1.2,)),
        lambda: VennAbersBand(scores=(0.5, 0.1), low=(0.1, 0.2), high=(0.2, 0.3)),
        lambda: VennAbersBand(scores=(0.5,), low=(0.1, 0.2), high=(0.2, 0.3)),
        lambda: Columns(names=("a",), signals=(), linear=(), margins=(0.1,)),
        lambda: Columns(names=("raw",), signals=(), linear=(), margins=()),
    ],
)
def test_records_that_cannot_be_computed_with_are_refused(make: object) -> None:
    with pytest.raises(ValidationError):
        make()  # type: ignore[operator]
