"""Short ways to ask a model in tests."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage

from cascade.models.base import Model, Request
from cascade.state import Completion


def question(text: str = "Capital of France?", **settings: Any) -> Request:
    return Request((HumanMessage(text),), **settings)


async def ask(model: Model, text: str = "Capital of France?", **settings: Any) -> Completion:
    return await model.complete(question(text, **settings))


async def ask_in_pieces(
    model: Model, text: str = "Capital of France?", **settings: Any
) -> tuple[list[str], Completion | None]:
    """The pieces that were streamed, and the completion of the last chunk."""
    pieces, completion = [], None
    async for chunk in model.stream(question(text, **settings)):
        if chunk.text:
            pieces.append(chunk.text)
        completion = chunk.completion
    return pieces, completion
