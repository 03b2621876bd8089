"""An upstream for every gateway of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cascade.models.base import guard
from tests.ledger.store.conftest import postgres_server, postgres_url
from tests.servers.fake import FakeServer
from tests.service.page_world import World, serving

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server that speaks OpenAI; real adapters may reach it."""
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    with FakeServer() as server:
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A service with a page and weeks of requests."""
    with serving(tmp_path_factory.mktemp("page")) as made:
        yield made


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[World]:
    """A service with a page that nobody has asked anything."""
    with serving(tmp_path, filled=False) as made:
        yield made
