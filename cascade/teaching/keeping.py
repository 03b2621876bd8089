"""Keeper of lessons: what the large model answered in the small one's place, after the reply."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage

from cascade.ledger.base import UnavailableError
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.feedback import Feedback
from cascade.middleware.background import Background, tags_of
from cascade.middleware.base import Advance, CascadeMiddleware, Slot
from cascade.middleware.shadow import Shadow
from cascade.models.openai import sendable
from cascade.run import Answer, CascadeRuntime, Run
from cascade.teaching.lessons import Lesson, LessonStore, Terms, place_of, terms_of, the_store

logger = logging.getLogger("cascade")

MOST_CHARACTERS = 100_000
"""Of a conversation and its answer; a longer one is neither an example nor one to train on."""

CUT_OFF = frozenset({"length", "content_filter", "stopped"})
"""Reasons for which an answer ended before its end."""


class Lessons(CascadeMiddleware):
    """Lessons of runs that a tier above the first answered, and of audited drafts.

    **None is kept** of a run that must stay on this machine, that is tagged `lessons="no"` or ran
    in the shadow; of an answer that is degraded, cached, cut off, or a person's; and of what is no
    text, or longer than `MOST_CHARACTERS`. Lessons are written in the background, after the reply.

    Args:
        store: of the lessons. Close it yourself.
        terms: what may be done with the answers of each model, by `provider:name` or `provider:*`.

    Raises:
        ConfigurationError: the store is none.
    """

    slot = Slot.PROMPTS

    def __init__(
        self, store: LessonStore, *, terms: Mapping[str, Terms] | None = None, name: str = "lessons"
    ) -> None:
        self.name, self.store, self.terms = name, the_store(store, "Lessons"), dict(terms or {})
        self._background = Background()
        self._waiting: dict[str, Lesson] = {}

    async def wrap_step(self, run: Run, runtime: CascadeRuntime, handler: Advance) -> None:
        """Note the first tier's draft: the large model's answer takes its place."""
        first, draft = runtime.kernel.tiers[0], run.draft
        whole = draft is not None and draft.finish_reason not in CUT_OFF
        if run.step == "verify" and draft is not None and draft.tier == first.name and whole:
            run.notes[self.name] = {"draft": draft.transcript, "draft_model": first.model.name}
        await handler(run, runtime)

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Make a lesson of an answer; that of an audit waits for the comparison, which is booked
        afterwards. An accepted draft makes none by itself."""
        kernel, tags, completion = runtime.kernel, tags_of(run), answer.completion
        tier = next((tier for tier in kernel.tiers if tier.name == answer.source), None)
        accepted = tier is kernel.tiers[0] and run.kind != "audit"
        if tier is None or completion is None or accepted or run.kind == "shadow":
            return
        shadows = [one for one in kernel.parts.middleware if isinstance(one, Shadow)]
        asked, answered = plain(run.messages), plain([completion.to_message(tier.name)])
        reasons = {
            "it has to stay on this machine": run.settings.get("local_only"),
            "it is tagged so": tags.get("lessons") == "no",
            "it ran in the shadow": any(run.notes.get(one.name) is True for one in shadows),
            "the answer is degraded": answer.degraded,
            "it came from a cache": completion.cached,
            "it was cut off": completion.finish_reason in CUT_OFF,
            "it is not all text": not asked or not answered,
            "it is too long": sum(len(str(m)) for m in (*asked, *answered)) > MOST_CHARACTERS,
        }
        if why := [reason for reason, holds in reasons.items() if holds]:
            logger.debug("run %s makes no lesson: %s", run.id, why[0])
            return
        task, tenant = place_of(tags, kernel.parts.name)
        noted: Any = run.notes.get(self.name) or {}
        lesson = Lesson(
            run_id=run.id,
            origin="audited" if run.kind == "audit" else "escalated",
            task=task,
            tenant=tenant,
            user=tags.get("user"),
            messages=tuple(asked),
            answer=str(answered[0].get("content") or ""),
            tool_calls=tuple(answered[0].get("tool_calls") or ()),
            answer_model=tier.model.name,
            terms=terms_of(tier.model.name, self.terms),
            **noted,
        )
        if run.kind != "audit":
            self._start(lesson)
            return
        self._waiting[run.id] = lesson
        if self._hear not in kernel.ledger.listeners:
            kernel.ledger.listeners.append(self._hear)

    async def keep_feedback(self, feedback: Feedback) -> bool | None:
        """Keep a verdict with the lesson of its run; None where it has none."""
        await self._background.finish()
        changed = await self.store.judge(feedback)
        if changed is None and feedback.comment is not None:
            logger.warning("run %s has no lesson: a comment on it is not kept", feedback.run_id)
        return changed

    async def aclose(self) -> None:
        """Return once all lessons are written, or lost."""
        await self._background.finish()

    def _hear(self, entry: LedgerEntry) -> None:
        """The loss that an audit has found, for the lesson that waits for it."""
        if entry.node == "audit" and entry.model is None:
            lesson = self._waiting.pop(entry.run_id, None)
            if lesson is not None and entry.outcome == "ok":
                self._start(lesson.model_copy(update={"loss": entry.loss}))

    def _start(self, lesson: Lesson) -> None:
        if not self._background.start(partial(self._write, lesson)):
            logger.warning("too many lessons wait: that of run %s is lost", lesson.run_id)

    async def _write(self, lesson: Lesson) -> None:
        try:
            await self.store.put(lesson)
        except UnavailableError as error:
            logger.error("the lesson of run %s is lost: %s", lesson.run_id, error)


def plain(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form; none where they hold more than text, into which no redaction can
    look."""
    sent = sendable(messages)  # blocks of text alone become one text
    return [] if any(isinstance(message.get("content"), list) for message in sent) else sent
