"""Columns, fits and metrics: few labels change little, many find what is there."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from cascade.confidence import calibration
from cascade.confidence.calibrating import (
    auroc,
    auroc_error,
    brier,
    ece,
    fit_calibrator,
    fit_gain,
    fit_logistic,
    step_share,
)
from cascade.evaluation.features import TextEncoder, fit_text_encoder

Array = NDArray[np.float64]


def scores(n: int, *, seed: int = 0, slope: float = 1.0, other: float = 0.8) -> tuple[Array, Array]:
    """(n, 3) features, the logit of a score first, and labels drawn at σ(slope·(x₀ + other·x₁))."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.5, (n, 3))
    p = calibration.sigmoid(slope * (x[:, 0] + other * x[:, 1]))
    return x, (rng.random(n) < p).astype(np.float64)


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
    labels = np.array([1.0] * 51 + [0.0] * 58)
    assert auroc_error(0.893, labels) == pytest.approx(0.032, abs=1e-3)
    assert auroc_error(1.0, labels) == 0.0


def test_calibration_error_does_not_depend_on_the_order_of_ties() -> None:
    rng = np.random.default_rng(0)
    p = rng.integers(0, 4, 200) / 4
    labels = (rng.random(200) < p).astype(np.float64)
    order = rng.permutation(200)
    assert ece(p[order], labels[order]) == pytest.approx(ece(p, labels))
    assert ece(np.full(10, 0.3), np.ones(10)) == pytest.approx(0.7)


def table_of(rows: list[dict[str, float]], *signals: str) -> dict[str, Array]:
    """The columns of these rows, by name."""
    seen = [calibration.with_raw(row, signals) for row in rows]
    columns = calibration.columns_of(seen, signals)
    return dict(zip([c.name for c in columns], calibration.matrix(seen, columns).T, strict=True))


def test_sure_scores_are_not_tied_and_votes_are_no_certainties() -> None:
    sure = table_of([{"s": p} for p in (0.5, 0.99, 0.9999, 0.99999)], "s")["raw"]
    assert len(set(sure.tolist())) == 4
    for votes in ([0.0, 0.2, 1.0], [0.0, 1.0]):
        assert calibration.Column.of("s", np.array(votes)).margin == 0.02


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
    assert calibration.owner(feature, names) == expected


@pytest.mark.parametrize(("slope", "less"), [(1.0, 1.5), (0.3, 0.5)])
def test_an_overconfident_score_alone_is_brought_down(slope: float, less: float) -> None:
    fitted = fit_calibrator(*scores(300, slope=slope, other=0.0))
    unseen, truth = scores(3000, seed=1, slope=slope, other=0.0)
    raw = ece(calibration.sigmoid(unseen[:, 0]), truth)
    assert ece(fitted.predict(unseen), truth) < max(0.04, less * raw)


def test_more_columns_are_taken_where_they_pay_and_no_more_than_labels_allow() -> None:
    x, labels = scores(600)
    fitted = fit_calibrator(x, labels)
    assert fitted.share > 0.8
    unseen, truth = scores(2000, seed=1)
    base = calibration.FittedCalibrator(base=fitted.base)
    assert brier(fitted.predict(unseen), truth) < 0.9 * brier(base.predict(unseen), truth)
    wide = np.hstack([x[:60], np.random.default_rng(0).normal(size=(60, 50))])
    few = fit_calibrator(wide, labels[:60]).full
    assert few is None or len(few.weights) < min(labels[:60].sum(), (1 - labels[:60]).sum()) / 10
    assert fit_calibrator(*scores(8, slope=-1.0)).full is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=40)
)
def test_the_share_of_a_step_is_a_share(rows: list[tuple[float, float, bool]]) -> None:
    before, after, actual = np.array(rows, dtype=np.float64).T
    assert 0.0 <= step_share(before, after, actual) <= 1.0
    assert step_share(before, before, actual) == 0.0
    many = np.tile([0.9, 0.1], 500)
    assert step_share(np.full(1000, 0.5), many, many.round()) == 1.0


