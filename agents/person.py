"""Person: decides about a draft, or about an irreversible call of the large model.

The step does nothing else: an interrupt of LangGraph runs its node twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cascade.errors import InputError
from cascade.run import CascadeRuntime, Reader, Run, Step
from cascade.state import Completion


class Person:
    """Person who was asked about a draft, and said `"accept"`, `"escalate"`, `"reject"`, or
    `{"answer": "…"}`, their own answer."""

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """End the run with the draft, with the person's answer or without one, or go on.

        Raises:
            InputError: the reply is none of the four.
        """
        said, kernel = runtime.said, runtime.kernel
        assert run.draft is not None
        assert run.decision is not None
        # A person's time is no model's: the deadline goes on where it stood.
        run.begun_at += time.time() - (run.paused_at or time.time())
        run.paused_at = None
        last = run.tier >= len(kernel.tiers) - 1
        own = said["answer"] if isinstance(said, Mapping) and "answer" in said else None
        allowed = ("accept", "reject") if last else ("accept", "escalate", "reject")
        if not isinstance(own, str) and said not in allowed:
            raise InputError(
                f"resumed with {said!r}: resume with "
                f"{', '.join(map(repr, allowed))} or {{'answer': '…'}}."
            )
        note = "a person answered" if own is not None else f"a person said {said}"
        fields: dict[str, Any] = {"tier": run.draft.tier, "note": note}
        update: dict[str, Any] = {"reason": f"{run.decision.reason}; {note}", "once": True}
        step: Step = "end"
        if own is not None:
            # A person's time has no price here, so an answer of theirs claims no saving.
            run.draft, run.source = Completion(text=own, model="person", tier="person"), "person"
            fields["tier"] = "person"
            update["action"] = "accept"
            Reader(runtime, "person").settle(own)
        elif said == "accept":
            run.source = run.draft.tier
            update["action"] = "escalate" if last else "accept"
            if not last and not run.degraded:
                fields |= run.earned(kernel.outlook)
            Reader(runtime, run.draft.tier).settle(run.draft.text)
        elif said == "reject":
            update["action"] = "abstain"
        else:
            update |= {"action": "escalate", "once": False}
            run.tier += 1
            step = "draft" if run.tier < len(kernel.tiers) - 1 else "expert"
        run.decision = run.decision.model_copy(update=update)
        fields |= {"decision": run.decision, "tags": run.settings.get("tags")}
        once = f"{run.id}-person-{run.tier}"  # executed again after a crash, it is one entry
        kernel.ledger.book(run.id, "person", id=once, **fields)
        return step
