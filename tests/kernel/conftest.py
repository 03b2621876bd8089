"""Both drivers, for every test that asks for `driver`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.drivers import DRIVERS


@pytest.fixture(params=DRIVERS, ids=[driver.name for driver in DRIVERS])
def driver(request: pytest.FixtureRequest) -> Any:
    """Makes a driver of a cascade."""
    return request.param
