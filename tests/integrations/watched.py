"""Cascades with scripted models, and ways to run one question through them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langgraph.types import RetryPolicy

from cascade import Cascade, Price, Tier
from cascade.errors import ModelUnavailableError
from cascade.graph import is_retryable
from cascade.testing import ScriptedModel, reply

QUESTION = "Capital of Australia?"
CHEAP, DEAR = Price(input="1", output="2"), Price(input="10", output="20")
QUICKLY = RetryPolicy(initial_interval=0.001, max_attempts=3, retry_on=is_retryable)


def down(name: str = "large") -> ModelUnavailableError:
    return ModelUnavailableError("the server is down.", model=name, billed=False)


def small(probability: float = 0.95, text: str = "Canberra", **options: Any) -> ScriptedModel:
    return ScriptedModel([reply(text, probability=probability)], name="small-1", **options)


def large(text: str = "Canberra, ACT", **options: Any) -> ScriptedModel:
    return ScriptedModel([reply(text, model="large-1-2026")], name="large-1", **options)


def watched(*observers: Any, sure: bool = True, **options: Any) -> Cascade:
    first = options.pop("first", None) or small(0.95 if sure else 0.3)
    second = options.pop("second", None) or large()
    return Cascade(
        Tier(first, price=CHEAP, max_tokens=64),
        Tier(second, price=DEAR),
        observers=observers,
        retry_policy=QUICKLY,
        **{"resilience": None} | options,
    )


async def _ainvoke(cascade: Cascade) -> None:
    await cascade.ainvoke(QUESTION)


async def _invoke(cascade: Cascade) -> None:
    cascade.invoke(QUESTION)


async def _astream(cascade: Cascade) -> None:
    async for _ in cascade.astream(QUESTION):
        pass


async def _stream(cascade: Cascade) -> None:
    for _ in cascade.stream(QUESTION):
        pass


async def _abatch(cascade: Cascade) -> None:
    await cascade.abatch([QUESTION])


async def _graph(cascade: Cascade) -> None:
    await cascade.graph.ainvoke({"messages": [("user", QUESTION)]})  # type: ignore[typeddict-item]


async def _graph_sync(cascade: Cascade) -> None:
    cascade.graph.invoke({"messages": [("user", QUESTION)]})  # type: ignore[typeddict-item]


WAYS: dict[str, Callable[[Cascade], Awaitable[None]]] = {
    "ainvoke": _ainvoke,
    "invoke": _invoke,
    "astream": _astream,
    "stream": _stream,
    "abatch": _abatch,
    "graph.ainvoke": _graph,
    "graph.invoke": _graph_sync,
}
