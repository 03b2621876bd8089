"""Lessons as examples for the small model, where evidence shows that they help."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from cascade._background import Background
from cascade._together import OneAtATime
from cascade.agents.remembering import Again, Remembered, Remembers
from cascade.confidence.answers import normalise
from cascade.confidence.hostile import as_data, speaks_of_grading
from cascade.errors import ConfigurationError
from cascade.ledger.tags import current_tags, tagged
from cascade.ledger.texts import EXAMPLE
from cascade.state import LedgerEntry, Run
from cascade.teaching.lessons import Lesson, LessonSelection, tenant_in
from cascade.teaching.memory.evidence import Pair
from cascade.teaching.memory.groups import Group, Groups
from cascade.teaching.memory.index import LessonIndex, Place, WordIndex
from cascade.teaching.store import LessonStore
from cascade.teaching.terms import Terms, permitted

NEAR = 12
"""Lessons that are looked at for one question."""

MOST_ASKED = 5_000
"""Requests of which it is remembered what they were shown, until their right answer is known."""

READ_EVERY_S = 1.0
"""Seconds between two looks for new lessons. Deletions are looked for before each use."""

LATE = timedelta(minutes=1)
"""So much later than another may a lesson be written that is older."""

DROPPED_AT = -2
"""A lesson with this score is shown no more."""

logger = logging.getLogger("cascade")

Same = Callable[[str, str], bool]
"""Whether two answers say the same."""


def same_answer(one: str, other: str) -> bool:
    """The same apart from case, punctuation, articles and the words around the answer."""
    return normalise(one) == normalise(other)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request was shown, or would have been."""

    group: Group
    lessons: tuple[str, ...]
    examples: Remembered | None
    shown: bool
    again: Again
    tags: Mapping[str, str]


