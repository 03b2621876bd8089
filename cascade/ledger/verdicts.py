"""What somebody says of an answer, after it was given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from pydantic import Field, JsonValue, model_validator

from cascade.state import Record

CORRECT = "correct"
"""The key of a verdict about an answer as a whole."""


class Feedback(Record):
    """A verdict about the answer of one run.

    There is one for each `key` of each who judges (`by`): another one of the same key replaces it.
    The fields are those of LangSmith's feedback, with `correct` beside them.

    Attributes:
        run_id: of the run in the ledger, `result.run_id`.
        key: what is judged; `correct`, the whole answer, unless another aspect is named.
        correct: whether the answer is right; None where that was not said.
        score: how good it is, 1 the best, 0 the worst; None where that was not said.
        value: anything else that was chosen, such as a category.
        comment: in words.
        correction: what the answer should have been.
        by: who judges, such as a user's name.
        at: when it was said.

    Raises:
        ValueError: it says nothing.
    """

    run_id: str = Field(min_length=1, max_length=256)
    key: str = Field(default=CORRECT, min_length=1, max_length=128)
    correct: bool | None = None
    score: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
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
