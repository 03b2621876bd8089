"""Asks the large model beside a draft, where it would be too late to ask it after the draft.

The call is a task that one node starts and another one takes. LangGraph keeps what nodes return,
not what is under way, so it is held here, out of the state, by the id of its run: a run that is
resumed elsewhere finds none and asks again. It ends with its run, whatever becomes of that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from cascade._portal import running_loop
from cascade.agents.base import Caller
from cascade.agents.border import may_ask
from cascade.agents.deadline import Deadline
from cascade.errors import ModelError
from cascade.models import Request
from cascade.state import Completion, Run
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future, Task, TimerHandle

logger = logging.getLogger("cascade")

IDLE_S = 1.0
"""A run that stands still between two nodes for so long has been given up, or waits for a person:
its hedge ends. Between two nodes there is a checkpoint to write, at most."""

RETRIED_S = 30.0
"""The same where a node is about to be tried again: longer than LangGraph waits before that."""

KEPT_BACK = 0.05
"""Of a deadline: so much of it is no time for a draft any more that has a call beside it."""

LAST_WORDS_S = 2.0
"""How long a node waits for a hedge that it has ended to close its connection and write its entry,
which takes milliseconds."""


def starts_in_s(
    left_s: float | None, usual_s: float | None, careful_s: float | None
) -> float | None:
    """Seconds until the large model has to be asked at the latest; None where it should not be.

    A draft that is decided about before then needs no hedge, and none is paid for.

    Args:
        left_s: until the deadline; None for no deadline.
        usual_s: how long the large model takes; None where it was never seen.
        careful_s: how long it takes at most, as good as always.
    """
    if left_s is None or usual_s is None or careful_s is None:
        return None
    if left_s <= usual_s:
        return None  # too late already: the answer would be paid for and not be there in time
    return max(0.0, left_s - max(usual_s, careful_s))


class Hedge:
    """A call of the large model that nobody needs yet.

    Args:
        wait_s: seconds until it is sent.
        send: sends it; receives this object, which says what becomes of its answer, and who
            listens to its text.
    """

    def __init__(
        self,
        wait_s: float,
        send: Callable[[Hedge, Callable[[str], None]], Awaitable[Completion]],
    ) -> None:
        self.sent_at: float | None = None
        self.arrived = False
        self.idle: TimerHandle | None = None
        self.loop: AbstractEventLoop = asyncio.get_running_loop()
        self._send = send
        self._heard: list[str] = []
        self._on_text: Callable[[str], None] | None = None
        self._used: Future[bool] = self.loop.create_future()
        self._task: Task[Completion] = self.loop.create_task(self._work(wait_s))
        self._task.add_done_callback(_look_at)

    async def _work(self, wait_s: float) -> Completion:
        await asyncio.sleep(wait_s)
        self.sent_at = time.perf_counter()
        return await self._send(self, self._hear)

    def _hear(self, text: str) -> None:
        if self._on_text is None:
            self._heard.append(text)
        else:
            self._on_text(text)

    @property
    def used(self) -> bool:
        """Whether its answer is the answer."""
        return self._used.done() and self._used.result()

    async def settled(self) -> None:
        """The answer is there; return once it is known whether it is used."""
        self.arrived = True
        await asyncio.shield(self._used)

    @property
    def worth_taking(self) -> bool:
        """Whether it was sent and has not failed."""
        if self.sent_at is None or self.loop is not asyncio.get_running_loop():
            return False
        return not self._task.done()

    async def answer(self, on_text: Callable[[str], None] | None) -> Completion:
        """Take it: its answer is the answer. What was heard so far is told at once.

        Raises:
            ModelError: the call failed.
        """
        if on_text is not None:
            for text in self._heard:
                on_text(text)
            self._on_text = on_text
        self._used.set_result(True)
        return await self._task

    def give_up(self) -> None:
        """Nobody needs it: what is under way is cancelled, what has arrived is booked."""
        if self.loop.is_closed():
            return
        if self.loop is not running_loop():
            self.loop.call_soon_threadsafe(self._give_up)
            return
        self._give_up()

    def _give_up(self) -> None:
        if not self._used.done():
            self._used.set_result(False)
        if not self.arrived:
            self._task.cancel()

    async def end(self) -> None:
        """Give it up and wait until its entry is in the ledger."""
        self.give_up()
        if self.loop is asyncio.get_running_loop():
            await asyncio.wait([self._task], timeout=LAST_WORDS_S)


def _look_at(task: Task[Completion]) -> None:
    """A failure is in the ledger; whoever took the call hears of it."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ModelError):
        logger.warning("a hedge failed: %r", error)


