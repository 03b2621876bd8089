"""From features by name to a matrix: which columns, in which order, on which scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cascade.confidence.metrics import Array
from cascade.confidence.score import combine, score_of

RAW = "raw"
"""The raw score of a draft, always the first column."""

MARGIN = 0.02
"""Scores are kept this far from 0 and 1 before the logit: a vote of 5 out of 5 is no certainty."""

_COUNTS = ("token_count", "_words", "_numbers", "_negations", "_lines", "_symbols")
_LAST = ("answer_", "prompt_", "topic_")
"""Features about the text, which carry little each, come after those about the draft."""


def column_names(rows: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """The columns for these rows: the raw score, then the features in the order of trust."""
    found = list(dict.fromkeys(name for row in rows for name in row))
    draft = [name for name in found if not name.startswith(_LAST)]
    text = [name for prefix in _LAST for name in found if name.startswith(prefix)]
    return (RAW, *draft, *text)


def matrix(
    rows: Sequence[Mapping[str, float]], columns: Sequence[str], signals: Sequence[str]
) -> Array:
    """(n, d) with NaN where a feature is missing.

    Args:
        rows: features by name.
        columns: as of `column_names`.
        signals: whose scores make the raw score.
    """
    table = np.full((len(rows), len(columns)), np.nan)
    for row, features in zip(table, rows, strict=True):
        for at, name in enumerate(columns):
            value = raw_score(features, signals) if name == RAW else features.get(name)
            if value is not None and math.isfinite(value):
                row[at] = _scaled(name, value)
    return table


def raw_score(features: Mapping[str, float], signals: Sequence[str]) -> float | None:
    """The most doubtful of the scores that the signals give."""
    scores = {name: score_of(name, features) for name in signals}
    return combine({name: score for name, score in scores.items() if score is not None})


def _scaled(name: str, value: float) -> float:
    """Logit for scores, log for counts, as it is for what is in nats already."""
    if name.endswith(_COUNTS) or name in _COUNTS:
        return math.log1p(max(0.0, value))
    if name.startswith(("logprob_", "margin_", "topic_")):
        return value
    if 0.0 <= value <= 1.0:
        p = min(1.0 - MARGIN, max(MARGIN, value))
        return math.log(p / (1.0 - p))
    return value
