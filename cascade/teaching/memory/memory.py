"""Lessons as examples for the small model, where evidence shows that they help."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from cascade._background import Background
from cascade._together import OneAtATime
from cascade.agents.remembering import TRIAL, Again, Remembered, Remembers, Unread
from cascade.confidence.answers import normalise
from cascade.confidence.hostile import as_data
from cascade.errors import ConfigurationError
from cascade.ledger.draws import lot
from cascade.ledger.tags import current_tags, tagged
from cascade.ledger.texts import EXAMPLE
from cascade.state import LedgerEntry, Run
from cascade.teaching.lessons import Lesson, tenant_in
from cascade.teaching.memory.evidence import Pair
from cascade.teaching.memory.groups import Group, Groups
from cascade.teaching.memory.index import LessonIndex, Place, WordIndex
from cascade.teaching.memory.restart import Keeper
from cascade.teaching.memory.shelf import Shelf, place_of
from cascade.teaching.memory.shelf import place as place_in
from cascade.teaching.store import LessonStore

NEAR = 12
"""Lessons that are looked at for one question."""

MOST_ASKED = 5_000
"""Requests of which it is remembered what they were shown, until their right answer is known."""

WORTH_TRYING = 0.15
"""Escalations saved per request above which trials of a group go on. A trial costs about a tenth of
an escalation, and examples make drafts longer."""

UNTRIED = 3
"""The first requests of a group without a trial: what hardly repeats is not tried at all."""

AWAY_S = 5.0
"""Seconds in which no request waits for the lessons, after one has waited in vain."""

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
    trial: float
    is_tried: bool


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
        patience_s: how long a request waits for the lessons, in seconds; it goes without examples
            then (`no_memory` in the ledger), and so do those of the next moments at once.
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
        patience_s: float = 1.0,
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
        if not 0 < patience_s < math.inf:
            raise ConfigurationError(f"Memory(patience_s={patience_s}): seconds, above 0.")
        if not 0 <= price_of_error < math.inf:
            raise ConfigurationError(
                f"Memory(price_of_error={price_of_error}): escalations, 0 or more."
            )
        self.store = store
        self._price = price_of_error
        self._patience_s, self._away_until = patience_s, 0.0
        self.groups = Groups(alpha, WORTH_TRYING / (1.0 + price_of_error))
        self._examples = examples
        self._most_characters = most_characters
        self._shelf = Shelf(store, cascade, index or WordIndex())
        self._same = same
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._reading = OneAtATime()
        self._counting = Lock()
        self._keeper = Keeper(store, self.groups, self._counting)
        self._background = Background()
        self._version: str | None = None
        self._drafters: set[str] = set()

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of all that may be shown now; the same for the same lessons."""
        if self._version is None:
            places = {g.place for g in self.groups.all() if g.evidence.standing == "live"}
            lessons = [x for x in list(self._shelf.lessons.values()) if place_of(x) in places]
            live = sorted(lesson.run_id for lesson in lessons if self._is_shown(lesson))
            self._version = hashlib.sha256("\n".join(live).encode()).hexdigest()[:12]
        return self._version

    async def examples(
        self, run: Run, messages: Sequence[BaseMessage], again: Again
    ) -> Remembered | Unread | None:
        """Those for a question; None where there are none that are known to help. Never raises."""
        if time.monotonic() < self._away_until:
            return Unread("the lessons' database did not answer a moment ago: no examples")
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._examples_for(run, messages, again)
        except TimeoutError:
            self._away_until = time.monotonic() + AWAY_S
            waited = f"the lessons were not there within {self._patience_s:g} s: no examples"
            logger.warning("%s for run %s", waited, run.id)
            return Unread(waited)
        except Exception as error:
            logger.exception("the memory failed: run %s goes without examples", run.id)
            return Unread(f"the memory failed ({type(error).__name__}): no examples")

    async def near(
        self, question: str, *, task: str = "", tenant: str | None = None
    ) -> list[Lesson]:
        """The lessons that are or would be the examples for a question, the nearest last."""
        place = place_in(task, tenant)
        async with self._reading:
            await self._read(now=True)
        return await self._nearest(self.groups.find(place, question), place, question)

    async def forget(self, run_ids: Sequence[str]) -> None:
        """Delete all that came from these runs."""
        await self._shelf.forget(run_ids)
        for run_id in run_ids:
            self._asked.pop(run_id, None)
        with self._counting:
            self.groups.forget(frozenset(run_ids))
        self._version = None

    async def finish(self) -> None:
        """Return once all lessons that are there are read, and all trials are done."""
        async with self._reading:
            await self._read(now=True)
        await self._background.finish()

    async def aclose(self) -> None:
        """Return once all trials are done, and what they showed is kept."""
        await self._background.finish()
        await self._keeper.save(now=True)

    def drafts(self, model: str) -> None:
        """What was found with another model says nothing about this one."""
        self._drafters.add(model)

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """An accepted draft counts, by its chance of an audit, before anybody knows the audit."""
        del cascade
        asked = self._asked.get(entry.run_id)
        if asked is None or entry.node != "verify" or entry.action != "accept":
            return
        if asked.lessons and entry.audit_rate:
            self._put(asked.group, entry.run_id, Pair(entry.audit_rate, trial=asked.trial))

    def doubt(self, run_id: str, answer: str) -> str | None:
        """A copy of an example of which no copy was right so far is not to be relied on."""
        asked = self._asked.get(run_id)
        if asked is None or not asked.shown:
            return None
        try:
            copied = self._copied(asked, answer)
        except Exception:
            logger.exception("the memory failed: the draft of run %s is not relied on", run_id)
            return "nobody knows whether the answer is a copy of an example"
        if not copied or any(asked.group.proven(lesson) for lesson in copied):
            return None
        return "the answer is a copy of an example of which no copy was right so far"

    async def _examples_for(
        self, run: Run, messages: Sequence[BaseMessage], again: Again
    ) -> Remembered | None:
        spoken = [m for m in messages if not isinstance(m, SystemMessage)]
        if len(spoken) != 1 or not isinstance(spoken[0], HumanMessage):
            return None  # a later turn is no question by itself
        tags, question = current_tags(), str(spoken[0].text)
        place = place_in(tags.get("task", ""), tenant_in(tags))
        async with self._reading:
            await self._read()
        group = self.groups.of(place, question, run.id)
        if group is None:
            return None
        group.asked += 1
        live = group.evidence.standing == "live"
        if not live and group.asked <= UNTRIED:
            return None
        trial = group.evidence.trial  # before anything is waited for: it is fixed beforehand
        chosen = await self._nearest(group, place, question)
        shown = bool(chosen) and live
        remembered = self._remembered(chosen, self.version if shown else "") if chosen else None
        ids = tuple(lesson.run_id for lesson in chosen)
        tried = lot(run.id, purpose=TRIAL) < trial
        self._asked[run.id] = _Asked(group, ids, remembered, shown, again, tags, trial, tried)
        while len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        return remembered if shown else None

    async def _nearest(self, group: Group | None, place: Place, question: str) -> list[Lesson]:
        """The nearest ones that may be shown, the nearest last."""
        chosen: list[Lesson] = []
        room = self._most_characters
        for found in await self._shelf.index.near(place, question, NEAR):
            lesson = self._shelf.lessons.get(found.run_id)
            if lesson is None or not (group is None or group.shows(found.run_id)):
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
        group = self.groups.find(place_of(lesson), lesson.question)
        live = group is not None and group.evidence.standing == "live"
        return live and group is not None and group.shows(lesson.run_id)

    async def _read(self, *, now: bool = False) -> None:
        if await self._shelf.read(self, self._taken, now=now):
            self._version = None
        if self._drafters and await self._keeper.restore(self._settings):
            self._version = None

    def _settings(self) -> str:
        """What evidence holds for: all that decides what is shown to whom, and what it is worth."""
        same = f"{self._same.__module__}.{getattr(self._same, '__qualname__', '')}"
        shelf = (self._shelf.cascade, type(self._shelf.index).__name__)
        shown = (self._examples, self._most_characters, self._price, self.groups.alpha)
        return hashlib.sha256(
            repr((sorted(self._drafters), shelf, shown, same)).encode()
        ).hexdigest()

    def _taken(self, lesson: Lesson) -> None:
        """What the small model says the other way round is asked for now, if chance says so."""
        asked = self._asked.pop(lesson.run_id, None)
        if asked is not None and not asked.group.has_lesson:
            asked.group.led_by(lesson.run_id, lesson.question)
        if asked is None or lesson.draft is None or asked.examples is None:
            return
        if not asked.is_tried:
            if lesson.origin != "audited":
                self._put(asked.group, lesson.run_id, Pair(1.0, trial=asked.trial))
        elif not self._background.start(partial(self._try, lesson, asked)):
            logger.warning("memory: too many trials wait: run %s goes without", lesson.run_id)

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
        self._put(asked.group, lesson.run_id, Pair(rate, gain, asked.trial))
        await self._keeper.save()

    def _put(self, group: Group, run_id: str, pair: Pair) -> None:
        with self._counting:
            before = group.evidence.standing
            after = group.evidence.put(run_id, pair)
            group.unsaved = True
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
        copied = [x for x in self._copied(asked, answer) if x != lesson.run_id]
        accepted = asked.shown and lesson.origin == "audited"
        with self._counting:
            group, suspects = asked.group, []
            if copied and accepted and not right:
                suspects = [x for x in list(group.score) if self._says(x, answer)]
            group.suspect(suspects)
            fewer = group.copied(copied, lesson.run_id, right=right)
        if fewer:
            self._version = None
            logger.info("memory: a lesson like that of run %s is shown no more", lesson.run_id)

    def _copied(self, asked: _Asked, answer: str) -> list[str]:
        """The examples of a request that say what the answer to it says."""
        return [run_id for run_id in asked.lessons if self._says(run_id, answer)]

    def _says(self, run_id: str, answer: str) -> bool:
        lesson = self._shelf.lessons.get(run_id)
        return lesson is not None and self._same(answer, lesson.answer)


__all__ = ["Memory", "Same", "same_answer"]
