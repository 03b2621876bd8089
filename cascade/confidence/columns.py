"""From features by name to a matrix: which columns, in which order, on which scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cascade.confidence.metrics import Array
from cascade.confidence.base import FEATURES, combine, score_of

RAW = "raw"
"""The raw score of a draft, always the first column."""

MARGIN = 0.02
"""Scores are kept this far from 0 and 1 before the logit: a vote of 5 out of 5 is no certainty."""

_IN_NATS = FEATURES["logprobs"] - {"token_count"}
_COUNTS = frozenset({"token_count", "answer_words"}) | FEATURES["prompt"]
_ABOUT_TEXT = (FEATURES["text"], FEATURES["prompt"])
"""Features about the text, which carry little each, come after those about the draft."""


def owner(feature: str, signals: Sequence[str]) -> str | None:
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


def column_names(
    rows: Sequence[Mapping[str, float]], signals: Sequence[str] = ()
) -> tuple[str, ...]:
    """The columns for these rows: the raw score, then the features in the order of trust.

    The scores of `signals` come first: what is paid for has to reach the calibrator, which takes
    only as many columns as there are labels for.
    """
    found = list(dict.fromkeys(name for row in rows for name in row))
    scores = [name for name in signals if name in found]
    text = [name for features in _ABOUT_TEXT for name in found if name in features]
    draft = [name for name in found if name not in scores and name not in text]
    return (RAW, *scores, *draft, *text)


def unbounded(rows: Sequence[Mapping[str, float]], columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that leave [0, 1] in these rows, and are no scores then."""

    def leaves(name: str) -> bool:
        values = (row.get(name, 0.5) for row in rows)
        return any(math.isfinite(value) and not 0.0 <= value <= 1.0 for value in values)

    return tuple(c for c in columns if c not in {RAW, *_IN_NATS, *_COUNTS} and leaves(c))


def matrix(
    rows: Sequence[Mapping[str, float]],
    columns: Sequence[str],
    signals: Sequence[str],
    linear: Collection[str] | None = None,
) -> Array:
    """(n, d) with NaN where a feature is missing.

    Args:
        rows: features by name.
        columns: as of `column_names`.
        signals: whose scores make the raw score.
        linear: columns that are left on their own scale; None for those that are `unbounded` in
            these rows. To be decided once, on the rows that fit: one value cannot tell.
    """
    if linear is None:
        linear = unbounded(rows, columns)
    table = np.full((len(rows), len(columns)), np.nan)
    for at, features in enumerate(rows):
        for column, name in enumerate(columns):
            value = raw_score(features, signals) if name == RAW else features.get(name)
            if value is not None and math.isfinite(value):
                table[at, column] = value if name in linear else _scaled(name, value)
    return table


def raw_score(features: Mapping[str, float], signals: Sequence[str]) -> float | None:
    """The most doubtful of the scores that the signals give."""
    scores = {name: score_of(name, features) for name in signals}
    return combine({name: score for name, score in scores.items() if score is not None})


def _scaled(name: str, value: float) -> float:
    """Logit for scores, log for counts, as it is for what is in nats already."""
    if name in _IN_NATS:
        return value
    if name in _COUNTS:
        return math.log1p(max(0.0, value))
    p = min(1.0 - MARGIN, max(MARGIN, value))
    return math.log(p / (1.0 - p))
