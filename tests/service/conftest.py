"""An upstream for every gateway of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cascade.models.base import guard
from tests.ledger.store.conftest import postgres_server, postgres_url
from tests.servers.fake import FakeServer

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A server that speaks OpenAI; real adapters may reach it."""
    monkeypatch.setattr(guard, "forbidden", False)
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    with FakeServer() as server:
        yield server
