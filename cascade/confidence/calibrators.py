"""Fitted maps from signals to P(draft is correct), as records that JSON can hold.

`cascade.confidence.fitting` makes them; applying needs numpy alone. Missing values are NaN.
Sources: logistic regression on log-transformed scores, HCMA (arXiv 2410.02173); beta calibration
(Kull et al., 2017); temperature scaling (arXiv 1706.04599); Venn–Abers (arXiv 1211.0025).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from cascade.confidence.metrics import Array
from cascade.state import Record

CLIP = 30.0
"""Logits beyond this are certainties that no amount of labels supports."""

Numbers = tuple[float, ...]


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -CLIP, CLIP))), dtype=np.float64)


def logit(p: Array, margin: float = 1e-4) -> Array:
    """ln(p / (1 − p)) of probabilities kept `margin` away from 0 and 1."""
    clipped = np.clip(p, margin, 1.0 - margin)
    return np.asarray(np.log(clipped / (1.0 - clipped)), dtype=np.float64)


class Constant(Record):
    """The base rate: what remains without a usable signal."""

    kind: Literal["constant"] = "constant"
    value: float

    def predict(self, features: Array) -> Array:
        """The same number for each row."""
        return np.full(len(features), self.value)


class Temperature(Record):
    """σ(slope·x + shift) of one column, the logit of the raw score; (1, 0) leaves it as it is."""

    kind: Literal["temperature"] = "temperature"
    column: int
    slope: float
    shift: float

    def predict(self, features: Array) -> Array:
        """P(correct) per row."""
        return sigmoid(self.slope * np.nan_to_num(features[:, self.column]) + self.shift)


class Logistic(Record):
    """σ(b + Σ w_j (x_j − m_j)/s_j) over chosen columns; a missing value counts as the mean."""

    kind: Literal["logistic"] = "logistic"
    columns: tuple[int, ...]
    mean: Numbers
    scale: Numbers
    weights: Numbers
    intercept: float

    def predict(self, features: Array) -> Array:
        """P(correct) per row."""
        z = (features[:, list(self.columns)] - np.array(self.mean)) / np.array(self.scale)
        return sigmoid(np.nan_to_num(z) @ np.array(self.weights) + self.intercept)


class Beta(Record):
    """Beta calibration of an inner logistic: σ(a·ln p − b·ln(1 − p) + c) with a, b ≥ 0."""

    kind: Literal["beta"] = "beta"
    inner: Logistic
    a: float
    b: float
    c: float

    def predict(self, features: Array) -> Array:
        """P(correct) per row."""
        p = np.clip(self.inner.predict(features), 1e-6, 1 - 1e-6)
        return sigmoid(self.a * np.log(p) - self.b * np.log1p(-p) + self.c)


class Isotonic(Record):
    """Isotonic regression on an inner logistic, linear between its knots."""

    kind: Literal["isotonic"] = "isotonic"
    inner: Logistic
    knots: Numbers
    values: Numbers

    def predict(self, features: Array) -> Array:
        """P(correct) per row."""
        return np.interp(self.inner.predict(features), self.knots, self.values)


FittedCalibrator = Annotated[
    Constant | Temperature | Logistic | Beta | Isotonic, Field(discriminator="kind")
]
"""Any of them; `kind` tells them apart in JSON."""


class VennAbersBand(Record):
    """A Venn–Abers interval [p0, p1] per score, tabulated at the scores of the labelled rows.

    Its width says how few the labels are there: "more labels wanted".
    """

    scores: Numbers
    low: Numbers
    high: Numbers

    def interval(self, score: float) -> tuple[float, float]:
        """The interval at a score, linear between the tabulated ones."""
        low = float(np.interp(score, self.scores, self.low))
        high = float(np.interp(score, self.scores, self.high))
        return min(low, high), max(low, high)
