"""Lessons: questions that the small model could not do, with the large model's answers; their store
(SQLite or PostgreSQL, with deletion for good), and what keeps them after the reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import Field

from cascade.errors import ConfigurationError, LedgerError
from cascade.ledger.database import Database, UtcTime, Words, json_type
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.feedback import Feedback
from cascade.middleware.audits import Shadow
from cascade.middleware.background import Background, tags_of
from cascade.middleware.base import Advance, CascadeMiddleware, Slot
from cascade.models.openai import sendable
from cascade.run import Answer, CascadeRuntime, Run
from cascade.state import Record

# Where SQLAlchemy is missing, `cascade.ledger.database` has told so before.
import sqlalchemy as sa  # isort: skip
from sqlalchemy.dialects import postgresql  # isort: skip

logger = logging.getLogger("cascade")

PAGE, MOST_CHARACTERS = 500, 100_000
"""Lessons that are read at once, and characters of one at most, with its conversation."""

CUT_OFF = frozenset({"length", "content_filter", "stopped"})
"""Reasons for which an answer ended before its end."""

NO_TEXTS = frozenset({"role", "type", "id", "tool_call_id", "name"})
"""Parts of a message that are not redacted."""


class Terms(Record):
    """Terms of a model, as users state them: whether other models may be trained on its answers
    (None, not stated: they are not exported), where that is written, and when it was read there."""

    may_train: bool | None = None
    source: str = ""
    as_of: date | None = None


def terms_of(model: str | None, stated: Mapping[str, Terms]) -> Terms:
    """The terms of a model by its name (`openai:gpt-5.1`), else by the longest prefix of it that
    ends in `*` (`openai:*`); unstated where there are none."""
    name = model or ""
    fitting = [each for each in stated if each.endswith("*") and name.startswith(each[:-1])]
    return stated.get(name) or stated.get(max(fitting, key=len, default="")) or Terms()


class Lesson(Record):
    """One question with the small model's draft and the large model's answer.

    Attributes:
        task, tenant, user: tags of the run; else the cascade's name, the tag `key`, and None.
        messages: the conversation up to the question, in OpenAI's form, text alone.
        draft: None where the small model gave no whole one.
        loss: how much better the answer is than the draft, in [−1, 1], as an audit found.
        verdicts: on what people saw: the draft of an `audited` lesson, else the answer.
        terms: of the answer's model, as stated when it was given.
    """

    run_id: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    origin: Literal["escalated", "audited"] = "escalated"
    task: str = "cascade"
    tenant: str | None = None
    user: str | None = None
    messages: tuple[Mapping[str, Any], ...] = Field(min_length=1)
    draft: str | None = None
    draft_model: str | None = None
    answer: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    answer_model: str
    loss: float | None = Field(default=None, ge=-1, le=1)
    verdicts: tuple[Feedback, ...] = ()
    terms: Terms = Terms()

    @property
    def texts(self) -> list[str]:
        """Texts of the messages."""
        return [str(message.get("content") or "") for message in self.messages]

    @property
    def question(self) -> str:
        """Text of the last message."""
        return self.texts[-1]

    @property
    def answer_is_wrong(self) -> bool | None:
        """Verdict of people on the answer; None where none saw and judged it, or they differ."""
        said = {verdict.wrong for verdict in self.verdicts} - {None}
        return said.pop() if len(said) == 1 and self.origin != "audited" else None

    def may_train(self, stated: Mapping[str, Terms]) -> bool | None:
        """True if another model may be trained on the answer: by the terms of then and of today,
        either of which may forbid it. None where neither says it."""
        said = {self.terms.may_train, terms_of(self.answer_model, stated).may_train}
        return False if False in said else True if True in said else None


def place_of(tags: Mapping[str, str], cascade: str) -> tuple[str, str | None]:
    """Task and tenant of a run, by its tags and the name of its cascade."""
    return tags.get("task", cascade), tags.get("tenant", tags.get("key"))


metadata = sa.MetaData()

lessons_table = sa.Table(
    "teaching_lessons",
    metadata,
    sa.Column("run_id", Words, primary_key=True),
    sa.Column("at", UtcTime, nullable=False, index=True),
    sa.Column("task", Words, nullable=False),
    sa.Column("tenant", Words),
    sa.Column("user_name", Words, key="user", index=True),
    sa.Column("lesson", json_type, nullable=False),
    sa.Column("verdicts", json_type),
)
terms_table = sa.Table(
    "teaching_terms",
    metadata,
    sa.Column("model", Words, primary_key=True),
    sa.Column("stated", json_type, nullable=False),
)


class LessonSelection(Record):
    """Conditions on lessons, joined by "and"; `since` is within the time, `until` is not."""

    run_id: str | None = None
    user: str | None = None
    tenant: str | None = None
    task: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def where(self) -> list[sa.ColumnElement[bool]]:
        """The conditions in SQL."""
        given, at = {n: v for n, v in self if v is not None}, lessons_table.c.at
        found = [at >= given.pop("since")] if "since" in given else []
        found += [at < given.pop("until")] if "until" in given else []
        return found + [lessons_table.c[name] == value for name, value in given.items()]


EVERYTHING = LessonSelection()


class Deleted(Record):
    """Number of lessons deleted, and whether SQLite's own files hold nothing of them any more:
    not where another process kept the journal open; PostgreSQL cleans its files by a vacuum."""

    lessons: int
    scrubbed: bool = True


class LessonStore(Database, AbstractAsyncContextManager["LessonStore"]):
    """Database of lessons with the verdicts of people about them, and of terms of models.

    Methods raise a `LedgerError` where it cannot be reached.

    Args:
        url: `sqlite:///lessons.db`, `postgresql://…` or `memory://`; it may be the ledger's.
        redact: takes out of every text what must not be stored; where it raises, nothing is.

    Raises:
        ConfigurationError: the address has none of these forms, or its driver is not installed.
    """

    def __init__(self, url: str, *, redact: Callable[[str], str] | None = None) -> None:
        super().__init__(url, "teaching", metadata)
        self._redact = redact

    async def put(self, lesson: Lesson) -> bool:
        """Keep a lesson; whether it is new: a run's first lesson stays."""
        kept = self._redacted(lesson, "messages", "draft", "answer", "tool_calls")
        if kept is None:
            return False
        row = {name: getattr(kept, name) for name in ("run_id", "at", "task", "tenant", "user")}
        row["lesson"] = kept.model_dump(mode="json", exclude={"verdicts"})
        # SQLite's dialect compiles it as well.
        new = postgresql.insert(lessons_table).on_conflict_do_nothing()
        return await self.write(lambda c: c.execute(new, row).rowcount == 1)

    async def get(self, run_id: str) -> Lesson | None:
        """The lesson of a run."""
        return await anext(self.lessons(LessonSelection(run_id=run_id)), None)

    async def lessons(self, selection: LessonSelection = EVERYTHING) -> AsyncGenerator[Lesson]:
        """Lessons with their verdicts, oldest first."""
        place = lessons_table.c.at, lessons_table.c.run_id
        rest = every = sa.select(lessons_table).where(*selection.where).order_by(*place).limit(PAGE)
        while page := await self._rows(rest):
            for row in page:
                yield Lesson.model_validate({**row.lesson, "verdicts": row.verdicts or ()})
            last = sa.literal(page[-1].at, UtcTime), sa.literal(page[-1].run_id)
            rest = every.where(sa.tuple_(*place) > sa.tuple_(*last))

    async def judge(self, feedback: Feedback) -> bool | None:
        """Keep a verdict in place of one of the same key and person; whether anything changed, None
        where the run has no lesson."""
        kept = self._redacted(feedback, "comment", "value", "correction")
        column, this = lessons_table.c.verdicts, lessons_table.c.run_id == feedback.run_id

        def judge(connection: sa.Connection) -> bool | None:
            row = connection.execute(sa.select(column).where(this).with_for_update()).first()
            if row is None:
                return None
            said = [Feedback.model_validate(each) for each in row[0] or ()]
            if kept in [verdict.model_copy(update={"at": kept.at}) for verdict in said]:
                return False
            others = [v for v in said if (v.key, v.by) != (kept.key, kept.by)]
            verdicts = [verdict.model_dump(mode="json") for verdict in (*others, kept)]
            connection.execute(sa.update(lessons_table).where(this).values(verdicts=verdicts))
            return True

        return kept is not None and await self.write(judge)

    async def delete(
        self, selection: LessonSelection = EVERYTHING, *, everything: bool = False
    ) -> Deleted:
        """Delete lessons with their verdicts for good, also from SQLite's own files, and what a
        user whose lessons are meant has said of others.

        Raises:
            ConfigurationError: neither a selection nor `everything` is said, or both are.
        """
        if (selection == EVERYTHING) is not everything:
            told = "say what to delete: a LessonSelection (--user, --tenant, --run, --older-than)"
            raise ConfigurationError(f"{told}, or everything=True (--all) alone.")
        table, by = lessons_table, selection.user
        meant = selection.model_copy(update={"user": None}).where
        judged = sa.select(table.c.run_id, table.c.verdicts).with_for_update()
        judged = judged.where(*meant, table.c.verdicts.is_not(None))

        def delete(connection: sa.Connection) -> int:
            for run_id, said in connection.execute(judged).all() if by is not None else ():
                left = [verdict for verdict in said if verdict["by"] != by]
                if left != said:
                    one = sa.update(table).where(table.c.run_id == run_id)
                    connection.execute(one.values(verdicts=left or None))
            return connection.execute(sa.delete(table).where(*selection.where)).rowcount

        number = await self.write(delete)
        scrubbed = await asyncio.to_thread(self.move_journal, wait=True)
        return Deleted(lessons=number, scrubbed=scrubbed)

    async def state_terms(self, model: str, terms: Terms) -> None:
        """State the terms of a model, `provider:name` or `provider:*`, from today on."""
        new = postgresql.insert(terms_table)
        new = new.on_conflict_do_update(index_elements=["model"], set_={"stated": new.excluded[1]})
        row = {"model": model, "stated": terms.model_dump(mode="json")}
        await self.write(lambda c: c.execute(new, row))

    async def terms(self) -> dict[str, Terms]:
        """The terms as they are stated today, by model."""
        found = await self._rows(sa.select(terms_table).order_by(terms_table.c.model))
        return {model: Terms.model_validate(stated) for model, stated in found}

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _rows(self, statement: sa.Executable) -> Sequence[Any]:
        return await self.read(lambda c: c.execute(statement).all())

    def _redacted(self, record: Any, *texts: str) -> Any:
        """The record as it may be stored; None where the redaction fails."""
        if (redact := self._redact) is None:
            return record

        def left(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {k: v if k in NO_TEXTS else left(v) for k, v in value.items()}
            if isinstance(value, list | tuple):
                return type(value)(map(left, value))
            return redact(value) if isinstance(value, str) else value

        try:
            given = {name: left(getattr(record, name)) for name in texts}
            return type(record).model_validate({**dict(record), **given})
        except Exception:
            logger.exception("redaction failed: a %s is not stored", type(record).__name__)
            return None


open_lessons = LessonStore


def the_store(store: object, of: str) -> LessonStore:
    """The store that a middleware was given; refused where it is none."""
    if isinstance(store, LessonStore):
        return store
    raise ConfigurationError(f"{of}({store!r}): give a store, open_lessons('sqlite:///…').")


class Lessons(CascadeMiddleware):
    """Lessons of runs that a tier above the first answered, and of audited drafts.

    **None is kept** of a run that must stay on this machine, that is tagged `lessons="no"` or ran
    in the shadow; of an answer that is degraded, cached, cut off, or a person's; and of what is no
    text, or longer than `MOST_CHARACTERS`. Lessons are written in the background, after the reply.

    Args:
        store: of the lessons. Close it yourself.
        terms: of the answers of each model, by `provider:name` or `provider:*`.

    Raises:
        ConfigurationError: the store is none.
    """

    slot = Slot.PROMPTS

    def __init__(self, store: LessonStore, *, terms: Mapping[str, Terms] | None = None) -> None:
        self.store, self.terms = the_store(store, "Lessons"), dict(terms or {})
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
        """Make a lesson of an answer; that of an audit waits until it is compared and booked."""
        kernel, tags, completion = runtime.kernel, tags_of(run), answer.completion
        tier = next((tier for tier in kernel.tiers if tier.name == answer.source), None)
        accepted = tier is kernel.tiers[0] and run.kind != "audit"
        if tier is None or completion is None or accepted or run.kind == "shadow":
            return
        shadows = [one for one in kernel.parts.middleware if isinstance(one, Shadow)]
        # Blocks of text alone become one text; what is more cannot be redacted.
        *asked, said = sent = sendable([*run.messages, completion.to_message(tier.name)])
        reasons = {
            "it has to stay on this machine": run.settings.get("local_only"),
            "it is tagged so": tags.get("lessons") == "no",
            "it ran in the shadow": any(run.notes.get(one.name) is True for one in shadows),
            "the answer is degraded": answer.degraded,
            "it came from a cache": completion.cached,
            "it was cut off": completion.finish_reason in CUT_OFF,
            "it is not all text": any(isinstance(m.get("content"), list) for m in sent),
            "it is too long": sum(len(str(message)) for message in sent) > MOST_CHARACTERS,
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
            answer=str(said.get("content") or ""),
            tool_calls=tuple(said.get("tool_calls") or ()),
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
        async def write() -> None:
            try:
                await self.store.put(lesson)
            except LedgerError as error:
                logger.error("the lesson of run %s is lost: %s", lesson.run_id, error)

        if not self._background.start(write):
            logger.warning("too many lessons wait: that of run %s is lost", lesson.run_id)
