"""Auditor: asks the large model about an accepted draft as well, after the reply."""

from __future__ import annotations

from cascade.run import Call, CascadeRuntime, Run, Step, to_request


class Auditor:
    """Auditor: the last tier answers an accepted question, off the critical path. What its answer
    says of the draft is for the middleware that drew the audit."""

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Ask the last tier; its answer is that of the background run."""
        tier = runtime.kernel.tiers[-1]
        request = to_request(tier, run.messages, run.settings)
        run.draft = await runtime.kernel.ask(Call(run, runtime, "audit", tier, request))
        run.source = run.draft.tier
        return "end"
