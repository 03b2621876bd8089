from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from cascade.models.base import Model, guard
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.servers.fake import FakeServer


@pytest.fixture(autouse=True)
def _servers_of_the_test_may_be_called(
    _real_requests_only_when_live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapters here are real, and the servers behind them are the tests' own."""
    monkeypatch.setattr(guard, "forbidden", False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
async def openai_model(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[OpenAIModel]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = OpenAIModel("small-1", base_url=server.openai_url)
    yield model
    await model.aclose()


@pytest.fixture
async def ollama_model(server: FakeServer) -> AsyncIterator[OllamaModel]:
    model = OllamaModel("qwen2.5:3b", base_url=server.url)
    yield model
    await model.aclose()


@pytest.fixture(params=["openai", "ollama"])
def either_model(request: pytest.FixtureRequest) -> Model:
    model: Model = request.getfixturevalue(f"{request.param}_model")
    return model