def answered(n: int, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """(n, 4) features with gaps, and which model was right."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    small = (rng.random(n) < calibration.sigmoid(x[:, 0])).astype(np.float64)
    large = (rng.random(n) < calibration.sigmoid(1.5 + 0.5 * x[:, 1])).astype(np.float64)
    x[:, 1:][rng.random((n, 3)) < 0.05] = np.nan
    return x, small, large


def test_the_prior_is_a_penalty_of_scikit_learn() -> None:
    x, labels = scores(400)
    x[:, 0] = np.nan
    z = (x[:, 1:] - x[:, 1:].mean(axis=0)) / x[:, 1:].std(axis=0)
    model = LogisticRegression(C=1 / 25.0, tol=1e-8, max_iter=1000).fit(z, labels)
    found = fit_gain(x, labels, labels).large
    assert [w.weight for w in found.weights] == pytest.approx(model.coef_[0].tolist(), abs=1e-3)
    assert found.intercept == pytest.approx(float(model.intercept_[0]), abs=1e-2)


def test_the_best_weights_are_found_where_whole_steps_of_newton_leap_to_and_fro() -> None:
    rng = np.random.default_rng(1)
    z = rng.lognormal(size=(200, 1)) * rng.lognormal(sigma=0.3, size=(200, 10))
    x = np.hstack([np.ones((200, 1)), (z - z.mean(axis=0)) / z.std(axis=0)])
    labels, prior = (rng.random(200) < 0.4).astype(np.float64), np.eye(11)[1] * 1.2
    w = fit_logistic(x, labels, prior, np.full(11, 10.0))
    slope = x.T @ (calibration.sigmoid(x @ w) - labels) + 10.0 * (w - prior)
    assert slope == pytest.approx(0.0, abs=0.01)


def test_a_gain_head_ranks_as_the_raw_score_with_few_labels_and_better_with_many() -> None:
    x, small, large = answered(20)
    gain = fit_gain(x, small, large).predict(x)
    rank = np.corrcoef(np.argsort(np.argsort(gain)), np.argsort(np.argsort(-x[:, 0])))[0, 1]
    assert rank > 0.9
    x, small, large = answered(4000)
    unseen, small_right, large_right = answered(4000, seed=1)
    won = (large_right > small_right).astype(np.float64)
    assert auroc(fit_gain(x, small, large).predict(unseen), won) > auroc(-unseen[:, 0], won)


def test_columns_that_say_nothing_or_are_never_there_do_not_count() -> None:
    x, small, large = answered(200)
    wide = np.column_stack([x, np.ones(200), np.full(200, np.nan)])
    later = np.column_stack([x, np.full(200, 7.0), np.full(200, 7.0)])
    expected = fit_gain(x, small, large).predict(x)
    assert fit_gain(wide, small, large).predict(later) == pytest.approx(expected, abs=1e-6)


TOPICS = ["theorem proof integral", "court contract statute", "cell enzyme protein"]


def prompts(n: int, *, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(TOPICS[i % 3].split(), 4)) + f" about w{rng.integers(40)}, The END"
        for i in range(n)
    ]


@pytest.mark.parametrize(("n", "least"), [(120, 2), (1100, 3)])
def test_topics_are_a_truncated_svd_of_tf_idf(n: int, least: int) -> None:
    known, unseen = prompts(n, seed=0), [*prompts(9, seed=1), "", "zzz unheard", "the and of"]
    words = TfidfVectorizer(sublinear_tf=True, min_df=least, stop_words="english")
    svd = TruncatedSVD(4, random_state=0).fit(words.fit_transform(known))
    encoder = fit_text_encoder(known, dimensions=4)
    assert encoder.dimensions == 4
    assert encoder.transform(unseen) == pytest.approx(svd.transform(words.transform(unseen)))
    assert (encoder.transform(unseen)[-3:] == 0).all()
    assert TextEncoder.model_validate_json(encoder.model_dump_json()) == encoder


@pytest.mark.parametrize(
    "known",
    [[], ["the and of"] * 30, [f"w{i}" for i in range(30)], ["shared words"] * 19, ["word"] * 40],
    ids=["none", "stop words", "nothing shared", "too few", "one word"],
)
def test_prompts_that_share_nothing_give_a_space_without_dimensions(known: list[str]) -> None:
    encoder = fit_text_encoder(known)
    assert encoder.dimensions == 0
    assert encoder.transform(["shared words", ""]).shape == (2, 0)
