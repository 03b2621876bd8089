"""Metrics of confidence: calibration error, Brier score, ranking. Needs numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 15


def ece(probability: Array, correct: Array) -> float:
    """Expected calibration error over bins of equal mass (arXiv 1706.04599), cut by rank. Rows of
    equal probability share the mean of their labels, so that their order does not count."""
    order = np.argsort(probability, kind="stable")
    ranked = probability[order]
    _, inverse, counts = np.unique(ranked, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=correct[order]) / counts
    parts = np.array_split(np.arange(len(order)), min(BINS, len(order)))
    gaps = np.add.reduceat(ranked - means[inverse], [part[0] for part in parts])
    return float(np.abs(gaps).sum() / len(order))


def ece_noise(probability: Array, *, draws: int = 100) -> Array:
    """The ECE that perfectly calibrated probabilities like these show on as many rows, (draws,)."""
    rng = np.random.default_rng(0)
    draw = [(rng.random(len(probability)) < probability).astype(np.float64) for _ in range(draws)]
    return np.array([ece(probability, labels) for labels in draw])


def brier(probability: Array, correct: Array) -> float:
    """Mean squared error of the probability; labels may be shares."""
    return float(np.mean((probability - correct) ** 2))


def auroc(score: Array, label: Array) -> float:
    """P(score of a positive > score of a negative), ties count half; NaN with one class only.

    `sklearn.metrics.roc_auc_score` gives the same in ten times the time.
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - heavy

    positive = label > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return math.nan
    above = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2.0
    return float(above / (n_positive * n_negative))


def auroc_error(area: float, label: Array) -> float:
    """Standard error of an AUROC on these labels (Hanley and McNeil 1982, equation 2)."""
    if math.isnan(area):
        return math.nan
    n_positive, n_negative = int((label > 0.5).sum()), int((label <= 0.5).sum())
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n_positive - 1) * (q1 - area**2)
    spread += (n_negative - 1) * (q2 - area**2)
    return math.sqrt(max(0.0, spread) / (n_positive * n_negative))
