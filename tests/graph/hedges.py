"""A cascade whose models wait until a test lets them go on, and whose large one is asked early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from cascade import Cascade, Price, Tier
from cascade.agents.hedging import Hedging
from cascade.ledger import MemoryLedger
from cascade.models import Chunk, Model, Request
from cascade.state import Completion, LedgerEntry
from cascade.testing import reply

SURE, UNSURE = 0.95, 0.3
LONG, SPARE = 3600.0, 0.2
"""A deadline that no test reaches, and what it leaves beside the large model's time."""


class Paused(Model):
    """Answers, or fails, once it is let go on."""

    provider = "paused"
    real = False
    returns_logprobs = True

    def __init__(self, name: str, answer: Completion | Exception, *, local: bool = True) -> None:
        self.model, self.local = name, local
        self.answer = answer
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.requests: list[Request] = []
        self.cancelled = 0

    async def _complete(self, request: Request) -> Completion:
        self.requests.append(request)
        self.asked.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def _stream(self, request: Request) -> AsyncGenerator[Chunk]:
        completion = await self._complete(request)
        for word in completion.text.split():
            yield Chunk(f"{word} ")
        yield Chunk(completion=completion)


def hedging_of(cascade: Cascade) -> Hedging:
    assert cascade._hedging is not None
    return cascade._hedging


class House:
    """A cascade whose models wait; the large one is expected to need nearly all of the time."""

    def __init__(
        self,
        confidence: float = UNSURE,
        *,
        draft: Completion | Exception | None = None,
        large: Completion | Exception | None = None,
        expected_s: float = LONG - SPARE,
        large_local: bool = True,
        **options: Any,
    ) -> None:
        self.small = Paused("small", draft or reply("draft", probability=confidence))
        answer = large or reply("the large answer", output_tokens=50)
        self.large = Paused("large", answer, local=large_local)
        self.ledger = MemoryLedger()
        self.cascade = Cascade(
            Tier(self.small, price=Price(input=1, output=1)),
            Tier(self.large, price=Price(input=10, output=10)),
            deadline=LONG,
            hedge=expected_s,
            ledger=self.ledger,
            **options,
        )

    @property
    def hedging(self) -> Hedging:
        return hedging_of(self.cascade)

    async def both_asked(self) -> None:
        async with asyncio.timeout(10):
            await self.small.asked.wait()
            await self.large.asked.wait()

    @property
    def calls(self) -> list[tuple[str, str]]:
        return [(e.node, e.outcome) for e in self.ledger.entries if e.model is not None]

    def entry(self, node: str) -> LedgerEntry:
        return next(e for e in self.ledger.entries if e.node == node)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


async def no_task_is_left() -> None:
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
