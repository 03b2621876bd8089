"""Signals and calibrators: the interfaces, and what a calibration is bound to.

A signal is a feature of a draft with a price in calls, and without any I/O of its own: it says
what it wants to ask (`probes`), the self-checker asks, and the signal reads the replies. So the
same signal runs online, in calibration and over recordings, and each of its calls is in the
ledger. A calibrator makes one probability of the signals. Nothing here needs numpy.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError
from cascade.state import Completion, Record

FEATURES: Mapping[str, frozenset[str]] = {
    "logprobs": frozenset(
        {
            "logprob_mean",
            "logprob_min",
            "logprob_q10",
            "logprob_window_min",
            "margin_mean",
            "token_count",
        }
    ),
    "text": frozenset({"answer_words", "answer_truncated", "answer_refuses", "answer_hedges"}),
    "prompt": frozenset(
        {"prompt_words", "prompt_numbers", "prompt_negations", "prompt_lines", "prompt_symbols"}
    ),
}
"""Features of the built-in signals that are not called as their signal is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the draft that answers it.

    Attributes:
        messages: the conversation, the question last.
        draft: the answer.
        runtime: the `CascadeRuntime` of the run, for signals of the user's; None over recordings.
        trajectory: where the tier is an agent, the messages of its run: calls, results, answer.
    """

    messages: Sequence[BaseMessage]
    draft: Completion
    runtime: Any = None
    trajectory: Sequence[BaseMessage] = ()

    @property
    def question(self) -> str:
        """Text of the last message."""
        return str(self.messages[-1].text)


@dataclass(frozen=True, slots=True)
class Probe:
    """One call that a signal wants.

    Attributes:
        messages: what to ask.
        max_tokens: limit of the reply; None takes the tier's.
        temperature: None takes the tier's.
        top_logprobs: alternatives per token; 0 asks for no log-probabilities.
        as_draft: ask with the tools and the schema of the draft (another sample of it), or
            as a plain question.
        answer: an answer to score instead of writing one (`Request.answer`): one pass over it;
            the reply's `logprobs` are those of its tokens.
    """

    messages: tuple[BaseMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_logprobs: int = 0
    as_draft: bool = False
    answer: str | None = None


Features = Mapping[str, float]
"""Features by name; what is missing is absent."""


class Signal(ABC):
    """A feature of a draft.

    Attributes:
        name: its name in results, calibrations and `signals=[…]`.
        calls: calls that it makes at most; 0 is free.
        is_score: whether `score` gives a confidence by itself; without it (refused, lost on
            the way) the draft cannot be judged.
        needs_logprobs: whether it is missing without the draft's log-probabilities.
        model: the model that its probes ask, as `Cascade` takes models; None asks the drafting
            tier.
        wording: of a built-in check, a digest of the words in which it asks about a draft:
            a calibration is bound to it.
    """

    name: str
    calls: int = 0
    is_score: bool = True
    needs_logprobs: bool = False
    model: Any = None
    wording: str = ""

    def probes(self, asked: Asked, replies: Sequence[Completion]) -> Sequence[Probe]:
        """The next calls, which may run side by side; none when the signal can be read."""
        del asked, replies
        return ()

    @abstractmethod
    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features | Awaitable[Features]:
        """The features that the draft and the replies give."""

    def score(self, features: Features) -> float | None:
        """A raw score in [0, 1], None when the signal is missing or no score by itself."""
        return score_of(self.name, features)


Ask = Callable[[Signal, Probe], Coroutine[Any, Any, Completion]]
"""Puts a signal's probe to a model and sees to the ledger."""


async def take(signal: Signal, asked: Asked, ask: Ask) -> Features:
    """All calls that a signal wants, then its features. Errors of calls and of the signal pass."""
    replies: list[Completion] = []
    while probes := signal.probes(asked, replies):
        replies += await _side_by_side([ask(signal, probe) for probe in probes])
    features = signal.read(asked, replies)
    return await features if inspect.isawaitable(features) else features


async def _side_by_side(calls: Sequence[Coroutine[Any, Any, Completion]]) -> list[Completion]:
    """Their results, in order. The first failure cancels the others and is raised when they have
    ended: `asyncio.gather` would let them run on, calls that cost money."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


Value = float | bool | None
"""What a user's signal returns; None and NaN are missing."""

Check = (
    Callable[[str, str], Value | Awaitable[Value]]
    | Callable[[str, str, Any], Value | Awaitable[Value]]
)
"""A user's own signal, sync or async: `(question, answer)` or `(question, answer, runtime)`."""


