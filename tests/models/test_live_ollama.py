"""The official Ollama server, with models made of the embedded weights."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from cascade.errors import ContextLengthError, ModelNotFoundError, UnsupportedContentError
from cascade.models.llamacpp import find_weights
from cascade.models.ollama import OllamaModel
from tests.models.asking import ask, ask_in_pieces
from tests.servers import ollama

pytestmark = [pytest.mark.live, pytest.mark.heavy]

NAME = {"type": "string", "maxLength": 12}
CITY = {"type": "object", "properties": {"city": NAME}, "required": ["city"]}
SEARCH = {"type": "function", "function": {"name": "search", "parameters": CITY}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = ollama.find_ollama()
    if binary is None:
        pytest.skip(ollama.MISSING)
    home = tmp_path_factory.mktemp("ollama")
    with ollama.running_ollama(binary, find_weights("smollm2-135m"), home) as address:
        yield address


@pytest.fixture
async def model(url: str) -> AsyncIterator[OllamaModel]:
    one = OllamaModel(ollama.MODEL, base_url=url)
    yield one
    await one.aclose()


async def test_logprobs_spell_the_answer(model: OllamaModel) -> None:
    answer = await ask(model, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs).strip() == answer.text.strip()
    assert all(len(token.top) == 2 for token in answer.logprobs)
    assert answer.usage.known
    assert answer.busy_ms is not None
    assert answer.busy_ms <= answer.latency_ms


async def test_a_stream_equals_the_plain_answer(model: OllamaModel) -> None:
    plain = await ask(model, max_tokens=8, temperature=0)
    pieces, streamed = await ask_in_pieces(model, max_tokens=8, temperature=0)
    assert "".join(pieces) == streamed.text == plain.text
    assert streamed.usage.output_tokens == plain.usage.output_tokens


async def test_a_schema_is_kept(model: OllamaModel) -> None:
    answer = await ask(model, "A city as JSON.", schema=CITY, max_tokens=40, temperature=0)
    assert set(json.loads(answer.text)) == {"city"}


async def test_what_the_model_cannot_do(model: OllamaModel) -> None:
    with pytest.raises(ContextLengthError):
        await ask(model, "word " * 3000, max_tokens=1)
    with pytest.raises(UnsupportedContentError, match="does not support tools"):
        await ask(model, tools=(SEARCH,))
    with pytest.raises(UnsupportedContentError, match="thinking"):
        await ask(model, extra={"think": True})


async def test_a_model_that_was_not_pulled(url: str) -> None:
    model = OllamaModel("no-such-model:1b", base_url=url)
    with pytest.raises(ModelNotFoundError, match="ollama pull no-such-model:1b"):
        await ask(model)
    await model.aclose()
