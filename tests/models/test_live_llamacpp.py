"""The embedded model, live in this process."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from cascade.errors import (
    BadRequestError,
    ContextLengthError,
    ModelError,
    ModelNotFoundError,
    ModelTimeoutError,
    UnsupportedContentError,
)
from cascade.models import Request, open_model
from cascade.models import llamacpp_engine as engine
from cascade.models.llamacpp import LlamaCppModel, find_weights
from tests.models.asking import ask, ask_in_pieces

pytest.importorskip("xllamacpp", reason='pip install "agent-cascade[llamacpp]"')
try:
    WEIGHTS = find_weights("smollm2-135m")
except ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
}


@pytest.fixture(scope="module")
def model() -> Iterator[LlamaCppModel]:
    embedded = open_model("llamacpp:smollm2-135m")
    assert isinstance(embedded, LlamaCppModel)
    yield embedded
    asyncio.run(embedded.aclose())


async def test_a_plain_answer(model: LlamaCppModel) -> None:
    answer = await ask(model, "What is the capital of France?", max_tokens=8, temperature=0)
    assert answer.text
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage.input_tokens
    assert answer.usage.output_tokens == 8
    assert answer.busy_ms
    assert 0 < answer.busy_ms <= answer.latency_ms
    assert answer.logprobs is None


async def test_logprobs_spell_the_answer(model: LlamaCppModel) -> None:
    answer = await ask(model, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3)
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs).strip() == answer.text.strip()
    assert all(len(token.top) == 3 and token.logprob <= 0 for token in answer.logprobs)


async def test_a_stream_equals_the_plain_answer(model: LlamaCppModel) -> None:
    settings = {"max_tokens": 12, "temperature": 0, "logprobs": True}
    plain = await ask(model, "Say hello.", **settings)
    pieces, streamed = await ask_in_pieces(model, "Say hello.", **settings)
    assert streamed is not None
    assert "".join(pieces) == streamed.text == plain.text
    assert len(pieces) > 1
    assert [t.token for t in streamed.logprobs or ()] == [t.token for t in plain.logprobs or ()]


async def test_a_schema_is_kept(model: LlamaCppModel) -> None:
    answer = await ask(model, "A city as JSON.", schema=CITY, max_tokens=40, temperature=0)
    assert set(json.loads(answer.text)) == {"city"}


async def test_an_answer_has_logprobs_also_where_tools_could_be_called(
    model: LlamaCppModel,
) -> None:
    """llama.cpp refuses log-probs in a stream with tools."""
    function = {"name": "weather", "parameters": CITY}
    tool = {"type": "function", "function": function}
    question = (HumanMessage("Say hello."),)
    request = Request(question, max_tokens=8, temperature=0, logprobs=True, tools=(tool,))
    answer = await model.complete(request)
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs) == answer.text
    assert answer.usage.known


async def test_a_prompt_that_is_too_long(model: LlamaCppModel) -> None:
    for asking in (ask, ask_in_pieces):
        with pytest.raises(ContextLengthError, match=r"2048.*n_ctx") as caught:
            await asking(model, "word " * 3000)
        assert caught.value.billed is False


async def test_what_the_model_cannot_do(model: LlamaCppModel) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    with pytest.raises(UnsupportedContentError, match="image"):
        await model.complete(Request((HumanMessage([image]),)))
    with pytest.raises(BadRequestError, match="nonsense"):
        await ask(model, schema={"type": "nonsense"})
    with pytest.raises(BadRequestError, match="must be number"):
        await ask(model, extra={"max_tokens": "many"})


async def test_64_requests_at_once_are_not_mixed_up(model: LlamaCppModel) -> None:
    cities = ("Rome", "Paris", "Cairo", "Lima")
    prompts = [f"Repeat the word {cities[i % 4]}: {cities[i % 4]}" for i in range(64)]
    answers = await asyncio.gather(
        *(ask(model, prompt, max_tokens=2, temperature=0) for prompt in prompts)
    )
    assert len({id(answer) for answer in answers}) == 64
    assert all(answer.usage.output_tokens in (1, 2) for answer in answers)
    for i, city in enumerate(cities):
        alone = await ask(model, f"Repeat the word {city}: {city}", max_tokens=2, temperature=0)
        assert alone.text in {answer.text for answer in answers[i::4]}


async def test_the_loopback_listener_demands_the_key(model: LlamaCppModel) -> None:
    address = await model.listening_address()
    assert address.startswith("http://127.0.0.1:")

    def status(path: str, data: bytes | None = None) -> int:
        try:
            with urllib.request.urlopen(address + path, data, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert await asyncio.to_thread(status, "/v1/models?x") == 401
    assert await asyncio.to_thread(status, "/v1/chat/completions", b'{"messages": []}') == 401


LONG = {"max_tokens": 1500, "temperature": 0, "extra": {"ignore_eos": True}}


async def test_cancelling_stops_the_computation(model: LlamaCppModel) -> None:
    tasks = [asyncio.create_task(ask(model, f"Count, {i}", **LONG)) for i in range(8)]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(result, asyncio.CancelledError)
        for result in await asyncio.gather(*tasks, return_exceptions=True)
    )
    started = time.perf_counter()
    await ask(model, "hi", max_tokens=1)
    assert time.perf_counter() - started < 10, "the slots are still computing"


async def test_a_timeout_stops_the_computation(model: LlamaCppModel) -> None:
    with pytest.raises(ModelTimeoutError):
        await ask(model, "Count", timeout_s=0.3, **LONG)


async def test_leaving_a_stream_stops_the_computation(model: LlamaCppModel) -> None:
    stream = model.stream(Request((HumanMessage("Count"),), **LONG))
    async for _ in stream:
        break
    await stream.aclose()
    assert (await ask(model, "hi", max_tokens=1)).usage.output_tokens == 1


def test_a_loop_that_ends_with_a_request_in_flight_does_no_harm(model: LlamaCppModel) -> None:
    async def begin() -> None:
        task = asyncio.create_task(ask(model, "Count", **LONG))
        await asyncio.sleep(0.3)
        del task

    asyncio.run(begin())
    assert asyncio.run(ask(model, "hi", max_tokens=1)).usage.output_tokens == 1


def test_models_of_the_same_file_and_options_share_one_engine(model: LlamaCppModel) -> None:
    asyncio.run(ask(model, "hi", max_tokens=1))
    same = LlamaCppModel(str(WEIGHTS))
    other = LlamaCppModel("smollm2-135m", options={"n_ctx": 256, "n_parallel": 1})
    assert same._shared_engine() is model._shared_engine()
    assert other._shared_engine() is not model._shared_engine()


def test_an_engine_that_nobody_holds_gives_its_memory_back() -> None:
    model = LlamaCppModel("smollm2-135m", options={"n_ctx": 128, "n_parallel": 1})
    asyncio.run(ask(model, "hi", max_tokens=1))
    options = model._load_options
    assert options in engine._engines
    asyncio.run(model.aclose())
    gc.collect()
    assert options not in engine._engines
    assert asyncio.run(ask(model, "hi", max_tokens=1)).text is not None


def test_options_of_the_request_come_from_the_options_of_the_model() -> None:
    options = {"n_ctx": 256, "n_parallel": 1, "n_threads": 1, "n_gpu_layers": 0, "max_tokens": 3}
    model = LlamaCppModel("smollm2-135m", options=options)
    answer = asyncio.run(ask(model, "Count", extra={"ignore_eos": True}))
    assert answer.usage.output_tokens == 3


def test_a_gguf_file_that_llamacpp_cannot_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    with WEIGHTS.open("rb") as whole:
        broken.write_bytes(whole.read(3_000_000))
    with pytest.raises(ModelError, match="cannot load") as caught:
        asyncio.run(ask(LlamaCppModel(str(broken))))
    assert not caught.value.retryable
