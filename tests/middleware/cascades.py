"""Cascades of scripted models, asked by either driver."""

from __future__ import annotations

import math
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from cascade import Cascade, CascadeResult, MemoryLedger, Price, Tier
from cascade.models.base import Request
from cascade.state import Completion
from cascade.testing import ScriptedModel
from cascade.testing.scripted import reply

PRICE = Price(input=1, output=1)

both_drivers = pytest.mark.parametrize("driver", ["loop", "graph"])


def small(text: str = "Canberra", p: float = 0.95, **options: Any) -> ScriptedModel:
    return ScriptedModel(text, name="small", logprobs=p, **options)


def large(text: str = "Canberra", **options: Any) -> ScriptedModel:
    return ScriptedModel(text, name="large", **options)


def pair(
    drafts: Any = None, answers: Any = None, *, price: Price | None = PRICE, **options: Any
) -> Cascade:
    """A cascade of two models with a price; drafts are accepted unless they say otherwise."""
    first, last = drafts or small(), answers or large()
    return Cascade(Tier(first, price=price), Tier(last, price=price), **options)


async def ask(
    cascade: Cascade, question: Any, driver: str = "loop", **settings: Any
) -> CascadeResult:
    if driver == "loop":
        return await cascade.ainvoke(question, **settings)
    messages = [HumanMessage(question)] if isinstance(question, str) else list(question)
    given: Any = {"messages": messages, "settings": settings or None}
    return cascade.read(await cascade.graph.ainvoke(given))


def of(ledger: MemoryLedger, node: str) -> list[Any]:
    return [entry for entry in ledger.entries if entry.node == node]


def losses(ledger: MemoryLedger, node: str = "audit") -> list[float | None]:
    """Of results: entries of calls have none."""
    return [entry.loss for entry in of(ledger, node) if entry.model is None and not entry.decision]


def questions(model: ScriptedModel) -> list[str]:
    return [str(request.messages[-1].text) for request in model.requests]


def doubtful(answer: str, unsure: str) -> Any:
    """Answers of a small model that doubts questions with a word in them."""

    def draft(request: Request) -> Completion:
        doubts = unsure in str(request.messages[-1].text)
        return reply(answer, probability=0.3 if doubts else 0.95)

    return draft


def geometric(*probabilities: float) -> float:
    return math.exp(sum(map(math.log, probabilities)) / len(probabilities))
