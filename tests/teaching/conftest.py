"""Stores of lessons, and lessons to put into them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, MemoryLedger
from cascade.middleware import Retries
from cascade.teaching import Lesson, LessonStore, Terms, open_lessons
from tests.middleware import cascades

DAY = datetime(2026, 3, 1, tzinfo=UTC)
FREE = {"scripted:*": Terms(may_train=True, source="our own model")}
QUESTION = "What is the capital of Australia?"


def lesson(run_id: str = "r1", question: str = "2 + 2?", **fields: Any) -> Lesson:
    given: dict[str, Any] = {
        "at": DAY,
        "messages": ({"role": "user", "content": question},),
        "draft": "5",
        "draft_model": "scripted:small",
        "answer": "4",
        "answer_model": "scripted:large",
        "terms": FREE["scripted:*"],
    }
    return Lesson(run_id=run_id, **{**given, **fields})


def pair(
    *middleware: Any, draft: Any = "Sydney", answer: Any = "Canberra", p: float = 0.3, **given: Any
) -> Cascade:
    """A cascade that escalates, unless its drafts are surer."""
    given = {"ledger": MemoryLedger(), "middleware": [*middleware, Retries(attempts=1)], **given}
    return cascades.pair(cascades.small(draft, p), cascades.large(answer), **given)


async def all_of(store: LessonStore) -> list[Lesson]:
    return [each async for each in store.lessons()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "lessons.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[LessonStore]:
    async with open_lessons(f"sqlite:///{path}") as opened:
        yield opened