class UserSignal(Signal):
    """A function of the user's as a signal: a test, a regular expression, a tool.

    Args:
        check: `(question, answer)`, or `(question, answer, runtime)` with the `CascadeRuntime`
            of the run, to a number, a boolean or None. A value outside [0, 1] judges no draft
            until it is calibrated.
        name: the function's name by default.

    Raises:
        ConfigurationError: it takes neither two nor three arguments.
    """

    def __init__(self, check: Check, name: str | None = None) -> None:
        self.check: Callable[..., Value | Awaitable[Value]] = check
        self.name = name or str(getattr(check, "__name__", type(check).__name__))
        self.takes_runtime = _takes_three(check, self.name)

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Features | Awaitable[Features]:
        """The function's value under its name."""
        del replies
        given = (asked.question, asked.draft.transcript)
        value = self.check(*given, asked.runtime) if self.takes_runtime else self.check(*given)
        return self._later(value) if inspect.isawaitable(value) else self._features(value)

    def score(self, features: Features) -> float | None:
        """The value, where it is in [0, 1]."""
        value = features.get(self.name)
        return value if value is not None and 0.0 <= value <= 1.0 else None

    async def _later(self, value: Awaitable[Value]) -> Features:
        return self._features(await value)

    def _features(self, value: Value) -> Features:
        if value is None:
            return {}
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"the signal {self.name!r} returned {value!r}: return a number, True or False, or "
                "None where it cannot be taken."
            ) from None
        return {self.name: number} if math.isfinite(number) else {}


def _takes_three(check: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(check).parameters.values()
    except (TypeError, ValueError):  # some built-ins have none
        return False
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return False
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in places)
    if len(places) < 2 or required > 3:
        raise ConfigurationError(
            f"the signal {name!r} takes {len(places)} arguments: write it as (question, answer) "
            "or (question, answer, runtime)."
        )
    return required == 3 or (len(places) > 2 and places[2].name == "runtime")


def combine(scores: Features) -> float | None:
    """One raw score from several: the most doubtful one; None when there is none.

    Uncalibrated scores have no common scale, so no weights are invented for them; a
    calibration replaces this rule. Values outside [0, 1] are clipped; NaN is missing.
    """
    lowest = min((score for score in scores.values() if not math.isnan(score)), default=None)
    return None if lowest is None else min(1.0, max(0.0, lowest))


def score_of(signal: str, features: Features) -> float | None:
    """The raw score of a signal, None when it is missing or no score by itself.

    For `logprobs` it is the geometric mean token probability, exp(mean log-probability); every
    other score is the feature of the signal's own name.
    """
    if signal == "logprobs":
        mean = features.get("logprob_mean")
        return math.exp(mean) if mean is not None and mean <= 0.0 else None
    return features.get(signal)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A confidence as a calibrator gives it.

    Attributes:
        confidence: P(the draft is correct).
        interval: a range for it as wide as the labels are few (Venn–Abers), where known.
        p_large: P(the large model is correct) on this question, where known.
        calibrated: whether the labels showed that it is a probability; else it is a raw score.
    """

    confidence: float
    interval: tuple[float, float] | None = None
    p_large: float | None = None
    calibrated: bool = True


class Calibrator(Protocol):
    """Turns the features of a draft into a probability."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals it needs, in the order in which they are taken."""
        ...

    @property
    def calibrated(self) -> bool:
        """Whether the labels showed that the confidence from all signals is a probability."""
        ...

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why this conversation is not of the kind it was fitted on, or None."""
        ...

    def estimate(self, features: Features, taken: Sequence[str]) -> Estimate | None:
        """The confidence from the signals taken so far; None when too many are missing."""
        ...

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """Confidences to which the next signal led from one like this; empty when unknown."""
        ...


Labels = Literal["references", "people", "agreement with the large model"]
"""Where labels come from."""


class ModelIdentity(Record):
    """A model by name and, where it can be had, by the digest of its weights."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledDraft:
    """The features of a draft and which model was right.

    Attributes:
        features: of all signals.
        correct: of the draft, 0 to 1.
        large_correct: of the large model's answer; None when it was not asked.
        id: of the example; where ids are given, rows are sorted by them and none may be there
            twice.
    """

    features: Features
    correct: float
    large_correct: float | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class MadeFor:
    """What a calibration is bound to; see `Calibration`."""

    small: ModelIdentity
    large: ModelIdentity | None
    task_hash: str
    system_hash: str | None
    labels: Labels
    memory: str | None = None


def system_hash(messages: Sequence[BaseMessage]) -> str:
    """A hash of the system messages of a conversation."""
    return digest([str(message.text) for message in messages if message.type == "system"])


def digest(value: Any) -> str:
    """A short stable hash of JSON values."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
