"""The self-checker takes the signals of a draft and makes one confidence of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from langgraph.errors import NodeError
from langgraph.types import Command

from cascade.agents.base import AgentRuntime, Caller, Task, attempt_of, free_entry
from cascade.confidence import combine, objection
from cascade.confidence.signals import Asked, LogprobSignal, Probe, PTrueSignal, Signal
from cascade.errors import ModelError
from cascade.models import Request
from cascade.state import Assessment, CascadeState, Completion, Run, StateUpdate
from cascade.tiers import OpenTier

NODE = "self_check"


@dataclass(frozen=True, slots=True)
class SelfChecker:
    """Checks a draft, as a rule with the model that wrote it.

    Args:
        signals: what to take, cheapest first; empty for the cheapest that the tier allows:
            log-probs, which are free, else one question to the model about its own answer.
        helpers: other models that signals ask, by the signal's name.
    """

    tiers: tuple[OpenTier, ...]
    caller: Caller
    task: Task
    signals: Sequence[Signal] = ()
    helpers: Mapping[str, OpenTier] = field(default_factory=dict)

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> StateUpdate:
        """Assess the draft. A draft that is ruled out costs no call.

        Raises:
            ModelError: a call of a signal failed.
        """
        run, draft = state["run"], state["draft"]
        assert draft is not None, "the drafter comes before the self-checker"
        tier = self.tiers[run.tier]
        asked = Asked(state["messages"], draft.completion)
        against = objection(draft.completion, schema=self.task.schema, tools=self.task.tools)
        signals = [s for s in self._wanted(tier) if against is None or not s.calls]
        features: dict[str, float] = {}
        for signal in signals:
            features |= await self._take(signal, asked, run, attempt_of(runtime))
        if not any(signal.calls for signal in signals):
            self.caller.recorder.record(free_entry(run, NODE, tier.name))
        return {
            "assessment": _assess(features, signals, against),
            "ledger": self.caller.recorder.take(run.id),
        }

    def on_error(
        self, state: CascadeState, runtime: AgentRuntime, error: NodeError
    ) -> Command[str]:
        """A check that cannot be made leaves the draft without a confidence."""
        failure = error.error
        if not (isinstance(failure, ModelError) and failure.circumstantial):
            raise failure
        entries = self.caller.recorder.take(state["run"].id)
        assessment = Assessment(missing=f"the self-check failed: {failure}")
        return Command(goto="verify", update={"assessment": assessment, "ledger": entries})

    def _wanted(self, tier: OpenTier) -> Sequence[Signal]:
        if self.signals:
            return self.signals
        return (LogprobSignal() if tier.model.returns_logprobs else PTrueSignal(),)

    async def _take(
        self, signal: Signal, asked: Asked, run: Run, attempt: int
    ) -> Mapping[str, float]:
        tier = self.helpers.get(signal.name, self.tiers[run.tier])
        replies: list[Completion] = []
        while probes := signal.probes(asked, replies):
            calls = (
                self.caller.ask(tier, self._request(probe, tier), NODE, run, attempt=attempt)
                for probe in probes
            )
            replies += await asyncio.gather(*calls)
        return signal.read(asked, replies)

    def _request(self, probe: Probe, tier: OpenTier) -> Request:
        # A check is a plain question: the draft's tools and schema would stand in its way.
        task = self.task if probe.as_draft else Task()
        request = task.request(tier, probe.messages, top_logprobs=probe.top_logprobs)
        return replace(
            request,
            max_tokens=probe.max_tokens or request.max_tokens,
            temperature=request.temperature if probe.temperature is None else probe.temperature,
        )


def _assess(
    features: Mapping[str, float], signals: Sequence[Signal], against: str | None
) -> Assessment:
    scores = {signal.name: signal.score(features) for signal in signals}
    given = {name: score for name, score in scores.items() if score is not None}
    absent = [s.name for s in signals if s.is_score and s.name not in given]
    return Assessment(
        signals=features,
        confidence=None if absent else combine(given),
        missing=f"{' and '.join(absent)} did not come back" if absent else None,
        objection=against,
    )
