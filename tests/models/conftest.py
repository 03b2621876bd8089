from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from cascade.models import Model, http
from cascade.models.base import guard
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.acceptance.upstream import Upstream

KINDS = ["openai", "openai without aiohttp", "ollama", "ollama without aiohttp"]


@pytest.fixture(autouse=True)
def _servers_of_the_test_may_be_called(
    _real_requests_only_when_live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapters here are real, and the servers behind them are the tests' own."""
    monkeypatch.setattr(guard, "forbidden", False)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def running_server() -> Iterator[Upstream]:
    with Upstream(lambda seen: seen.last.upper()) as running:
        yield running


@pytest.fixture
def server(running_server: Upstream) -> Upstream:
    running_server.forget()
    return running_server


@pytest.fixture
def opened(server: Upstream, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Model]:
    """Opens a model of one of `KINDS`."""

    def open_one(kind: str) -> Model:
        if kind.endswith("without aiohttp"):
            monkeypatch.setattr(http, "find_spec", lambda _: None)
        if kind.startswith("ollama"):
            return OllamaModel("qwen2.5:3b", base_url=server.url, api_key="sk-secret-key")
        return OpenAIModel("small-1", base_url=server.openai_url, api_key="sk-secret-key")

    return open_one


@pytest.fixture(params=KINDS)
async def model(
    request: pytest.FixtureRequest, opened: Callable[[str], Model]
) -> AsyncIterator[Model]:
    """A model behind the server, by each protocol and HTTP client."""
    one = opened(request.param)
    yield one
    await one.aclose()


@pytest.fixture
async def openai_model(server: Upstream) -> AsyncIterator[OpenAIModel]:
    one = OpenAIModel("small-1", base_url=server.openai_url)
    yield one
    await one.aclose()


@pytest.fixture
async def ollama_model(server: Upstream) -> AsyncIterator[OllamaModel]:
    one = OllamaModel("qwen2.5:3b", base_url=server.url)
    yield one
    await one.aclose()
