"""The gain head: what escalating is expected to bring, p_L − p_S, before the large model is asked.

Three members are averaged, all in units of probability: two logistic heads p_L − p_S (post-hoc
deferral, arXiv 2404.10136), a ridge regression on the gain itself (delegation value, arXiv
2604.14251), and with many labels boosted trees on the gain. Penalties differ by column: what
describes the text is many and weak and enters at a smaller scale, which is the same as a larger
L2 penalty on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.calibrators import Numbers, sigmoid
from cascade.confidence.metrics import Array, Kept
from cascade.state import Record

TREES_FROM = 1000
LOGISTIC_STRENGTH = 0.01
RIDGE_PENALTY = 300.0
ROWS_AT_ONCE = 10_000
"""Rows that walk the trees side by side, so that memory stays bounded."""


class Linear(Record):
    """A linear form on standardised columns, through σ when `logistic`."""

    weights: Numbers
    intercept: float
    logistic: bool

    def predict(self, z: Array) -> Array:
        """One number per row."""
        linear = z @ np.array(self.weights) + self.intercept
        return sigmoid(linear) if self.logistic else np.asarray(linear, dtype=np.float64)


class Trees(Record):
    """Boosted regression trees as tables, one row per tree; a leaf points to itself."""

    baseline: float
    feature: tuple[tuple[int, ...], ...]
    threshold: tuple[Numbers, ...]
    left: tuple[tuple[int, ...], ...]
    right: tuple[tuple[int, ...], ...]
    missing_left: tuple[tuple[bool, ...], ...]
    value: tuple[Numbers, ...]
    depth: int

    def predict(self, x: Array) -> Array:
        """One number per row."""
        return np.concatenate(
            [self._predict(x[at : at + ROWS_AT_ONCE]) for at in range(0, len(x), ROWS_AT_ONCE)]
            or [np.empty(0)]
        )

    def _predict(self, x: Array) -> Array:
        feature, threshold, left, right, missing_left, value, roots = self._tables.arrays
        node = np.tile(roots, (len(x), 1))
        for _ in range(self.depth):
            at = np.take_along_axis(x, feature[node], axis=1)
            go_left = np.where(np.isnan(at), missing_left[node], at <= threshold[node])
            node = np.where(go_left, left[node], right[node])
        return np.asarray(self.baseline + value[node].sum(axis=1), dtype=np.float64)

    @cached_property
    def _tables(self) -> Kept:
        """All trees in one table: as arrays once, and walked side by side."""
        sizes = [len(tree) for tree in self.feature]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        first = np.repeat(roots, sizes)
        flat = [
            np.concatenate([np.array(tree) for tree in table])
            for table in (
                self.feature,
                self.threshold,
                self.left,
                self.right,
                self.missing_left,
                self.value,
            )
        ]
        return Kept((*flat[:2], flat[2] + first, flat[3] + first, *flat[4:], roots))


class GainHead(Record):
    """A fitted head; features as for calibrators, (n, d) with NaN for what is missing."""

    mean: Numbers
    scale: Numbers
    small: Linear
    large: Linear
    direct: Linear
    trees: Trees | None
    n: int

    def predict(self, features: Array) -> Array:
        """Expected gain p_L − p_S per row."""
        z = self._standardise(features)
        members = [self.large.predict(z) - self.small.predict(z), self.direct.predict(z)]
        if self.trees is not None:
            members.append(self.trees.predict(features))
        return np.asarray(np.mean(members, axis=0), dtype=np.float64)

    def p_large(self, features: Array) -> Array:
        """P(the large model is correct) per row."""
        return self.large.predict(self._standardise(features))

    def _standardise(self, features: Array) -> Array:
        z = (features - np.array(self.mean)) / np.array(self.scale)
        return np.asarray(np.nan_to_num(z), dtype=np.float64)


def fit_gain(
    features: Array,
    small: Array,
    large: Array,
    *,
    spread: Array | None = None,
    trees: bool = True,
) -> GainHead:
    """Fit on labelled rows; needs scikit-learn.

    Args:
        features: (n, d), NaN where missing.
        small: (n,) correctness of the draft, 0 to 1.
        large: (n,) correctness of the large model's answer.
        spread: (d,) prior scale per column: 1 for signals, smaller for text.
        trees: whether many labels bring the boosted trees in, which take most of the time.
    """
    mean, deviation = _moments(features)
    prior = np.ones(features.shape[1]) if spread is None else spread
    scale = np.where(deviation > 1e-9, deviation, 1e9) / prior
    z = np.nan_to_num((features - mean) / scale)
    gain = large - small
    return GainHead(
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        small=_fit_probability(z, small),
        large=_fit_probability(z, large),
        direct=_fit_direct(z, gain),
        trees=_fit_trees(features, gain) if trees and len(small) >= TREES_FROM else None,
        n=len(small),
    )


def cross_fitted_gain(
    features: Array,
    small: Array,
    large: Array,
    *,
    folds: int = 5,
    spread: Array | None = None,
    trees: bool = True,
) -> Array:
    """Each row's gain by a head that has not seen it: what thresholds must be chosen on."""
    scores = np.empty(len(small))
    for known, held in _folds_of(len(small), folds):
        head = fit_gain(features[known], small[known], large[known], spread=spread, trees=trees)
        scores[held] = head.predict(features[held])
    return scores


