"""Signals: their interface, the one that costs nothing, and hashes that bind a calibration.

A signal says what it wants to ask (`probes`), the self-checker asks, and the signal reads the
replies. So it runs online, in calibration and over recordings, and each of its calls is in the
ledger. Nothing here needs numpy.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from cascade.state import Completion, TokenLogprob

_FEATURES = {
    "logprobs": "logprob_mean logprob_min logprob_q10 logprob_window_min margin_mean token_count",
    "text": "answer_words answer_truncated answer_refuses answer_hedges",
    "prompt": "prompt_words prompt_numbers prompt_negations prompt_lines prompt_symbols",
}
FEATURES = {signal: frozenset(names.split()) for signal, names in _FEATURES.items()}
"""Features of the built-in signals that are not called as their signal is."""

Features = Mapping[str, float]
"""Features by name; what is missing is absent, as are NaN and infinities."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation, its question last, the draft that answers it, and the `CascadeRuntime`."""

    messages: Sequence[BaseMessage]
    draft: Completion
    runtime: Any = None

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)


@dataclass(frozen=True, slots=True)
class Probe:
    """One call that a signal wants: a plain question, or one with the tools and the schema of the
    draft (`as_draft`), or an `answer` to score in one pass, instead of writing one. None takes the
    tier's `max_tokens` and `temperature`; `top_logprobs` are alternatives per token."""

    messages: tuple[BaseMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_logprobs: int = 0
    as_draft: bool = False
    answer: str | None = None


class Signal(ABC):
    """A feature of a draft.

    Attributes:
        name: in results, calibrations and `signals=[…]`.
        calls: that it makes at most; 0 is free.
        is_score: whether it gives a confidence by itself, without which a draft is not judged.
        model: that its probes ask, as `Cascade` takes models; None asks the drafting tier.
        wording: digest of the words of a check: a calibration is bound to it.
    """

    name: str
    calls: int = 0
    is_score: bool = True
    model: Any = None
    wording: str = ""

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The next calls, which may run side by side; none when the signal can be read."""
        return ()

    @abstractmethod
    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features | Awaitable[Features]:
        """The features that the draft and the replies give."""

    def score(self, features: Features) -> float | None:
        """A raw score in [0, 1], None when the signal is missing or no score by itself."""
        value = score_of(self.name, features) if self.is_score else None
        return value if value is not None and 0.0 <= value <= 1.0 else None


Ask = Callable[[Probe], Coroutine[Any, Any, Completion]]
"""Puts a signal's probe to a model and sees to the ledger."""


async def take(signal: Signal, asked: Asked, ask: Ask) -> Features:
    """All calls that a signal wants, then its features. Errors pass; the first call that fails
    cancels those beside it, which cost money."""
    replies: list[Completion] = []
    while len(replies) < signal.calls and (probes := signal.probes(asked, replies)):
        tasks = [asyncio.ensure_future(ask(probe)) for probe in probes]
        try:
            replies += await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    features = signal.read(asked, replies)
    found = await features if inspect.isawaitable(features) else features
    return {name: x for name, x in found.items() if x is not None and math.isfinite(x)}


def combine(scores: Iterable[float | None]) -> float | None:
    """One raw score from several: the most doubtful, since they have no common scale."""
    known = [score for score in scores if score is not None and not math.isnan(score)]
    return min(1.0, max(0.0, min(known))) if known else None


def score_of(signal: str, features: Features) -> float | None:
    """The raw score of a signal: the geometric mean token probability for `logprobs`, else the
    feature of the signal's own name."""
    if signal == "logprobs":
        mean = features.get("logprob_mean")
        return math.exp(mean) if mean is not None and mean <= 0.0 else None
    return features.get(signal)


# --- signals that cost nothing

WINDOW = 16
"""Tokens in the sliding window of `logprob_window_min`; shorter answers are one window."""


def logprob_features(logprobs: Sequence[TokenLogprob] | None) -> dict[str, float]:
    """Features of log-probabilities, in nats: with the 10 % quantile (2404.10136), the smallest
    mean over a sliding window (2508.15260), and the mean difference of the two likeliest tokens."""
    if not logprobs:
        return {}
    values = [token.logprob for token in logprobs]
    ordered = sorted(values)
    place = 0.1 * (len(values) - 1)  # between order statistics, linearly
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    features = {
        "logprob_mean": math.fsum(values) / len(values),
        "logprob_min": ordered[0],
        "logprob_q10": below + (above - below) * (place % 1.0),
        "logprob_window_min": worst_window(values),
        "token_count": float(len(values)),
    }
    listed = (sorted([p for _, p in token.top]) for token in logprobs if len(token.top) > 1)
    if margins := [ranked[-1] - ranked[-2] for ranked in listed]:
        features["margin_mean"] = math.fsum(margins) / len(margins)
    return features


def worst_window(values: Sequence[float]) -> float:
    """The smallest mean of `WINDOW` values in a row, or of all where there are fewer."""
    size = min(WINDOW, len(values))
    lowest = total = math.fsum(values[:size])
    for leaving, entering in zip(values, values[size:], strict=False):
        total += entering - leaving
        lowest = min(lowest, total)
    return lowest / size


class LogprobSignal(Signal):
    """The log-prob set of `logprob_features`; its score is the geometric mean probability. Of tool
    calls it is taken on names and argument values: the JSON around them is all but certain."""

    name = "logprobs"

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Features of the draft's own tokens; none where the provider does not show them."""
        return logprob_features(asked.draft.decisive_logprobs)


# --- what a calibration is bound to


def system_hash(messages: Sequence[BaseMessage]) -> str:
    """A hash of the system messages of a conversation."""
    return digest([str(message.text) for message in messages if message.type == "system"])


def shots_of(messages: Sequence[BaseMessage], most: int | None = None) -> tuple[int, str]:
    """Number and hash of the messages between system message and question, of `most` at most."""
    shown = [(message.type, str(message.text)) for message in messages[:-1]]
    shown = [said for said in shown if said[0] != "system"][:most]
    return len(shown), digest(shown)


def digest(value: Any) -> str:
    """A short stable hash of JSON values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
