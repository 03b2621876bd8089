"""Takes the steps of a fallback for one question, in order, until one of them leads on.

All of it happens in the expert's node: a node that has failed can be resumed, and then the large
model is asked first again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from langgraph._internal._constants import (
    CONFIG_KEY_CHECKPOINTER,  # a node has no other way to know of it
)
from langgraph.config import get_config
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, Caller, Task, current_run, finished
from cascade.agents.border import STAYS, mark, may_ask
from cascade.agents.entries import free_entry
from cascade.agents.fallback import Fallback, Opened, Waiting, may_pass
from cascade.agents.moves import accept
from cascade.agents.outlook import Outlook
from cascade.agents.person import CAN_ASK
from cascade.agents.showing import Telling, details, shows_answers
from cascade.agents.steps import told
from cascade.errors import ModelError, NotSentError, RateLimitError
from cascade.events import Token
from cascade.ledger.runs import FALLBACK, STAND_IN
from cascade.state import CascadeState, Completion, Decision, Draft, Run, StateUpdate
from cascade.tiers import OpenTier

logger = logging.getLogger("cascade")

Again = Callable[[ModelError, int], float | None]
"""Seconds to wait after a failed attempt before the next; None for no other."""

Retry = Callable[[], Awaitable[Callable[[CascadeState], StateUpdate]]]
"""Asks the large model once more; returns what its answer changes in a state."""


@dataclass(frozen=True, slots=True)
class Falling:
    """What all questions of a graph have in common whose large model cannot be had.

    Args:
        order: the steps.
        tiers: of the cascade, from small to large; the last one cannot be had.
        caller: asks the others.
        task: of every question.
        outlook: knows what the large model would have cost.
        again: when a failed call of another large model is repeated.
    """

    order: Fallback
    tiers: tuple[OpenTier, ...]
    caller: Caller
    task: Task
    outlook: Outlook
    again: Again

    @property
    def large(self) -> OpenTier:
        """The model that cannot be had."""
        return self.tiers[-1]

    async def land(
        self,
        state: CascadeState,
        runtime: AgentRuntime,
        failure: ModelError,
        retry: Retry,
        undrafted: Command[str] | None = None,
    ) -> Command[str]:
        """The way on of a question.

        Args:
            state: of the run.
            runtime: of its node.
            failure: of the large model.
            retry: asks it once more.
            undrafted: the way to a draft, where none was made on purpose.

        Raises:
            ModelError: the large model's, where no step led on.
        """
        fall = _Fall(self, state, runtime, failure, retry, undrafted)
        for step in self.order.steps:
            if step == "fail":
                break
            command = await fall.take(step)
            if command is not None:
                return command
        if fall.trail:
            failure.add_note(f"fallback: {'; '.join(fall.trail)}")
        raise failure


@dataclass(slots=True)
class _Fall:
    """One question on its way down."""

    common: Falling
    state: CascadeState
    runtime: AgentRuntime
    failure: ModelError
    retry: Retry
    undrafted: Command[str] | None
    trail: list[str] = field(default_factory=list)

    async def take(self, step: Opened) -> Command[str] | None:
        """What a step leads to; None where it leads nowhere, which the trail then says."""
        if isinstance(step, OpenTier):
            return await self._stand_in(step)
        if isinstance(step, Waiting):
            return await self._wait(step)
        return self._draft() if step == "draft" else self._person()

    @property
    def run(self) -> Run:
        return current_run(self.state, self.runtime)

    # --- another large model ---------------------------------------------------------------------

    async def _stand_in(self, tier: OpenTier) -> Command[str] | None:
        run, common = self.run, self.common
        if not may_ask(run, tier):
            self._in_vain(f"{tier.name} {STAYS}")
            return None
        try:
            completion = await self._ask(tier, run)
        except ModelError as error:
            self._in_vain(f"{tier.name} failed: {error}")
            return None
        self.trail.append(f"{tier.name} answered instead")
        taken = common.caller.recorder.take(run.id)
        cost = taken[-1].cost_usd  # of its answer, which was the last to be booked
        note = f"{tier.name} answered instead of {common.large.name}, which failed"
        earned = common.outlook.stood_in(completion, cost, self.state["messages"])
        self._record(run, STAND_IN, tier.name, note, earned)
        made = completion.to_message(tier.name)
        # Of the tiers that draft: that the large one failed warms no prompt cache.
        *before, last = run.asked or (common.large.name,)
        step = told(replace(run, asked=tuple(before)), last, degraded=True)
        made.response_metadata |= details(completion) | mark(run) | step
        update: StateUpdate = {
            "run": finished(run),
            "messages": [made],
            "decision": self._decision(),
            "degraded": True,
            "ledger": taken,
        }
        return self._end(run, update)

    async def _ask(self, tier: OpenTier, run: Run) -> Completion:
        """Ask another large model, as often as a node would.

        Raises:
            ModelError: it failed each time.
        """
        common, attempt = self.common, 1
        request = common.task.request(tier, self.state["messages"])
        while True:
            telling = Telling(self.runtime, tier.name)
            try:
                completion = await common.caller.ask(
                    tier, request, "expert", run, attempt=attempt, on_text=telling.on_text
                )
            except ModelError as error:
                telling.broke_off(error)
                pause_s = common.again(error, attempt)
                if pause_s is None:
                    raise
            else:
                telling.answered(completion.text)
                return completion
            await asyncio.sleep(pause_s)
            attempt += 1

    # --- the large model itself, later -----------------------------------------------------------

    async def _wait(self, waiting: Waiting) -> Command[str] | None:
        large = self.common.large.name
        if not may_pass(self.failure):
            self._in_vain(f"waiting for {large} would not help")
            return None
        left_s = self._patience_s(waiting)
        if left_s <= 0:
            self._in_vain(f"there is no time to wait for {large}")
            return None
        with waiting.place() as free:
            if not free:
                self._in_vain(f"{waiting.queue.most} wait for {large} already")
                return None
            begun = time.monotonic()
            answered = await self._until_back(waiting, begun, begun + left_s)
            waited_s = time.monotonic() - begun
        if answered is None:
            self._in_vain(f"{large} was not back after {waited_s:.1f} s: {self.failure}")
            return None
        self.trail.append(f"{large} was back after {waited_s:.1f} s")
        run, decision = self.run, self._decision()
        note = f"{large} failed and was back after {waited_s:.1f} s"
        self._record(run, "queue", large, note, seconds=waited_s)
        told_so: CascadeState = {**self.state, "decision": decision}
        return self._end(run, {"decision": decision} | answered(told_so))

    def _patience_s(self, waiting: Waiting) -> float:
        """How long to wait: what was said, and no longer than an answer is in time afterwards."""
        deadline = self.common.caller.deadline
        left_s = deadline.left_s(self.run)
        if left_s is not None:
            left_s -= deadline.expected_s(self.common.large.name) or 0.0
        limits = [each for each in (waiting.queue.seconds, left_s) if each is not None]
        return max(0.0, min(limits))

    async def _until_back(
        self, waiting: Waiting, begun: float, ends: float
    ) -> Callable[[CascadeState], StateUpdate] | None:
        """What the large model's answer changes; None where it was not back in time."""
        since = begun
        while True:
            left_s = ends - time.monotonic()
            await asyncio.sleep(max(0.0, min(left_s, self._pause_s(waiting))))
            with waiting.turn(since) as mine:
                try:
                    answered = await self.retry() if mine else None
                except ModelError as error:
                    answered, self.failure, since = None, error, time.monotonic()
            if answered is not None:
                waiting.is_back()
                return answered
            if not may_pass(self.failure) or time.monotonic() >= ends:
                return None

    def _pause_s(self, waiting: Waiting) -> float:
        """Until the next try: as long as the provider or the circuit breaker says, if it does."""
        error = self.failure
        wanted = error.retry_after if isinstance(error, RateLimitError) else None
        wanted = error.ready_in_s if isinstance(error, NotSentError) else wanted
        return wanted or waiting.queue.every

    # --- the draft, and a person -----------------------------------------------------------------

    def _draft(self) -> Command[str] | None:
        draft = self._usable()
        if draft is None:
            return self.undrafted
        logger.warning("%s failed, the draft is returned: %s", self.common.large.name, self.failure)
        run, decision = self.run, self._decision()
        if shows_answers():
            self.runtime.stream_writer(Token(draft.completion.text, draft.tier))
        note = f"the draft of {draft.tier} is the answer, as {self.common.large.name} failed"
        self._record(run, "draft", self.common.large.name, note)
        return self._end(run, accept(run, draft, decision, degraded=True))

    def _usable(self, *, withheld: bool = False) -> Draft | None:
        """The draft, where it could be an answer; or at least be shown to a person."""
        draft, assessment = self.state.get("draft"), self.state.get("assessment")
        if draft is None:
            self._in_vain("there is no draft")
            return None
        objection = None if assessment is None else assessment.objection
        if assessment is None or objection is None or (withheld and assessment.withheld):
            return draft
        self._in_vain(f"the draft is ruled out: {objection}")
        return None

    def _person(self) -> Command[str] | None:
        run, large = self.run, self.common.large.name
        if any(e.node == "ask" and e.run_id == run.id for e in self.state["ledger"]):
            self._in_vain("a person was asked already")
            return None
        draft = self._usable(withheld=True)
        if draft is None:
            return None
        if not _somebody_is_there() and not self.common.order.ends_with_person:
            self._in_vain("no person can be asked, as there is no checkpointer")
            return None
        self._record(run, "ask", large, f"a person is asked, as {large} failed")
        # Back at the tier of the draft: whoever says escalate has the large model asked again.
        place = [tier.name for tier in self.common.tiers].index(draft.tier)
        before = tuple(takewhile(lambda name: name != draft.tier, run.asked))
        back = replace(run, tier=place, asked=before)
        decision = self._decision().model_copy(update={"action": "ask", "tier": None})
        update: StateUpdate = {"run": back, "decision": decision, "degraded": True}
        entries = self.common.caller.recorder.take(run.id)
        return Command(goto="ask", update=update | {"ledger": entries})

    # --- what all of them write ------------------------------------------------------------------

    def _in_vain(self, why: str) -> None:
        """A step led nowhere."""
        if why not in self.trail:
            self.trail.append(why)

    def _decision(self) -> Decision:
        before: Decision | None = self.state.get("decision")
        only = Decision(action="escalate", reason="there is only one tier")
        decision = before or only
        return decision.model_copy(update={"reason": self._reason(decision)})

    def _reason(self, decision: Decision) -> str:
        failed = f"{decision.reason}; but {self.common.large.name} failed: {self.failure}"
        return "; ".join([failed, *self.trail])

    def _record(
        self,
        run: Run,
        step: str,
        tier: str,
        note: str,
        earned: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """The entry of a step that led on. Executed again after a crash, it counts once."""
        entry = free_entry(run, FALLBACK, tier, note)
        marks = {"signals": {step: seconds}, "attempt_id": f"{FALLBACK}-{run.id}-{step}"}
        self.common.caller.recorder.record(entry.model_copy(update={**marks, **(earned or {})}))

    def _end(self, run: Run, update: StateUpdate) -> Command[str]:
        taken = self.common.caller.recorder.take(run.id)
        return Command(
            goto="__end__", update=update | {"ledger": [*update.get("ledger", ()), *taken]}
        )


def _somebody_is_there() -> bool:
    """Whether a person who is asked can answer: something keeps the run until then."""
    around = get_config().get("configurable", {})
    return bool(around.get(CONFIG_KEY_CHECKPOINTER) or around.get(CAN_ASK))
