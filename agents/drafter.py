"""The drafter lets a small model answer first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from langchain_core.messages import BaseMessage
from langgraph.errors import NodeError
from langgraph.types import Command

from cascade.agents.base import (
    DRAFT_ALTERNATIVES,
    AgentRuntime,
    Caller,
    Task,
    attempt_of,
    current_run,
)
from cascade.agents.deadline import Deadline
from cascade.agents.entries import free_entry
from cascade.agents.fallback import may_pass
from cascade.agents.hedging import Hedging
from cascade.agents.moves import abstain, accept, escalate, within
from cascade.agents.remembering import TRIAL, Foresee, Remembered, Remembers, Tried, Unread
from cascade.agents.showing import shown, shows_answers, shows_drafts
from cascade.agents.stopping import Stopper
from cascade.errors import DeadlineError, ModelError
from cascade.events import Provisional, Retracted, Token
from cascade.ledger.runs import OUTAGE
from cascade.state import CascadeState, Decision, Draft, LedgerEntry, Run, StateUpdate
from cascade.tiers import OpenTier


@dataclass(frozen=True, slots=True)
class Drafter:
    """Drafts with the tier whose turn it is; `stopper` ends early what cannot be accepted. Where
    there is no time to ask the large model after the draft, it is asked beside it. The first tier
    is shown what `memory` has for a question.
    """

    tiers: tuple[OpenTier, ...]
    caller: Caller
    task: Task
    stopper: Stopper | None = None
    memory: Remembers | None = None
    foresee: Foresee | None = None

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> StateUpdate:
        """Draft an answer, with log-probabilities where the tier returns them.

        Raises:
            ModelError: the call failed.
        """
        run = current_run(state, runtime)
        tier = self.tiers[run.tier]
        hedging, large = self.caller.deadline.hedging, self.tiers[-1]
        if hedging is not None:
            beside = self.task.request(large, state["messages"])
            hedging.arm(run, large, beside, self.caller, streams=bool(shown()))
        messages = state["messages"]
        remembered = await self._remembered(run, messages)
        asked = messages if remembered is None else remembered.before(messages)
        request = self.task.request(tier, asked, top_logprobs=DRAFT_ALTERNATIVES)
        watch = None if self.stopper is None else self.stopper.watch(tier, request, run)
        pieces: list[str] = []

        def show(text: str) -> None:
            pieces.append(text)
            runtime.stream_writer(Provisional(text, tier.name))

        on_text = show if shows_drafts() else None
        try:
            async with nullcontext() if hedging is None else self._patience(run, tier, hedging):
                completion = await self.caller.ask(
                    tier,
                    request,
                    "draft",
                    run,
                    attempt=attempt_of(runtime),
                    on_text=on_text,
                    watch=watch,
                )
        except ModelError as error:
            if pieces:
                runtime.stream_writer(Retracted(f"{tier.name} broke off: {error}"))
            raise
        draft = Draft(tier.name, completion, None if watch is None else watch.reason)
        return {
            "run": run,
            "draft": self._counted(run, draft, remembered, messages),
            "assessment": None,
            "degraded": False,
            "ledger": self.caller.recorder.take(run.id),
        }

    async def _remembered(self, run: Run, messages: Sequence[BaseMessage]) -> Remembered | None:
        if self.memory is None or run.tier:
            return None
        again = partial(self._again, self.tiers[0], run, messages)
        found = await self.memory.examples(run, messages, again)
        if isinstance(found, Unread):
            self.caller.recorder.record(found.entry(run, self.tiers[0].name))
            return None
        return found

    def _counted(
        self, run: Run, draft: Draft, remembered: Remembered | None, messages: Sequence[BaseMessage]
    ) -> Draft:
        """The draft with what its examples say of it; they are in the ledger."""
        if remembered is None or self.memory is None:
            return draft
        made = remembered.draft(draft.tier, draft.completion, messages)
        self.caller.recorder.record(remembered.entry(run, made))
        doubt = self.memory.doubt(run.id, draft.completion.transcript)
        return replace(made, stopped=draft.stopped, doubt=doubt)

    async def _again(
        self,
        tier: OpenTier,
        run: Run,
        messages: Sequence[BaseMessage],
        examples: Remembered | None,
    ) -> Tried:
        """Ask once more after the reply, without a deadline, to see whether examples help."""
        asked = messages if examples is None else examples.before(messages)
        request = self.task.request(tier, asked, top_logprobs=DRAFT_ALTERNATIVES)
        later = replace(self.caller, deadline=Deadline())
        try:
            completion = await later.ask(tier, request, TRIAL, run)
        finally:
            later.recorder.take(run.id)
        draft = Draft(tier.name, completion)
        if examples is not None:
            draft = examples.draft(tier.name, completion, messages)
        accepted = None if self.foresee is None else await self.foresee(run, draft, messages)
        return Tried(completion.transcript, accepted)

    @asynccontextmanager
    async def _patience(self, run: Run, tier: OpenTier, hedging: Hedging) -> AsyncGenerator[None]:
        """Time for a draft that leaves an answer from beside it the moment that it needs."""
        time_s = hedging.patience_s(run, self.caller.deadline)
        limit = asyncio.timeout(time_s)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"{tier.model.name} was given up after {time_s:.2f} s, since the deadline of "
                f"{self.caller.deadline.seconds} s is near and the large model was asked as well.",
                model=tier.model.name,
                billed=None,
            ) from error

    def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """Where the draft failed for good, ask the next tier, if that can help.

        The draft of a tier before this one is kept, should all that follow fail as well.

        A wrong key or a missing model is a mistake in the set-up and is raised: going on would
        hide it and send every question to the large model.
        """
        failure = error.error
        run = current_run(state, runtime)
        hedging = self.caller.deadline.hedging
        hedged = hedging is not None and hedging.is_at_it(run.id)
        # Without time for a second draft the first is better than none: the expert returns it. So
        # is what the large model was asked beside it.
        too_late = isinstance(failure, DeadlineError) and (run.tier > 0 or hedged)
        if not (isinstance(failure, ModelError) and (failure.circumstantial or too_late)):
            raise failure
        tier = self.tiers[run.tier]
        decision = Decision(action="escalate", reason=f"{tier.name} failed: {failure}")
        if may_pass(failure):
            self.caller.recorder.record(_outage(run, tier))
        entries = self.caller.recorder.take(run.id)
        # Before the first draft of a run, the state may hold one of the run before.
        cleared = {} if run.tier else {"draft": None, "assessment": None}
        draft, assessment = state.get("draft"), state.get("assessment")
        usable = assessment is not None and assessment.objection is None
        decided = within(run, self.tiers, decision, usable=usable)
        if decided.action == "escalate":
            return escalate(run, self.tiers, decided, ledger=entries, **cleared)
        if draft is None:
            raise failure
        update = abstain(run, decided)
        if decided.action == "accept":
            if shows_answers():
                runtime.stream_writer(Token(draft.completion.text, draft.tier))
            update = accept(run, draft, decided, degraded=True)
        return Command(goto="__end__", update=update | {"ledger": entries})


def _outage(run: Run, tier: OpenTier) -> LedgerEntry:
    """The question goes on because this tier is down, not because it is too hard: what that costs
    can be told from the ledger. Executed again after a crash, it counts once.
    """
    entry = free_entry(run, OUTAGE, tier.name, f"{tier.name} is down: the question goes on")
    return entry.model_copy(update={"attempt_id": f"{OUTAGE}-{run.id}-{run.tier}"})
