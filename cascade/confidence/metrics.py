"""How good a confidence is: calibration error, Brier score, ranking. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINS = 15


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """Arrays that a record keeps beside its fields, so that they are made once.

    It is equal to itself only: records then compare by their fields, where arrays would raise.
    """

    arrays: tuple[NDArray[Any], ...]


def ece(probability: Array, correct: Array, bins: int = BINS) -> float:
    """Expected calibration error over equal-mass bins (arXiv 1706.04599, with bins of equal mass).

    Bins are cut by rank; rows of equal probability share the mean of their labels, otherwise the
    figure would depend on the order of the rows wherever a tie crosses a bin's edge.
    """
    order = np.argsort(probability, kind="stable")
    ranked = probability[order]
    _, inverse, counts = np.unique(ranked, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=correct[order]) / counts
    parts = np.array_split(np.arange(len(order)), min(bins, len(order)))
    starts = np.array([part[0] for part in parts])
    gaps = np.add.reduceat(ranked - means[inverse], starts)
    return float(np.abs(gaps).sum() / len(order))


def ece_noise_floor(probability: Array, *, draws: int = 50) -> float:
    """The mean ECE that perfectly calibrated probabilities like these show on as many rows."""
    rng = np.random.default_rng(0)
    draw = [(rng.random(len(probability)) < probability).astype(np.float64) for _ in range(draws)]
    return float(np.mean([ece(probability, labels) for labels in draw]))


def brier(probability: Array, correct: Array) -> float:
    """Mean squared error of the probability."""
    return float(np.mean((probability - correct) ** 2))


def auroc(score: Array, label: Array) -> float:
    """P(score of a positive > score of a negative), ties count half; NaN with one class only."""
    positive = label > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    above = ranks[positive].sum() - n_positive * (n_positive + 1) / 2.0
    return float(above / (n_positive * n_negative))