class Memory(Remembers):
    """Shows the small model similar questions with the large model's answers.

    Lessons are grouped by their questions. A group is a candidate at first: nothing of it is shown.
    Of each request whose right answer becomes known, since it was escalated or audited, the
    small model is asked the other way round as well, after the reply: with examples where its
    draft had none, and without where it had. These trials are in the ledger (node `trial`), and
    what they show decides whether the group goes live (`Evidence`). A right answer that is accepted
    saves one escalation, a wrong one costs `price_of_error` of them, and one that is not accepted
    is worth nothing: examples may make a model surer than they make it right. It needs audits: of
    accepted drafts nobody else knows whether examples did harm.

    A lesson is never shown to another tenant or for another task than its own; nor where its
    model's terms forbid it, users say that it is wrong, it speaks to whoever checks answers, or
    answers that copied it were wrong.

    Args:
        store: of the lessons; `Cascade(lessons=Lessons(store))` fills it.
        cascade: name of the cascade whose lessons it reads; those of all unless it is given.
        examples: shown for a question, at most.
        most_characters: of them all.
        index: finds near lessons; by words unless it is given (`MeaningIndex`).
        alpha: probability that a group without any gain is ever shown.
        price_of_error: of a wrong answer that is accepted, in escalations saved: with 4, examples
            pay where more than 4 of 5 answers that are accepted with them are right.
        same: whether two answers say the same.
    """

    def __init__(
        self,
        store: LessonStore,
        *,
        cascade: str | None = None,
        examples: int = 2,
        most_characters: int = 2_000,
        index: LessonIndex | None = None,
        alpha: float = 0.05,
        price_of_error: float = 4.0,
        same: Same = same_answer,
    ) -> None:
        if not isinstance(store, LessonStore):
            raise ConfigurationError(
                f"Memory({store!r}): give a store, open_lessons('sqlite:///lessons.db')."
            )
        for name, value in (("examples", examples), ("most_characters", most_characters)):
            if value < 1:
                raise ConfigurationError(f"Memory({name}={value}): must be 1 or more.")
        if not 0 < alpha < 1:
            raise ConfigurationError(f"Memory(alpha={alpha}): a probability between 0 and 1.")
        if not 0 <= price_of_error < math.inf:
            raise ConfigurationError(
                f"Memory(price_of_error={price_of_error}): escalations, 0 or more."
            )
        self.store = store
        self._cascade = cascade
        self._price = price_of_error
        self.groups = Groups(alpha)
        self._examples = examples
        self._most_characters = most_characters
        self._index = index or WordIndex()
        self._same = same
        self._lessons: dict[str, Lesson] = {}
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._changes, self._deletions, self._read_again = -1, 0, 0.0
        self._stated: Mapping[str, Terms] = {}
        self._newest: datetime | None = None
        self._said: datetime | None = None
        self._reading = OneAtATime()
        self._counting = Lock()
        self._background = Background()
        self._version: str | None = None

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of all that may be shown now; the same for the same lessons."""
        if self._version is None:
            places = {g.place for g in self.groups.all() if g.evidence.standing == "live"}
            lessons = [x for x in list(self._lessons.values()) if _place_of(x) in places]
            live = sorted(lesson.run_id for lesson in lessons if self._is_shown(lesson))
            self._version = hashlib.sha256("\n".join(live).encode()).hexdigest()[:12]
        return self._version

    async def examples(
        self, run: Run, messages: Sequence[BaseMessage], again: Again
    ) -> Remembered | None:
        """Those for a question; None where there are none that are known to help. Never raises."""
        try:
            return await self._examples_for(run, messages, again)
        except Exception:
            logger.exception("the memory failed: run %s goes without examples", run.id)
            return None

    async def near(
        self, question: str, *, task: str = "", tenant: str | None = None
    ) -> list[Lesson]:
        """The lessons that are or would be the examples for a question, the nearest last."""
        place = _place(task, tenant)
        async with self._reading:
            await self._read(now=True)
        return await self._nearest(self.groups.find(place, question), place, question)

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Delete all that came from these runs."""
        await self._index.remove(run_ids)
        for run_id in run_ids:
            self._lessons.pop(run_id, None)
            self._asked.pop(run_id, None)
        with self._counting:
            self.groups.forget(frozenset(run_ids))
        self._version = None

    async def finish(self) -> None:
        """Return once all lessons that are there are read, and all trials are done."""
        async with self._reading:
            await self._read(now=True)
        await self.aclose()

    async def aclose(self) -> None:
        """Return once all trials are done."""
        await self._background.finish()

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """An accepted draft counts, by its chance of an audit, before anybody knows the audit."""
        del cascade
        asked = self._asked.get(entry.run_id)
        if asked is None or entry.node != "verify" or entry.action != "accept":
            return
        if asked.lessons and entry.audit_rate:
            self._put(asked.group, entry.run_id, Pair(entry.audit_rate))

    async def _examples_for(
        self, run: Run, messages: Sequence[BaseMessage], again: Again
    ) -> Remembered | None:
        spoken = [m for m in messages if not isinstance(m, SystemMessage)]
        if len(spoken) != 1 or not isinstance(spoken[0], HumanMessage):
            return None  # a later turn is no question by itself
        tags, question = current_tags(), str(spoken[0].text)
        place = _place(tags.get("task", ""), tenant_in(tags))
        async with self._reading:
            await self._read()
        group = self.groups.of(place, question, run.id)
        if group is None:
            return None
        chosen = await self._nearest(group, place, question)
        shown = bool(chosen) and group.evidence.standing == "live"
        remembered = self._remembered(chosen, self.version if shown else "") if chosen else None
        ids = tuple(lesson.run_id for lesson in chosen)
        self._asked[run.id] = _Asked(group, ids, remembered, shown, again, tags)
        while len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        return remembered if shown else None

    async def _nearest(self, group: Group | None, place: Place, question: str) -> list[Lesson]:
        """The nearest ones that may be shown, the nearest last."""
        chosen: list[Lesson] = []
        score = {} if group is None else group.score
        room = self._most_characters
        for found in await self._index.near(place, question, NEAR):
            lesson = self._lessons.get(found.run_id)
            if lesson is None or score.get(found.run_id, 0) <= DROPPED_AT:
                continue
            room -= len(lesson.question) + len(lesson.answer)
            if room < 0 or len(chosen) == self._examples:
                break
            chosen.append(lesson)
        return chosen[::-1]

    def _remembered(self, lessons: Sequence[Lesson], version: str) -> Remembered:
        shown = (
            each
            for lesson in lessons
            for each in (
                HumanMessage(as_data(lesson.question), id=f"{EXAMPLE}{lesson.run_id}"),
                AIMessage(as_data(lesson.answer), id=f"{EXAMPLE}{lesson.run_id}-answer"),
            )
        )
        return Remembered(tuple(shown), version)

    def _is_shown(self, lesson: Lesson) -> bool:
        group = self.groups.find(_place_of(lesson), lesson.question)
        live = group is not None and group.evidence.standing == "live"
        return live and group is not None and group.score.get(lesson.run_id, 0) > DROPPED_AT

    async def _read(self, *, now: bool = False) -> None:
        """What is new in the store; what was deleted there is forgotten first, each time."""
        self._deletions = await self.store.catch_up(self, self._deletions)
        if not now and time.monotonic() < self._read_again:
            return
        self._read_again = time.monotonic() + READ_EVERY_S
        changes = await self.store.changes()
        if changes == self._changes:
            return
        stated = await self.store.terms()
        if stated != self._stated:
            self._stated, self._newest, self._said = stated, None, None  # all are looked at anew
        said = LessonSelection(since=self._said, cascade=self._cascade)
        judged = {verdict.run_id for verdict in await self.store.verdicts(said)}
        new = LessonSelection(since=self._newest, cascade=self._cascade)
        async for lesson in self.store.lessons(new):
            await self._take(lesson)
            judged.discard(lesson.run_id)
        for run_id in judged & self._lessons.keys():
            found = await self.store.get(run_id)
            if found is not None:
                await self._take(found)
        # At the end: what fails half-way is gone on with the next time.
        self._changes, self._said, self._version = changes, self._newest, None

    async def _take(self, lesson: Lesson) -> None:
        """A lesson that is new, or of which something new is known."""
        run_id = lesson.run_id
        newest = lesson.at - LATE if self._newest is None else max(self._newest, lesson.at - LATE)
        self._newest = newest
        terms = permitted(lesson.answer_model, lesson.terms, self._stated)
        if terms.may_remember and _may_be_shown(lesson):
            if run_id not in self._lessons:
                await self._index.add(_place_of(lesson), run_id, lesson.question)
            self._lessons[run_id] = lesson
        elif self._lessons.pop(run_id, None) is not None:
            await self._index.remove([run_id])
        asked = self._asked.pop(run_id, None)
        if asked is None or lesson.draft is None or asked.examples is None:
            return
        if not self._background.start(partial(self._try, lesson, asked)):
            logger.warning("memory: too many trials wait: run %s goes without", run_id)

    async def _try(self, lesson: Lesson, asked: _Asked) -> None:
        """Ask the other way round, and count which of the two answers was right."""
        assert asked.examples is not None
        assert lesson.draft is not None
        with tagged(**asked.tags):
            tried = await asked.again(None if asked.shown else asked.examples)
        right = self._right(lesson, lesson.draft), self._right(lesson, tried.text)
        drafted = self._worth(right[0], lesson.origin == "audited")
        other = self._worth(right[1], tried.accepted is not False)
        gain = drafted - other if asked.shown else other - drafted
        answer = lesson.draft if asked.shown else tried.text
        self._blame(lesson, asked, answer, right[0] if asked.shown else right[1])
        rate = 1.0
        if lesson.origin == "audited":
            known = asked.group.evidence.pair(lesson.run_id)
            if known is None:
                return  # it was accepted without a chance of an audit that anybody wrote down
            rate = known.rate
        self._put(asked.group, lesson.run_id, Pair(rate, gain))

    def _put(self, group: Group, run_id: str, pair: Pair) -> None:
        with self._counting:
            before = group.evidence.standing
            after = group.evidence.put(run_id, pair)
        if before != after:
            self._version = None
            logger.info("memory: %r is %s now, %s before", group.name, after, before)

    def _worth(self, right: bool, accepted: bool) -> float:
        """Of an answer, in units in which gains are within [−1, 1]."""
        if not accepted:
            return 0.0
        return (1.0 if right else -self._price) / (1.0 + self._price)

    def _right(self, lesson: Lesson, answer: str) -> bool:
        if lesson.loss is not None and answer == lesson.draft:
            return lesson.loss <= 0
        return self._same(answer, lesson.answer)

    def _blame(self, lesson: Lesson, asked: _Asked, answer: str, right: bool) -> None:
        """Count for and against the examples of which the answer is a copy."""
        for run_id in asked.lessons:
            shown = self._lessons.get(run_id)
            if shown is not None and run_id != lesson.run_id and self._same(answer, shown.answer):
                score = asked.group.score.get(run_id, 0) + (1 if right else -1)
                asked.group.score[run_id] = score
                if score == DROPPED_AT:
                    self._version = None
                    logger.info("memory: the lesson of run %s is shown no more", run_id)


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


def _place(task: str, tenant: str | None) -> Place:
    return (task, tenant or "")


def _place_of(lesson: Lesson) -> Place:
    return _place(lesson.tags.get("task", ""), lesson.tenant)


__all__ = ["Memory", "Same", "same_answer"]
