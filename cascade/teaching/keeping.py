"""Looks on while a cascade runs, and keeps what the large model answered for the small one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from cascade._background import LOOK_S, Background
from cascade.agents.border import LOCAL_ONLY
from cascade.agents.gate import FIRST
from cascade.errors import ConfigurationError
from cascade.ledger.runs import ANSWERING
from cascade.ledger.store import UnavailableError
from cascade.ledger.verdicts import Feedback, LessonKeeper
from cascade.models.characters import sendable
from cascade.observing import ObservedCall, ObservedRun
from cascade.state import Completion, LedgerEntry
from cascade.teaching.lessons import Lesson, Origin, digest_of, tenant_in, user_in
from cascade.teaching.store import LessonStore
from cascade.teaching.terms import Terms, terms_of

MOST_SEEN = 1_000
"""Runs that are under way, or wait for their audit, of which the answers are remembered."""

ATTEMPTS_S = (0.1, 1.0, 5.0)
"""Seconds between attempts to keep a lesson while the database is away."""

MOST_CHARACTERS = 100_000
"""Of a conversation and its answer; a longer one is neither an example nor one to train on."""

OPT_OUT = ("lessons", "no")
"""The tag of a run that is not to be kept: `tagged(lessons="no")`."""

CUT_OFF = frozenset({"length", "content_filter"})
"""Reasons for which an answer ended before its end."""

Keep = Callable[[ObservedRun], bool]
"""Whether the question of a run may be kept. Called from the event loop: must not block."""

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a model said to a run."""

    tier: str
    model: str
    completion: Completion
    confidence: float | None = None
    calibrated: bool = False


@dataclass(slots=True)
class _Seen:
    """What is known of a run so far."""

    drafts: dict[str, _Answer] = field(default_factory=dict)
    large: _Answer | None = None
    audit: _Answer | None = None
    loss: float | None = None
    audited: bool = False
    may_be_audited: bool = False
    run: ObservedRun | None = None


