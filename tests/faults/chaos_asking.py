"""Asks in all ways that there are, and says what became of each request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, closing
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig

from cascade import Cascade, CascadeResult
from cascade.errors import ModelError
from cascade.events import Decided, Event, Provisional, Retracted, Token
from cascade.ledger import tagged
from tests.faults.chaos_leaks import Pulse
from tests.faults.chaos_plans import LEAVES, Plan
from tests.faults.chaos_verdicts import Outcome, judged, problem

LOOP = RunnableConfig(recursion_limit=40)
"""With this a run is LangGraph's."""

T = TypeVar("T")


@dataclass
class Screen:
    """What a reader of a stream sees.

    Attributes:
        pieces: of the text that stands there now; some replies are endless.
        results: that came.
        wrong: what must not happen on a screen.
    """

    pieces: list[str] = field(default_factory=list)
    results: list[CascadeResult] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def show(self, event: Event | CascadeResult) -> None:
        if self.results:
            self.wrong.append(problem("an event after the result", repr(event)))
        match event:
            case Token(text=text) | Provisional(text=text):
                self.pieces.append(text)
            case Retracted():
                self.pieces.clear()
            case CascadeResult():
                self.results.append(event)
                if self.text.strip() != event.answer.strip():
                    about = f"{self.text!r:.60} for {event.answer!r:.60}"
                    self.wrong.append(problem("another text on the screen than the answer", about))
            case Decided():
                pass

    @property
    def text(self) -> str:
        """What stands there now."""
        return "".join(self.pieces)

    def broke(self) -> None:
        """The stream ended with an error."""
        if self.text:
            about = f"{self.text!r:.80}"
            self.wrong.append(problem("words of an answer that failed stay on the screen", about))

    def ended(self) -> CascadeResult | None:
        """The stream ended by itself."""
        if len(self.results) != 1:
            self.wrong.append(problem("a stream without one result", str(len(self.results))))
            return None
        return self.results[0]


class LeftError(Exception):
    """The reader of a stream has left."""


class StoppedError(Exception):
    """Another question of the batch has failed."""


class Asker:
    """Carries out plans.

    Args:
        cascades: by set-up.
        pool: threads for synchronous callers.
        deadline_s: of every cascade.
        slack_s: beyond it, besides the time in which the process was behind.
    """

    def __init__(
        self,
        cascades: Mapping[str, Cascade],
        pool: Executor,
        pulse: Pulse,
        *,
        deadline_s: float,
        slack_s: float,
    ) -> None:
        self._cascades = cascades
        self._pool, self._pulse = pool, pulse
        self._deadline_s, self._slack_s = deadline_s, slack_s
        self._ways: dict[str, Callable[[Cascade, Plan, Screen], Awaitable[Any]]] = {
            "ainvoke": lambda cascade, plan, _: cascade.ainvoke(plan.questions[0]),
            "graph": lambda cascade, plan, _: cascade.ainvoke(plan.questions[0], LOOP),
            "verified": self._streamed,
            "optimistic": self._streamed,
            "left": self._streamed,
            "cancelled": lambda cascade, plan, _: self._cancelled(
                plan, cascade.ainvoke(plan.questions[0])
            ),
            "cancelled stream": lambda cascade, plan, screen: self._cancelled(
                plan, self._streamed(cascade, plan, screen)
            ),
            "timed": self._timed,
            "thread": self._in_thread,
            "thread stream": self._streamed_in_thread,
            "thread left": self._streamed_in_thread,
            "batch": self._batch,
            "strict batch": self._strict_batch,
        }

    async def ask(self, plan: Plan) -> list[Outcome]:
        """Do it; an outcome for each of its requests."""
        screen, cascade = Screen(), self._cascades[plan.setup]
        began, behind_s = time.monotonic(), self._pulse.behind_s
        with tagged(request=str(plan.number)):
            try:
                ending = await self._ways[plan.way](cascade, plan, screen)
            except BaseException as error:  # noqa: BLE001 - whatever comes is what is looked at
                ending = error
        took_s = time.monotonic() - began
        if isinstance(ending, Thread):
            ending, took_s = ending.ending, ending.took_s
        endings = ending if isinstance(ending, list) else [ending] * plan.n
        behind_s = self._pulse.behind_s - behind_s
        wrong = list(screen.wrong)
        if took_s > self._deadline_s + self._slack_s + behind_s:
            about = f"{took_s:.2f} s, {behind_s:.2f} s of them behind, {plan.setup}"
            wrong.append(problem("later than the deadline", about))
        return [judged(plan, one, took_s - behind_s, tuple(wrong)) for one in endings]

    async def _streamed(self, cascade: Cascade, plan: Plan, screen: Screen) -> object:
        show: Any = "verified" if plan.way == "verified" else "optimistic"
        events: AsyncGenerator[Event | CascadeResult] = cascade.astream(
            plan.questions[0], LOOP if plan.number % 4 == 0 else None, show=show
        )
        seen = 0
        async with aclosing(events):
            try:
                async for event in events:
                    screen.show(event)
                    seen += 1
                    if plan.way == "left" and seen > plan.leaves_after and not screen.results:
                        raise LeftError
            except Exception as error:
                if not isinstance(error, LeftError):
                    screen.broke()
                raise
        return screen.ended()

    async def _cancelled(self, plan: Plan, asking: Awaitable[T]) -> T:
        task = asyncio.ensure_future(asking)
        await asyncio.wait([task], timeout=plan.leaves_s)
        task.cancel()
        return await task

    async def _timed(self, cascade: Cascade, plan: Plan, screen: Screen) -> object:
        del screen
        async with asyncio.timeout(plan.leaves_s):
            return await cascade.ainvoke(plan.questions[0])

    async def _in_thread(self, cascade: Cascade, plan: Plan, screen: Screen) -> object:
        del screen
        return await self._run(partial(cascade.invoke, plan.questions[0]))

    async def _streamed_in_thread(self, cascade: Cascade, plan: Plan, screen: Screen) -> object:
        def read() -> object:
            with closing(cascade.stream(plan.questions[0], show="optimistic")) as events:
                try:
                    for seen, event in enumerate(events):
                        screen.show(event)
                        leaves = plan.way in LEAVES and seen >= plan.leaves_after
                        if leaves and not screen.results:
                            raise LeftError
                except Exception as error:
                    if not isinstance(error, LeftError):
                        screen.broke()
                    raise
            return screen.ended()

        return await self._run(read)

    async def _batch(self, cascade: Cascade, plan: Plan, screen: Screen) -> object:
        del screen
        if plan.number % 2:
            ask = partial(cascade.batch, plan.questions, return_exceptions=True)
            return await self._run(ask)
        return await cascade.abatch(plan.questions, return_exceptions=True)

    async def _strict_batch(self, cascade: Cascade, plan: Plan, screen: Screen) -> object:
        del screen
        try:
            return await cascade.abatch(plan.questions)
        except ModelError as error:
            return [error, *[StoppedError()] * (plan.n - 1)]

    async def _run(self, function: Callable[[], object]) -> Thread:
        """In a thread, which may be free only later: its time counts from then."""

        def run() -> Thread:
            began = time.monotonic()
            try:
                ending = function()
            except BaseException as error:  # noqa: BLE001 - whatever comes is what is looked at
                ending = error
            return Thread(ending, time.monotonic() - began)

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, copy_context().run, run)


@dataclass(frozen=True)
class Thread:
    """How a call in a thread ended."""

    ending: object
    took_s: float
