"""The expert is the last tier: its answer stands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from langgraph.errors import NodeError
from langgraph.types import Command

from cascade.agents.base import (
    AgentRuntime,
    Caller,
    Task,
    attempt_of,
    current_run,
    finished,
)
from cascade.agents.gate import Answered, Beside
from cascade.agents.moves import accept, answer
from cascade.agents.reusing import Reading, Reusing, Review
from cascade.agents.showing import shown, shows_answers
from cascade.errors import ModelError
from cascade.events import Retracted, Token
from cascade.ledger.runs import REVIEW
from cascade.state import CascadeState, Completion, Decision, Run, StateUpdate
from cascade.tiers import OpenTier

logger = logging.getLogger("cascade")


@dataclass(frozen=True, slots=True)
class Expert:
    """Answers with the largest tier; what it answered before any draft, `beside` is told.

    Attributes:
        reusing: says which drafts the large model is shown, to approve or correct.
    """

    tier: OpenTier
    caller: Caller
    task: Task
    beside: Beside | None = None
    reusing: Reusing | None = None

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> StateUpdate:
        """Answer the question.

        Raises:
            ModelError: the call failed.
        """
        run = current_run(state, runtime)
        streams, was_shown = bool(shown()), False

        def show(text: str) -> None:
            nonlocal was_shown
            was_shown = True
            runtime.stream_writer(Token(text, self.tier.name))

        on_text = show if streams else None
        hedging = self.caller.deadline.hedging
        hedge = None if hedging is None else hedging.take(run.id)
        # What is under way already is an answer anew.
        review = self._review(state) if hedge is None else None
        try:
            if hedge is not None:
                completion = await hedge.answer(on_text)
            elif review is not None:
                completion = await self._reviewed(review, run, attempt_of(runtime), on_text)
            else:
                completion = await self.caller.ask(
                    self.tier,
                    self.task.request(self.tier, state["messages"]),
                    "expert",
                    run,
                    attempt=attempt_of(runtime),
                    is_baseline=True,
                    on_text=on_text,
                )
        except ModelError as error:
            if was_shown:
                runtime.stream_writer(Retracted(f"{self.tier.name} broke off: {error}"))
            raise
        update = self._update(state, run, completion, review)
        text = str(update["messages"][-1].text)
        if text and not streams and shows_answers():
            runtime.stream_writer(Token(text, self.tier.name))
        return update

    def _review(self, state: CascadeState) -> Review | None:
        if self.reusing is None:
            return None
        draft, assessment = state.get("draft"), state.get("assessment")
        return self.reusing.review(self.tier, self.task, state["messages"], draft, assessment)

    async def _reviewed(
        self, review: Review, run: Run, attempt: int, on_text: Callable[[str], None] | None
    ) -> Completion:
        reading = None if on_text is None else Reading(review, on_text)
        completion = await self.caller.ask(
            self.tier,
            self.task.request(self.tier, review.asked),
            REVIEW,
            run,
            attempt=attempt,
            on_text=None if reading is None else reading.hear,
            review=review,
        )
        if reading is not None:
            reading.end(review.read(completion))
        return completion

    def _update(
        self, state: CascadeState, run: Run, completion: Completion, review: Review | None
    ) -> StateUpdate:
        entries = self.caller.recorder.take(run.id)
        if run.shadow and self.beside is not None:
            messages, large_usd = tuple(state["messages"]), entries[-1].baseline_usd
            self.beside.answered(Answered(run, messages, completion, large_usd))
        decided: StateUpdate = {}
        if state.get("decision") is None:
            decided["decision"] = Decision(action="escalate", reason="there is only one tier")
        if review is not None:
            did = "approved" if review.approves(completion) else "corrected"
            reason = f"{state['decision'].reason}; {self.tier.name} {did} the draft"
            decided["decision"] = state["decision"].model_copy(update={"reason": reason})
            completion = review.read(completion)
        return {
            "run": finished(run),
            "messages": [answer(run, completion, self.tier.name)],
            "degraded": False,
            "ledger": entries,
            **decided,
        }

    def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """The large model cannot be had: a usable draft is the answer, marked as degraded."""
        failure, draft, assessment = error.error, state.get("draft"), state.get("assessment")
        ruled_out = assessment is not None and assessment.objection is not None
        if not isinstance(failure, ModelError) or draft is None or ruled_out:
            raise failure
        logger.warning("%s failed, the draft is returned: %s", self.tier.name, failure)
        run = current_run(state, runtime)
        before = state["decision"]
        reason = f"{before.reason}; but {self.tier.name} failed: {failure}"
        if shows_answers():
            runtime.stream_writer(Token(draft.completion.text, draft.tier))
        decision = before.model_copy(update={"reason": reason})
        entries = self.caller.recorder.take(run.id)
        update = accept(run, draft, decision, degraded=True) | {"ledger": entries}
        return Command(goto="__end__", update=update)
