"""What a signal is: a feature of a draft, with a price in calls, and without any I/O.

A paid signal says what it wants to ask (`probes`), the self-checker asks, and the signal reads
the replies. So the same signal runs online, in calibration and over recordings, and each of its
calls is in the ledger.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from cascade._together import together
from cascade.confidence.score import score_of
from cascade.state import Completion


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the draft that answers it."""

    messages: Sequence[BaseMessage]
    draft: Completion

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
    """

    messages: tuple[BaseMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_logprobs: int = 0
    as_draft: bool = False


class Signal(ABC):
    """A feature of a draft.

    Attributes:
        name: its name in results, calibrations and `signals=[…]`.
        calls: calls that it makes at most; 0 is free.
        is_score: whether `score` gives a confidence by itself; without it (refused, lost on
            the way) the draft cannot be judged.
        needs_logprobs: whether it is missing without the draft's log-probabilities.
        model: whom its probes ask, as `Cascade` takes models; None asks the drafting tier.
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
    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        """The features that the draft and the replies give; what is missing is absent."""

    def score(self, features: Mapping[str, float]) -> float | None:
        """A raw score in [0, 1], None when the signal is missing or no score by itself."""
        return score_of(self.name, features)


Ask = Callable[[Signal, Probe], Coroutine[Any, Any, Completion]]
"""Puts a signal's probe to a model and sees to the ledger."""


async def take(signal: Signal, asked: Asked, ask: Ask) -> Mapping[str, float]:
    """All calls that a signal wants, then its features."""
    replies: list[Completion] = []
    while probes := signal.probes(asked, replies):
        replies += await together(ask(signal, probe) for probe in probes)
    return signal.read(asked, replies)


Check = Callable[[str, str], "float | bool | None"]
"""A user's own signal: `(question, answer) → value`, None when it cannot be taken."""


class UserSignal(Signal):
    """A function of the user's as a signal: a test, a regular expression, a tool.

    Args:
        check: `(question, answer) → float | bool | None`; values in [0, 1] can be used before
            anything is calibrated.
        name: the function's name by default.
    """

    def __init__(self, check: Check, name: str | None = None) -> None:
        self.check = check
        self.name = name or str(getattr(check, "__name__", type(check).__name__))

    def read(self, asked: Asked, replies: Sequence[Completion]) -> Mapping[str, float]:
        """The function's value under its name; NaN is missing, as None is."""
        del replies
        value = self.check(asked.question, asked.draft.transcript)
        return {} if value is None or math.isnan(value) else {self.name: float(value)}