def _moments(features: Array) -> tuple[Array, Array]:
    mean, deviation = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    seen = ~np.isnan(features).all(axis=0)
    mean[seen] = np.nanmean(features[:, seen], axis=0)
    deviation[seen] = np.nanstd(features[:, seen], axis=0)
    return mean, deviation


def _fit_probability(z: Array, correct: Array) -> Linear:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - heavy

    labels = correct > 0.5
    if labels.all() or not labels.any():
        rate = (labels.sum() + 1.0) / (len(labels) + 2.0)
        flat = (0.0,) * z.shape[1]
        return Linear(weights=flat, intercept=float(np.log(rate / (1 - rate))), logistic=True)
    model = LogisticRegression(C=LOGISTIC_STRENGTH, max_iter=300).fit(z, labels)
    weights = tuple(model.coef_[0].tolist())
    return Linear(weights=weights, intercept=float(model.intercept_[0]), logistic=True)


def _fit_direct(z: Array, gain: Array) -> Linear:
    centre = z.mean(axis=0)
    centred = z - centre
    gram = centred.T @ centred + RIDGE_PENALTY * np.eye(z.shape[1])
    weights = np.linalg.solve(gram, centred.T @ (gain - gain.mean()))
    intercept = float(gain.mean() - centre @ weights)
    return Linear(weights=tuple(weights.tolist()), intercept=intercept, logistic=False)


def _fit_trees(features: Array, gain: Array) -> Trees:
    """Small trees, a low rate and much shrinkage: the gain is nearly all noise."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # noqa: PLC0415 - heavy

    model = HistGradientBoostingRegressor(
        max_iter=100,
        learning_rate=0.05,
        max_leaf_nodes=8,
        min_samples_leaf=40,
        l2_regularization=10.0,
        early_stopping=False,  # pyright: ignore[reportArgumentType] - scikit-learn's stub
        random_state=0,
    ).fit(features, gain)
    grown = [predictor[0].nodes for predictor in model._predictors]  # noqa: SLF001 - no public way
    leaves = [nodes["is_leaf"].astype(bool) for nodes in grown]
    own = [np.arange(len(nodes)) for nodes in grown]

    def table(name: str, at_leaf: list[NDArray[np.int64]] | None = None) -> tuple[tuple, ...]:  # type: ignore[type-arg]
        columns = (
            np.where(leaf, 0 if at_leaf is None else at_leaf[i], grown[i][name])
            for i, leaf in enumerate(leaves)
        )
        return tuple(tuple(column.tolist()) for column in columns)

    return Trees(
        baseline=float(np.ravel(model._baseline_prediction)[0]),  # noqa: SLF001
        feature=table("feature_idx"),
        threshold=table("num_threshold"),
        left=table("left", own),
        right=table("right", own),
        missing_left=tuple(
            tuple(nodes["missing_go_to_left"].astype(bool).tolist()) for nodes in grown
        ),
        value=tuple(
            tuple(np.where(leaf, nodes["value"], 0.0).tolist())
            for nodes, leaf in zip(grown, leaves, strict=True)
        ),
        depth=int(max(nodes["depth"].max() for nodes in grown)),
    )


def _folds_of(n: int, folds: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    fold = np.random.default_rng(0).permutation(n) % min(folds, n)
    for k in range(int(fold.max()) + 1):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)
