"""Memory: lessons as examples for the small model, where evidence shows that they help."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import re
import sqlite3
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade.confidence import as_data, normalise, speaks_of_grading
from cascade.errors import ConfigurationError, ModelError
from cascade.ledger.base import current_tags
from cascade.middleware.background import Background, lot
from cascade.middleware.base import Decide
from cascade.middleware.examples import Examples, with_examples
from cascade.policies.base import Situation
from cascade.run import Answer, Call, CascadeRuntime, Parts, Run
from cascade.state import Decision
from cascade.teaching.evidence import Group, Groups, Pair, Place
from cascade.teaching.lessons import Lesson, LessonSelection, Terms, tenant_in
from cascade.teaching.store import LessonStore

logger = logging.getLogger("cascade")

TRIAL = "trial"
"""Node of the calls that try whether examples help."""

NEAR = 12
"""Lessons that are looked at for one question."""

MOST_ASKED = 5_000
"""Requests whose examples are remembered until their right answer is known."""

WORTH_TRYING = 0.15
"""Escalations saved per request above which trials of a group go on. A trial costs about a tenth of
an escalation, and examples make drafts longer."""

UNTRIED = 3
"""First requests of a group without a trial: what hardly repeats is not tried at all."""

AWAY_S = 5.0
"""Seconds in which no request waits for the lessons, after one has waited in vain."""

READ_EVERY_S, SAVE_EVERY_S = 1.0, 5.0
"""Seconds between two looks for new lessons, and two times that evidence is kept. Deletions are
looked for before each use."""

LATE = timedelta(minutes=1)
"""Time by which a lesson may be written later than another that is newer."""

MOST_WORDS = 64
"""Words of a question that are looked for; the longest ones of a longer question."""

Same = Callable[[str, str], bool]
"""Whether two answers say the same."""


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same apart from case, punctuation, articles and the words around
    the answer."""
    return normalise(one) == normalise(other)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request was shown, or would have been, and the call that tries the other way."""

    group: Group
    lessons: tuple[str, ...]
    shown: bool
    chance: float
    call: Call


class Memory(Examples):
    """Shows the small model similar questions with the large model's answers.

    Lessons are grouped by their questions; nothing of a new group is shown. Of each request whose
    right answer becomes known, since it was escalated or audited, the small model is asked the
    other way round as well, after the reply: with examples where its draft had none, and without
    where it had. These trials (node `trial` in the ledger) decide whether the group goes live, see
    `Evidence`. A right answer that would be accepted saves one escalation, a wrong one costs
    `price_of_error` of them, one that is not accepted is worth nothing. It needs audits: else
    nothing shows whether accepted drafts with examples are right.

    A lesson is never shown to another tenant or for another task than its own; nor where its
    model's terms forbid it, people say that it is wrong, it speaks to a grader, or answers that
    copied it were wrong. A draft that copies an example of which no copy was right yet is
    escalated. What is deleted from the store is forgotten before the next use.

    Args:
        store: of the lessons; the middleware `Lessons(store)` fills it.
        cascade: name of the cascade whose lessons it reads; None for those of all.
        examples: shown for a question, at most.
        most_characters: of them all.
        alpha: probability that a group without any gain is ever shown.
        price_of_error: of a wrong answer that is accepted, in escalations saved.
        same: whether two answers say the same.
        patience_s: longest wait of a request for the lessons; then it goes without examples, and so
            do those of the next seconds.

    Raises:
        ConfigurationError: a value has no meaning.
    """

    def __init__(
        self,
        store: LessonStore,
        *,
        cascade: str | None = None,
        examples: int = 2,
        most_characters: int = 2_000,
        alpha: float = 0.05,
        price_of_error: float = 4.0,
        same: Same = same_answer,
        patience_s: float = 1.0,
        name: str = "memory",
    ) -> None:
        if not isinstance(store, LessonStore):
            raise ConfigurationError(
                f"Memory({store!r}): give a store, open_lessons('sqlite:///lessons.db')."
            )
        ranges = {
            "examples": (examples, examples >= 1, "1 or more"),
            "most_characters": (most_characters, most_characters >= 1, "1 or more"),
            "alpha": (alpha, 0 < alpha < 1, "a probability between 0 and 1"),
            "price_of_error": (price_of_error, 0 <= price_of_error < math.inf, "0 or more"),
            "patience_s": (patience_s, 0 < patience_s < math.inf, "seconds, above 0"),
        }
        for option, (value, holds, wanted) in ranges.items():
            if not holds:
                raise ConfigurationError(f"Memory({option}={value!r}): {wanted}.")
        super().__init__(lambda messages: (), name=name)
        self.store, self.cascade, self.same = store, cascade, same
        self.examples, self.most_characters = examples, most_characters
        self.price_of_error, self.patience_s = price_of_error, patience_s
        self.alpha = alpha
        self._groups = Groups(alpha, WORTH_TRYING / (1.0 + price_of_error))
        self._index, self._lessons = WordIndex(), dict[str, Lesson]()
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._drafters: set[str] = set()
        self._background, self._reading, self._counting = Background(), Lock(), Lock()
        self._deletions, self._read_again, self._save_again, self._away_until = 0, 0.0, 0.0, 0.0
        self._stated: Mapping[str, Terms] = {}
        self._newest: datetime | None = None
        self._settings: str | None = None

    @property
    def groups(self) -> list[Group]:
        """Groups of alike questions, with what is known of each."""
        return self._groups.all()

    def check(self, parts: Parts) -> None:
        """Note who drafts: evidence of another model says nothing about this one."""
        self._drafters.add(parts.tiers[0].model.name)

    # --- a request

    async def chosen(self, call: Call) -> Sequence[BaseMessage]:
        """Examples that are known to help. A failure costs the examples, and not the question."""
        run, shown, note = call.run, tuple[BaseMessage, ...](), ""
        if time.monotonic() < self._away_until:
            note = "no examples: the lessons' database did not answer a moment ago"
        else:
            try:
                async with asyncio.timeout(self.patience_s):
                    shown = await self._choose(call)
            except TimeoutError:
                self._away_until = time.monotonic() + AWAY_S
                note = f"no examples: the lessons were not there within {self.patience_s:g} s"
            except Exception as error:
                logger.exception("%s: run %s goes without examples", self.name, run.id)
                note = f"no examples: {type(error).__name__}"
        note = note or (f"{len(shown) // 2} examples" if shown else "")
        if note and run.kind == "answer":
            call.runtime.kernel.ledger.book(
                run.id,
                self.name,
                id=f"{run.id}-{self.name}",
                note=note,
                tags=run.settings.get("tags"),
            )
        return shown

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Escalate a copy of an example that is not proven."""
        decision, asked = handler(situation), self._asked.get(run.id)
        if asked is None or not asked.shown or run.kind != "answer" or run.tier:
            return decision
        if decision.action != "accept" or run.draft is None or not situation.above:
            return decision
        copied = self._copied(asked, run.draft.text)
        if not copied or any(asked.group.scores.get(run_id, 0) > 0 for run_id in copied):
            return decision
        reason = "the answer is a copy of an example of which no copy was right so far"
        return decision.model_copy(
            update={"action": "escalate", "reason": reason, "audit_rate": None}
        )

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Count an accepted draft by its chance of an audit, before the audit is known."""
        decision, asked = answer.decision, self._asked.get(run.id)
        if run.kind != "answer" or asked is None or not asked.lessons or decision is None:
            return
        if decision.action == "accept" and decision.audit_rate:
            self._put(asked.group, run.id, Pair(decision.audit_rate, trial=asked.chance))

    async def finish(self) -> None:
        """Return once all lessons that are there are read, and all trials are done."""
        await self._read(now=True)
        await self._background.finish()

    async def aclose(self) -> None:
        """Finish trials, and keep what they showed."""
        await self._background.finish()
        await self._save(now=True)

    async def _choose(self, call: Call) -> tuple[BaseMessage, ...]:
        run = call.run
        spoken = [message for message in run.messages if message.type != "system"]
        if len(spoken) != 1 or spoken[0].type != "human":
            return ()  # a later turn is no question by itself
        tags, question = {**current_tags(), **(run.settings.get("tags") or {})}, run.question
        place = (tags.get("task", ""), tenant_in(tags) or "")
        await self._read()
        with self._counting:
            group = self._groups.of(place, question, run.id)
            if group is None:
                return ()
            group.asked += 1
            if not group.live and group.asked <= UNTRIED:
                return ()
            chance, live = group.evidence.trial, group.live  # fixed before anything is known
            lessons = self._nearest(group, place, question)
        examples = tuple(_shown(lessons))
        if run.kind == "answer":
            trial = run.copy("audit")
            trial.settings["tags"] = tags
            asked = with_examples(call, () if live else examples)
            runtime = CascadeRuntime(call.runtime.kernel, show="final")
            other = replace(asked, run=trial, runtime=runtime, node=TRIAL, on_chunk=None)
            ids = tuple(lesson.run_id for lesson in lessons)
            self._asked[run.id] = _Asked(group, ids, bool(ids) and live, chance, other)
            if len(self._asked) > MOST_ASKED:
                self._asked.popitem(last=False)
        return examples if live else ()

    def _nearest(self, group: Group, place: Place, question: str) -> list[Lesson]:
        """The nearest lessons that may be shown, the nearest last."""
        found: list[Lesson] = []
        room = self.most_characters
        for run_id in self._index.near(place, question, NEAR):
            lesson = self._lessons.get(run_id)
            if lesson is None or not group.shows(run_id):
                continue
            room -= len(lesson.question) + len(lesson.answer)
            if room < 0 or len(found) == self.examples:
                break
            found.append(lesson)
        return found[::-1]

    # --- what the store has

    async def _read(self, *, now: bool = False) -> None:
        """Forget what was deleted, and take in what is new."""
        async with _one_at_a_time(self._reading):
            self._deletions, gone = await self.store.gone(self._deletions)
            self._forget(gone)
            if not now and time.monotonic() < self._read_again:
                return
            stated = await self.store.terms()
            if stated != self._stated:
                self._stated, self._newest = stated, None  # all are looked at anew
            new = LessonSelection(since=self._newest, cascade=self.cascade)
            judged = {verdict.run_id for verdict in await self.store.verdicts(new)}
            async for lesson in self.store.lessons(new):
                self._take(lesson)
                judged.discard(lesson.run_id)
            for run_id in judged & self._lessons.keys():
                if (found := await self.store.get(run_id)) is not None:
                    self._take(found)
            await self._restore()
            self._read_again = time.monotonic() + READ_EVERY_S

    def _take(self, lesson: Lesson) -> None:
        run_id, late = lesson.run_id, lesson.at - LATE
        self._newest = late if self._newest is None else max(self._newest, late)
        if lesson.may(self._stated).may_remember and _may_be_shown(lesson):
            if run_id not in self._lessons:
                self._index.add(_place_of(lesson), run_id, lesson.question)
            self._lessons[run_id] = lesson
        elif self._lessons.pop(run_id, None) is not None:
            self._index.remove([run_id])
        asked = self._asked.pop(run_id, None)
        if asked is None:
            return
        group = asked.group
        if group.leader not in self._lessons and run_id in self._lessons:
            group.led_by(run_id, lesson.question)  # evidence is kept with a lesson alone
        if lesson.draft is None or not asked.lessons:
            return
        if lot(run_id, TRIAL) >= asked.chance:
            self._untried(lesson, asked)
        elif not self._background.start(partial(self._try, lesson, asked)):
            logger.warning("%s: too many trials wait: run %s goes without", self.name, run_id)

    def _forget(self, run_ids: Sequence[str]) -> None:
        if run_ids:
            self._index.remove(run_ids)
            for run_id in run_ids:
                self._lessons.pop(run_id, None)
                self._asked.pop(run_id, None)
            with self._counting:
                self._groups.forget(frozenset(run_ids))

    # --- trials

    async def _try(self, lesson: Lesson, asked: _Asked) -> None:
        """Ask the other way round, and count which of the two answers was right."""
        call, group, draft = asked.call, asked.group, lesson.draft
        kernel, trial = call.runtime.kernel, call.run
        assert draft is not None, "only drafts are tried"
        try:
            tried = await kernel.ask(call)
        except ModelError as error:
            logger.info("%s: a trial has failed: %s", self.name, error)
            self._untried(lesson, asked)
            return
        finally:
            kernel.ledger.take(trial.id)  # the run has ended, and takes no more entries
        if tried.tier != call.tier.name:
            self._untried(lesson, asked)  # another model answered in its place
            return
        trial.draft = tried
        foreseen = await kernel.rehearse(trial, call.runtime)
        accepts = foreseen is None or foreseen.action == "accept"
        audited = lesson.origin == "audited"
        right = lesson.loss <= 0 if lesson.loss is not None else self.same(draft, lesson.answer)
        tried_right = self.same(tried.text, lesson.answer)
        gain = self._worth(tried_right, accepts) - self._worth(right, audited)
        with self._counting:
            if asked.shown:
                self._blame(lesson, asked, draft, right, audited)
            else:
                self._blame(lesson, asked, tried.text, tried_right, False)
            known = group.evidence.pairs.get(lesson.run_id)
        rate = 1.0 if not audited else known.rate if known is not None else None
        if rate is not None:  # else it was accepted before the standing changed
            gain = -gain if asked.shown else gain
            self._put(group, lesson.run_id, Pair(rate, gain, asked.chance))
        await self._save()

    def _untried(self, lesson: Lesson, asked: _Asked) -> None:
        if lesson.origin == "escalated":
            self._put(asked.group, lesson.run_id, Pair(1.0, trial=asked.chance))

    def _put(self, group: Group, run_id: str, pair: Pair) -> None:
        with self._counting:
            changed = group.put(run_id, pair)
        if changed:
            logger.info("%s: a group is %s now", self.name, group.evidence.standing)

    def _worth(self, right: bool, accepted: bool) -> float:
        """Of an answer, in units in which gains are within [−1, 1]."""
        if not accepted:
            return 0.0
        return (1.0 if right else -self.price_of_error) / (1.0 + self.price_of_error)

    def _blame(
        self, lesson: Lesson, asked: _Asked, answer: str, right: bool, accepted: bool
    ) -> None:
        """Count for and against the examples of which an answer is a copy."""
        copied = [run_id for run_id in self._copied(asked, answer) if run_id != lesson.run_id]
        if copied and accepted and not right:
            asked.group.suspect(lambda run_id: self._says(run_id, answer))
        asked.group.copied(copied, lesson.run_id, right=right)

    def _copied(self, asked: _Asked, answer: str) -> list[str]:
        return [run_id for run_id in asked.lessons if self._says(run_id, answer)]

    def _says(self, run_id: str, answer: str) -> bool:
        lesson = self._lessons.get(run_id)
        return lesson is not None and self.same(answer, lesson.answer)

    # --- evidence over restarts

    async def _restore(self) -> None:
        """Take in what was kept with the same settings, once."""
        if self._settings is not None:
            return
        same = f"{self.same.__module__}.{getattr(self.same, '__qualname__', '')}"
        shown = (self.examples, self.most_characters, self.price_of_error, self.alpha)
        holds_for = repr((sorted(self._drafters), self.cascade, shown, same))
        settings = hashlib.sha256(holds_for.encode()).hexdigest()
        for leader, kept in (await self.store.groups(settings)).items():
            lesson = self._lessons.get(leader) or await self.store.get(leader)
            if lesson is not None:
                with self._counting:
                    self._groups.restore(_place_of(lesson), lesson.question, leader, kept)
        self._settings = settings

    async def _save(self, *, now: bool = False) -> None:
        """Keep what has changed, now and then; what could not be kept is tried again."""
        if self._settings is None or not (now or time.monotonic() >= self._save_again):
            return
        self._save_again = time.monotonic() + SAVE_EVERY_S
        for group in [group for group in self._groups.all() if group.unsaved]:
            with self._counting:
                group.unsaved, kept = False, group.to_json()
            try:
                await self.store.keep_group(self._settings, group.leader, kept)
            except Exception:
                group.unsaved = True
                logger.exception("%s: what trials have shown could not be kept", self.name)
                return


class WordIndex:
    """Questions found by their words: BM25 (Robertson and Zaragoza, 2009) of SQLite's FTS5, in
    memory. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._file = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._file.execute("PRAGMA secure_delete = ON")
        self._file.execute(
            "CREATE VIRTUAL TABLE questions USING fts5(run_id UNINDEXED, place, question, "
            "tokenize = 'unicode61 remove_diacritics 2')"
        )

    def add(self, place: Place, run_id: str, question: str) -> None:
        """Take in a question."""
        with self._lock:
            row = (run_id, _mark(place), question)
            self._file.execute("INSERT INTO questions VALUES (?, ?, ?)", row)

    def remove(self, run_ids: Sequence[str]) -> None:
        """Forget these."""
        with self._lock:
            rows = [(run_id,) for run_id in run_ids]
            self._file.executemany("DELETE FROM questions WHERE run_id = ?", rows)

    def near(self, place: Place, question: str, limit: int) -> list[str]:
        """The runs of the nearest questions of a place, nearest first."""
        found = set(re.findall(r"\w+", question.casefold()))
        words = sorted(found, key=lambda word: (-len(word), word))[:MOST_WORDS]
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in words)
        query = f'place : "{_mark(place)}" AND question : ({wanted})'
        with self._lock:
            rows = self._file.execute(
                # bm25() is the smaller, the nearer; the place is no part of the score.
                "SELECT run_id FROM questions WHERE questions MATCH ? "
                "ORDER BY bm25(questions, 0.0, 0.0, 1.0), run_id LIMIT ?",
                (query, limit),
            ).fetchall()
        return [run_id for (run_id,) in rows]


