"""The moves that several agents make: a draft becomes the answer, or the question goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langchain_core.messages import AIMessage
from langgraph.types import Command

from cascade.agents.base import finished
from cascade.agents.border import STAYS, check_may_ask, mark, nearest
from cascade.agents.showing import details
from cascade.agents.steps import told
from cascade.errors import ConfigurationError
from cascade.state import Completion, Decision, Draft, Run, StateUpdate
from cascade.tiers import OpenTier


def answer(
    run: Run, completion: Completion, tier: str, *, degraded: bool = False, once: bool = False
) -> AIMessage:
    """The answer as a message, which remembers that its conversation has to stay here, and which
    tiers were asked for it.
    """
    message = completion.to_message(tier)
    message.response_metadata |= details(completion)
    message.response_metadata |= mark(run) | told(run, tier, degraded=degraded, once=once)
    return message


def accept(run: Run, draft: Draft, decision: Decision, *, degraded: bool = False) -> StateUpdate:
    """The state in which a draft is the answer."""
    made = answer(run, draft.completion, draft.tier, degraded=degraded, once=decision.once)
    return {
        "run": finished(run),
        "messages": [made],
        "decision": decision,
        "degraded": degraded,
    }


def abstain(run: Run, decision: Decision) -> StateUpdate:
    """The state in which there is no answer, on purpose."""
    return {"run": finished(run), "decision": decision, "degraded": False}


def within(run: Run, tiers: Sequence[OpenTier], decision: Decision, *, usable: bool) -> Decision:
    """The decision as far as this run may carry it out.

    A run that has to stay here goes on to a larger tier that is here; where there is none, its
    draft is the answer, or nothing is.

    Args:
        run: whose draft it was made about.
        tiers: from small to large.
        decision: what was decided.
        usable: whether the draft could be an answer at all.

    Raises:
        ConfigurationError: the decision names a tier that is not above this one.
    """
    if decision.action == "escalate":
        _check_above(run, tiers, decision)
    if decision.action != "escalate" or run.local_only is None:
        return decision
    names = [tier.name for tier in tiers]
    wanted = run.tier + 1 if decision.tier is None else names.index(decision.tier)
    found = nearest(run, tiers, wanted, first=run.tier + 1)
    if found is not None:
        return decision.model_copy(update={"tier": names[found]})
    answers = run.local_only == "answer" and usable
    return decision.model_copy(
        update={
            "action": "accept" if answers else "abstain",
            "tier": None,
            "reason": f"{decision.reason}; but {names[wanted]} {STAYS}",
        }
    )


def escalate(
    run: Run,
    tiers: Sequence[OpenTier],
    decision: Decision,
    **update: object,
) -> Command[str]:
    """Go on to a larger tier, the next one unless the decision names another.

    Raises:
        ConfigurationError: the decision names a tier that is not above this one.
        LocalOnlyError: it must not be asked; `within` knows what to do instead.
    """
    _check_above(run, tiers, decision)
    names = [tier.name for tier in tiers]
    following = run.tier + 1 if decision.tier is None else names.index(decision.tier)
    check_may_ask(run, tiers[following])
    goto = "expert" if following == len(tiers) - 1 else "draft"
    run = replace(run, tier=following, asked=(*run.asked, names[run.tier]))
    return Command(goto=goto, update={"run": run, "decision": decision, **update})


def _check_above(run: Run, tiers: Sequence[OpenTier], decision: Decision) -> None:
    names = [tier.name for tier in tiers]
    above = names[run.tier + 1 :]
    if decision.tier is not None and decision.tier not in above:
        raise ConfigurationError(
            f"the policy escalates to {decision.tier!r}; above {names[run.tier]!r} there are: "
            f"{', '.join(above)}"
        )
