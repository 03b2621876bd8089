"""Expert: the last tier, whose answer stands."""

from __future__ import annotations

import logging

from cascade.errors import LocalOnlyError, ModelError
from cascade.policies.base import Situation
from cascade.run import Call, CascadeRuntime, Reader, Run, Step, to_request
from cascade.state import Assessment, Decision

logger = logging.getLogger("cascade")


class Expert:
    """Expert: the largest tier answers; where it cannot be had, the draft is the answer, marked as
    degraded."""

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Answer the question.

        Raises:
            ModelError: the call failed, and there is no usable draft.
        """
        kernel = runtime.kernel
        tier = kernel.tiers[-1]
        request = to_request(tier, run.messages, run.settings)
        reader = Reader(runtime, tier.name)
        hear = reader.hear if runtime.streams else None
        try:
            answer = await kernel.ask(Call(run, runtime, "expert", tier, request, hear))
        except ModelError as error:
            reader.retract(f"{tier.name} broke off")
            return self._degrade(run, runtime, error)
        run.tier = len(kernel.tiers) - 1
        run.draft, run.source = answer, answer.tier
        run.degraded = answer.tier != tier.name  # a middleware has asked another in its place
        decided = run.decision or Decision(action="escalate", reason="there is only one tier")
        situation = Situation(Assessment(), called=answer.called, last=True)
        run.decision = kernel.decide(run, situation, lambda _: decided)
        return _end(run.decision, reader, answer.text)

    def _degrade(self, run: Run, runtime: CascadeRuntime, error: ModelError) -> Step:
        """The draft as the answer, if it can be one."""
        draft, decided = run.draft, run.decision
        if draft is None or decided is None or run.ruled_out:
            raise error
        kernel, kept = runtime.kernel, decided
        here = isinstance(error, LocalOnlyError) and run.settings.get("local_only")
        if not here:  # else what keeps the question here says what becomes of it
            reason = f"{decided.reason}; but {kernel.tiers[-1].name} could not be had: {error}"
            update = {"action": "accept", "tier": None, "once": True, "reason": reason}
            kept = decided.model_copy(update=update)
        situation = Situation(run.assessment or Assessment(), called=draft.called)
        last = kernel.decide(run, situation, lambda _: kept)
        if last.action not in ("accept", "ask", "abstain"):
            raise error
        if not (here or error.circumstantial):  # a wrong key will not mend itself
            logger.warning("the draft stands in for the large model: %s", error)
        run.decision, run.degraded, run.source = last, last.action != "abstain", draft.tier
        return _end(last, Reader(runtime, draft.tier), draft.text)


def _end(decision: Decision, reader: Reader, text: str) -> Step:
    if decision.action in ("ask", "abstain"):
        reader.retract(decision.reason)
    else:
        reader.settle(text)
    return "person" if decision.action == "ask" else "end"
