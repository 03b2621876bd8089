"""Drafter: lets a model that is not the last answer first."""

from __future__ import annotations

from cascade.errors import DeadlineError, ModelError
from cascade.events import Provisional
from cascade.run import Call, CascadeRuntime, Reader, Run, Step, to_request
from cascade.state import Decision

ALTERNATIVES = 2
"""Alternatives per token that a draft asks for: enough for the top-2 margin, small to send."""


class Drafter:
    """Drafter of the tier whose turn it is."""

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Draft an answer, with log-probabilities where the tier returns them.

        Where the tier cannot be had, the next one is asked. A wrong key or a missing model is a
        mistake in the set-up and is raised: going on would hide it and send every question to the
        large model.

        Raises:
            ModelError: the call failed, and no other tier can help.
        """
        kernel = runtime.kernel
        tier = kernel.tiers[run.tier]
        request = to_request(tier, run.messages, run.settings, top_logprobs=ALTERNATIVES)
        reader = Reader(runtime, tier.name, piece=Provisional)
        hear = reader.hear if runtime.show == "optimistic" else None
        try:
            completion = await kernel.ask(Call(run, runtime, "draft", tier, request, hear))
        except ModelError as error:
            reader.retract(f"{tier.name} broke off")
            # Without time for a second draft, the first is better than none.
            too_late = isinstance(error, DeadlineError) and run.tier > 0
            # Where no other tier may be asked, this failure says what is wrong.
            left = [t for t in kernel.tiers[run.tier + 1 :] if t.local]
            alone = run.draft is None and run.settings.get("local_only") and not left
            if alone or not (error.circumstantial or too_late):
                raise
            # A draft of an earlier tier is kept for the expert.
            run.decision = Decision(action="escalate", reason=f"{tier.name} failed: {error}")
            run.tier += 1
            return "draft" if run.tier < len(kernel.tiers) - 1 else "expert"
        if hear is not None:
            reader.settle(completion.text)
        run.draft, run.assessment = completion, None
        return "self_check"
