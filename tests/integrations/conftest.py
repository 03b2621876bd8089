from __future__ import annotations

from collections.abc import Iterator

import pytest

from cascade.models.base import guard
from tests.servers.obliging import ObligingServer


def pytest_configure(config: pytest.Config) -> None:
    """LangChain's suites mark tests for plugins that are switched off, or not needed, here."""
    for marker in ("benchmark", "vcr"):
        config.addinivalue_line("markers", f"{marker}: of langchain-tests")


@pytest.fixture
def obliging(
    _real_requests_only_when_live: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObligingServer]:
    """A server of the test's own, which the real adapters may call."""
    monkeypatch.setattr(guard, "forbidden", False)
    with ObligingServer() as running:
        yield running
