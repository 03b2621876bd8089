"""Cascades of scripted models, asked by either driver."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, CascadeResult, MemoryLedger, Price, Tier
from cascade.testing import ScriptedModel

PRICE = Price(input=1, output=1)

both_drivers = pytest.mark.parametrize("driver", ["loop", "graph"])


def small(text: Any = "Canberra", p: float = 0.95, **options: Any) -> ScriptedModel:
    return ScriptedModel(text, name="small", logprobs=p, **options)


def large(text: Any = "Canberra", **options: Any) -> ScriptedModel:
    return ScriptedModel(text, name="large", **options)


def pair(drafts: Any = None, answers: Any = None, price: Any = PRICE, **options: Any) -> Cascade:
    """A cascade of two models with a price; drafts are accepted unless they say otherwise."""
    first, last = drafts or small(), answers or large()
    return Cascade(Tier(first, price=price), Tier(last, price=price), **options)


async def ask(made: Cascade, question: Any, driver: str = "loop", **settings: Any) -> CascadeResult:
    if driver == "loop":
        return await made.ainvoke(question, **settings)
    messages = [HumanMessage(question)] if isinstance(question, str) else list(question)
    given: Any = {"messages": messages, "settings": settings or None}
    return made.read(await made.graph.ainvoke(given))


def of(ledger: MemoryLedger, node: str) -> list[Any]:
    return [entry for entry in ledger.entries if entry.node == node]


def losses(ledger: MemoryLedger, node: str = "audit") -> list[float | None]:
    """Of results: entries of calls have none."""
    return [entry.loss for entry in of(ledger, node) if entry.model is None and not entry.decision]


def questions(model: ScriptedModel) -> list[str]:
    return [str(request.messages[-1].text) for request in model.requests]
