"""Signals of texts, of further answers and of the user's functions, what `signals=[…]` takes, and
the early stop of a draft by its log-probs."""

from __future__ import annotations

import inspect
import math
import re
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from decimal import Context, Decimal
from typing import Any

from cascade._numbers import to_count, to_number
from cascade.confidence.base import (
    FEATURES,
    Asked,
    Features,
    LogprobSignal,
    Probe,
    Signal,
    logprob_features,
)
from cascade.confidence.checks import PTrueSignal, VerbalisedSignal
from cascade.confidence.trajectory import TrajectorySignal
from cascade.errors import ConfigurationError
from cascade.state import Completion

# --- of texts alone

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


class TextSignal(Signal):
    """Length, refusal and hedging markers of the draft; no score by themselves."""

    name = "text"
    is_score = False

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Word count; 1 or 0 for the markers."""
        text = asked.draft.text
        return {
            "answer_words": float(len(text.split())),
            "answer_truncated": float(asked.draft.finish_reason == "length"),
            "answer_refuses": float(bool(_REFUSAL.search(text))),
            "answer_hedges": float(bool(_HEDGE.search(text))),
        }


class PromptSignal(Signal):
    """Length, numbers, negations, lines and code marks of the question alone."""

    name = "prompt"
    is_score = False

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """Counts, which are known before anything is drafted."""
        question = asked.question
        words = question.split()
        return {
            "prompt_words": float(len(words)),
            "prompt_numbers": float(sum(any(c.isdigit() for c in word) for word in words)),
            "prompt_negations": float(len(_NEGATION.findall(question))),
            "prompt_lines": float(question.count("\n") + 1),
            "prompt_symbols": float(sum(not (c.isalnum() or c.isspace()) for c in question)),
        }


class _OtherModel(Signal):
    calls = 1

    def __init__(self, model: Any, *, name: str = "") -> None:
        self.model, self.name = model, name or self.name


class PrefillScore(_OtherModel):
    """Log-probabilities of the draft under another model, by one pass over it without generation:
    what the drafter is sure of and another model finds unlikely is often wrong (arXiv 2603.25450).
    """

    name = "prefill"

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The draft after the question, to be read."""
        draft = asked.draft.transcript
        return (Probe(tuple(asked.messages), answer=draft),) if draft else ()

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """The geometric mean probability of the draft's tokens; minimum, 10 % quantile and worst
        window in nats; how much less likely it is to this model than to the drafter (`_gap`)."""
        read = logprob_features(replies[0].logprobs) if replies else {}
        if not read:
            return {}
        own = logprob_features(asked.draft.decisive_logprobs)
        parts = ("min", "q10", "window_min")
        features = {f"{self.name}_{part}": read[f"logprob_{part}"] for part in parts}
        if own:
            features[f"{self.name}_gap"] = own["logprob_mean"] - read["logprob_mean"]
        return {self.name: math.exp(read["logprob_mean"]), **features}


_FINAL = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*(.+)", re.IGNORECASE)
_NOISE = re.compile(r"[^\w\s.%+-]")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalise(text: str) -> str:
    """A short answer, or what follows the last "answer is" or "answer:", without case, punctuation
    and articles; a number without thousands separators and trailing zeros."""
    stated = _FINAL.findall(text)
    answer = (stated[-1] if stated else text).strip().casefold()
    words = _NOISE.sub(" ", re.sub(r"(?<=\d),(?=\d{3}\b)", "", answer))
    answer = _tidy(_ARTICLE.sub(" ", words)) or _tidy(words)  # "A" alone is an option
    if not _NUMBER.fullmatch(answer):
        return answer
    number = Decimal(answer)
    # The default context would round it to 28 digits, and two long numbers are two answers.
    return f"{number.normalize(Context(prec=len(answer))):f}" if number else "0"


def _tidy(words: str) -> str:
    return re.sub(r"^[. ]+(?!\d)", "", " ".join(words.split()).rstrip(". "))


