"""A lesson: a question that the small model could not do, and what the large one answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from cascade.ledger.verdicts import Feedback, agreed
from cascade.state import Record
from cascade.teaching.terms import UNSTATED, Terms

Origin = Literal["escalated", "audited"]
"""How the large model came to answer: the draft was rejected, or accepted and audited."""

ChatMessage = Mapping[str, Any]
"""A message in OpenAI's form: `role`, `content`, `tool_calls` and the like, where it has them."""


class Lesson(Record):
    """One question with the small model's draft and the large model's answer.

    Attributes:
        id: of the lesson; a run has one at most.
        run_id: of the run in the ledger.
        at: when the large model had answered.
        origin: whether the draft was rejected, or was accepted and audited.
        cascade: name of the cascade.
        task: what kind of question it is: the tag `task` of the run, else the cascade's name.
        tenant: whose key or customer it was, the tag `tenant`, else `key`; None where none.
        user: who asked, the tag `user`; None where none was named.
        messages: the conversation up to the question, in OpenAI's form, text alone.
        draft: what the small model had answered; None where it was not asked.
        draft_model: who drafted, as `provider:name`; None without a draft.
        confidence: in the draft; None where there was none.
        calibrated: whether it is a probability.
        answer: of the large model, as text; empty where it only calls tools.
        tool_calls: of the answer, in OpenAI's form.
        answer_model: who answered, as `provider:name`.
        answer_tier: the tier's name.
        loss: how much better the answer is than the draft, in [−1, 1], where an audit compared
            them; it is a random sample, other than `verdicts`.
        verdicts: what users said of the run's answer: of the draft where `origin` is `audited`,
            else of the large model's. Whoever says something is no random sample.
        terms: what may be done with the answer, as stated when it was given.
        tags: of the run.
        digest: the same for equal questions, whatever their spacing and capitals; see `digest_of`.
    """

    id: str
    run_id: str
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    origin: Origin = "escalated"
    cascade: str = "cascade"
    task: str = "cascade"
    tenant: str | None = None
    user: str | None = None
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    draft: str | None = None
    draft_model: str | None = None
    confidence: float | None = None
    calibrated: bool = False
    answer: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    answer_model: str
    answer_tier: str
    loss: float | None = Field(default=None, ge=-1, le=1)
    verdicts: tuple[Feedback, ...] = ()
    terms: Terms = UNSTATED
    tags: Mapping[str, str] = Field(default_factory=dict)
    digest: str

    @property
    def question(self) -> str:
        """The text of the last message."""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else ""

    @property
    def answer_is_wrong(self) -> bool | None:
        """What users say of the large model's answer; None where nobody judged it, or they differ.

        Where the draft was the answer that they saw, they did not judge this one.
        """
        return (
            None if self.origin == "audited" else agreed(verdict.wrong for verdict in self.verdicts)
        )

    @property
    def draft_is_wrong(self) -> bool | None:
        """Whether the draft is known to be wrong: an audit says so, or users who saw it; None where
        nobody has compared it."""
        if self.loss is not None:
            return self.loss > 0
        return (
            agreed(verdict.wrong for verdict in self.verdicts) if self.origin == "audited" else None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonSelection:
    """Which lessons are meant: all that satisfy every given condition.

    Attributes:
        run_id: of this run.
        user: of this user.
        tenant: of this tenant.
        cascade: of this cascade.
        task: of this task.
        origin: of this origin.
        since: at this time or later.
        until: before this time.
        tags: with each of these tags.
    """

    run_id: str | None = None
    user: str | None = None
    tenant: str | None = None
    cascade: str | None = None
    task: str | None = None
    origin: Origin | None = None
    since: datetime | None = None
    until: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """Whether it excludes nothing."""
        return self == LessonSelection()


def digest_of(messages: Sequence[ChatMessage]) -> str:
    """What tells equal questions: SHA-256 of roles and contents, 32 hexadecimal digits.

    Spacing and capitals make no difference, so that a question that was typed anew is the same.
    """
    parts = [[m.get("role"), _folded(m.get("content")), m.get("tool_calls")] for m in messages]
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def user_in(tags: Mapping[str, str]) -> str | None:
    """Who asked, by the tags of a run."""
    return tags.get("user")


def tenant_in(tags: Mapping[str, str]) -> str | None:
    """Whose key or customer it was, by the tags of a run."""
    return tags.get("tenant", tags.get("key"))


def _folded(content: object) -> object:
    return " ".join(content.split()).casefold() if isinstance(content, str) else content
