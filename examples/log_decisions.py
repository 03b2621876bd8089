"""A middleware of your own: one line for each finished run, with the decision and its reason.

    python examples/log_decisions.py

For logs in production there is `cascade.integrations.logs.RunLog`.
"""

import json

from cascade import Cascade, CascadeMiddleware, Run
from cascade.middleware import Slot
from cascade.run import Answer, CascadeRuntime
from cascade.testing import ScriptedModel, reply


class LogDecisions(CascadeMiddleware):
    """Prints JSON. An error in `after_run` is logged, and the answer stands."""

    slot = Slot.ANSWERS

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        decision = answer.decision
        line = {"run": run.id, "source": answer.source, "confidence": run.confidence}
        if decision is not None:
            line |= {"action": decision.action, "reason": decision.reason}
        print(json.dumps(line, ensure_ascii=False))


small = ScriptedModel([reply("Yes.", probability=0.95), reply("Perhaps.", probability=0.4)])
with Cascade(small, ScriptedModel("No."), middleware=[LogDecisions()]) as cascade:
    cascade.batch(["Is it raining?", "Will it rain in May?"], max_concurrency=1)
