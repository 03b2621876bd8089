"""Lesson: a question that the small model could not do, with the large model's answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

from pydantic import Field

from cascade.ledger.feedback import Feedback
from cascade.state import Record

Origin = Literal["escalated", "audited"]
"""Reason why the large model answered: the draft was not accepted, or was accepted and audited."""

ChatMessage = Mapping[str, Any]
"""A message in OpenAI's form: `role`, `content`, `tool_calls` and the like."""


class Terms(Record):
    """Terms of use or licence of a model, as users state them: they differ by contract.

    Attributes:
        may_train: whether another model may be trained on the answers; None is not stated.
        source: where it is written, as a rule an address; `as_of`, when it was read there.
    """

    may_train: bool | None = None
    source: str = ""
    as_of: date | None = None


UNSTATED = Terms()
"""Terms of a model of which nothing was stated: its answers are not exported for training."""


def terms_of(model: str | None, stated: Mapping[str, Terms]) -> Terms:
    """The terms of a model by its name (`openai:gpt-5.1`), else by the longest prefix of it that
    ends in `*` (`openai:*`); `UNSTATED` where there are none."""
    if model is None:
        return UNSTATED
    if model in stated:
        return stated[model]
    fitting = [name for name in stated if name.endswith("*") and model.startswith(name[:-1])]
    return stated[max(fitting, key=len)] if fitting else UNSTATED


class Lesson(Record):
    """One question with the small model's draft and the large model's answer.

    Attributes:
        run_id: of the run in the ledger; a run has one lesson at most.
        at: when the large model had answered.
        task, tenant, user: tags of the run; else the cascade's name, the tag `key`, and None.
        messages: the conversation up to the question, in OpenAI's form, text alone.
        draft, draft_model: of the small model; None where it gave no whole one.
        answer, answer_model: of the large model; empty where it only calls tools.
        loss: how much better the answer is than the draft, in [−1, 1], where an audit compared
            them.
        verdicts: what people said of the answer that they saw: of the draft where `origin` is
            `audited`, else of the large model's.
        terms: of the answer's model, as stated when it was given.
    """

    run_id: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    origin: Origin = "escalated"
    task: str = "cascade"
    tenant: str | None = None
    user: str | None = None
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    draft: str | None = None
    draft_model: str | None = None
    answer: str
    tool_calls: tuple[ChatMessage, ...] = ()
    answer_model: str
    loss: float | None = Field(default=None, ge=-1, le=1)
    verdicts: tuple[Feedback, ...] = ()
    terms: Terms = UNSTATED

    @property
    def question(self) -> str:
        """Text of the last message."""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else ""

    @property
    def digest(self) -> str:
        """Digest that equal conversations share: SHA-256 of roles and contents, without spacing
        and capitals."""
        parts = [
            [m.get("role"), _folded(m.get("content")), m.get("tool_calls")] for m in self.messages
        ]
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def answer_is_wrong(self) -> bool | None:
        """Verdict of people on the large model's answer; None where none judged it, or they differ.
        Where they saw the draft, they did not judge this one."""
        said = {verdict.wrong for verdict in self.verdicts} - {None}
        return said.pop() if len(said) == 1 and self.origin != "audited" else None

    def may_train(self, stated: Mapping[str, Terms]) -> bool | None:
        """True if another model may be trained on the answer, by the terms under which it was given
        and those of today: what either forbids is forbidden. None where neither says it."""
        said = {self.terms.may_train, terms_of(self.answer_model, stated).may_train}
        return False if False in said else True if True in said else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonSelection:
    """Conditions on lessons, joined by "and": of this run, user, tenant or task, at `since` or
    later, before `until`."""

    run_id: str | None = None
    user: str | None = None
    tenant: str | None = None
    task: str | None = None
    since: datetime | None = None
    until: datetime | None = None


EVERYTHING = LessonSelection()


def place_of(tags: Mapping[str, str], cascade: str) -> tuple[str, str | None]:
    """Task and tenant of a run, by its tags and the name of its cascade."""
    return tags.get("task", cascade), tags.get("tenant", tags.get("key"))


def _folded(content: object) -> object:
    return " ".join(content.split()).casefold() if isinstance(content, str) else content