class Lessons(LessonKeeper):
    """Keeps lessons of a cascade, or of several: `Cascade(lessons=Lessons(store))`.

    A lesson is made of each run whose draft was rejected or not made, and that the large model, or
    another above the first, answered; and of each accepted draft that was audited. **None is made**
    of a run that has to stay on this machine, or any of whose earlier turns had to; of one that is
    tagged `lessons="no"`; of an answer that was cut off, came from a cache, from a model in
    another's place, or from a person; of runs in shadow; and of what is no text, or longer than
    `MOST_CHARACTERS`.

    Lessons are written after the reply. Where the database is away they are tried again for a few
    seconds, and then `lost`: the ledger of the run has all that it cost in any case.

    Args:
        store: where they are kept; whoever opened it closes it.
        terms: what may be done with the answers of each model, by `provider:name` or `provider:*`.
        keep: whether the question of a run may be kept; all of them unless it is given. What it
            raises counts as no.

    Attributes:
        kept: how many lessons were written.
        lost: how many could not be.
        skipped: how many runs were not kept, by the reason.
    """

    def __init__(
        self,
        store: LessonStore,
        *,
        terms: Mapping[str, Terms] = MappingProxyType({}),
        keep: Keep | None = None,
    ) -> None:
        if not isinstance(store, LessonStore):
            raise ConfigurationError(
                f"Lessons({store!r}): give a store, open_lessons('sqlite:///lessons.db')."
            )
        self.store = store
        self.terms = dict(terms)
        self.kept = 0
        self.lost = 0
        self.skipped: Counter[str] = Counter()
        self._keep = keep
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._background = Background()
        self._unwritten: set[str] = set()

    def call_ended(self, call: ObservedCall) -> None:
        """Remember what a model answered."""
        entry, completion = call.entry, call.completion
        if entry is None or completion is None:
            return
        answer = _Answer(call.tier, f"{call.provider}:{call.model}", completion)
        if entry.node == "draft":
            self._of(entry.run_id).drafts.setdefault(call.tier, answer)
        elif entry.node in ANSWERING:
            self._of(entry.run_id).large = answer
        elif entry.node == "audit" and entry.run_id in self._seen:
            seen = self._seen[entry.run_id]
            seen.audit = seen.audit or answer  # a judge's calls come afterwards

    def recorded(self, cascade: str, entry: LedgerEntry) -> None:
        """Remember what was decided of a draft, and what an audit found."""
        del cascade
        seen = self._seen.get(entry.run_id)
        if seen is None:
            return
        if entry.node == "verify" and entry.tier in seen.drafts:
            judged = replace(
                seen.drafts[entry.tier], confidence=entry.confidence, calibrated=entry.calibrated
            )
            seen.drafts[entry.tier] = judged
            seen.may_be_audited = bool(entry.audit_rate)
        elif entry.node == "audit" and (entry.large_usd is not None or entry.loss is not None):
            seen.loss, seen.audited = entry.loss, True
            self._audited(entry.run_id, seen)

    def run_ended(self, run: ObservedRun) -> None:
        """Make a lesson of it, or wait for its audit, or forget it."""
        if run.outcome == "interrupted":  # and goes on later
            return
        seen = self._seen.get(run.id) or _Seen()
        if run.outcome == "accepted" and seen.may_be_audited:
            seen.run = run
            self._audited(run.id, seen)
            return
        self._seen.pop(run.id, None)
        if run.outcome == "escalated":
            self._learn(run, seen, "escalated", _answering(run, seen))
        elif run.outcome == "degraded":
            self.skipped["the large model could not be had"] += 1

    async def judge(self, feedback: Feedback, tags: Mapping[str, str] | None) -> bool:
        """Keep a verdict."""
        return await self.store.judge(feedback, tags=tags)

    async def tags_of(self, run_id: str) -> Mapping[str, str] | None:
        """The tags of a run with a lesson, once that is written."""
        while run_id in self._unwritten:  # noqa: ASYNC110 - it is written in another loop
            await asyncio.sleep(LOOK_S)
        lesson = await self.store.get(run_id)
        return None if lesson is None else lesson.tags

    async def aclose(self) -> None:
        """Return once all that was seen is kept, or lost."""
        await self._background.finish()

    def _of(self, run_id: str) -> _Seen:
        seen = self._seen.get(run_id)
        if seen is None:
            seen = self._seen[run_id] = _Seen()
            while len(self._seen) > MOST_SEEN:
                self._seen.popitem(last=False)
        return seen

    def _audited(self, run_id: str, seen: _Seen) -> None:
        """Make a lesson of an audit, once both the run and the audit have ended."""
        if seen.run is None or not seen.audited:
            return
        self._seen.pop(run_id, None)
        self._learn(seen.run, seen, "audited", seen.audit)

    def _learn(self, run: ObservedRun, seen: _Seen, origin: Origin, answer: _Answer | None) -> None:
        why = self._forbidden(run, answer)
        if why or answer is None:
            self.skipped[why] += 1
            return
        drafted = next(iter(seen.drafts.values()), None)
        spoken = run.ending.answer if origin == "escalated" and run.ending else None
        made = _Made(origin, drafted, answer, spoken, seen.loss)
        self._unwritten.add(run.id)
        if not self._background.start(partial(self._write, run, made, tuple(run.messages))):
            self._unwritten.discard(run.id)
            self.lost += 1
            logger.warning("too many lessons wait to be written: that of run %s is lost", run.id)

    def _forbidden(self, run: ObservedRun, answer: _Answer | None) -> str:
        """Why no lesson may be made of it; empty where one may."""
        ending, said = run.ending, [*run.messages]
        if ending is not None and ending.answer is not None:
            said.append(ending.answer)
        completion = None if answer is None else answer.completion
        reasons = {
            "it has to stay on this machine": any(LOCAL_ONLY in m.response_metadata for m in said),
            "it is tagged so": run.tags.get(OPT_OUT[0]) == OPT_OUT[1],
            "it ran in shadow": ending is not None and ending.decision.reason == FIRST,
            "no model above the first answered": completion is None,
            "it came from a cache": completion is not None and completion.cached,
            "it was cut off": completion is not None and completion.finish_reason in CUT_OFF,
        }
        why = next((reason for reason, holds in reasons.items() if holds), "")
        return why or ("" if self._may_be_kept(run) else "keep=… says so")

    def _may_be_kept(self, run: ObservedRun) -> bool:
        if self._keep is None:
            return True
        try:
            return bool(self._keep(run))
        except Exception:
            logger.exception("keep=… failed: run %s is not kept", run.id)
            return False

    async def _write(self, run: ObservedRun, made: _Made, messages: Sequence[BaseMessage]) -> None:
        try:
            lesson = made.lesson(run, messages, self.terms)
            if isinstance(lesson, str):
                self.skipped[lesson] += 1
            else:
                await self._put(lesson)
        except Exception:
            self.lost += 1
            logger.exception("the lesson of run %s is lost", run.id)
        finally:
            self._unwritten.discard(run.id)

    async def _put(self, lesson: Lesson) -> None:
        for pause_s in (*ATTEMPTS_S, math.inf):
            try:
                new = await self.store.put(lesson)
            except UnavailableError as error:
                if math.isinf(pause_s):
                    self.lost += 1
                    logger.error("the lesson of run %s is lost: %s", lesson.run_id, error)
                    return
                await asyncio.sleep(pause_s)
            else:
                self.kept += new  # after the wait: others count meanwhile
                return


