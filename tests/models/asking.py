"""Short ways to ask a model in tests."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from langchain_core.messages import HumanMessage

from cascade.models import Model, Request
from cascade.state import Completion


def question(text: str = "Capital of France?", **settings: Any) -> Request:
    return Request((HumanMessage(text),), **settings)


async def ask(model: Model, text: str = "Capital of France?", **settings: Any) -> Completion:
    return await model.complete(question(text, **settings))


async def ask_in_pieces(
    model: Model, text: str = "Capital of France?", **settings: Any
) -> tuple[list[str], Completion]:
    """The pieces that were streamed, and the completion of the last chunk."""
    pieces, completion = [], None
    async with aclosing(model.stream(question(text, **settings))) as chunks:
        async for chunk in chunks:
            if chunk.text:
                pieces.append(chunk.text)
            completion = chunk.completion
    assert completion is not None
    return pieces, completion


async def ask_by_stream(
    model: Model, text: str = "Capital of France?", **settings: Any
) -> Completion:
    return (await ask_in_pieces(model, text, **settings))[1]


def tokens(*spelled: str, logprob: object = -0.5) -> list[dict[str, object]]:
    """Tokens with their log-probabilities as providers send them."""
    return [{"token": token, "logprob": logprob} for token in spelled]


async def score(
    model: Model, answer: str, text: str = "Capital of France?", **settings: Any
) -> list[tuple[str, float]] | None:
    """The tokens of a given answer with their log-probabilities."""
    scored = await ask(model, text, answer=answer, logprobs=True, **settings)
    tokens = scored.logprobs
    return None if tokens is None else [(token.token, token.logprob) for token in tokens]


ASKING = [ask, ask_by_stream]
"""Both ways to ask."""
