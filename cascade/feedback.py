"""Feedback: where the verdicts of people about answers are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import ValidationError

from cascade.errors import ConfigurationError, InputError, UnknownRunError
from cascade.ledger.base import LedgerStore, MemoryLedger, Selection
from cascade.ledger.feedback import CORRECT, FEEDBACK, Feedback

MOST_SAID = 100
"""Verdicts about one run that are kept."""


@runtime_checkable
class FeedbackKeeper(Protocol):
    """Middleware that keeps verdicts with their words, such as `cascade.teaching.Lessons`."""

    async def keep_feedback(self, feedback: Feedback) -> bool | None:
        """Keep a verdict; whether anything changed, None where it does not know the run."""
        ...


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
    store: LedgerStore | None,
    keepers: Sequence[object],
    *,
    within: Mapping[str, str] | None = None,
) -> bool:
    """Keep a verdict where it belongs: all of it with its keepers, its figures in the ledger.

    Args:
        feedback: what was said.
        store: of the ledger.
        keepers: middleware, of which those that keep feedback are asked.
        within: tags that the run has to have; a run of another is unknown to the caller.

    Returns:
        whether anything changed.

    Raises:
        UnknownRunError: neither the ledger nor a keeper knows such a run.
        InputError: the run was judged `MOST_SAID` times.
        ConfigurationError: there is no place for it.
    """
    keeping = [one for one in keepers if isinstance(one, FeedbackKeeper)]
    if store is None and not keeping:
        raise ConfigurationError(
            "feedback has no place to be kept: give Cascade(ledger=open_store(…)), or the "
            "middleware cascade.teaching.Lessons."
        )
    words = (feedback.comment, feedback.correction, feedback.value)
    if not keeping and (feedback.key != CORRECT or any(word is not None for word in words)):
        raise ConfigurationError(
            f"feedback about {feedback.key!r}: the ledger keeps whether an answer is correct, and "
            "no words and no other aspects: the middleware cascade.teaching.Lessons does."
        )
    kept = [] if store is None else await _entries(store, feedback.run_id, within)
    changed = [await one.keep_feedback(feedback) for one in keeping]
    if not kept and (within or all(known is None for known in changed)):
        raise UnknownRunError(
            f"there is no run {feedback.run_id!r} in the ledger or among the lessons: give the "
            "run_id of a result, and ask where its cascade keeps its ledger."
        )
    said = [entry for entry in kept if entry.node == FEEDBACK]
    if len(said) >= MOST_SAID:
        raise InputError(f"feedback: run {feedback.run_id!r} has been judged {MOST_SAID} times.")
    entry = feedback.entry(said) if kept else None
    if entry is not None and store is not None:
        await asyncio.to_thread(store.append, [entry], dict(within or {}))
    return entry is not None or any(changed)


async def _entries(
    store: LedgerStore, run_id: str, within: Mapping[str, str] | None
) -> Sequence[Any]:
    if not within:
        return await store.of_run(run_id)
    read: Any = getattr(store, "entries", None)
    if isinstance(store, MemoryLedger) or read is None:
        return await store.of_run(run_id)
    return list(await read(Selection(run_id=run_id, tags=dict(within))))