@dataclass(frozen=True, slots=True)
class _Made:
    """What a lesson is made of, beside its run."""

    origin: Origin
    draft: _Answer | None
    answer: _Answer
    spoken: AIMessage | None
    loss: float | None

    def lesson(
        self, run: ObservedRun, messages: Sequence[BaseMessage], stated: Mapping[str, Terms]
    ) -> Lesson | str:
        """The lesson, or why there is none."""
        asked = plain(messages)
        spoken = self.spoken or self.answer.completion.to_message(self.answer.tier)
        answered = plain([spoken])
        if asked is None or answered is None:
            return "it is not all text"
        if sum(len(str(message)) for message in (*asked, *answered)) > MOST_CHARACTERS:
            return "it is too long"
        draft, answer, tags = self.draft, self.answer, run.tags
        return Lesson(
            id=f"lesson-{run.id}",
            run_id=run.id,
            origin=self.origin,
            cascade=run.cascade,
            task=tags.get("task", run.cascade),
            tenant=tenant_in(tags),
            user=user_in(tags),
            messages=tuple(asked),
            draft=None if draft is None else draft.completion.transcript,
            draft_model=None if draft is None else draft.model,
            confidence=None if draft is None else draft.confidence,
            calibrated=draft is not None and draft.calibrated,
            answer=str(answered[0].get("content") or ""),
            tool_calls=tuple(answered[0].get("tool_calls") or ()),
            answer_model=answer.model,
            answer_tier=answer.tier,
            loss=self.loss,
            terms=terms_of(answer.model, stated),
            tags=dict(tags),
            digest=digest_of(asked),
        )


def plain(messages: Sequence[BaseMessage]) -> list[dict[str, Any]] | None:
    """Messages in OpenAI's form; None where there is more in them than text, as no redaction can
    look into an image.
    """
    sent = sendable(messages)
    for message in sent:
        content = message.get("content")
        if isinstance(content, list):
            if any(not isinstance(p, str) and p.get("type") != "text" for p in content):
                return None
            texts = (part if isinstance(part, str) else part["text"] for part in content)
            message["content"] = "\n".join(texts)
    return sent


def _answering(run: ObservedRun, seen: _Seen) -> _Answer | None:
    """Who gave the answer of an escalated run; None where it was no model's above the first."""
    tier = None if run.ending is None else run.ending.tier
    if seen.large is not None and seen.large.tier == tier:
        return seen.large
    above = list(seen.drafts.values())[1:]
    return next((draft for draft in above if draft.tier == tier), None)
