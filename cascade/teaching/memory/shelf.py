"""The lessons that may be examples, as the store has them now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cascade.confidence.hostile import speaks_of_grading
from cascade.teaching.lessons import Lesson, LessonSelection
from cascade.teaching.memory.index import LessonIndex, Place
from cascade.teaching.store import Dependent, LessonStore
from cascade.teaching.terms import Terms, permitted

READ_EVERY_S = 1.0
"""Seconds between two looks for new lessons. Deletions are looked for before each use."""

LATE = timedelta(minutes=1)
"""So much later than another may a lesson be written that is older."""


@dataclass(slots=True)
class Shelf:
    """Copies of the lessons that may be examples, each also in an index by its question.

    Attributes:
        store: where they are from.
        cascade: name of the cascade whose lessons these are; those of all where it is None.
        index: finds near ones.
        lessons: by their runs.
    """

    store: LessonStore
    cascade: str | None
    index: LessonIndex
    lessons: dict[str, Lesson] = field(default_factory=dict)
    _changes: int = -1
    _deletions: int = 0
    _read_again: float = 0.0
    _stated: Mapping[str, Terms] = field(default_factory=dict)
    _newest: datetime | None = None
    _said: datetime | None = None

    async def read(
        self, dependent: Dependent, taken: Callable[[Lesson], None], *, now: bool = False
    ) -> bool:
        """Take in what is new in the store; what was deleted there is forgotten first, each time.

        Args:
            dependent: told of deletions; its `forget` calls the one here.
            taken: called with each lesson that is new, or of which something new is known.
            now: look for new lessons, though it was done a moment ago.

        Returns:
            whether there was anything new.
        """
        self._deletions = await self.store.catch_up(dependent, self._deletions)
        if not now and time.monotonic() < self._read_again:
            return False
        self._read_again = time.monotonic() + READ_EVERY_S
        changes = await self.store.changes()
        if changes == self._changes:
            return False
        stated = await self.store.terms()
        if stated != self._stated:
            self._stated, self._newest, self._said = stated, None, None  # all are looked at anew
        said = LessonSelection(since=self._said, cascade=self.cascade)
        judged = {verdict.run_id for verdict in await self.store.verdicts(said)}
        new = LessonSelection(since=self._newest, cascade=self.cascade)
        async for lesson in self.store.lessons(new):
            await self._take(lesson)
            taken(lesson)
            judged.discard(lesson.run_id)
        for run_id in judged & self.lessons.keys():
            found = await self.store.get(run_id)
            if found is not None:
                await self._take(found)
                taken(found)
        # At the end: what fails half-way is gone on with the next time.
        self._changes, self._said = changes, self._newest
        return True

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Delete the copies of these."""
        await self.index.remove(run_ids)
        for run_id in run_ids:
            self.lessons.pop(run_id, None)

    async def _take(self, lesson: Lesson) -> None:
        run_id, late = lesson.run_id, lesson.at - LATE
        self._newest = late if self._newest is None else max(self._newest, late)
        terms = permitted(lesson.answer_model, lesson.terms, self._stated)
        if terms.may_remember and _may_be_shown(lesson):
            if run_id not in self.lessons:
                await self.index.add(place_of(lesson), run_id, lesson.question)
            self.lessons[run_id] = lesson
        elif self.lessons.pop(run_id, None) is not None:
            await self.index.remove([run_id])


def _may_be_shown(lesson: Lesson) -> bool:
    """Whether a lesson may ever be an example: one plain question with a plain answer, of which
    nobody says that it is wrong, and which does not speak to whoever checks answers."""
    spoken = [message for message in lesson.messages if message.get("role") != "system"]
    return (
        len(spoken) == 1
        and not lesson.tool_calls
        and bool(lesson.answer.strip())
        and not lesson.answer_is_wrong
        and speaks_of_grading(f"{lesson.question}\n{lesson.answer}") is None
    )


def place(task: str, tenant: str | None) -> Place:
    """Whose questions: of one task and one tenant."""
    return (task, tenant or "")


def place_of(lesson: Lesson) -> Place:
    """Whose question a lesson is about."""
    return place(lesson.tags.get("task", ""), lesson.tenant)
