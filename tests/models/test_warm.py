"""Models are made ready before they are asked, and nobody is asked for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from cascade.errors import ModelTimeoutError, ModelUnavailableError, RealRequestForbiddenError
from cascade.models import posting
from cascade.models.base import Model, guard
from cascade.models.llamacpp import LlamaCppModel
from cascade.models.llamacpp_engine import Engine
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from cascade.testing import ScriptedModel
from tests.models.asking import ask
from tests.servers import replies
from tests.servers.fake import FakeServer


async def test_a_connection_is_there_for_the_first_request(
    openai_model: OpenAIModel, server: FakeServer
) -> None:
    await openai_model.warm()
    link = await openai_model._links.get()
    assert link.post is not None
    session = link.post._session
    assert session is not None
    assert len(session.connector._conns) == 1  # type: ignore[union-attr]
    server.will(replies.openai_reply())
    await ask(openai_model)
    assert len(session.connector._conns) == 1  # type: ignore[union-attr]


async def test_a_server_that_says_nothing_to_that_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posting, "OPEN_S", 0.05)
    silent = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    model = OpenAIModel("m", base_url=f"http://127.0.0.1:{port}/v1")
    with pytest.raises(ModelTimeoutError):
        await model.warm()
    await model.aclose()
    silent.close()


async def test_without_aiohttp_the_client_opens_it(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cascade.models.posting.find_spec", lambda _: None)
    model = OpenAIModel("m", base_url=server.openai_url)
    await model.warm()  # the server knows no such address, and that is enough
    assert (await model._links.get()).post is None
    server.will(replies.openai_reply())
    assert (await ask(model)).text
    await model.aclose()


async def test_ollama_loads_the_model(ollama_model: OllamaModel, server: FakeServer) -> None:
    server.will(replies.ollama_reply())
    await ollama_model.warm()
    assert server.last.path == "/api/chat"
    assert (server.last.body["model"], server.last.body["messages"]) == ("qwen2.5:3b", [])


@pytest.mark.parametrize("kind", [OpenAIModel, OllamaModel])
async def test_a_server_that_nobody_runs_is_told(kind: type[OpenAIModel | OllamaModel]) -> None:
    model = kind("m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ModelUnavailableError):
        await model.warm()
    await model.aclose()


async def test_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Engine] = []

    def load(engine: Engine) -> SimpleNamespace:
        loaded.append(engine)
        return SimpleNamespace(listening_address="http://127.0.0.1:1")

    monkeypatch.setattr(Engine, "_loaded", load)
    model = LlamaCppModel("smollm2-135m")
    await model.warm()
    assert loaded == [model._shared_engine()]
    await model.aclose()


@pytest.mark.parametrize(
    "model",
    [OpenAIModel("m", base_url="http://127.0.0.1:9/v1"), OllamaModel("m")],
    ids=["openai", "ollama"],
)
async def test_no_real_server_is_called_where_that_is_forbidden(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "forbidden", True)
    with pytest.raises(RealRequestForbiddenError):
        await model.warm()


async def test_what_has_nothing_to_make_ready_is_ready() -> None:
    await ScriptedModel(["yes"]).warm()