@asynccontextmanager
async def _one_at_a_time(lock: Lock) -> AsyncIterator[None]:
    """A lock that is waited for in any event loop; it is held for milliseconds."""
    while not lock.acquire(blocking=False):  # noqa: ASYNC110 - it is held in another loop
        await asyncio.sleep(0.001)
    try:
        yield
    finally:
        lock.release()


def _mark(place: Place) -> str:
    """One word for a place, for which no text can be taken."""
    return "p" + "/".join(place).encode("utf-8", "surrogatepass").hex()


def _place_of(lesson: Lesson) -> Place:
    return lesson.tags.get("task", ""), lesson.tenant or ""


def _may_be_shown(lesson: Lesson) -> bool:
    """Whether a lesson is one plain question with a plain answer, not said to be wrong, that does
    not speak to a grader."""
    spoken = [message for message in lesson.messages if message.get("role") != "system"]
    plain = len(spoken) == 1 and not lesson.tool_calls and bool(lesson.answer.strip())
    text = f"{lesson.question}\n{lesson.answer}"
    return plain and not lesson.answer_is_wrong and speaks_of_grading(text) is None


def _shown(lessons: Sequence[Lesson]) -> Iterator[BaseMessage]:
    for lesson in lessons:
        yield HumanMessage(as_data(lesson.question))
        yield AIMessage(as_data(lesson.answer))