@dataclass(slots=True)
class Hedging:
    """The hedges that are under way, by the ids of their runs.

    Attributes:
        first_s: how long the large model is taken to need before it was seen; None hedges only
            once it was.
    """

    first_s: float | None = None
    _hedges: dict[str, Hedge] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self._hedges)

    def arm(
        self, run: Run, tier: OpenTier, request: Request, caller: Caller, *, streams: bool
    ) -> None:
        """Have the large model asked in time, once for each run.

        Args:
            run: whose deadline it is.
            tier: the large model.
            request: what it is asked.
            caller: asks it.
            streams: whether somebody will read its text while it arrives.
        """
        if run.id in self._hedges or not may_ask(run, tier):
            return
        deadline = caller.deadline
        usual, careful = deadline.expected_s(tier.name), deadline.careful_s(tier.name)
        if usual is None:
            usual = careful = self.first_s
        wait_s = starts_in_s(deadline.left_s(run), usual, careful)
        if wait_s is None:
            return

        async def send(held: Hedge, hear: Callable[[str], None]) -> Completion:
            on_text = hear if streams else None
            return await caller.ask(
                tier, request, "expert", run, is_baseline=True, on_text=on_text, held=held
            )

        self._hedges[run.id] = Hedge(wait_s, send)

    def needed_s(self, run: Run, usual_s: float | None) -> float | None:
        """How long the large model still takes, where it is at it already.

        Args:
            run: that would be escalated.
            usual_s: how long it takes from the beginning.
        """
        hedge = self._hedges.get(run.id)
        if hedge is None or usual_s is None or hedge.sent_at is None:
            return usual_s
        if hedge.arrived:
            return 0.0
        return max(0.0, usual_s - (time.perf_counter() - hedge.sent_at))

    def patience_s(self, run: Run, deadline: Deadline) -> float | None:
        """Seconds that a draft may take beside a hedge; None where it has none."""
        left_s = deadline.left_s(run)
        if left_s is None or deadline.seconds is None or run.id not in self._hedges:
            return None
        return max(0.0, left_s - KEPT_BACK * deadline.seconds)

    def is_at_it(self, run_id: str) -> bool:
        """Whether the large model was asked for a run and has not failed."""
        hedge = self._hedges.get(run_id)
        return hedge is not None and hedge.worth_taking

    def take(self, run_id: str) -> Hedge | None:
        """The call of a run whose answer is needed now; None where there is none to wait for."""
        hedge = self._pop(run_id)
        if hedge is None or hedge.worth_taking:
            return hedge
        hedge.give_up()
        return None

    async def drop(self, run_id: str) -> None:
        """End the call of a run that needs it no more; its entry is then in the ledger."""
        hedge = self._pop(run_id)
        if hedge is not None:
            await hedge.end()

    def release(self, run_ids: Iterable[str]) -> None:
        """End the calls of runs whose caller has gone, without waiting."""
        for run_id in run_ids:
            hedge = self._pop(run_id)
            if hedge is not None:
                hedge.give_up()

    async def around(
        self,
        run_id: str,
        work: Awaitable[Command[str]],
        is_retried: Callable[[Exception], bool],
    ) -> Command[str]:
        """Do the work of a node. A hedge survives it where its run goes on, and no longer.

        Args:
            run_id: of the run.
            work: of the node.
            is_retried: whether the node is tried again after an error.
        """
        self._stay(run_id)
        try:
            command = await work
        except BaseException as error:
            goes_on = isinstance(error, Exception) and not isinstance(error, GraphBubbleUp)
            if goes_on and is_retried(error):  # type: ignore[arg-type]
                self._leave(run_id, RETRIED_S)
            else:
                await self.drop(run_id)
            raise
        if command.goto == "__end__":
            await self.drop(run_id)
        else:
            self._leave(run_id, IDLE_S)
        return command

    def _stay(self, run_id: str) -> None:
        hedge = self._hedges.get(run_id)
        if hedge is not None and hedge.idle is not None:
            hedge.idle.cancel()
            hedge.idle = None

    def _leave(self, run_id: str, idle_s: float) -> None:
        hedge = self._hedges.get(run_id)
        if hedge is not None:
            hedge.idle = hedge.loop.call_later(idle_s, self.release, (run_id,))

    def _pop(self, run_id: str) -> Hedge | None:
        self._stay(run_id)
        return self._hedges.pop(run_id, None)
