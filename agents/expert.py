"""The expert is the last tier: its answer stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

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
from cascade.agents.fallback_steps import Falling
from cascade.agents.gate import Answered, Beside
from cascade.agents.moves import answer
from cascade.agents.reusing import Reading, Reusing, Review
from cascade.agents.showing import Telling
from cascade.errors import ModelError
from cascade.ledger.runs import OUTAGE, REVIEW
from cascade.state import CascadeState, Completion, Decision, LedgerEntry, Run, StateUpdate
from cascade.tiers import OpenTier


@dataclass(frozen=True, slots=True)
class Expert:
    """Answers with the largest tier; what it answered before any draft, `beside` is told.

    Attributes:
        reusing: says which drafts the large model is shown, to approve or correct.
        falling: says what follows where it cannot be had; None raises its error.
    """

    tier: OpenTier
    caller: Caller
    task: Task
    beside: Beside | None = None
    reusing: Reusing | None = None
    falling: Falling | None = None

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> StateUpdate:
        """Answer the question.

        Raises:
            ModelError: the call failed.
        """
        return (await self._answered(state, runtime))(state)

    async def _answered(
        self, state: CascadeState, runtime: AgentRuntime
    ) -> Callable[[CascadeState], StateUpdate]:
        """Ask once; returns what the answer changes in a state."""
        run, telling = current_run(state, runtime), Telling(runtime, self.tier.name)
        hedging = self.caller.deadline.hedging
        hedge = None if hedging is None else hedging.take(run.id)
        # What is under way already is an answer anew.
        review = self._review(state) if hedge is None else None
        try:
            if hedge is not None:
                completion = await hedge.answer(telling.on_text)
            elif review is not None:
                attempt = attempt_of(runtime)
                completion = await self._reviewed(review, run, attempt, telling.on_text)
            else:
                completion = await self.caller.ask(
                    self.tier,
                    self.task.request(self.tier, state["messages"]),
                    "expert",
                    run,
                    attempt=attempt_of(runtime),
                    is_baseline=True,
                    on_text=telling.on_text,
                )
        except ModelError as error:
            telling.broke_off(error)
            raise

        def update(state: CascadeState) -> StateUpdate:
            changed = self._update(state, run, completion, review)
            telling.answered(str(changed["messages"][-1].text))
            return changed

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
        elif (cost := _cost_of_outage(run, state, entries)) is not None:
            reason = f"{state['decision'].reason}; {self.tier.name} answered for ${cost:f}"
            decided["decision"] = state["decision"].model_copy(update={"reason": reason})
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

    async def on_error(
        self,
        state: CascadeState,
        runtime: AgentRuntime,
        error: NodeError,
        undrafted: Command[str] | None = None,
    ) -> Command[str]:
        """The large model cannot be had: what the order of the fallback says.

        Args:
            state: of the run.
            runtime: of its node.
            error: of the last attempt.
            undrafted: the way to a draft, where none was made on purpose.

        Raises:
            ModelError: no step of it led on.
        """
        failure = error.error
        if not isinstance(failure, ModelError) or self.falling is None:
            raise failure

        async def retry() -> Callable[[CascadeState], StateUpdate]:
            return await self._answered(state, runtime)

        return await self.falling.land(state, runtime, failure, retry, undrafted)


def _cost_of_outage(
    run: Run, state: CascadeState, entries: Sequence[LedgerEntry]
) -> Decimal | None:
    """What the answer to a question costs that came here as the tier before was down; None where it
    did not, or nobody knows.
    """
    before = run.asked[-1:]
    down = [e.tier for e in state["ledger"] if e.node == OUTAGE and e.run_id == run.id]
    return entries[-1].cost_usd if entries and down and (down[-1],) == before else None
