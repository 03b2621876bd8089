"""Verdicts of people about answers that were given, and where they are kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, Self, runtime_checkable

from pydantic import Field, JsonValue, ValidationError, model_validator

from cascade.errors import ConfigurationError, InputError, UnknownRunError
from cascade.ledger.base import LedgerStore
from cascade.state import LedgerEntry, Record

FEEDBACK = "feedback"
"""Node of the entry of a verdict; its `loss` is 1 where the answer is wrong, 0 where it is right,
None where an earlier verdict is taken back. No words are kept, and not who judged."""

CORRECT = "correct"
"""Key of a verdict about an answer as a whole."""


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
        """True if the answer is judged wrong: by `correct`, else by a score below a half; None
        where neither says so, or another aspect than the whole answer is judged."""
        if self.key != CORRECT:
            return None
        if self.correct is not None:
            return not self.correct
        return None if self.score is None else self.score < 0.5

    def entry(self, of_run: Iterable[LedgerEntry]) -> LedgerEntry | None:
        """The ledger entry of the verdict, after those of its run, oldest first; None where the
        ledger has the same already. A verdict that replaces another is one more entry."""
        judge = hashlib.sha256(repr((self.key, self.by)).encode()).hexdigest()[:16]
        begins = f"{FEEDBACK}-{judge}-"
        earlier = [e for e in of_run if e.node == FEEDBACK and e.id.startswith(begins)]
        loss = None if self.wrong is None else float(self.wrong)
        last = earlier[-1].loss if earlier else None
        if loss == last or (earlier and self.at < earlier[-1].at):
            return None
        return LedgerEntry(
            run_id=self.run_id,
            node=FEEDBACK,
            cost_usd=Decimal(0),
            saved_usd=Decimal(0),
            loss=loss,
            at=self.at,
            id=f"{begins}{self.run_id}-{len(earlier)}",
        )


@runtime_checkable
class FeedbackKeeper(Protocol):
    """Middleware that keeps verdicts with their words, such as `cascade.teaching.Lessons`."""

    async def keep_feedback(self, feedback: Feedback) -> bool | None:
        """Keep a verdict; whether anything changed, None where it does not know the run."""


def to_feedback(given: Mapping[str, Any]) -> Feedback:
    """A verdict from its fields.

    Raises:
        InputError: it says nothing, or a field has a value that has no meaning.
    """
    try:
        return Feedback.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "".join(f"{part}: " for part in first["loc"])
        words = first["msg"].removeprefix("Value error, ")
        raise InputError(f"feedback: {place}{words}") from None


async def keep_feedback(
    feedback: Feedback, store: LedgerStore | None, middleware: Sequence[object]
) -> bool:
    """Keep all of a verdict with its keepers, its figures in the ledger; whether anything changed.

    Raises:
        UnknownRunError: neither the ledger nor a keeper knows such a run.
        ConfigurationError: there is no place for it.
    """
    keepers = [one for one in middleware if isinstance(one, FeedbackKeeper)]
    if store is None and not keepers:
        raise ConfigurationError(
            "feedback has no place to be kept: give Cascade(ledger=open_store(…)), or the "
            "middleware cascade.teaching.Lessons."
        )
    words = (feedback.comment, feedback.correction, feedback.value)
    if not keepers and (feedback.key != CORRECT or any(word is not None for word in words)):
        raise ConfigurationError(
            f"feedback about {feedback.key!r}: the ledger keeps whether an answer is correct, and "
            "no words and no other aspects: the middleware cascade.teaching.Lessons does."
        )
    of_run = [] if store is None else await store.of_run(feedback.run_id)
    changed = [await one.keep_feedback(feedback) for one in keepers]
    if not of_run and all(known is None for known in changed):
        raise UnknownRunError(
            f"there is no run {feedback.run_id!r} in the ledger or among the lessons: give the "
            "run_id of a result, and ask where its cascade keeps its ledger."
        )
    entry = feedback.entry(of_run) if of_run else None
    if entry is not None and store is not None:
        await asyncio.to_thread(store.append, [entry])
    return entry is not None or any(changed)
