"""Fitted maps from signals to probabilities, as records that JSON can hold.

`cascade.confidence.fitting` makes them; applying needs numpy alone. Features are (n, d) matrices
of `cascade.confidence.columns`, column 0 the logit of the raw score, missing values NaN.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator

from cascade.confidence.metrics import Array
from cascade.state import Record

CLIP = 30.0
"""Logits beyond this are certainties that no amount of labels supports."""

Numbers = tuple[float, ...]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A probability or a share."""

Kind = Literal["raw", "base rate", "temperature", "logistic"]


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z), without overflow."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -CLIP, CLIP))), dtype=np.float64)


class Fitted(Record):
    """Base of records that are computed with: they may come from a file of anybody's, and hold
    finite numbers that fit together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Linear(Fitted):
    """b + a·r + Σ w_j (x_j − m_j)/s_j over chosen columns, r the raw logit; missing is the mean."""

    intercept: float
    raw: float = 0.0
    columns: tuple[NonNegativeInt, ...] = ()
    mean: Numbers = ()
    scale: tuple[PositiveFloat, ...] = ()
    weights: Numbers = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        sizes = {len(self.columns), len(self.mean), len(self.scale), len(self.weights)}
        if len(sizes) != 1:
            raise ValueError("columns, mean, scale and weights are of different lengths")
        return self

    @property
    def width(self) -> int:
        """Columns that a matrix must have at least."""
        return max((*self.columns, 0)) + 1

    def logit(self, features: Array) -> Array:
        """One number per row."""
        z = np.full(len(features), self.intercept)
        if self.raw:
            z = z + self.raw * np.nan_to_num(features[:, 0])
        if self.columns:
            x = (features[:, list(self.columns)] - np.array(self.mean)) / np.array(self.scale)
            z = z + np.nan_to_num(x) @ np.array(self.weights)
        return np.asarray(z, dtype=np.float64)

    def predict(self, features: Array) -> Array:
        """σ of it per row."""
        return sigmoid(self.logit(features))


class FittedCalibrator(Fitted):
    """P(draft is correct): p_0 + θ·(p_1 − p_0).

    Attributes:
        base: p_0, slope and shift of the raw logit (temperature scaling with a shift, arXiv
            1706.04599), or the base rate where there is no raw score.
        full: p_1, a logistic regression on several columns (HCMA, arXiv 2410.02173).
        share: θ, as much of the step from p_0 to p_1 as cross-fitting showed to pay by more than
            its noise.
    """

    base: Linear
    full: Linear | None = None
    share: Share = 0.0

    @property
    def kind(self) -> Kind:
        """What it came to, for reports."""
        if self.full is not None and self.share > 0:
            return "logistic"
        if not self.base.raw:
            return "base rate"
        return "raw" if (self.base.raw, self.base.intercept) == (1.0, 0.0) else "temperature"

    @property
    def width(self) -> int:
        """Columns that a matrix must have at least."""
        return max(self.base.width, 1 if self.full is None else self.full.width)

    def predict(self, features: Array) -> Array:
        """P(correct) per row."""
        p = self.base.predict(features)
        if self.full is None or not self.share:
            return p
        return np.asarray(p + self.share * (self.full.predict(features) - p), dtype=np.float64)


class VennAbersBand(Fitted):
    """A Venn–Abers interval [p0, p1] per score, tabulated at the scores of the labelled rows.

    Its width says how few the labels are there: "more labels wanted" (arXiv 1211.0025).
    """

    scores: Numbers = Field(min_length=1)
    low: tuple[Share, ...]
    high: tuple[Share, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.scores) == len(self.low) == len(self.high):
            raise ValueError("scores, low and high are of different lengths")
        if list(self.scores) != sorted(self.scores):
            raise ValueError("scores are not sorted")
        return self

    def interval(self, score: float) -> tuple[float, float]:
        """The interval at a score, linear between the tabulated ones."""
        low = float(np.interp(score, self.scores, self.low))
        high = float(np.interp(score, self.scores, self.high))
        return min(low, high), max(low, high)


class GainHead(Fitted):
    """The gain of escalating, p_L − p_S, expected before the large model is asked.

    Two logistic heads on the same columns (post-hoc deferral, arXiv 2404.10136; delegation value,
    arXiv 2604.14251), both shrunk towards the raw score: p_S to the raw score itself, p_L to a
    constant. With few labels it ranks drafts as the raw score does.
    """

    small: Linear
    large: Linear
    n: int

    @property
    def width(self) -> int:
        """Columns that a matrix must have at least."""
        return max(self.small.width, self.large.width)

    def predict(self, features: Array) -> Array:
        """Expected gain p_L − p_S per row."""
        gain = self.large.predict(features) - self.small.predict(features)
        return np.asarray(gain, dtype=np.float64)

    def p_large(self, features: Array) -> Array:
        """P(the large model is correct) per row."""
        return self.large.predict(features)
