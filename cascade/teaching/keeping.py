"""Lessons: keeps what the large model answered in the small one's place, after the reply."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import Any
from weakref import WeakSet

from langchain_core.messages import BaseMessage

from cascade.errors import ConfigurationError
from cascade.ledger.base import UnavailableError, current_tags
from cascade.ledger.feedback import Feedback
from cascade.ledger.ledger import Ledger
from cascade.middleware.background import Background
from cascade.middleware.base import Advance, CascadeMiddleware, Slot
from cascade.middleware.shadow import Shadow
from cascade.models.wire import sendable
from cascade.run import Answer, CascadeRuntime, Kernel, Run
from cascade.state import LedgerEntry
from cascade.teaching.lessons import Lesson, Origin, Terms, digest_of, tenant_in, terms_of
from cascade.teaching.store import LessonStore

logger = logging.getLogger("cascade")

OPT_OUT = ("lessons", "no")
"""Tag of a run that is not to be kept: `tagged(lessons="no")`."""

ATTEMPTS_S = (0.1, 1.0, 5.0)
"""Seconds between attempts to keep a lesson while the database is away."""

MOST_CHARACTERS = 100_000
"""Of a conversation and its answer; a longer one is neither an example nor one to train on."""

MOST_REMEMBERED = 10_000
"""Runs whose tags are remembered for feedback, and audits whose comparison is waited for."""

CUT_OFF = frozenset({"length", "content_filter", "stopped"})
"""Reasons for which an answer ended before its end."""

Keep = Callable[[Run], bool]
"""Whether the question of a run may be kept. It must not block."""


class Lessons(CascadeMiddleware):
    """Keeps a lesson of each run that a tier above the first answered, and of each audited draft.

    **None is kept** of a run that must stay on this machine, that is tagged `lessons="no"` or ran
    in the shadow; of an answer that is degraded, cached, cut off, or a person's; and of what is no
    text, or longer than `MOST_CHARACTERS`. Lessons are written in the background, after the reply;
    `aclose` waits for them. Where the database is away they are tried again for a few seconds.

    Args:
        store: of the lessons. Close it yourself.
        terms: what may be done with the answers of each model, by `provider:name` or `provider:*`.
        keep: whether the question of a run may be kept, by default all; an error counts as no.

    Raises:
        ConfigurationError: the store is none.
    """

    slot = Slot.PROMPTS

    def __init__(
        self,
        store: LessonStore,
        *,
        terms: Mapping[str, Terms] = MappingProxyType({}),
        keep: Keep | None = None,
        name: str = "lessons",
    ) -> None:
        if not isinstance(store, LessonStore):
            raise ConfigurationError(
                f"Lessons({store!r}): give a store, open_lessons('sqlite:///lessons.db')."
            )
        self.name, self.store, self.terms = name, store, dict(terms)
        self._keep, self._background = keep, Background()
        self._counts: Counter[str] = Counter()
        self._waiting: OrderedDict[str, Lesson] = OrderedDict()
        self._tags: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._heard: WeakSet[Ledger] = WeakSet()
        self._lock = Lock()

    @property
    def counts(self) -> Mapping[str, int]:
        """Numbers of lessons that were `kept` and `lost`, and of runs that made none, by reason."""
        return dict(self._counts)

    async def wrap_step(self, run: Run, runtime: CascadeRuntime, handler: Advance) -> None:
        """Note the first tier's draft: the large model's answer takes its place."""
        step, first = run.step, runtime.kernel.tiers[0]

        def note() -> None:
            draft, decided = run.draft, run.decision
            if draft is None or draft.tier != first.name or draft.finish_reason in CUT_OFF:
                return
            run.notes[self.name] = {
                "draft": draft.transcript,
                "draft_model": first.model.name,
                "confidence": None if decided is None else decided.confidence,
                "calibrated": decided is not None and decided.calibrated,
            }

        if step == "audit":
            note()
        await handler(run, runtime)
        if step == "verify" and run.kind == "answer":
            note()

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Make a lesson of an answer; that of an audit waits for the comparison."""
        kernel, tags = runtime.kernel, {**current_tags(), **(run.settings.get("tags") or {})}
        if run.kind == "shadow":
            return
        if run.kind == "answer":
            if not self._private(run, tags):
                self._remember(run.id, tags)
            if answer.source == kernel.tiers[0].name:
                return  # an accepted draft: an audit may make a lesson of it
        origin: Origin = "escalated" if run.kind == "answer" else "audited"
        if origin == "audited" and self.name not in run.notes:
            return  # the draft of another tier: the run has a lesson
        lesson = self._lesson(run, answer, kernel, tags, origin)
        if isinstance(lesson, str):
            self._counts[lesson] += 1
        elif origin == "escalated":
            self._start(lesson)
        else:
            self._wait_for(lesson, kernel.ledger)

    async def keep_feedback(self, feedback: Feedback) -> bool | None:
        """Keep a verdict, also about a recent run of this process that made no lesson."""
        return await self.store.judge(feedback, self._tags.get(feedback.run_id))

    async def aclose(self) -> None:
        """Return once all lessons are written, or lost."""
        await self._background.finish()

    # --- what makes a lesson

    def _private(self, run: Run, tags: Mapping[str, str]) -> bool:
        return bool(run.settings.get("local_only")) or tags.get(OPT_OUT[0]) == OPT_OUT[1]

    def _lesson(
        self, run: Run, answer: Answer, kernel: Kernel, tags: dict[str, str], origin: Origin
    ) -> Lesson | str:
        """The lesson, or why there is none."""
        completion = answer.completion
        tier = next((tier for tier in kernel.tiers if tier.name == answer.source), None)
        shadows = [one.name for one in kernel.parts.middleware if isinstance(one, Shadow)]
        reasons = {
            "it has to stay on this machine": bool(run.settings.get("local_only")),
            "it is tagged so": self._private(run, tags),
            "it ran in the shadow": any(run.notes.get(name) is True for name in shadows),
            "no larger model of the cascade answered": completion is None or tier is None,
            "the answer is degraded": answer.degraded,
        }
        why = next((reason for reason, holds in reasons.items() if holds), None)
        if why or completion is None or tier is None:
            return why or ""
        if completion.cached or completion.finish_reason in CUT_OFF:
            return "it came from a cache" if completion.cached else "it was cut off"
        if not self._may_be_kept(run):
            return "keep=… says so"
        asked, answered = plain(run.messages), plain([completion.to_message(tier.name)])
        if not asked or not answered:
            return "it is not all text"
        if sum(len(str(message)) for message in (*asked, *answered)) > MOST_CHARACTERS:
            return "it is too long"
        noted = run.notes.get(self.name)
        drafted: dict[str, Any] = noted if isinstance(noted, dict) else {}
        return Lesson(
            run_id=run.id,
            origin=origin,
            cascade=kernel.parts.name,
            task=tags.get("task", kernel.parts.name),
            tenant=tenant_in(tags),
            user=tags.get("user"),
            messages=tuple(asked),
            answer=str(answered[0].get("content") or ""),
            tool_calls=tuple(answered[0].get("tool_calls") or ()),
            answer_model=tier.model.name,
            answer_tier=tier.name,
            terms=terms_of(tier.model.name, self.terms),
            tags=tags,
            digest=digest_of(asked),
            **drafted,
        )

    def _may_be_kept(self, run: Run) -> bool:
        try:
            return self._keep is None or bool(self._keep(run))
        except Exception:
            logger.exception("keep=… failed: run %s is not kept", run.id)
            return False

    def _remember(self, run_id: str, tags: Mapping[str, str]) -> None:
        with self._lock:
            self._tags[run_id] = tags
            if len(self._tags) > MOST_REMEMBERED:
                self._tags.popitem(last=False)

    # --- audits: their answer comes first, what it says of the draft is booked afterwards

    def _wait_for(self, lesson: Lesson, ledger: Ledger) -> None:
        with self._lock:
            if ledger not in self._heard:
                self._heard.add(ledger)
                ledger.listeners.append(self._hear)
            self._waiting[lesson.run_id] = lesson
            if len(self._waiting) > MOST_REMEMBERED:
                self._waiting.popitem(last=False)

    def _hear(self, entry: LedgerEntry) -> None:
        if entry.node != "audit" or entry.model is not None:
            return
        with self._lock:
            lesson = self._waiting.pop(entry.run_id, None)
        if lesson is not None and entry.outcome == "ok":
            self._start(lesson.model_copy(update={"loss": entry.loss}))

    # --- writing

    def _start(self, lesson: Lesson) -> None:
        if not self._background.start(partial(self._write, lesson)):
            self._counts["lost"] += 1
            logger.warning("too many lessons wait: that of run %s is lost", lesson.run_id)

    async def _write(self, lesson: Lesson) -> None:
        for pause_s in (*ATTEMPTS_S, None):
            try:
                self._counts["kept"] += await self.store.put(lesson)
            except UnavailableError as error:
                if pause_s is None:
                    self._counts["lost"] += 1
                    logger.error("the lesson of run %s is lost: %s", lesson.run_id, error)
                    return
                await asyncio.sleep(pause_s)
            else:
                return


def plain(messages: Sequence[BaseMessage]) -> list[dict[str, Any]] | None:
    """Messages in OpenAI's form; None where they hold more than text, into which no redaction can
    look."""
    sent = sendable(messages)
    for message in sent:
        content = message.get("content")
        if isinstance(content, list):
            if any(not isinstance(p, str) and p.get("type") != "text" for p in content):
                return None
            texts = (part if isinstance(part, str) else part["text"] for part in content)
            message["content"] = "\n".join(texts)
    return sent


__all__ = ["OPT_OUT", "Keep", "Lessons", "plain"]
