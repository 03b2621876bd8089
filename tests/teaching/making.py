"""Lessons for tests, and cascades that make them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cascade import Cascade, Price, Tier
from cascade.ledger import LessonKeeper
from cascade.teaching import Lesson, digest_of
from cascade.testing import ScriptedModel, reply

DAY = datetime(2026, 3, 1, tzinfo=UTC)
PRICE = Price(input=1, output=1)


def lesson(run_id: str = "r1", question: str = "2 + 2?", **fields: Any) -> Lesson:
    messages = ({"role": "user", "content": question},)
    given: dict[str, Any] = {
        "id": f"lesson-{run_id}",
        "run_id": run_id,
        "at": DAY,
        "messages": messages,
        "draft": "5",
        "answer": "4",
        "answer_model": "openai:gpt-5.1",
        "answer_tier": "large",
        "digest": digest_of(messages),
    }
    user = fields.get("user")
    tags = {} if user is None else {"user": user}
    return Lesson(**given | {"tags": tags} | fields)


def doubtful(text: str = "5", **fields: Any) -> Any:
    """A draft that is not accepted."""
    return reply(text, probability=0.2, **fields)


def cascade_with(
    lessons: LessonKeeper | None, *, draft: Any = None, answer: Any = "4", **options: Any
) -> Cascade:
    """A cascade whose draft is rejected, unless another one is given."""
    small = Tier(ScriptedModel([doubtful() if draft is None else draft]), price=PRICE)
    large = Tier(ScriptedModel([answer], local=False), price=PRICE)
    return Cascade(small, large, lessons=lessons, **options)
