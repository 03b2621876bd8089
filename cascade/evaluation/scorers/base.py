"""The one interface of all scorers, whether they compute, run a program or ask a model."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import JsonValue

from cascade.errors import ConfigurationError, InputError
from cascade.state import Completion

Reference = JsonValue
"""The right answer, in the form that the scorer takes: mostly text, or a list of such texts."""

ScoreFunction = Callable[[str, Reference], float | Awaitable[float]]
"""A user's own scorer: (answer, reference) → a number in [0, 1]; it may be async."""

TextFunction = Callable[[str, Reference, str], float]
"""What the built-in scorers that only compute are: (answer, reference, question) → [0, 1]."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a scorer found.

    Attributes:
        value: from 0 (wrong) to 1 (right); None where a judge gave no verdict: leave the row
            out and count it.
        completion: the call that the score took, so that its cost can be booked.
        note: why the answer failed, where the scorer can say (a traceback, a verdict's text).
    """

    value: float | None
    completion: Completion | None = None
    note: str = ""


class Scorer(ABC):
    """Says how right an answer is."""

    @property
    @abstractmethod
    def spec(self) -> str:
        """The text that `get_scorer` makes this scorer from; of a user's function its name."""

    @abstractmethod
    async def score(self, answer: str, reference: Reference, *, question: str = "") -> Score:
        """Compare an answer with the reference.

        Args:
            answer: as the model gave it, with all that it says around the result.
            reference: the right answer.
            question: the prompt; multiple choice takes the options from it, the judge reads it.

        Raises:
            InputError: the reference is not in the form that this scorer takes.
            ModelError: the call of a judge failed.
        """


class TextScorer(Scorer):
    """A scorer that only computes; it can also be called without `await`.

    Raises:
        InputError: the reference is not in the form that this scorer takes.
    """

    def __init__(self, spec: str, function: TextFunction) -> None:
        self._spec = spec
        self._function = function

    @property
    def spec(self) -> str:
        """As it was given."""
        return self._spec

    def __call__(self, answer: str, reference: Reference, question: str = "") -> float:
        """The score in [0, 1]."""
        return self._function(answer, reference, question)

    async def score(self, answer: str, reference: Reference, *, question: str = "") -> Score:
        """The score, behind the common interface."""
        return Score(self(answer, reference, question))


class FunctionScorer(Scorer):
    """A user's own function, sync or async, as a scorer.

    Raises:
        ConfigurationError: (from `score`) it returned something that is not in [0, 1].
    """

    def __init__(self, function: ScoreFunction) -> None:
        self._function = function

    @property
    def spec(self) -> str:
        """The function's name."""
        return str(getattr(self._function, "__qualname__", type(self._function).__name__))

    async def score(self, answer: str, reference: Reference, *, question: str = "") -> Score:
        """The function's number, checked."""
        result = self._function(answer, reference)
        value = await result if inspect.isawaitable(result) else result
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigurationError(
                f"the scorer {self.spec} returned {value!r}: a score is a number from 0 to 1."
            )
        return Score(float(value))


def texts_of(reference: Reference, scorer: str) -> list[str]:
    """The accepted answers as text: one, or the items of a list.

    Raises:
        InputError: there is none.
    """
    given = reference if isinstance(reference, list) else [reference]
    texts = [
        f"{item:.0f}" if isinstance(item, float) and item.is_integer() else str(item)
        for item in given
        if isinstance(item, str | int | float)
    ]
    if len(texts) < len(given) or not all(text.strip() for text in texts) or not texts:
        raise InputError(
            f"the reference {reference!r} is nothing that '{scorer}' can compare with: it takes a "
            "text or a list of texts that are all right."
        )
    return texts