class SelfConsistency(Signal):
    """Share of `k` samples, at most, that agree with the draft, weighted by exp(c), c the geometric
    mean token probability of a sample (CISC, arXiv 2502.06233); without log-probs they weigh the
    same. Two are asked side by side, until the remaining ones cannot change on which side of one
    half the draft stands.

    Raises:
        ConfigurationError: k or the temperature is not positive.
    """

    name = "self_consistency"

    def __init__(self, k: int = 5, *, temperature: float = 0.8) -> None:
        self.calls = to_count("SelfConsistency.k", k)
        self.temperature = to_number("SelfConsistency.temperature", temperature, above=0)

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The next few samples, none when the vote is decided."""
        remaining = self.calls - len(replies)
        agreeing, total = self._votes(asked, replies)
        most = remaining * math.e
        if replies and (2 * agreeing > total + most or 2 * (agreeing + most) < total + most):
            return ()
        messages = tuple(asked.messages)
        sample = Probe(messages, temperature=self.temperature, top_logprobs=1, as_draft=True)
        return (sample,) * min(2, remaining)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """`self_consistency`: weighted share of samples that give the draft's answer."""
        agreeing, total = self._votes(asked, replies)
        return {self.name: agreeing / total} if total else {}

    def _votes(self, asked: Asked, replies: Sequence[Completion]) -> tuple[float, float]:
        """(weight of the samples that agree with the draft, weight of all)."""
        draft, agreeing, total = normalise(asked.draft.transcript), 0.0, 0.0
        for reply in replies:
            mean = logprob_features(reply.decisive_logprobs).get("logprob_mean", -math.inf)
            weight = math.exp(math.exp(mean))
            total += weight
            agreeing += weight * (normalise(reply.transcript) == draft)
        return agreeing, total


class Agreement(_OtherModel):
    """1 when another cheap model gives the same answer, else 0 (arXiv 2407.02348). Several models
    need several names."""

    name = "agreement"

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The same question to the other model."""
        return (Probe(tuple(asked.messages), as_draft=True),)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """1.0 or 0.0 under the signal's name."""
        agrees = normalise(replies[0].transcript) == normalise(asked.draft.transcript)
        return {self.name: float(agrees)}


# --- functions of the user's

Check = Callable[..., float | Awaitable[float | None] | None]
"""A user's own signal, sync or async: `(question, answer)` or `(question, answer, runtime)`. None
and NaN are missing."""


class UserSignal(Signal):
    """A function of the user's as a signal: a test, a regular expression, a tool.

    It takes `(question, answer)`, or `(question, answer, runtime)` with the `CascadeRuntime` of the
    run. A value outside [0, 1] judges no draft until it is calibrated.

    Raises:
        ConfigurationError: it takes neither two nor three arguments.
    """

    def __init__(self, check: Check, name: str | None = None) -> None:
        self.check = check
        self.name = name or str(getattr(check, "__name__", type(check).__name__))
        self.takes_runtime = False
        try:
            signature = inspect.signature(check)
        except (TypeError, ValueError):  # some built-ins have none
            return
        self.takes_runtime = "runtime" in signature.parameters
        try:
            signature.bind("", "", **({"runtime": None} if self.takes_runtime else {}))
        except TypeError:
            raise ConfigurationError(
                f"the signal {self.name!r} takes {signature}: write it as (question, answer) or "
                "(question, answer, runtime)."
            ) from None

    async def read(self, asked: Asked, replies: Sequence[Completion]) -> Features:
        """The function's value under its name."""
        named = {"runtime": asked.runtime} if self.takes_runtime else {}
        value = self.check(asked.question, asked.draft.transcript, **named)
        if inspect.isawaitable(value):
            value = await value
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"the signal {self.name!r} returned {value!r}: return a number, True or False, or "
                "None where it cannot be taken."
            ) from None
        return {self.name: number} if math.isfinite(number) else {}

    def score(self, features: Features) -> float | None:
        """The value, where it is in [0, 1]."""
        value = features.get(self.name)
        return value if value is not None and 0.0 <= value <= 1.0 else None


