"""Verdicts of people about answers that were given, and where they are kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from cascade.errors import ConfigurationError, InputError, UnknownRunError
from cascade.ledger.base import LedgerStore
from cascade.ledger.entries import LedgerEntry
from cascade.state import Record

FEEDBACK = "feedback"
"""Node of the entry of a verdict, whose `loss` is 1 where the answer is wrong, 0 where it is right,
None where an earlier verdict is taken back. Neither words are kept nor who judged."""


class Feedback(Record):
    """A verdict about the answer of one run; the fields are LangSmith's, and `correct`. Another one
    of the same person (`by`) about the same `key` replaces it.

    Attributes:
        key: what is judged; `correct` is the whole answer.
        score: how good it is, from 0, the worst, to 1.
        value: anything else that was chosen, such as a category.
        correction: what the answer should have been.
    """

    run_id: str = Field(min_length=1, max_length=256)
    key: str = Field(default="correct", min_length=1, max_length=128)
    correct: bool | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    value: JsonValue = None
    comment: str | None = Field(default=None, max_length=20_000)
    correction: JsonValue = None
    by: str = Field(default="user", min_length=1, max_length=256)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def wrong(self) -> bool | None:
        """True if the whole answer is judged wrong: by `correct`, else by a score below a half;
        None where neither says so."""
        if self.key != "correct":
            return None
        if self.correct is not None:
            return not self.correct
        return None if self.score is None else self.score < 0.5


async def keep_feedback(
    said: Mapping[str, Any], store: LedgerStore | None, middleware: Sequence[Any]
) -> bool:
    """Keep all of a verdict, by its fields, with middleware that has a method `keep_feedback`, its
    figures in the ledger; whether anything changed. One that replaces another is one more entry.

    Raises:
        InputError: it says nothing, or a field has a value that has no meaning.
        UnknownRunError: neither the ledger nor a keeper knows such a run.
        ConfigurationError: there is no place for it.
    """
    try:
        feedback = Feedback.model_validate(dict(said))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        given = f"{first['loc'][0]}={first['input']!r}"
        raise InputError(f"feedback({given}): {first['msg']}.") from None
    keepers = [one.keep_feedback for one in middleware if hasattr(one, "keep_feedback")]
    words = [feedback.comment, feedback.correction, feedback.value] != [None] * 3
    if not words and feedback.correct is None and feedback.score is None:
        raise InputError("feedback is empty: give correct, score, value, comment or correction.")
    if not keepers and (store is None or words or feedback.key != "correct"):
        raise ConfigurationError(
            f"feedback about {feedback.key!r} has no place: Cascade(ledger=…) keeps whether an "
            "answer is correct, the middleware cascade.teaching.Lessons words and other aspects."
        )
    of_run = [] if store is None else await store.of_run(feedback.run_id)
    changed: list[bool | None] = [await keep(feedback) for keep in keepers]
    if not of_run and all(known is None for known in changed):
        raise UnknownRunError(
            f"there is no run {feedback.run_id!r} in the ledger or among the lessons: give the "
            "run_id of a result, and ask where its cascade keeps its ledger."
        )
    judge = f"{FEEDBACK}-{hashlib.sha256(feedback.by.encode()).hexdigest()[:16]}-"
    earlier = [entry for entry in of_run if entry.id.startswith(judge)]
    loss = None if feedback.wrong is None else float(feedback.wrong)
    is_new = feedback.key == "correct" and loss != (earlier[-1].loss if earlier else None)
    if store is not None and of_run and is_new:
        free: dict[str, Any] = {"cost_usd": Decimal(0), "saved_usd": Decimal(0)}
        number = f"{judge}{feedback.run_id}-{len(earlier)}"
        entry = LedgerEntry(run_id=feedback.run_id, node=FEEDBACK, loss=loss, id=number, **free)
        await asyncio.to_thread(store.append, [entry])
    return bool(of_run and is_new) or any(changed)
