"""Memory: lessons as examples for the small model, where bets on paired trials show their use."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import accumulate
from threading import Lock
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade._numbers import to_count, to_number
from cascade.confidence.signals import as_data, normalise
from cascade.confidence.validity import speaks_of_grading
from cascade.errors import CascadeError, ModelError
from cascade.middleware.background import Background, lot, tags_of
from cascade.middleware.examples import Examples, with_examples
from cascade.run import Answer, Call, CascadeRuntime, Run
from cascade.teaching.exporting import WORD
from cascade.teaching.lessons import Lesson, LessonSelection, LessonStore, place_of, the_store

logger = logging.getLogger("cascade")

TRIAL = "trial"
"""Node of the calls that try whether examples help."""

BETS = tuple(0.01 * 98 ** (i / 11) for i in range(12))
"""Shares of the largest bet allowed: small ones for many pairs, large ones for few."""

ALPHA, DOUBT = 0.05, 0.2
"""Chances that a group without any gain ever goes live, and that a harmless one is dropped."""

WORTH = {True: 0.2, False: -0.8}
"""Of a right answer that is accepted, which saves an escalation, and of a wrong one, which costs as
much as four; gains are within [−1, 1]."""

UNTRIED, TRIED_FIRST, RARELY = 3, 8, 1 / 16
"""First lessons of a group, without a trial: what hardly repeats is not tried; pairs after which a
group without a gain is tried rarely, and the chance of a trial then: it may come back."""

ALIKE = 0.25
"""Jaccard index of the words of two questions from which they are alike."""

MOST_GROUPS, MOST_LESSONS, MOST_PAIRS = 200, 500, 500
"""Groups of a task and tenant; and the newest lessons and pairs that a group keeps."""

NEAR, MOST_CHARACTERS, MOST_TRIALS = 12, 2_000, 5_000
"""Lessons looked at for a question, characters of its examples, and trials that wait to be due."""

AWAY_S, READ_EVERY_S, LATE = 5.0, 1.0, timedelta(minutes=1)
"""Seconds in which no request waits for the lessons, after one has waited in vain; those between
two looks for new ones; and how much later than a newer one a lesson may be written."""


@dataclass(slots=True)
class Group:
    """Questions that are alike: the words of each, by the run of its lesson, and evidence whether
    these lessons help: pairs of a gain, how much more the answer with examples was worth, in
    [−1, 1], and a rate, the chance (1, or that of an audit) that the right answer becomes known.

    Bets are a mixture of fixed shares (Waudby-Smith and Ramdas, arXiv 2010.09686) on gain ÷ rate,
    which is 0 where the gain does not become known. A group

    - goes live once the bet against "the mean gain is not above 0" has won 1/`ALPHA` times its
      stake: without any gain that ever happens with a probability of at most `ALPHA` (Ville's
      inequality). The chance of a trial is known before its request, so that it cancels;
    - is dropped when, while it is live, the bet against "the mean gain is not below 0", begun anew
      wherever that is best, has won 1/`DOUBT` times its stake (CUSUM of e-values: Shin, Ramdas and
      Rinaldo, arXiv 2203.03532). It comes back by new evidence alone.
    """

    words: frozenset[str] = frozenset()
    lessons: dict[str, frozenset[str]] = field(default_factory=dict)
    live: bool = False
    pairs: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST_PAIRS))

    def near(self, question: str) -> list[str]:
        """Its lessons, the nearest to a question first; of two that are as near, the newer."""
        words, newest_first = _words(question), reversed(self.lessons)
        return sorted(newest_first, key=lambda run_id: -_likeness(words, self.lessons[run_id]))

    @property
    def trial(self) -> float:
        """Chance of a trial of the next request."""
        hopeless = sum(gain / rate for gain, rate in self.pairs) <= 0
        rare = not self.live and len(self.pairs) >= TRIED_FIRST and hopeless
        return RARELY if rare else 1.0

    def put(self, gain: float, rate: float = 1.0) -> bool:
        """Take in a pair; whether the group went live, or was dropped."""
        self.pairs.append((gain, rate))
        least = min(rate for _, rate in self.pairs)  # the largest stake there may be is 1
        sign, logs = -1 if self.live else 1, list[float]()
        for bet in BETS:
            won = (math.log1p(sign * bet * gain / rate * least) for gain, rate in self.pairs)
            *before, wealth = accumulate(won, initial=0.0)
            logs.append(wealth - (min(before) if self.live else 0.0))
        if sum(map(math.exp, logs)) < len(logs) / (DOUBT if self.live else ALPHA):
            return False
        self.live = not self.live
        self.pairs.clear()  # what shows that it helps is not what shows that it still does
        return True


def group_of(question: str, groups: Iterable[Group]) -> Group | None:
    """The group whose first question is nearest, if alike (leader clustering, Hartigan 1975)."""
    words = _words(question)
    alike = [group for group in groups if _likeness(words, group.words) >= ALIKE]
    return max(alike, key=lambda group: _likeness(words, group.words), default=None)


def add_lesson(run_id: str, question: str, groups: list[Group]) -> None:
    """Take in a lesson, unless it is there, or there are too many groups."""
    group, words = group_of(question, groups), _words(question)
    if group is None:
        if len(groups) == MOST_GROUPS:
            return
        groups.append(group := Group(words))
    group.lessons.setdefault(run_id, words)
    if len(group.lessons) > MOST_LESSONS:
        del group.lessons[next(iter(group.lessons))]


def _words(question: str) -> frozenset[str]:
    return frozenset(WORD.findall(question.casefold()))


def _likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard index; 0 of two empty sets."""
    return len(a & b) / max(1, len(a | b))


