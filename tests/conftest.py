"""What holds for every test."""

from __future__ import annotations

import ast
import gc
import os
import sys
from typing import Any

import pytest
from hypothesis import settings

from cascade.models.base import guard

# Machines that test are slow and shared: how long one example takes says nothing. Where a whole
# change is judged, the same examples are tried each time; elsewhere new ones may be found.
settings.register_profile("cascade", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("cascade")

if sys.version_info < (3, 12):
    # A parser of 3.11 counts its depth wrongly where a finalizer that runs within it parses too, as
    # one does that prints a traceback (CPython gh-106905), and pydantic parses what it reads.
    parse = ast.parse

    def _parse_undisturbed(*given: Any, **options: Any) -> Any:
        collects = gc.isenabled()
        gc.disable()
        try:
            return parse(*given, **options)
        finally:
            if collects:
                gc.enable()

    ast.parse = _parse_undisturbed


@pytest.fixture(autouse=True)
def _real_requests_only_when_live(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that is not marked `live` cannot reach a real model."""
    monkeypatch.setattr(guard, "forbidden", request.node.get_closest_marker("live") is None)
