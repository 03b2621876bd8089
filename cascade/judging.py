"""What users say of answers, and where it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, runtime_checkable

from pydantic import JsonValue, ValidationError

from cascade._portal import run_sync
from cascade.errors import ConfigurationError, InputError, UnknownRunError
from cascade.ledger import LedgerStore, MemoryLedger, tagged
from cascade.ledger.store import Selection, Stored
from cascade.ledger.verdicts import CORRECT, FEEDBACK, MOST_SAID, Feedback, LessonKeeper, entry_of


@runtime_checkable
class ReadableLedger(LedgerStore, Protocol):
    """A ledger that can say what it has of a run."""

    def stored(self, selection: Selection) -> AsyncGenerator[Stored]:
        """The entries that are meant, with their tags, ordered by time."""
        ...

    async def flush(self) -> None:
        """Return once everything appended is in the database."""
        ...


class Judged:
    """A cascade that can be told what its answers were worth."""

    options: dict[str, Any]

    async def afeedback(
        self,
        run_id: str,
        *,
        correct: bool | None = None,
        score: float | None = None,
        value: JsonValue = None,
        comment: str | None = None,
        correction: JsonValue = None,
        key: str = CORRECT,
        by: str = "user",
    ) -> bool:
        """Say what the answer of a run was worth; `result.run_id` names the run.

        The same again changes nothing, and another verdict of the same `key` and `by` replaces the
        earlier one. It goes to the lessons, and its figures to the ledger.

        Args:
            run_id: of the run.
            correct: whether the answer was right.
            score: how good it was; of the key `correct` from 0 to 1.
            value: anything else that was chosen, such as a category.
            comment: in words; kept among the lessons alone.
            correction: what the answer should have been; kept among the lessons alone.
            key: what is judged, the whole answer unless another aspect is named.
            by: who judges.

        Returns:
            whether anything changed.

        Raises:
            UnknownRunError: neither the ledger nor the lessons know such a run.
            InputError: it says nothing, or something that has no meaning.
            ConfigurationError: the cascade has neither `lessons` nor a ledger that can be read; or
                it has no `lessons`, and there are words to keep.
        """
        said = {"correct": correct, "score": score, "value": value, "comment": comment}
        feedback = to_feedback(
            {**said, "run_id": run_id, "key": key, "by": by, "correction": correction}
        )
        return await keep_feedback(feedback, self.options["ledger"], self.options["lessons"])

    def feedback(
        self,
        run_id: str,
        *,
        correct: bool | None = None,
        score: float | None = None,
        value: JsonValue = None,
        comment: str | None = None,
        correction: JsonValue = None,
        key: str = CORRECT,
        by: str = "user",
    ) -> bool:
        """`afeedback` for synchronous callers."""
        return run_sync(
            self.afeedback(
                run_id,
                correct=correct,
                score=score,
                value=value,
                comment=comment,
                correction=correction,
                key=key,
                by=by,
            )
        )


def to_feedback(given: Mapping[str, Any]) -> Feedback:
    """A verdict from its fields.

    Raises:
        InputError: it says nothing, or a field has a value that has no meaning.
    """
    try:
        return Feedback.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        words = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(f"feedback: {place}: {words}" if place else f"feedback: {words}") from None


async def keep_feedback(
    feedback: Feedback,
    ledger: LedgerStore | None,
    lessons: LessonKeeper | None,
    *,
    within: Mapping[str, str] | None = None,
) -> bool:
    """Keep a verdict where it belongs: all of it among the lessons, its figures in the ledger.

    Args:
        feedback: what was said.
        ledger: of the cascade.
        lessons: of the cascade.
        within: tags that the run has to have; of another, the caller is told that nobody knows it.

    Returns:
        whether anything changed.

    Raises:
        UnknownRunError: neither of both knows such a run.
        InputError: it was judged `MOST_SAID` times.
        ConfigurationError: there is no place for it.
    """
    readable = isinstance(ledger, ReadableLedger | MemoryLedger)
    if lessons is None and not readable:
        raise ConfigurationError(
            "feedback has no place to be kept: give Cascade(ledger=open_store(…)) or lessons=…."
        )
    if lessons is None and (feedback.has_words or feedback.key != CORRECT):
        raise ConfigurationError(
            f"feedback about {feedback.key!r}: the ledger keeps whether an answer is correct, and "
            "how much, but no words and no other aspects: give Cascade(lessons=…) for them."
        )
    kept = await _stored(ledger, feedback.run_id)
    tags = dict(kept[0].tags) if kept else None
    if tags is None and lessons is not None:
        found = await lessons.tags_of(feedback.run_id)
        tags = None if found is None else dict(found)
    if tags is None or any(tags.get(name) != value for name, value in (within or {}).items()):
        raise UnknownRunError(
            f"there is no run {feedback.run_id!r} in the ledger or among the lessons: give the "
            "run_id of a result, and ask where its cascade keeps its ledger."
        )
    said = [stored.entry for stored in kept if stored.entry.node == FEEDBACK]
    if len(said) >= MOST_SAID:
        raise InputError(f"feedback: run {feedback.run_id!r} has been judged {MOST_SAID} times.")
    changed = False
    if lessons is not None:
        changed = await lessons.judge(feedback, tags)
    entry = entry_of(feedback, said) if kept else None
    if entry is not None and ledger is not None:
        with tagged(**tags):
            await asyncio.to_thread(ledger.append, [entry])
        if isinstance(ledger, ReadableLedger):
            await ledger.flush()
    return changed or entry is not None


async def _stored(ledger: LedgerStore | None, run_id: str) -> list[Stored]:
    if isinstance(ledger, MemoryLedger):
        return [Stored("", entry) for entry in ledger.entries if entry.run_id == run_id]
    if not isinstance(ledger, ReadableLedger):
        return []
    return [stored async for stored in ledger.stored(Selection(run_id=run_id))]
