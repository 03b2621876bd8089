"""Stores of lessons, and lessons to put into them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cascade import Cascade, MemoryLedger, Price, Tier
from cascade.middleware import Retries
from cascade.teaching import Lesson, LessonStore, Terms, open_lessons
from cascade.testing import ScriptedModel

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
    price = Price(input=1, output=1)
    small = Tier(ScriptedModel(draft, name="small", logprobs=p), price=price)
    large = Tier(ScriptedModel(answer, name="large"), price=price)
    stack = [*middleware, Retries(attempts=1)]
    return Cascade(
        small, large, ledger=given.pop("ledger", MemoryLedger()), middleware=stack, **given
    )


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
