"""The HTTP adapters against real servers that run the embedded model."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from cascade.errors import (
    AuthenticationError,
    ContextLengthError,
    ModelNotFoundError,
    ModelTimeoutError,
    UnsupportedContentError,
)
from cascade.models import Model, Request
from cascade.models.llamacpp import find_weights
from cascade.models.ollama import OllamaModel
from cascade.models.openai import OpenAIModel
from tests.models.asking import ask, ask_in_pieces
from tests.servers import ollama as ollama_server
from tests.servers.llamacpp import LlamaCppServer

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    WEIGHTS = find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def llamacpp() -> LlamaCppServer:
    return LlamaCppServer(WEIGHTS)


@pytest.fixture(scope="module")
def ollama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = ollama_server.find_ollama()
    if binary is None:
        pytest.skip(ollama_server.MISSING)
    home = tmp_path_factory.mktemp("ollama")
    with ollama_server.running_ollama(binary, WEIGHTS, home) as url:
        yield url


@pytest.fixture
async def over_openai(llamacpp: LlamaCppServer) -> AsyncIterator[OpenAIModel]:
    model = OpenAIModel("any", base_url=llamacpp.openai_url, api_key=llamacpp.api_key)
    yield model
    await model.aclose()


@pytest.fixture
async def over_ollama(ollama_url: str) -> AsyncIterator[OllamaModel]:
    model = OllamaModel(ollama_server.MODEL, base_url=ollama_url)
    yield model
    await model.aclose()


@pytest.fixture(params=["openai", "ollama"])
def model(request: pytest.FixtureRequest) -> Model:
    chosen: Model = request.getfixturevalue(f"over_{request.param}")
    return chosen


async def test_a_plain_answer_with_logprobs(model: Model) -> None:
    answer = await ask(model, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2)
    assert answer.text
    assert answer.usage.known
    assert answer.finish_reason in ("stop", "length")
    assert answer.busy_ms
    assert answer.busy_ms <= answer.latency_ms
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs).strip() == answer.text.strip()
    assert all(len(token.top) == 2 for token in answer.logprobs)


async def test_a_stream_equals_the_plain_answer(model: Model) -> None:
    plain = await ask(model, max_tokens=8, temperature=0)
    pieces, streamed = await ask_in_pieces(model, max_tokens=8, temperature=0)
    assert streamed is not None
    assert "".join(pieces) == streamed.text == plain.text
    assert streamed.usage.output_tokens == plain.usage.output_tokens
    assert len(pieces) > 1


async def test_a_schema_is_kept(model: Model) -> None:
    answer = await ask(model, "A city as JSON.", schema=CITY, max_tokens=40, temperature=0)
    assert set(json.loads(answer.text)) == {"city"}


async def test_a_prompt_that_is_too_long(model: Model) -> None:
    for asking in (ask, ask_in_pieces):
        with pytest.raises(ContextLengthError) as caught:
            await asking(model, "word " * 3000, max_tokens=1)
        assert caught.value.billed is False


async def test_an_image_for_a_text_model(model: Model) -> None:
    with pytest.raises(UnsupportedContentError):
        await model.complete(Request((HumanMessage([IMAGE]),), max_tokens=1))


async def test_a_timeout_and_the_next_request(model: Model) -> None:
    endless = {"ignore_eos": True} if model.provider == "openai" else {"num_predict": 900}
    with pytest.raises(ModelTimeoutError):
        await ask(model, "Count to 500.", timeout_s=0.3, max_tokens=900, extra=endless)
    assert (await ask(model, max_tokens=1)).usage.output_tokens == 1


async def test_16_requests_at_once(model: Model) -> None:
    answers = await asyncio.gather(*(ask(model, f"Say {i}", max_tokens=1) for i in range(16)))
    assert all(answer.usage.output_tokens == 1 for answer in answers)


async def test_a_wrong_key_is_refused(llamacpp: LlamaCppServer) -> None:
    model = OpenAIModel("any", base_url=llamacpp.openai_url, api_key="wrong")
    for asking in (ask, ask_in_pieces):
        with pytest.raises(AuthenticationError):
            await asking(model)
    await model.aclose()


async def test_a_model_that_was_not_pulled(ollama_url: str) -> None:
    model = OllamaModel("nobody-has-this:1b", base_url=ollama_url)
    for asking in (ask, ask_in_pieces):
        with pytest.raises(ModelNotFoundError, match="ollama pull nobody-has-this:1b"):
            await asking(model)
    await model.aclose()


async def test_tools_for_a_model_without_them(over_ollama: OllamaModel) -> None:
    with pytest.raises(UnsupportedContentError, match="does not support tools"):
        await ask(over_ollama, tools=(WEATHER,))


async def test_thinking_of_a_model_without_it(over_ollama: OllamaModel) -> None:
    with pytest.raises(UnsupportedContentError, match="thinking"):
        await ask(over_ollama, extra={"think": True})


async def test_a_conversation_with_tools(ollama_url: str) -> None:
    model = OllamaModel(ollama_server.TOOL_MODEL, base_url=ollama_url)
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}
    conversation = (
        HumanMessage("Weather in Paris?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id="c1", name="weather"),
    )
    answer = await model.complete(Request(conversation, tools=(WEATHER,), max_tokens=5))
    assert answer.text or answer.tool_calls
    await model.aclose()


async def test_keep_alive_unloads_the_model(over_ollama: OllamaModel) -> None:
    answer = await ask(over_ollama, max_tokens=1, extra={"keep_alive": 0})
    assert answer.usage.output_tokens == 1


def test_the_binary_is_looked_for_where_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "ollama"
    binary.touch()
    monkeypatch.setenv("CASCADE_OLLAMA", os.fspath(binary))
    assert ollama_server.find_ollama() == binary
