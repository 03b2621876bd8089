"""Verdicts of people about answers that were given, as records and as ledger entries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Self

from pydantic import Field, JsonValue, model_validator

from cascade.state import LedgerEntry, Record

FEEDBACK = "feedback"
"""Node of the entry of a verdict; its `loss` is 1 where the answer is wrong, 0 where it is right,
None where an earlier verdict is taken back. No words are kept, and not who judged."""

CORRECT = "correct"
"""Key of a verdict about an answer as a whole."""

_DIGITS = 16


class Feedback(Record):
    """A verdict about the answer of one run; the fields are LangSmith's, and `correct`.

    There is one for each `key` of each person (`by`): another one of the same key replaces it.

    Attributes:
        key: what is judged; `correct` is the whole answer.
        correct: whether the answer is right.
        score: how good it is; of the key `correct` from 0, the worst, to 1.
        value: anything else that was chosen, such as a category.
        correction: what the answer should have been.
        by: who judges, such as a user's name.

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
        """Whether the answer is judged wrong: by `correct`, else by a score below a half; None
        where neither says so, or another aspect than the whole answer is judged."""
        if self.key != CORRECT:
            return None
        if self.correct is not None:
            return not self.correct
        return None if self.score is None else self.score < 0.5

    def entry(self, said: Iterable[LedgerEntry]) -> LedgerEntry | None:
        """The ledger entry of the verdict, after those of its run, oldest first; None where the
        ledger has the same already. A verdict that replaces another is one more entry."""
        judge = _digest(self.key, self.by)
        earlier = [entry for entry in said if judge_of(entry) == judge]
        loss = None if self.wrong is None else float(self.wrong)
        last = earlier[-1].loss if earlier else None
        if loss == last or (earlier and self.at < earlier[-1].at):
            return None
        place = _digest(str(loss), self.at.isoformat())
        return LedgerEntry(
            run_id=self.run_id,
            node=FEEDBACK,
            cost_usd=Decimal(0),
            saved_usd=Decimal(0),
            loss=loss,
            at=self.at,
            id="-".join((FEEDBACK, judge, self.run_id, str(len(earlier)), place)),
        )


def judge_of(entry: LedgerEntry) -> str | None:
    """The key and person of a verdict's entry, as a hash; None of another entry."""
    if entry.node != FEEDBACK:
        return None
    return entry.id.removeprefix(f"{FEEDBACK}-")[:_DIGITS]


def said_wrong(entries: Iterable[LedgerEntry]) -> bool | None:
    """Whether people say that the answer of a run, whose entries come oldest first, is wrong; None
    where none does, or they differ."""
    last = {judge: entry.loss for entry in entries if (judge := judge_of(entry)) is not None}
    found = set(last.values()) - {None}
    return bool(found.pop()) if len(found) == 1 else None


def _digest(*parts: str) -> str:
    text = "\0".join(parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
