"""A clock that a test turns, and servers that fail when it says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cascade import Cascade
from cascade.errors import ModelUnavailableError
from cascade.models import Request
from cascade.resilience import Doors, Resilience
from cascade.state import Completion
from cascade.testing import ScriptedModel, reply


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
