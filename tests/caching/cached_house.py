"""A cascade with a cache of answers, and a cache of a stranger's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.cache.base import BaseCache
from langgraph.cache.memory import InMemoryCache

from cascade import Cascade, Decision, MemoryLedger, Price, Tier
from cascade.errors import ModelUnavailableError
from cascade.graph import DEFAULT_RETRY
from cascade.testing import ScriptedModel, reply

DOWN = ModelUnavailableError("down", model="m", billed=False)
ONCE = DEFAULT_RETRY._replace(max_attempts=1)


class House:
    """A cascade with prices and a cache, whose calls can be counted."""

    def __init__(self, probability: float = 0.97, **options: Any) -> None:
        self.small = ScriptedModel(
            lambda request: reply(
                f"small: {request.messages[-1].text}", probability=probability, input_tokens=10
            ),
            name="small",
            returns_logprobs=True,
        )
        self.large = ScriptedModel(
            lambda request: reply(f"large: {request.messages[-1].text}"),
            name="large",
            local=options.pop("large_is_local", True),
        )
        self.ledger = MemoryLedger()
        options = {"cache": InMemoryCache(), "ledger": self.ledger, **options}
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=10, output=10)),
            retry_policy=ONCE,
            **options,
        )

    @property
    def calls(self) -> int:
        return len(self.small.requests) + len(self.large.requests)


class Spy(BaseCache[Any]):
    """A cache of a stranger's that says what it was asked, and can fail."""

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.held: dict[Any, Any] = {}
        self.written: list[Any] = []
        self.read: list[Any] = []
        self.failing = failing

    async def aget(self, keys: Sequence[Any]) -> dict[Any, Any]:
        self.read += keys
        if self.failing == "hang":
            await asyncio.Event().wait()
        if self.failing == "read":
            raise ConnectionError("no cache there")
        return {key: self.held[key] for key in keys if key in self.held}

    async def aset(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        if self.failing == "hang":
            await asyncio.Event().wait()
        if self.failing == "write":
            raise ConnectionError("no cache there")
        self.written += pairs.items()
        self.held |= {key: value for key, (value, _) in pairs.items()}

    def get(self, keys: Sequence[Any]) -> dict[Any, Any]:
        raise AssertionError(f"asked synchronously for {keys}")

    def set(self, pairs: Mapping[Any, tuple[Any, int | None]]) -> None:
        raise AssertionError(f"asked synchronously to keep {pairs}")

    def clear(self, namespaces: Sequence[Any] | None = None) -> None:
        del namespaces
        self.held.clear()

    async def aclear(self, namespaces: Sequence[Any] | None = None) -> None:
        self.clear(namespaces)


class Says:
    """A policy that always says the same."""

    def __init__(self, action: Any) -> None:
        self._action = action

    def decide(self, situation: Any) -> Decision:
        del situation
        return Decision(action=self._action, reason="says so")
