"""Which lessons may be trained on, one by one: terms, verdicts, audits, hostile texts, secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cascade.confidence.answers import normalise
from cascade.confidence.hostile import speaks_of_grading
from cascade.errors import InputError
from cascade.ledger.store import mask_secrets
from cascade.teaching.forms import Form, row_of
from cascade.teaching.lessons import Lesson
from cascade.teaching.overlap import Asked
from cascade.teaching.terms import UNSTATED, Terms, permitted

MASK = "[…]"
"""What stands for a secret that was taken out."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lesson with its row.

    Attributes:
        turned: whether the draft is the better answer in it, as an audit found.
        masked: whether a secret was taken out of the conversation.
    """

    lesson: Lesson
    row: dict[str, Any]
    turned: bool
    masked: bool

    @property
    def asked(self) -> Asked:
        """As it is compared with an evaluation, every message and answer of the row."""
        said = [str(m.get("content", "")) for part in self.row.values() for m in part]
        return Asked(self.lesson.question, "\n".join(said))

    @property
    def trusted(self) -> bool:
        """Whether a user says that the answer is right."""
        return self.lesson.answer_is_wrong is False


def candidate(lesson: Lesson, form: Form, stated: Mapping[str, Terms]) -> Candidate | str:
    """A lesson as a row, or why there is none of it.

    Every text by a model in a row needs terms that permit training: the answer, and where there is
    one in the row, the draft.

    Args:
        lesson: with its verdicts.
        form: of the file.
        stated: the terms of today.
    """
    turned = form == "preference" and lesson.loss is not None and lesson.loss < 0
    return (
        _forbidden(lesson, form, stated)
        or _doubted(lesson, form)
        or _unsuitable(lesson, form)
        or _row(lesson, form, turned)
    )


def _forbidden(lesson: Lesson, form: Form, stated: Mapping[str, Terms]) -> str | None:
    may = permitted(lesson.answer_model, lesson.terms, stated).may_train
    if may is not True:
        return "terms forbid training" if may is False else "terms of training are not stated"
    if form != "preference" or lesson.draft_model is None:
        return None
    of_draft = permitted(lesson.draft_model, UNSTATED, stated).may_train
    return None if of_draft is True else "terms of the draft's model do not permit training"


def _doubted(lesson: Lesson, form: Form) -> str | None:
    if lesson.answer_is_wrong:
        return "users say that the answer is wrong"
    if form != "preference" and lesson.loss is not None and lesson.loss < 0:
        return "an audit found the draft better"
    return None


def _unsuitable(lesson: Lesson, form: Form) -> str | None:
    spoken = [message for message in lesson.messages if message.get("role") == "assistant"]
    answer, draft = lesson.answer, lesson.draft or ""
    if not answer.strip() and not lesson.tool_calls:
        return "the answer is empty"
    if form == "messages" and spoken:
        return "earlier answers of unknown origin"  # they would be trained on, too
    said = [str(message.get("content") or "") for message in lesson.messages]
    texts = [*said, answer, *([draft] if form == "preference" else [])]
    if any(speaks_of_grading(text) is not None for text in texts):
        return "speaks to whoever checks answers"
    trained = [answer, *(str(call) for call in lesson.tool_calls)]
    trained += [draft] if form == "preference" else []
    if any(MASK in text or mask_secrets(text) != text for text in trained):
        return "the answer holds a secret"
    return _without_preference(lesson, draft) if form == "preference" else None


def _without_preference(lesson: Lesson, draft: str) -> str | None:
    if not draft.strip():
        return "there is no draft"
    same = not lesson.tool_calls and normalise(draft) == normalise(lesson.answer)
    if same or lesson.loss == 0:
        return "draft and answer are as good"
    unknown = lesson.loss is None and lesson.origin == "audited"
    return "nobody knows which is better" if unknown else None


def _row(lesson: Lesson, form: Form, turned: bool) -> Candidate | str:
    try:
        row, masked = row_of(lesson, form, turned=turned)
    except InputError:
        return "in no form that trainers read"
    return Candidate(lesson, row, turned, masked)


def draw_of(text: str, seed: int) -> str:
    """A place in an order that is as good as random, the same for the same text and seed."""
    return hashlib.sha256(f"{seed}\x00{text}".encode()).hexdigest()
