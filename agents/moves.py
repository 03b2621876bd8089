"""The moves that several agents make: a draft becomes the answer, or the question goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langgraph.types import Command

from cascade.agents.base import finished
from cascade.errors import ConfigurationError
from cascade.state import Decision, Draft, Run, StateUpdate
from cascade.tiers import OpenTier


def accept(run: Run, draft: Draft, decision: Decision, *, degraded: bool = False) -> StateUpdate:
    """The state in which a draft is the answer."""
    return {
        "run": finished(run),
        "messages": [draft.completion.to_message(draft.tier)],
        "decision": decision,
        "degraded": degraded,
    }


def escalate(
    run: Run,
    tiers: Sequence[OpenTier],
    decision: Decision,
    **update: object,
) -> Command[str]:
    """Go on to a larger tier, the next one unless the decision names another.

    Raises:
        ConfigurationError: the decision names a tier that is not above this one.
    """
    names = [tier.name for tier in tiers]
    above = names[run.tier + 1 :]
    if decision.tier is not None and decision.tier not in above:
        raise ConfigurationError(
            f"the policy escalates to {decision.tier!r}; above {names[run.tier]!r} there are: "
            f"{', '.join(above)}"
        )
    following = run.tier + 1 if decision.tier is None else names.index(decision.tier)
    goto = "expert" if following == len(tiers) - 1 else "draft"
    return Command(
        goto=goto,
        update={"run": replace(run, tier=following), "decision": decision, **update},
    )
