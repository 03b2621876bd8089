"""Whether an answer would have been accepted, without asking anybody."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from langchain_core.messages import BaseMessage

from cascade.agents.base import Caller
from cascade.agents.drafter import Drafter
from cascade.agents.remembering import Remembers
from cascade.agents.self_checker import SelfChecker
from cascade.agents.stopping import Abort, Stopper
from cascade.agents.verifier import Verifier
from cascade.state import Draft, Run
from cascade.tiers import OpenTier


def drafting(
    verifier: Verifier,
    caller: Caller,
    helpers: Mapping[str, OpenTier],
    abort: Abort | None,
    memory: Remembers | None,
) -> tuple[Drafter, SelfChecker]:
    """The agents before a verifier, who know what it would say.

    Args:
        verifier: decides on the drafts.
        caller: asks the models.
        helpers: other models that signals ask, by the signal's name.
        abort: which drafts may be stopped while they are written; None for none.
        memory: shows the first tier examples; None for none.
    """
    v = verifier
    if memory is not None:
        memory.drafts(v.tiers[0].model.name)
    checker = SelfChecker(v.tiers, caller, v.task, v.signals, helpers, v.calibrators, v.pressure)
    foresee = partial(would_accept, checker, v)
    drafter = Drafter(v.tiers, caller, v.task, Stopper.of(v, abort), memory, foresee)
    return drafter, checker


async def would_accept(
    checker: SelfChecker,
    verifier: Verifier,
    run: Run,
    draft: Draft,
    messages: Sequence[BaseMessage],
) -> bool | None:
    """What the policy says of a draft by the signals that cost nothing, with all its time left;
    None where those give no confidence, or a judge of the user's decides."""
    tier = checker.tiers[run.tier]
    assessment = await checker.glance(tier, draft, messages)
    if assessment is None or verifier.judge is not None:
        return None
    fresh = replace(run, begun_at=time.time())
    return verifier.foresee(fresh, draft, assessment, messages).action == "accept"
