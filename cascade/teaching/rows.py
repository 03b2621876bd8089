"""Lessons and verdicts as rows of their tables, redacted, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from cascade.ledger.store import Redact
from cascade.ledger.store.redaction import redacted_strings
from cascade.ledger.verdicts import Feedback
from cascade.teaching.lessons import Lesson, digest_of
from cascade.teaching.store import KeptGroup
from cascade.teaching.terms import Terms

KEPT_AS_THEY_ARE = frozenset({"role", "type", "id", "tool_call_id"})
"""Parts of a message that are no text of anybody's."""

_MESSAGES = TypeAdapter(tuple[dict[str, Any], ...])


def redacted_lesson(lesson: Lesson, redact: Redact | None) -> Lesson:
    """The lesson as it may be stored; what the redaction raises is raised."""
    if redact is None:
        return lesson
    messages = tuple(_redacted_part(message, redact) for message in lesson.messages)
    return lesson.model_copy(
        update={
            "messages": messages,
            "draft": None if lesson.draft is None else redact(lesson.draft),
            "answer": redact(lesson.answer),
            "tool_calls": tuple(_redacted_part(call, redact) for call in lesson.tool_calls),
            "digest": digest_of(messages),
        }
    )


def redacted_feedback(feedback: Feedback, redact: Redact | None) -> Feedback:
    """The verdict as it may be stored; what the redaction raises is raised."""
    if redact is None:
        return feedback
    return feedback.model_copy(
        update={
            "comment": None if feedback.comment is None else redact(feedback.comment),
            "value": redacted_strings(feedback.value, redact),
            "correction": redacted_strings(feedback.correction, redact),
        }
    )


def _redacted_part(value: Any, redact: Redact) -> Any:
    if isinstance(value, Mapping):
        return {
            key: part if key in KEPT_AS_THEY_ARE else _redacted_part(part, redact)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redacted_part(item, redact) for item in value]
    return redact(value) if isinstance(value, str) else value


def lesson_row(lesson: Lesson) -> dict[str, Any]:
    """A lesson for `teaching_lessons`; its verdicts are rows of their own."""
    row = {name: getattr(lesson, name) for name in Lesson.model_fields}
    del row["verdicts"]
    row["user_name"] = row.pop("user")
    return row | {
        "messages": _as_json(lesson.messages),
        "tool_calls": _as_json(lesson.tool_calls),
        "terms": _as_json(lesson.terms.model_dump(mode="json")),
        "tags": dict(lesson.tags),
    }


def lesson_of(row: Mapping[str, Any], verdicts: Sequence[Feedback]) -> Lesson:
    """A lesson from `teaching_lessons`, with what was said of it."""
    fields = dict(row)
    fields["user"] = fields.pop("user_name")
    return Lesson(
        **fields
        | {
            "messages": _MESSAGES.validate_json(row["messages"]),
            "tool_calls": _MESSAGES.validate_json(row["tool_calls"]),
            "terms": Terms.model_validate_json(row["terms"]),
            "tags": row["tags"] or {},
            "verdicts": tuple(verdicts),
        }
    )


def feedback_row(
    feedback: Feedback, user: str | None, tenant: str | None, tags: Mapping[str, str]
) -> dict[str, Any]:
    """A verdict for `teaching_verdicts`, with whose run it is about."""
    return {
        "run_id": feedback.run_id,
        "key": feedback.key,
        "by": feedback.by,
        "at": feedback.at,
        "user_name": user,
        "tenant": tenant,
        "said": _as_json(feedback.model_dump(mode="json")),
        "tags": dict(tags),
    }


def feedback_of(row: Mapping[str, Any]) -> Feedback:
    """A verdict from `teaching_verdicts`."""
    return Feedback.model_validate_json(row["said"])


def group_row(settings: str, group: KeptGroup) -> dict[str, Any]:
    """A group for `teaching_groups`."""
    fields = asdict(group)
    return {
        "settings": settings,
        "leader": fields.pop("leader"),
        "at": datetime.now(UTC),
        "standing": fields.pop("standing"),
        "evidence": _as_json(fields),
    }


def group_of(row: Mapping[str, Any]) -> KeptGroup:
    """A group from `teaching_groups`."""
    fields = json.loads(row["evidence"])
    fields["pairs"] = {run_id: tuple(pair) for run_id, pair in fields["pairs"].items()}
    return KeptGroup(leader=row["leader"], standing=row["standing"], **fields)


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
