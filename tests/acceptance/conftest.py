"""What every acceptance test has at hand: a server that plays models, and real requests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.acceptance import commands
from tests.acceptance.upstream import Upstream
from tests.ledger.postgres import NoPostgresError, Server, running


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "benchmark: marks tests of langchain-tests")


@pytest.fixture(autouse=True)
def _real_requests_only_when_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here real models are asked: those of `upstream`, and the embedded one. No key and no proxy
    of this machine may take a request anywhere else."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
            monkeypatch.delenv(name)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[commands.World]:
    """Two models, 200 examples, and the calibration that `cascade calibrate` made of them."""
    certified = ("--max-harm", "0.2", "--max-harm", "0.15", "--signals", "logprobs")
    with commands.calibrated(tmp_path_factory.mktemp("world"), 200, *certified) as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    try:
        with running() as server:
            yield server
    except NoPostgresError as error:
        pytest.skip(str(error))


_databases = itertools.count()


@pytest.fixture
async def postgres_url(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database in a PostgreSQL of the tests' own."""
    # On a busy machine its first change takes long, and is not given up for that.
    monkeypatch.setattr("cascade.ledger.store.SLOW_S", 300.0)
    name = f"ledger_{next(_databases)}"
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres.url.removesuffix("postgres") + name


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.heavy)])
def url(request: pytest.FixtureRequest) -> str:
    """Of an empty ledger, in each database there is."""
    address: str = request.getfixturevalue(f"{request.param}_url")
    return address
