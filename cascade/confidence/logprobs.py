"""Free signals: features of the log-probabilities of a draft's own tokens.

The set is the one that survives across tasks in "Language Model Cascades: Token-Level
Uncertainty and Beyond" (arXiv 2404.10136: quantiles beat sums and means) and DeepConf
(arXiv 2508.15260: the worst stretch of the answer tells more than its average).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cascade.state import TokenLogprob

WINDOW = 16
"""Tokens in the sliding window of `logprob_window_min`; shorter answers are one window."""


def logprob_features(logprobs: Sequence[TokenLogprob] | None) -> dict[str, float]:
    """Features of an answer's log-probabilities, in nats.

    Returns:
        `logprob_mean`, `logprob_min`, `logprob_q10` (10 % quantile), `logprob_window_min`
        (smallest mean over a sliding window), `margin_mean` (mean difference between the two
        most likely tokens, where alternatives were returned) and `token_count`. Empty when
        there are no log-probabilities: a missing signal is missing, never a guess.
    """
    if not logprobs:
        return {}
    values = [token.logprob for token in logprobs]
    features = {
        "logprob_mean": math.fsum(values) / len(values),
        "logprob_min": min(values),
        "logprob_q10": quantile(values, 0.1),
        "logprob_window_min": min(window_means(values, WINDOW)),
        "token_count": float(len(values)),
    }
    margins = [margin for token in logprobs if (margin := _margin(token)) is not None]
    if margins:
        features["margin_mean"] = math.fsum(margins) / len(margins)
    return features


def quantile(values: Sequence[float], q: float) -> float:
    """The `q` quantile by linear interpolation between order statistics (type 7)."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def window_means(values: Sequence[float], size: int) -> list[float]:
    """Means over a sliding window of so many values, or of all where there are fewer."""
    size = min(size, len(values))
    total = math.fsum(values[:size])
    means = [total / size]
    for leaving, entering in zip(values, values[size:], strict=False):
        total += entering - leaving
        means.append(total / size)
    return means


def _margin(token: TokenLogprob) -> float | None:
    if len(token.top) < 2:
        return None
    if len(token.top) == 2:  # as many as drafts ask for
        return abs(token.top[0][1] - token.top[1][1])
    first, second = sorted((logprob for _, logprob in token.top), reverse=True)[:2]
    return first - second
