"""The embedded model, live in this process."""

from __future__ import annotations

import asyncio
import gc
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade import errors
from cascade._portal import run_sync
from cascade.models import llamacpp, open_model
from cascade.models.llamacpp import LlamaCppModel, find_weights
from tests.models.asking import ASKING, ask, ask_in_pieces, question, score

pytest.importorskip("xllamacpp", reason='in a clone, pip install ".[llamacpp]"')
try:
    WEIGHTS = find_weights("smollm2-135m")
except errors.ModelNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.live

LONG: dict[str, Any] = {"max_tokens": 1500, "temperature": 0, "extra": {"ignore_eos": True}}
SHORT: dict[str, Any] = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def embedded() -> Iterator[LlamaCppModel]:
    model = open_model("llamacpp:smollm2-135m", options={"n_parallel": 2})
    assert isinstance(model, LlamaCppModel)
    yield model
    run_sync(model.aclose())


async def test_logprobs_spell_the_answer(embedded: LlamaCppModel) -> None:
    answer = await ask(embedded, logprobs=True, top_logprobs=3, **SHORT)
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs).strip() == answer.text.strip()
    assert all(len(token.top) == 3 and token.logprob <= 0 for token in answer.logprobs)
    assert answer.usage.output_tokens == 8
    assert answer.busy_ms is not None
    assert 0 < answer.busy_ms <= answer.latency_ms


async def test_a_stream_equals_the_plain_answer(embedded: LlamaCppModel) -> None:
    plain = await ask(embedded, "Say hello.", logprobs=True, **SHORT)
    pieces, streamed = await ask_in_pieces(embedded, "Say hello.", logprobs=True, **SHORT)
    assert "".join(pieces) == streamed.text == plain.text
    assert len(pieces) > 1
    assert [t.token for t in streamed.logprobs or ()] == [t.token for t in plain.logprobs or ()]


@pytest.mark.parametrize("asking", ASKING)
async def test_a_prompt_that_is_too_long(asking: Any, embedded: LlamaCppModel) -> None:
    with pytest.raises(errors.ContextLengthError) as caught:
        await asking(embedded, "word " * 3000)
    assert caught.value.billed is False


async def test_the_score_of_its_own_answer_is_what_it_was_written_with(
    embedded: LlamaCppModel,
) -> None:
    answer = await ask(embedded, logprobs=True, **SHORT)
    scored = await score(embedded, answer.text)
    assert [logprob for _, logprob in scored or ()] == pytest.approx(
        [t.logprob for t in answer.logprobs or ()], abs=0.05
    )


async def test_what_cannot_be_scored_has_no_score(embedded: LlamaCppModel) -> None:
    assert await score(embedded, "") is None
    with pytest.raises(errors.UnsupportedContentError, match="several tokens"):
        await score(embedded, "🏛")


async def test_the_loopback_listener_demands_the_key(embedded: LlamaCppModel) -> None:
    await embedded.warm()
    assert embedded._engine is not None
    address = embedded._engine.address

    def status(path: str, data: bytes | None = None) -> int:
        try:
            with urllib.request.urlopen(address + path, data, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert await asyncio.to_thread(status, "/v1/models?x") == 401
    assert await asyncio.to_thread(status, "/v1/chat/completions", b'{"messages": []}') == 401


# Leaving


async def test_cancelling_stops_the_computation(embedded: LlamaCppModel) -> None:
    begun = asyncio.Semaphore(0)

    async def count() -> None:
        async for _ in embedded.stream(question("Count", **LONG)):
            begun.release()

    tasks = [asyncio.create_task(count()) for _ in range(2)]
    started = time.perf_counter()
    for _ in range(50):
        await begun.acquire()
    fifty_tokens_s = time.perf_counter() - started
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    started = time.perf_counter()
    await ask(embedded, "hi", max_tokens=1)
    assert time.perf_counter() - started < 20 * fifty_tokens_s, "the slots are still computing"


# Sharing


def test_an_engine_that_is_not_used_gives_its_memory_back() -> None:
    options = {"n_ctx": 128, "n_parallel": 1, "n_threads": 1, "n_gpu_layers": 0, "max_tokens": 3}
    model = LlamaCppModel("smollm2-135m", options=options)
    answer = asyncio.run(ask(model, "Count", extra={"ignore_eos": True}))
    assert answer.usage.output_tokens == 3, "options that do not load go with each request"
    assert model._loading in llamacpp._engines
    run_sync(model.aclose())
    gc.collect()
    assert model._loading not in llamacpp._engines


async def test_the_digest_is_that_of_the_weights_which_are_shared(embedded: LlamaCppModel) -> None:
    sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert await embedded.digest() == sha256
    other = LlamaCppModel(str(WEIGHTS), options={"n_parallel": 2})
    await other.warm()
    assert other._engine is embedded._engine is not None


def test_a_file_that_llamacpp_cannot_load(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    with WEIGHTS.open("rb") as whole:
        broken.write_bytes(whole.read(3_000_000))
    with pytest.raises(errors.ModelError, match="cannot load") as caught:
        asyncio.run(ask(LlamaCppModel(str(broken))))
    assert not caught.value.retryable
