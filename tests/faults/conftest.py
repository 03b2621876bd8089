from __future__ import annotations

import pytest

from cascade.models.base import guard


@pytest.fixture(autouse=True)
def _servers_of_the_test_may_be_called(
    _real_requests_only_when_live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapters here are real, and the servers behind them are the tests' own."""
    monkeypatch.setattr(guard, "forbidden", False)
