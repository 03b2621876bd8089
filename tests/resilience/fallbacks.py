"""A cascade whose large model is down, with an order of steps for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import HumanMessage

from cascade import Cascade, CascadeResult, MemoryLedger, Price, Tier
from cascade.errors import AuthenticationError, ModelError, ModelUnavailableError
from cascade.events import Provisional, Retracted, Token
from cascade.graph import DEFAULT_RETRY
from cascade.state import Completion, LedgerEntry
from cascade.testing import ScriptedModel, reply

FAST = DEFAULT_RETRY._replace(initial_interval=0.0, jitter=False)
ONCE = FAST._replace(max_attempts=1)
DOUBTFUL = reply("Sydney", probability=0.3)
QUESTION: Any = {"messages": [HumanMessage("The capital of Australia?")]}


def down(name: str = "large") -> ModelUnavailableError:
    """A new error each time: one that is raised twice collects the notes of both."""
    return ModelUnavailableError(f"{name} is down", model=f"scripted:{name}", billed=False)


def wrong_key() -> AuthenticationError:
    return AuthenticationError("wrong key", model="scripted:large", status=401)


def model(name: str, *failures: Exception, answer: str = "Canberra") -> ScriptedModel:
    return ScriptedModel([answer], name=name, failures=failures)


class House:
    """A small model that is not sure, and a large one that fails so often before it answers.

    Args:
        fallback: the order.
        failures: of the large model, each once.
        draft: what the small model says.
        options: of the cascade.
    """

    def __init__(
        self,
        fallback: Any,
        failures: Sequence[ModelError] | None = None,
        draft: Completion | Exception = DOUBTFUL,
        **options: Any,
    ) -> None:
        self.store = MemoryLedger()
        self.small = ScriptedModel([draft], name="small", returns_logprobs=True)
        failing = [down() for _ in range(50)] if failures is None else failures
        self.large = ScriptedModel(["the large answer"], name="large", failures=failing)
        given = {"retry_policy": ONCE, "ledger": self.store, "resilience": None, **options}
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=100, output=100)),
            fallback=fallback,
            **given,
        )

    async def ask(self) -> CascadeResult:
        return await self.cascade.ainvoke("The capital of Australia?")

    async def watch(self, show: Any = "verified") -> tuple[str, CascadeResult]:
        """What the reader of a stream has before him at its end, and the result."""
        seen = ""
        events = [event async for event in self.cascade.astream("The capital?", show=show)]
        for event in events[:-1]:
            if isinstance(event, Token | Provisional):
                seen += event.text
            elif isinstance(event, Retracted):
                seen = ""
        result = events[-1]
        assert isinstance(result, CascadeResult)
        return seen, result

    def entries(self, node: str) -> list[LedgerEntry]:
        return [entry for entry in self.store.entries if entry.node == node]


def other(*failures: Exception, price: float | None = 100, name: str = "other") -> Tier:
    """Another large model."""
    stand_in = model(name, *failures)
    each = None if price is None else Price(input=price, output=price)
    return Tier(stand_in, name=name, price=each)


def asked(tier: Tier) -> int:
    """How often the model of a tier was asked."""
    assert isinstance(tier.model, ScriptedModel)
    return len(tier.model.requests)
