"""The self-checker takes the signals of a draft and makes one confidence of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from langgraph.errors import NodeError
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, Caller, Task, attempt_of, free_entry
from cascade.confidence import (
    check_messages,
    combine,
    logprob_features,
    objection,
    p_true,
    raw_scores,
)
from cascade.confidence.p_true import MAX_TOKENS, TOP_LOGPROBS
from cascade.errors import ModelError
from cascade.models import Request
from cascade.state import Assessment, CascadeState, Completion, StateUpdate
from cascade.tiers import OpenTier


@dataclass(frozen=True, slots=True)
class SelfChecker:
    """Checks a draft with the model that wrote it.

    Args:
        signals: raw scores to take; empty for the cheapest that the tier allows: log-probs,
            which are free, else one question to the model about its own answer.
    """

    tiers: tuple[OpenTier, ...]
    caller: Caller
    task: Task
    signals: Sequence[str] = ()

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> StateUpdate:
        """Assess the draft. Costs nothing unless P(True) is wanted.

        Raises:
            ModelError: the question to the model failed.
        """
        run, draft = state["run"], state["draft"]
        assert draft is not None, "the drafter comes before the self-checker"
        tier = self.tiers[run.tier]
        answer = draft.completion
        signals = logprob_features(answer.logprobs)
        against = objection(answer, schema=self.task.schema, tools=self.task.tools)
        wanted = self._wanted(tier)
        if against is not None or "p_true" not in wanted:
            entry = self.caller.recorder.record(free_entry(run, "self_check", tier.name))
        else:
            request = self._request(tier, state, answer)
            check, entry = await self.caller.ask(
                tier, request, node="self_check", run=run, attempt=attempt_of(runtime)
            )
            probability = p_true(check)
            if probability is not None:
                signals = {**signals, "p_true": probability}
        return {
            "assessment": _assess(signals, wanted, against),
            "ledger": [*self.caller.recorder.take_failed(run.id), entry],
        }

    def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """A check that cannot be made leaves the draft without a confidence."""
        failure = error.error
        if not (isinstance(failure, ModelError) and failure.circumstantial):
            raise failure
        entries = self.caller.recorder.take_failed(state["run"].id)
        assessment = Assessment(missing=f"the self-check failed: {failure}")
        return Command(goto="verify", update={"assessment": assessment, "ledger": entries})

    def _wanted(self, tier: OpenTier) -> Sequence[str]:
        return self.signals or (("logprobs",) if tier.model.returns_logprobs else ("p_true",))

    def _request(self, tier: OpenTier, state: CascadeState, answer: Completion) -> Request:
        # A check is a plain question: the draft's tools and schema would stand in its way.
        request = Task().request(
            tier, check_messages(state["messages"], answer.text), logprobs=True
        )
        return replace(
            request,
            max_tokens=MAX_TOKENS,
            temperature=0.0,
            top_logprobs=TOP_LOGPROBS if request.logprobs else 0,
        )


def _assess(signals: dict[str, float], wanted: Sequence[str], against: str | None) -> Assessment:
    scores = raw_scores(signals)
    absent = [name for name in wanted if name not in scores]
    return Assessment(
        signals=signals,
        confidence=combine(scores, wanted),
        missing=f"{' and '.join(absent)} did not come back" if absent else None,
        objection=against,
    )
