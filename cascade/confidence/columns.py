"""From features by name to a matrix: which columns, in which order, on which scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Self

import numpy as np
from pydantic import model_validator

from cascade.confidence.base import FEATURES, Features, combine, score_of
from cascade.confidence.calibrators import Fitted, Share
from cascade.confidence.metrics import Array

RAW = "raw"
"""The raw score of a draft, always the first column."""

LEAST_MARGIN, MOST_MARGIN = 1e-6, 0.02
"""Scores are kept so far from 0 and 1 before the logit."""

_IN_NATS = FEATURES["logprobs"] - {"token_count"}
_COUNTS = frozenset({"token_count", "answer_words"}) | FEATURES["prompt"]
_ABOUT_TEXT = (FEATURES["text"], FEATURES["prompt"])
"""Features about the text, which carry little each, come after those about the draft."""


class Columns(Fitted):
    """The columns of a feature matrix with their scales, decided once, on the rows that fit.

    Attributes:
        names: `raw` first, then the features in the order of trust.
        signals: whose scores make the raw score.
        linear: columns that left [0, 1], which are no scores and stay on their own scale.
        margins: one per column; scores are kept so far from 0 and 1.
    """

    names: tuple[str, ...]
    signals: tuple[str, ...]
    linear: tuple[str, ...]
    margins: tuple[Share, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.margins) != len(self.names) or self.names[:1] != (RAW,):
            raise ValueError("names begin with 'raw', and each has a margin")
        return self

    @classmethod
    def of(cls, rows: Sequence[Features], signals: Sequence[str]) -> Self:
        """The columns for these rows.

        The scores of the signals come first: what is paid for has to reach the calibrator, which
        takes only as many columns as there are labels for.
        """
        found = list(dict.fromkeys(name for row in rows for name in row))
        scores = [name for name in signals if name in found]
        text = [name for features in _ABOUT_TEXT for name in found if name in features]
        draft = [name for name in found if name not in scores and name not in text]
        values = {name: _values(rows, name, signals) for name in (RAW, *found)}
        # The only score is the raw score already, but for what of it is clipped.
        twice = [name for name in scores if np.array_equal(values[name], values[RAW])]
        names = (RAW, *(name for name in scores if name not in twice), *draft, *text)
        return cls(
            names=names,
            signals=tuple(signals),
            linear=tuple(n for n in names if _is_score(n) and _leaves_unit(values[n])),
            margins=tuple(margin_of(values[n]) if _is_score(n) else 0.0 for n in names),
        )

    def matrix(self, rows: Sequence[Features]) -> Array:
        """(n, d) with NaN where a feature is missing."""
        table = np.full((len(rows), len(self.names)), np.nan)
        scales = list(zip(self.names, self.margins, strict=True))
        for at, features in enumerate(rows):
            for column, (name, margin) in enumerate(scales):
                value = _value(features, name, self.signals)
                if value is not None and math.isfinite(value):
                    linear = name in self.linear
                    table[at, column] = value if linear else _scaled(name, value, margin)
        return table


def owner(feature: str, signals: Collection[str]) -> str | None:
    """The signal that a feature is of: its own name, or the longest one that it begins with.

    Built-in signals own their features by name, so that a signal of the user's called `p` or
    `prompt_votes` is not taken for `p_true` or `prompt`.
    """
    for signal, features in FEATURES.items():
        if feature in features:
            return signal
    others = [signal for signal in signals if signal not in FEATURES]
    fitting = [s for s in others if feature == s or feature.startswith(f"{s}_")]
    return max(fitting, key=len, default=None)


def raw_score(features: Features, signals: Sequence[str]) -> float | None:
    """The most doubtful of the scores that the signals give."""
    scores = {name: score_of(name, features) for name in signals}
    return combine({name: score for name, score in scores.items() if score is not None})


def score_logit(scores: Array) -> Array:
    """ln(p / (1 − p)) of scores in [0, 1], kept from the ends by `margin_of`; NaN stays."""
    margin = margin_of(scores)
    p = np.clip(scores, margin, 1.0 - margin)
    return np.asarray(np.log(p / (1.0 - p)), dtype=np.float64)


def margin_of(scores: Array) -> float:
    """How far scores are kept from 0 and 1 before the logit: half of their least distance.

    A vote of 5 out of 5 is no certainty, and stays near one of 4 out of 5. A fixed margin that
    suits votes would tie the log-probs of a sure model, of which most may lie above 0.98.
    """
    inside = scores[(scores > 0.0) & (scores < 1.0)]  # NaN is neither
    if not len(inside):
        return MOST_MARGIN
    return float(np.clip(np.minimum(inside, 1.0 - inside).min() / 2, LEAST_MARGIN, MOST_MARGIN))


def _is_score(name: str) -> bool:
    return name not in _IN_NATS and name not in _COUNTS


def _leaves_unit(values: Array) -> bool:
    return bool(((values < 0.0) | (values > 1.0)).any())


def _values(rows: Sequence[Features], name: str, signals: Sequence[str]) -> Array:
    found = (_value(row, name, signals) for row in rows)
    return np.array([v for v in found if v is not None and math.isfinite(v)], dtype=np.float64)


def _value(features: Mapping[str, float], name: str, signals: Sequence[str]) -> float | None:
    return raw_score(features, signals) if name == RAW else features.get(name)


def _scaled(name: str, value: float, margin: float) -> float:
    """Logit for scores, log for counts, as it is for what is in nats already."""
    if name in _IN_NATS:
        return value
    if name in _COUNTS:
        return math.log1p(max(0.0, value))
    p = min(1.0 - margin, max(margin, value))
    return math.log(p / (1.0 - p))
