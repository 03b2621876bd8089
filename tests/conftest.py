"""What holds for every test."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from cascade.models.base import guard

# Machines that test are slow and shared: how long one example takes says nothing. Where a whole
# change is judged, the same examples are tried each time; elsewhere new ones may be found.
settings.register_profile("cascade", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("cascade")


@pytest.fixture(autouse=True)
def _real_requests_only_when_live(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that is not marked `live` cannot reach a real model."""
    monkeypatch.setattr(guard, "forbidden", request.node.get_closest_marker("live") is None)
