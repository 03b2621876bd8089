"""Signals that cost nothing: what the draft and the question show by themselves.

The log-prob set is the one that survives across tasks in "Language Model Cascades: Token-Level
Uncertainty and Beyond" (arXiv 2404.10136: quantiles beat sums and means) and DeepConf
(arXiv 2508.15260: the worst stretch of the answer tells more than its average).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from cascade.confidence.base import Asked, Features, Signal
from cascade.state import Completion, TokenLogprob

WINDOW = 16
"""Tokens in the sliding window of `logprob_window_min`; shorter answers are one window."""

_REFUSAL = re.compile(
    r"\b(i (?:can(?:no|['’])t|am not able|am unable|don['’]t know|do not know)|"
    r"as an ai|i['’]m sorry|i am sorry|unable to (?:help|answer)|cannot (?:help|answer|assist))\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(maybe|perhaps|probably|possibly|might|not sure|i think|i guess|it depends|unclear)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(not|except|never|none|neither|nor|least|false|incorrect)\b", re.I)


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


class LogprobSignal(Signal):
    """The log-prob set of `logprob_features`; its score is the geometric mean probability.

    Of a draft that calls tools it is taken on the tokens of the tools' names and the argument
    values: the JSON around them is all but certain whatever it holds.
    """

    name = "logprobs"
    needs_logprobs = True

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Features of the draft's own tokens; none where the provider's do not show them."""
        del replies
        return logprob_features(asked.draft.decisive_logprobs)


class TextSignal(Signal):
    """Length, refusal and hedging markers of the draft; no score by themselves."""

    name = "text"
    is_score = False

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Word count, and 1 or 0 for truncated, refusing, hedging."""
        del replies
        text = asked.draft.text
        return {
            "answer_words": float(len(text.split())),
            "answer_truncated": float(asked.draft.finish_reason == "length"),
            "answer_refuses": float(bool(_REFUSAL.search(text))),
            "answer_hedges": float(bool(_HEDGE.search(text))),
        }


class PromptSignal(Signal):
    """Features of the question alone, known before anything is drafted."""

    name = "prompt"
    is_score = False

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """See `prompt_features`."""
        del replies
        return prompt_features(asked.question)


def prompt_features(question: str) -> dict[str, float]:
    """Length, numbers, negations, lines and code marks of a question."""
    words = question.split()
    return {
        "prompt_words": float(len(words)),
        "prompt_numbers": float(sum(any(c.isdigit() for c in word) for word in words)),
        "prompt_negations": float(len(_NEGATION.findall(question))),
        "prompt_lines": float(question.count("\n") + 1),
        "prompt_symbols": float(sum(not (c.isalnum() or c.isspace()) for c in question)),
    }
