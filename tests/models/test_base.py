"""What all models have in common: times, pieces, scores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from cascade.errors import UnsupportedContentError
from cascade.models import Chunk, Model, Request
from cascade.state import Completion
from tests.models.asking import ask, ask_in_pieces, question


class Made(Model):
    """A model of a user's own."""

    provider, model = "made", "here"

    def __init__(self, busy_ms: float | None = None, latency_ms: float = 0.0) -> None:
        self.answer = Completion("Paris", "here", busy_ms=busy_ms, latency_ms=latency_ms)

    async def _complete(self, request: Request) -> Completion:
        return self.answer


async def test_a_model_needs_no_more_than_a_way_to_answer() -> None:
    model = Made()
    assert (await ask(model)).text == "Paris"
    pieces, answer = await ask_in_pieces(model)
    assert (pieces, answer.text) == (["Paris"], "Paris")
    assert (model.name, model.secrets, await model.digest()) == ("made:here", (), None)
    await model.warm()


@pytest.mark.parametrize(("said", "known"), [(None, None), (0.5, 0.5), (10.0**6, None)])
async def test_a_server_that_computed_longer_than_was_waited_for_did_not_measure(
    said: float | None, known: float | None
) -> None:
    answer = await ask(Made(busy_ms=said))
    assert answer.busy_ms == known
    assert 0 < answer.latency_ms < 1000
    recorded = await ask(Made(busy_ms=10.0**6, latency_ms=5.0))
    assert (recorded.latency_ms, recorded.busy_ms) == (5.0, 10.0**6), "a recorded time stays"


async def test_the_pieces_of_a_stream_may_be_taken_in_several_tasks() -> None:
    class Words(Made):
        async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
            yield Chunk("Par")
            yield Chunk("is")
            yield Chunk(completion=self.answer)

    answering = Words().stream(question(timeout_s=10))
    first = await asyncio.create_task(anext(answering))
    second = await asyncio.create_task(anext(answering))
    assert (first.text, second.text) == ("Par", "is")
    await answering.aclose()


async def test_a_model_that_cannot_score_is_not_asked_to_write_instead() -> None:
    with pytest.raises(UnsupportedContentError, match="made:here cannot score"):
        await Made().complete(question(answer="Paris"))
