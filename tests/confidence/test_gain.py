"""The gain head and the text encoder, against scikit-learn and against numbers written down."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from cascade.confidence import gain as gain_module
from cascade.confidence.gain import GainHead, cross_fitted_gain, fit_gain
from cascade.confidence.metrics import Array, auroc
from cascade.confidence.text import TextEncoder, fit_text_encoder


def answered(n: int, *, seed: int = 0) -> tuple[Array, Array, Array]:
    """(n, 4) features with gaps, and who was right."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    small = (rng.random(n) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.float64)
    large = (rng.random(n) < 1 / (1 + np.exp(-1.5 - 0.5 * x[:, 1]))).astype(np.float64)
    x[rng.random((n, 4)) < 0.05] = np.nan
    return x, small, large


PROTOTYPE = {
    300: [0.35633014, 0.4315683, 0.37013428, 0.55440758, 0.4040214],
    1500: [0.2768515, 0.45835612, 0.45792241, 0.61452886, 0.40801287],
}
"""The first five predictions of the research prototype on `answered(n)`."""


@pytest.mark.parametrize("n", PROTOTYPE)
def test_the_head_gives_the_numbers_of_its_prototype(n: int) -> None:
    x, small, large = answered(n)
    head = fit_gain(x, small, large)
    assert (head.trees is not None) == (n >= 1000)
    assert head.predict(x[:5]) == pytest.approx(PROTOTYPE[n], abs=1e-6)


def test_trees_as_tables_predict_what_scikit_learn_predicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, small, large = answered(1500)
    trees = fit_gain(x, small, large).trees
    assert trees is not None
    model = HistGradientBoostingRegressor(
        max_iter=100,
        learning_rate=0.05,
        max_leaf_nodes=8,
        min_samples_leaf=40,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=0,
    ).fit(x, large - small)
    unseen = answered(700, seed=5)[0]
    unseen[0] = np.nan
    expected = pytest.approx(model.predict(unseen), abs=1e-12)
    assert trees.predict(unseen) == expected
    monkeypatch.setattr(gain_module, "ROWS_AT_ONCE", 64)
    assert trees.predict(unseen) == expected
    assert len(trees.predict(unseen[:0])) == 0


def test_a_head_read_from_json_predicts_the_same_numbers() -> None:
    x, small, large = answered(1200)
    head = fit_gain(x, small, large)
    read = GainHead.model_validate_json(head.model_dump_json())
    assert (read.predict(x) == head.predict(x)).all()
    assert (read.p_large(x) == head.p_large(x)).all()
    assert read == head


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_large_model_that_is_always_or_never_right_is_no_obstacle(right: float) -> None:
    x, small, _ = answered(200)
    head = fit_gain(x, small, np.full(200, right))
    assert head.p_large(x) == pytest.approx(np.full(200, (200 * right + 1) / 202))
    assert np.isfinite(head.predict(x)).all()


def test_columns_that_say_nothing_or_are_never_there_do_not_count() -> None:
    x, small, large = answered(200)
    head = fit_gain(np.column_stack([x, np.ones(200), np.full(200, np.nan)]), small, large)
    assert head.predict(
        np.column_stack([x, np.full(200, 7.0), np.full(200, 7.0)])
    ) == pytest.approx(fit_gain(x, small, large).predict(x), abs=1e-6)


def test_a_small_prior_scale_shrinks_a_column() -> None:
    x, small, large = answered(300)
    strong = fit_gain(x, small, large, spread=np.array([1.0, 1.0, 1.0, 1.0]))
    weak = fit_gain(x, small, large, spread=np.array([0.01, 1.0, 1.0, 1.0]))
    moved = x.copy()
    moved[:, 0] = np.nan_to_num(moved[:, 0]) + 1.0
    change = [np.abs(h.predict(moved) - h.predict(x)).mean() for h in (strong, weak)]
    assert change[1] < change[0] / 20


def test_cross_fitted_gain_tells_something_about_rows_it_has_not_seen() -> None:
    x, small, large = answered(800)
    won = (large > small).astype(np.float64)
    assert auroc(cross_fitted_gain(x, small, large), won) > 0.6
    noise = np.random.default_rng(0).normal(size=(800, 30))
    assert auroc(cross_fitted_gain(noise, small, large), won) == pytest.approx(0.5, abs=0.06)


def test_more_folds_than_rows_leave_one_row_out() -> None:
    x, small, large = answered(12)
    assert np.isfinite(cross_fitted_gain(x, small, large, folds=50)).all()


# --- text

TOPICS = ["theorem proof integral", "court contract statute", "cell enzyme protein"]


def prompts(n: int, *, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(TOPICS[i % 3].split(), 4)) + f" about w{rng.integers(40)}, The END"
        for i in range(n)
    ]


@pytest.mark.parametrize("n", [120, 1100])
def test_the_encoder_equals_the_pipeline_of_scikit_learn_on_unseen_prompts(n: int) -> None:
    known, unseen = prompts(n, seed=0), prompts(50, seed=1)
    pipeline = make_pipeline(
        TfidfVectorizer(
            sublinear_tf=True,
            min_df=3 if n >= 1000 else 2,
            stop_words="english",
            max_features=8000,
        ),
        TruncatedSVD(4, random_state=0),
    ).fit(known)
    encoder = fit_text_encoder(known, dimensions=4)
    assert encoder.dimensions == 4
    assert encoder.transform(unseen) == pytest.approx(pipeline.transform(unseen))


def test_an_encoder_read_from_json_gives_the_same_points() -> None:
    encoder = fit_text_encoder(prompts(120, seed=0), dimensions=4)
    read = TextEncoder.model_validate_json(encoder.model_dump_json())
    unseen = prompts(10, seed=1)
    assert (read.transform(unseen) == encoder.transform(unseen)).all()


def test_a_prompt_without_a_known_word_is_the_origin() -> None:
    encoder = fit_text_encoder(prompts(120, seed=0), dimensions=4)
    assert (encoder.transform(["", "zzz unheard", "the and of"]) == 0).all()


@pytest.mark.parametrize(
    "known",
    [
        [],
        ["the and of"] * 30,
        [f"unique{i}" for i in range(30)],
        ["shared words"] * 19,
        ["word"] * 40,
    ],
    ids=["none", "stop words", "nothing shared", "too few", "one word"],
)
def test_prompts_that_share_nothing_give_a_space_without_dimensions(known: list[str]) -> None:
    encoder = fit_text_encoder(known)
    assert encoder.dimensions == 0
    assert encoder.transform(["shared words", ""]).shape == (2, 0)
