"""Memory: lessons as examples for the small model, where evidence shows that they help."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from threading import Lock

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from cascade._numbers import to_count, to_number
from cascade.confidence import as_data, normalise, speaks_of_grading
from cascade.errors import CascadeError, ModelError
from cascade.middleware.background import Background, lot, tags_of
from cascade.middleware.examples import Examples, with_examples
from cascade.run import Answer, Call, CascadeRuntime, Run
from cascade.teaching.evidence import Group, add_lesson, group_of
from cascade.teaching.lessons import Lesson, LessonSelection, LessonStore, place_of, the_store

logger = logging.getLogger("cascade")

TRIAL = "trial"
"""Node of the calls that try whether examples help."""

UNTRIED = 3
"""First lessons of a group, without a trial: what hardly repeats is not tried at all."""

NEAR, MOST_CHARACTERS, MOST_TRIALS = 12, 2_000, 5_000
"""Lessons that are looked at for one question, characters of all examples, and requests that wait
for a trial until their right answer is known."""

AWAY_S, READ_EVERY_S, LATE = 5.0, 1.0, timedelta(minutes=1)
"""Seconds in which no request waits for the lessons, after one has waited in vain; those between
two looks for new lessons; and the time by which one may be written later than a newer one."""


@dataclass(slots=True)
class _Trial:
    """Call of a draft, without examples, to be asked the other way round than it was `shown`; with
    the lessons of its group, the nearest first, and the chance that its right answer is known."""

    call: Call
    group: Group
    near: Sequence[str]
    shown: bool
    rate: float = 1.0


class Memory(Examples):
    """Memory of similar questions with the large model's answers, shown to the small model.

    Where the right answer to a request becomes known by an escalation or an audit, the small model
    is asked the other way round as well, after the reply: with examples where its draft had none,
    and without where it had. These trials (node `trial` in the ledger) decide whether its group of
    alike questions goes live, see `Group`. Audits alone show whether accepted drafts are right.

    A lesson is never shown to another tenant or for another task than its own; nor where it was
    deleted, people say that it is wrong, or it speaks to a grader.

    Args:
        store: of the lessons; the middleware `Lessons(store)` fills it.
        examples: shown for a question, at most.
        price_of_error: of a wrong answer that is accepted, in escalations; a right one saves one.
        patience_s: longest wait of a request for the lessons; those of the next seconds go without.
    """

    def __init__(
        self,
        store: LessonStore,
        *,
        examples: int = 2,
        price_of_error: float = 4.0,
        patience_s: float = 1.0,
        name: str = "memory",
    ) -> None:
        super().__init__(lambda messages: (), name=name)
        self.store = the_store(store, "Memory")
        self.examples = to_count("Memory.examples", examples)
        self.price_of_error = to_number("Memory.price_of_error", price_of_error, least=0)
        self.patience_s = to_number("Memory.patience_s", patience_s, above=0)
        self.groups = defaultdict[tuple[str, str | None], list[Group]](list)  # by task and tenant
        self._trials: OrderedDict[str, _Trial] = OrderedDict()
        self._background, self._lock = Background(), Lock()
        self._newest: datetime | None = None
        self._read_again, self._away_until = 0.0, 0.0

    async def chosen(self, call: Call) -> Sequence[BaseMessage]:
        """Examples that are known to help. A failure costs the examples, and not the question."""
        spoken = [message.type for message in call.run.messages if message.type != "system"]
        # A later turn is no question by itself.
        if spoken != ["human"] or time.monotonic() < self._away_until:
            return ()
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
        if run.kind == "answer" and trial is not None and decision and decision.action == "accept":
            trial.rate = decision.audit_rate or trial.rate

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
            near = group.near(run.question)[:NEAR]
            # Drawn before anything is known.
            live, tried = group.live, lot(run.id, TRIAL) < group.trial
        shown = await self._shown(near) if live else ()
        if run.kind == "answer" and tried:
            again = run.copy("audit")
            again.settings["tags"] = tags
            runtime = CascadeRuntime(call.runtime.kernel, show="final")
            asked = replace(call, run=again, runtime=runtime, node=TRIAL, on_chunk=None)
            self._trials[run.id] = _Trial(asked, group, near, bool(shown))
            if len(self._trials) > MOST_TRIALS:
                self._trials.popitem(last=False)
        return shown

    async def _shown(self, near: Sequence[str]) -> Sequence[BaseMessage]:
        """Examples of the nearest lessons that may be shown, the nearest last."""
        messages: list[BaseMessage] = []
        room = MOST_CHARACTERS
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
                self._background.start(partial(self._try, lesson, lesson.draft, trial))

    async def _try(self, lesson: Lesson, draft: str, trial: _Trial) -> None:
        """Ask the other way round, and count which of the two answers was right."""
        call, examples = trial.call, () if trial.shown else await self._shown(trial.near)
        kernel, run = call.runtime.kernel, call.run
        if not (trial.shown or examples):
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
        right = lesson.loss <= 0 if lesson.loss is not None else normalise(draft) == said
        gain = self._worth(normalise(run.draft.text) == said, accepts)
        gain -= self._worth(right, lesson.origin == "audited")
        with self._lock:
            if trial.group.put(-gain if trial.shown else gain, trial.rate):
                change = "shown" if trial.group.live else "shown no more"
                logger.info("%s: the lessons of a group are %s", self.name, change)

    def _worth(self, right: bool, accepted: bool) -> float:
        """Of an answer, in units in which gains are within [−1, 1]."""
        worth = 1.0 if right else -self.price_of_error
        return worth / (1.0 + self.price_of_error) if accepted else 0.0


def _may_be_shown(lesson: Lesson) -> bool:
    """True if a lesson is one plain question with a plain answer, not said to be wrong, that does
    not speak to a grader."""
    spoken = [message for message in lesson.messages if message.get("role") != "system"]
    plain = len(spoken) == 1 and not lesson.tool_calls and bool(lesson.answer.strip())
    speaks = speaks_of_grading(f"{lesson.question}\n{lesson.answer}")
    return plain and not lesson.answer_is_wrong and not speaks