class Memory(Examples):
    """Memory of similar questions with the large model's answers, shown to the small model.

    Where the right answer to a request becomes known by an escalation or an audit, the small model
    is asked the other way round as well, after the reply: with examples where its draft had none,
    and without where it had. These trials (node `trial` in the ledger) decide whether its group of
    alike questions goes live, see `Group`. Audits alone show whether accepted drafts are right.

    A lesson is never shown to another tenant or for another task than its own; nor where it was
    deleted, people say that it is wrong, or it speaks to a grader.

    Args:
        store: of the lessons, which `Lessons(store)` fills.
        examples: shown for a question, at most.
        patience_s: longest wait of a request for the lessons; those of the next seconds go without.
    """

    def __init__(self, store: LessonStore, *, examples: int = 2, patience_s: float = 1.0) -> None:
        super().__init__(lambda messages: ())
        self.store = the_store(store, "Memory")
        self.examples = to_count("Memory.examples", examples)
        self.patience_s = to_number("Memory.patience_s", patience_s, above=0)
        self.groups = defaultdict[tuple[str, str | None], list[Group]](list)  # by task and tenant
        self._trials = OrderedDict[str, partial[Coroutine[Any, Any, None]]]()  # by run
        self._background, self._lock = Background(), Lock()
        self._newest: datetime | None = None
        self._read_again, self._away_until = 0.0, 0.0

    async def chosen(self, call: Call) -> Sequence[BaseMessage]:
        """Examples that are known to help. A failure costs the examples, and not the question."""
        spoken = [message.type for message in call.run.messages if message.type != "system"]
        if spoken != ["human"] or time.monotonic() < self._away_until:
            return ()  # a later turn is no question by itself
        try:
            async with asyncio.timeout(self.patience_s):
                if time.monotonic() >= self._read_again:
                    await self._read()
                return await self._choose(call)
        except (TimeoutError, CascadeError) as error:
            self._away_until = time.monotonic() + AWAY_S
            said = str(error) or f"they were not there within {self.patience_s:g} s"
            logger.warning("%s: no examples from the lessons: %s", self.name, said)
            return ()

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Note the chance with which the right answer to an accepted draft becomes known."""
        decision, trial = answer.decision, self._trials.get(run.id)
        if run.kind == "answer" and trial and decision and decision.action == "accept":
            self._trials[run.id] = partial(trial, rate=decision.audit_rate or 1.0)

    async def finish(self) -> None:
        """Return once all lessons that are there are read, and all trials are done."""
        await self._read()
        await self.aclose()

    async def aclose(self) -> None:
        """Finish trials."""
        await self._background.finish()

    async def _choose(self, call: Call) -> Sequence[BaseMessage]:
        run, tags = call.run, tags_of(call.run)
        with self._lock:
            place = place_of(tags, call.runtime.kernel.parts.name)
            group = group_of(run.question, self.groups.get(place, ()))
            if group is None or len(group.lessons) < UNTRIED:
                return ()
            near, live = group.near(run.question)[:NEAR], group.live
            tried = lot(run.id, TRIAL) < group.trial  # drawn before anything is known
        shown = await self._shown(near) if live else ()
        if run.kind == "answer" and tried:
            again, runtime = run.copy("audit"), CascadeRuntime(call.runtime.kernel, show="final")
            again.settings["tags"] = tags
            asked = replace(call, run=again, runtime=runtime, node=TRIAL, on_chunk=None)
            self._trials[run.id] = partial(self._try, asked, group, near, bool(shown), rate=1.0)
            if len(self._trials) > MOST_TRIALS:
                self._trials.popitem(last=False)
        return shown

    async def _shown(self, near: Sequence[str]) -> Sequence[BaseMessage]:
        """Examples of the nearest lessons that may be shown, the nearest last."""
        messages, room = list[BaseMessage](), MOST_CHARACTERS
        for run_id in near:
            lesson = await self.store.get(run_id)
            if lesson is None or not _may_be_shown(lesson):
                continue
            room -= len(lesson.question) + len(lesson.answer)
            if room < 0 or len(messages) == 2 * self.examples:
                break
            asked, said = as_data(lesson.question), as_data(lesson.answer)
            messages[:0] = [HumanMessage(asked), AIMessage(said)]
        return messages

    async def _read(self) -> None:
        """Take in what is new. Two at once are no harm."""
        self._read_again = time.monotonic() + READ_EVERY_S
        async for lesson in self.store.lessons(LessonSelection(since=self._newest)):
            late = lesson.at - LATE
            self._newest = max(self._newest or late, late)
            if _may_be_shown(lesson):
                with self._lock:
                    place = self.groups[lesson.task, lesson.tenant]
                    add_lesson(lesson.run_id, lesson.question, place)
            trial = self._trials.pop(lesson.run_id, None)
            if trial is not None and lesson.draft is not None:
                self._background.start(partial(trial, lesson=lesson))

    async def _try(
        self, call: Call, group: Group, near: list[str], shown: bool, lesson: Lesson, rate: float
    ) -> None:
        """Ask the other way round than the draft was, and count which answer was right."""
        examples = () if shown else await self._shown(near)
        kernel, run = call.runtime.kernel, call.run
        if not (shown or examples):
            return
        try:
            run.draft = await kernel.ask(with_examples(call, examples))
        except ModelError as error:
            logger.info("%s: a trial has failed: %s", self.name, error)
            return
        finally:
            kernel.ledger.take(run.id)  # the run has ended, and takes no more entries
        if run.draft.tier != call.tier.name:
            return  # another model answered in its place
        foreseen = await kernel.rehearse(run, call.runtime)
        accepts = foreseen is None or foreseen.action == "accept"
        said = normalise(lesson.answer)
        right = normalise(lesson.draft or "") == said if lesson.loss is None else lesson.loss <= 0
        gain = WORTH[normalise(run.draft.text) == said] if accepts else 0.0
        gain -= WORTH[right] if lesson.origin == "audited" else 0.0
        with self._lock:
            if group.put(-gain if shown else gain, rate):
                change = "shown" if group.live else "shown no more"
                logger.info("%s: the lessons of a group are %s", self.name, change)


def _may_be_shown(lesson: Lesson) -> bool:
    """True if it is a plain question and answer, not said to be wrong, and speaks to no grader."""
    spoken = [message for message in lesson.messages if message.get("role") != "system"]
    plain = len(spoken) == 1 and not lesson.tool_calls and bool(lesson.answer.strip())
    speaks = speaks_of_grading(f"{lesson.question}\n{lesson.answer}")
    return plain and not lesson.answer_is_wrong and not speaks
