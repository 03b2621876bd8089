"""What somebody says of an answer, after it was given."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Self

from pydantic import Field, JsonValue, model_validator

from cascade.observing import Observer
from cascade.state import LedgerEntry, Record

FEEDBACK = "feedback"
"""Node of the entry of a verdict. The ledger keeps its figures: no words, and not who judged."""

CORRECT = "correct"
"""The key of a verdict about an answer as a whole."""

MOST_SAID = 100
"""Verdicts that one run may have, those that were replaced among them in the ledger."""


class Feedback(Record):
    """A verdict about the answer of one run.

    There is one for each `key` of each who judges (`by`): another one of the same key replaces it.
    The fields are those of LangSmith's feedback, with `correct` beside them.

    Attributes:
        run_id: of the run in the ledger, `result.run_id`.
        key: what is judged; `correct`, the whole answer, unless another aspect is named.
        correct: whether the answer is right; None where that was not said.
        score: how good it is; of the key `correct` from 0, the worst, to 1. None where that was
            not said.
        value: anything else that was chosen, such as a category.
        comment: in words.
        correction: what the answer should have been.
        by: who judges, such as a user's name.
        at: when it was said.

    Raises:
        ValueError: it says nothing, or has a score of the key `correct` beyond 0 to 1.
    """

    run_id: str = Field(min_length=1, max_length=256)
    key: str = Field(default=CORRECT, min_length=1, max_length=128)
    correct: bool | None = None
    score: float | None = Field(default=None, allow_inf_nan=False)
    value: JsonValue = None
    comment: str | None = Field(default=None, max_length=20_000)
    correction: JsonValue = None
    by: str = Field(default="user", min_length=1, max_length=256)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = (self.correct, self.score, self.value, self.comment, self.correction)
        if all(part is None for part in said):
            raise ValueError("it says nothing: give correct, score, value, comment or correction")
        if self.key == CORRECT and self.score is not None and not 0 <= self.score <= 1:
            raise ValueError(
                f"score={self.score}: from 0, wrong, to 1, right; another scale needs another key"
            )
        return self

    @property
    def wrong(self) -> bool | None:
        """Whether the answer is judged wrong: `correct` says so, or a score below a half; None
        where neither does, or another aspect than the whole answer is judged."""
        if self.key != CORRECT:
            return None
        if self.correct is not None:
            return not self.correct
        return None if self.score is None else self.score < 0.5

    @property
    def has_words(self) -> bool:
        """Whether there is more in it than figures: texts that somebody wrote."""
        return any(part is not None for part in (self.value, self.comment, self.correction))

    def same_as(self, other: Feedback) -> bool:
        """Whether it says the same, whenever it was said."""
        return self.model_copy(update={"at": other.at}) == other

    @property
    def judge(self) -> str:
        """The same for the same `key` and `by`, and no name: 16 hexadecimal digits."""
        return _digest(self.key, self.by)


class LessonKeeper(Observer, ABC):
    """What `Cascade(lessons=…)` takes: looks on, keeps lessons, and knows what was said of them."""

    @abstractmethod
    async def judge(self, feedback: Feedback, tags: Mapping[str, str] | None) -> bool:
        """Keep a verdict; returns whether anything changed.

        Args:
            feedback: what was said.
            tags: of the run, as the ledger has them; None where there is no ledger.
        """

    @abstractmethod
    async def tags_of(self, run_id: str) -> Mapping[str, str] | None:
        """The tags of a run with a lesson; None where it has none."""

    @abstractmethod
    async def aclose(self) -> None:
        """Return once all that was seen is kept. It goes on looking afterwards."""


def entry_of(feedback: Feedback, said: Iterable[LedgerEntry]) -> LedgerEntry | None:
    """The entry of a verdict about a whole answer; None where the ledger has the same already.

    Nothing in a ledger is ever changed: a verdict that replaces another is one more entry.

    Args:
        feedback: what is said now.
        said: the entries of the run's earlier verdicts, in the order of their times.
    """
    earlier = [entry for entry in said if judge_in(entry) == feedback.judge]
    signals = _figures(feedback)
    if earlier:
        if feedback.at < earlier[-1].at or dict(earlier[-1].signals or {}) == signals:
            return None
    elif not signals:
        return None
    place = (str(len(earlier)), _digest(repr(signals), feedback.at.isoformat()))
    return LedgerEntry(
        run_id=feedback.run_id,
        node=FEEDBACK,
        cost_usd=Decimal(0),
        saved_usd=Decimal(0),
        signals=signals or None,
        at=feedback.at,
        attempt_id="-".join((FEEDBACK, feedback.judge, feedback.run_id, *place)),
    )


def judge_in(entry: LedgerEntry) -> str:
    """Who judged, as `Feedback.judge` has it."""
    return (entry.attempt_id or "").removeprefix(f"{FEEDBACK}-")[:_DIGITS]


def wrong_in(entry: LedgerEntry) -> bool | None:
    """What the entry of a verdict says; None where it takes an earlier one back."""
    signals = entry.signals or {}
    return None if "wrong" not in signals else bool(signals["wrong"])


def agreed(said: Iterable[bool | None]) -> bool | None:
    """What all say who say anything; None where nobody does, or they differ."""
    found = set(said) - {None}
    return found.pop() if len(found) == 1 else None


_DIGITS = 16


def _figures(feedback: Feedback) -> dict[str, float]:
    if feedback.wrong is None:
        return {}
    score = {} if feedback.score is None else {"score": feedback.score}
    return {"wrong": float(feedback.wrong), **score}


def _digest(*parts: str) -> str:
    text = "\0".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
