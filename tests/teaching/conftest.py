"""Databases for lessons, as the ledger's tests have them, and cascades that escalate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cascade.teaching import LessonStore, open_lessons
from tests.ledger.store.conftest import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    (tmp_path / "lessons").mkdir()
    return f"sqlite:///{tmp_path}/lessons/lessons.db"


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    address: str = request.getfixturevalue(f"{request.param}_url")
    return address


@pytest.fixture
async def store(url: str) -> AsyncIterator[LessonStore]:
    async with open_lessons(url) as opened:
        yield opened


@pytest.fixture
async def memory() -> AsyncIterator[LessonStore]:
    async with open_lessons("memory://") as opened:
        yield opened
