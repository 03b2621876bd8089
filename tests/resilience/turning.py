"""A clock that a test turns, and servers that fail when it says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig

from cascade import Cascade
from cascade.agents.deadline import ANSWER_BY
from cascade.errors import ModelUnavailableError
from cascade.ledger import LedgerView
from cascade.models import Request
from cascade.resilience import Breaker, Doors, Resilience
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply

ONE_TRY = Resilience(retries=None, breaker=Breaker(in_a_row=3), bulkhead=None)
ONLY_RETRIES = Resilience(breaker=None, bulkhead=None)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server(ScriptedModel):
    """A large model that is well, or fails, as its `error` says."""

    def __init__(self, error: Callable[[], Exception] | None = None, **options: Any) -> None:
        super().__init__(self._say, name="large", **options)
        self.error = error

    def _say(self, request: Request) -> Completion | Exception:
        del request
        return reply("Canberra") if self.error is None else self.error()

    @property
    def calls(self) -> int:
        """Requests that have reached it."""
        return len(self.requests)


def down() -> ModelUnavailableError:
    """Nobody listens."""
    return ModelUnavailableError("nobody listens.", model="scripted:large", billed=False)


def doubtful() -> ScriptedModel:
    """A small model whose drafts are escalated."""
    return ScriptedModel([reply("Sydney", probability=0.3)], name="small")


def house(
    large: ScriptedModel, resilience: Resilience, clock: Clock | None = None, **options: Any
) -> Cascade:
    """A cascade whose breaker goes by this clock, and which never waits before a retry."""
    doors = Doors(resilience, clock=clock or Clock(), draw=lambda: 0.0)
    return Cascade(doubtful(), large, resilience=doors, **options)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for 30 seconds at most."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


def waits_for(seconds: float) -> RunnableConfig:
    """Of a question whose caller waits so long."""
    return RunnableConfig(configurable={ANSWER_BY: time.time() + seconds})


def outcomes(ledger: LedgerView, node: str = "expert") -> list[str]:
    """How the calls of a node ended."""
    return [entry.outcome for entry in ledger if entry.node == node]
