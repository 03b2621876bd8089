"""Calibrators: what they give, what they are made of, and what is left of them in JSON."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sklearn.isotonic import IsotonicRegression

from cascade.confidence import fitting
from cascade.confidence.calibrators import (
    Beta,
    Constant,
    FittedCalibrator,
    Isotonic,
    Logistic,
    Temperature,
    logit,
    sigmoid,
)
from cascade.confidence.fitting import cross_fitted, fit_calibrator, fit_venn_abers
from cascade.confidence.metrics import Array, auroc, brier, ece, ece_noise_floor
from tests.confidence.drafts import scores

ANY: TypeAdapter[FittedCalibrator] = TypeAdapter(FittedCalibrator)
X, Y = scores(1200)
INNER = fitting.fit_logistic(X, Y, (0, 1))
FITTED: dict[str, FittedCalibrator] = {
    "constant": Constant(value=0.7),
    "temperature": fitting.fit_temperature(X, Y),
    "logistic": INNER,
    "beta": fitting.fit_beta(X, Y, (0, 1)),
    "isotonic": fitting.fit_isotonic(X, Y, (0, 1)),
}


@pytest.mark.parametrize("kind", FITTED)
def test_a_calibrator_read_from_json_predicts_the_same_numbers(kind: str) -> None:
    read = ANY.validate_json(ANY.dump_json(FITTED[kind]))
    assert read.kind == kind
    assert (read.predict(X) == FITTED[kind].predict(X)).all()


@pytest.mark.parametrize("kind", FITTED)
def test_every_calibrator_is_monotone_in_the_score(kind: str) -> None:
    rising = np.zeros((200, 3))
    rising[:, 0] = np.linspace(-8, 8, 200)
    predicted = FITTED[kind].predict(rising)
    assert (np.diff(predicted) >= -1e-12).all()
    assert ((predicted >= 0) & (predicted <= 1)).all()


@pytest.mark.parametrize("kind", FITTED)
def test_missing_values_still_give_a_probability(kind: str) -> None:
    predicted = FITTED[kind].predict(np.full((4, 3), np.nan))
    assert np.isfinite(predicted).all()
    assert ((predicted >= 0) & (predicted <= 1)).all()


def test_extreme_logits_do_not_overflow() -> None:
    far = np.array([[1e9, 1e9, 0.0], [-1e9, -1e9, 0.0]])
    with np.errstate(over="raise"):
        high, low = INNER.predict(far)
    assert low < 1e-9
    assert high > 1 - 1e-9


@given(st.floats(0, 1))
def test_logit_undoes_sigmoid_but_near_the_ends(p: float) -> None:
    back = float(sigmoid(logit(np.array([p])))[0])
    assert back == pytest.approx(min(1 - 1e-4, max(1e-4, p)))


def test_a_score_that_is_calibrated_already_is_left_alone() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(0.5, 1.5, (400, 1))
    y = (rng.random(400) < 1 / (1 + np.exp(-z[:, 0]))).astype(np.float64)
    assert fit_calibrator(z, y) == Temperature(column=0, slope=1.0, shift=0.0)


def test_an_overconfident_score_is_pulled_down() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(0.0, 2.0, (200, 1))
    y = (rng.random(200) < 1 / (1 + np.exp(-z[:, 0]))).astype(np.float64)
    fitted = fit_calibrator(z * 3 + 4, y)
    assert brier(fitted.predict(z * 3 + 4), y) < 0.8 * brier(1 / (1 + np.exp(-z[:, 0] * 3 - 4)), y)


@pytest.mark.parametrize(("label", "expected"), [(1.0, 31 / 32), (0.0, 1 / 32)])
def test_with_one_kind_of_label_only_a_smoothed_base_rate_remains(
    label: float, expected: float
) -> None:
    fitted = fit_calibrator(X[:30], np.full(30, label))
    assert fitted == Constant(value=expected)


def test_below_fifty_labels_no_regression_is_tried() -> None:
    x, y = scores(49, slope=3.0)
    assert isinstance(fit_calibrator(x * [0.01, 1, 1], y), Temperature)


def test_with_labels_enough_a_regression_on_several_signals_is_taken() -> None:
    x, y = scores(600)
    fitted = fit_calibrator(x, y)
    assert isinstance(fitted, Logistic)
    assert fitted.columns == (0, 1, 2)


def test_twenty_labels_of_the_rarer_kind_pay_for_one_column() -> None:
    y = np.zeros(200)
    y[:45] = 1
    assert fitting._columns_allowed(y, 9) == (0, 1)
    assert fitting._columns_allowed(y[:50], 9) == (0,)


def bent(n: int) -> tuple[Array, Array]:
    """A score whose truth is no logistic curve: a step at 0."""
    x = np.random.default_rng(2).normal(0, 2, (n, 1))
    p = np.where(x[:, 0] > 0, 0.9, 0.45)
    return x, (np.random.default_rng(3).random(n) < p).astype(np.float64)


def test_from_a_thousand_labels_on_a_bent_curve_is_followed() -> None:
    x, y = bent(4000)
    fitted = fit_calibrator(x, y)
    assert isinstance(fitted, Isotonic | Beta)
    at = fitted.predict(np.array([[-4.0], [4.0]]))
    assert at == pytest.approx([0.45, 0.9], abs=0.05)


def test_below_a_thousand_labels_it_is_not() -> None:
    x, y = bent(900)
    assert isinstance(fit_calibrator(x, y), Temperature | Logistic)


@pytest.mark.parametrize("wrong", [1, 2, 19])
def test_many_labels_with_hardly_an_error_are_no_obstacle(wrong: int) -> None:
    x, _ = scores(1300)
    y = np.ones(1300)
    y[:wrong] = 0
    predicted = fit_calibrator(x, y).predict(x)
    assert predicted.mean() == pytest.approx(1 - wrong / 1300, abs=0.05)


def test_beta_calibration_falls_back_to_one_parameter_rather_than_turning_round() -> None:
    for seed in range(30):
        x, y = scores(60, seed=seed, slope=0.2)
        fitted = fitting.fit_beta(x, y, (0,))
        assert isinstance(fitted, Beta)
        if 0.0 in (fitted.a, fitted.b):
            return
    pytest.fail("no draw needed the fallback")


def test_without_any_score_the_base_rate_is_the_step_to_beat() -> None:
    x, y = scores(40)
    x[:, 0] = np.nan
    assert fit_calibrator(x, y) == Constant(value=float((y.sum() + 1) / 42))


def test_a_column_that_is_never_there_counts_for_nothing() -> None:
    x, y = scores(300)
    x[:, 1] = np.nan
    fitted = fitting.fit_logistic(x, y, (0, 1))
    assert fitted.weights[1] == 0.0
    assert np.isfinite(fitted.predict(x)).all()


@settings(max_examples=25)
@given(st.integers(20, 70), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_few_labels_and_gaps_give_probabilities(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((n, d)) < 0.3, np.nan, rng.normal(0, 3, (n, d)))
    y = (rng.random(n) < rng.random()).astype(np.float64)
    predicted = cross_fitted(x, y)
    assert ((predicted >= 0) & (predicted <= 1)).all()


def test_the_same_labels_give_the_same_fit() -> None:
    assert fit_calibrator(X[:200], Y[:200]) == fit_calibrator(X[:200], Y[:200])


def test_folds_keep_the_share_of_correct_rows() -> None:
    fold = fitting._folds(Y, 5)
    shares = [Y[fold == k].mean() for k in range(5)]
    assert max(shares) - min(shares) < 0.01


def test_a_fold_that_leaves_one_kind_of_label_decides_nothing() -> None:
    y = np.ones(30)
    y[3] = 0
    errors = fitting._errors(fitting.fit_temperature, X[:30], y, (0,))
    assert (errors == 1.0).sum() == 3


# --- Venn–Abers


def brute_interval(known: Array, labels: Array, score: float) -> tuple[float, float]:
    """The definition: isotonic regression of all rows and the new one, with either label."""
    ends = []
    for label in (0.0, 1.0):
        model = IsotonicRegression().fit(np.append(known, score), np.append(labels, label))
        ends.append(float(model.predict([score])[0]))
    return ends[0], ends[1]


@pytest.mark.parametrize("decimals", [1, 6], ids=["tied", "distinct"])
def test_venn_abers_is_what_its_definition_says(decimals: int) -> None:
    known = np.round(1 / (1 + np.exp(-X[:80, 0])), decimals)
    band = fit_venn_abers(known, Y[:80])
    for score in band.scores:
        assert band.interval(score) == pytest.approx(brute_interval(known, Y[:80], score))


def test_a_venn_abers_interval_is_ordered_and_narrows_with_labels() -> None:
    def width(n: int) -> float:
        band = fit_venn_abers(1 / (1 + np.exp(-X[:n, 0])), Y[:n])
        ends = [band.interval(score) for score in np.linspace(0, 1, 50)]
        assert all(0 <= low <= high <= 1 for low, high in ends)
        return float(np.mean([high - low for low, high in ends]))

    assert width(1000) < width(40) / 2


def test_a_single_score_has_one_interval_everywhere() -> None:
    band = fit_venn_abers(np.full(10, 0.6), np.array([1.0] * 6 + [0.0] * 4))
    assert band.interval(0.1) == band.interval(0.6) == pytest.approx((6 / 11, 7 / 11))


# --- figures


def test_a_perfectly_calibrated_confidence_has_no_error_but_noise() -> None:
    p = np.random.default_rng(0).random(2000)
    y = (np.random.default_rng(1).random(2000) < p).astype(np.float64)
    assert ece(p, y) < 1.5 * ece_noise_floor(p)


@pytest.mark.parametrize(
    ("p", "y", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 0.0),
        ([1.0, 1.0], [0, 0], 1.0),
        ([0.7], [1], 0.3),
        ([0.2, 0.8], [0, 1], 0.2),
    ],
)
def test_the_calibration_error_of_few_rows(p: list[float], y: list[float], expected: float) -> None:
    assert ece(np.array(p), np.array(y, np.float64)) == pytest.approx(expected)


def test_the_calibration_error_does_not_depend_on_the_order_of_ties() -> None:
    p, y = np.round(X[:300, 0], 0), Y[:300]
    turned = np.random.default_rng(0).permutation(300)
    assert ece(p, y) == pytest.approx(ece(p[turned], y[turned]))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_auroc_is_the_share_of_ordered_pairs(rows: list[tuple[int, bool]]) -> None:
    right = [score for score, label in rows if label]
    wrong = [score for score, label in rows if not label]
    found = auroc(
        np.array([score for score, _ in rows], np.float64),
        np.array([label for _, label in rows], np.float64),
    )
    if not right or not wrong:
        assert np.isnan(found)
        return
    pairs = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
    assert found == pytest.approx(sum(pairs) / len(pairs))


def test_applying_a_calibration_imports_no_scientific_library_but_numpy() -> None:
    code = (
        "import sys; import cascade.confidence.calibration, cascade.confidence.gain, "
        "cascade.confidence.text; "
        "from cascade.confidence.calibrators import Beta, Isotonic; "
        "print([m for m in ('sklearn', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