# --- signals by name

SignalLike = str | Signal | Check
"""A name, a signal, or a function `(question, answer) → value`."""

_KINDS: list[type[Signal]] = [LogprobSignal, TextSignal, PromptSignal, TrajectorySignal]
_KINDS += [PTrueSignal, VerbalisedSignal, SelfConsistency]
BUILT_IN = {kind.name: kind for kind in _KINDS}
"""Signals that need no arguments, by name."""
_RESERVED = frozenset({"raw", *BUILT_IN}).union(*FEATURES.values())


def to_signals(wanted: Sequence[SignalLike]) -> tuple[Signal, ...]:
    """The signals that are meant, cheapest first.

    Raises:
        ConfigurationError: an unknown name, two of one name, or a built-in one of the user's.
    """
    if isinstance(wanted, str | bytes) or not isinstance(wanted, Sequence):
        raise ConfigurationError(f"signals={wanted!r}: give a list, such as ['logprobs'].")
    signals: dict[str, Signal] = {}
    for item in wanted:
        if isinstance(item, Signal):
            signal = item
        elif isinstance(item, str) and item in BUILT_IN:
            signal = BUILT_IN[item]()
        elif callable(item):
            signal = UserSignal(item)
        else:
            raise ConfigurationError(
                f"there is no signal {item!r}; there are: {', '.join(BUILT_IN)}, the signals of "
                "cascade.confidence, and your own functions (question, answer) → value."
            )
        if isinstance(signal, UserSignal) and signal.name in _RESERVED:
            raise ConfigurationError(
                f"a signal of yours is called {signal.name!r}, which is built in: "
                "UserSignal(check, name=…) gives it another name."
            )
        if signal.name in signals:
            raise ConfigurationError(f"two signals are called {signal.name!r}: rename one of them.")
        signals[signal.name] = signal
    return tuple(sorted(signals.values(), key=lambda signal: signal.calls))


def wordings(names: Iterable[str]) -> dict[str, str]:
    """The words of the checks among these signals, by name and digest (`Signal.wording`)."""
    known = {name: BUILT_IN[name].wording for name in names if name in BUILT_IN}
    return {name: wording for name, wording in known.items() if wording}


# --- early stop of a draft that is still being written

EarlyRow = tuple[float, float]
"""Of a calibration draft: its confidence, and its `logprob_window_min`. The smallest mean over 16
tokens only falls while an answer grows, so its final value bounds the running one (as in DeepConf,
arXiv 2508.15260, with a conformal bound in place of its percentile)."""

ROUNDING = 1e-9
"""Sums of the same numbers in another order differ by less."""


def ceiling(total: float, limit: int) -> float:
    """The highest geometric mean probability that an answer of at most `limit` tokens can still
    reach, `total` being the sum of its log-probabilities so far: the rest is certain at best."""
    return min(1.0, math.exp(total / limit) + ROUNDING)


def drafts_needed(share: float) -> int:
    """The fewest accepted calibration drafts that bound a share: 1/share − 1, rounded up."""
    return math.ceil(1.0 / share) - 1


def lowest_kept(
    rows: Sequence[EarlyRow], accepts: Callable[[float], bool], share: float
) -> float | None:
    """The running window below which a draft is given up; None where too few drafts bound it.

    With n accepted drafts it is the r-th smallest window, r = ⌊share·(n + 1)⌋. A further accepted
    draft of the same kind falls below it with probability at most r/(n + 1) ≤ share (split
    conformal prediction, arXiv 2107.07511, appendix D). `rows` are sorted, `accepts` is monotone.
    """
    first = bisect_left(rows, True, key=lambda row: accepts(row[0]))
    lowest = sorted(window for _, window in rows[first:])
    rank = math.floor(share * (len(lowest) + 1))
    return lowest[rank - 1] if rank else None
