"""Tool risks: what a draft has to show before it may call a tool that changes something. A wrong
text can be read again; a deleted file is gone, whatever an error costs on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from cascade.errors import ConfigurationError
from cascade.middleware.base import CascadeMiddleware, Decide, Slot
from cascade.policies.base import Situation, with_observation
from cascade.run import Run
from cascade.state import Decision

Risk = Literal["read", "write", "irreversible"]
"""Risk of a tool: `read` changes nothing, what a `write` changed can be changed back."""

RISKS: tuple[Risk, ...] = get_args(Risk)

UNMARKED: Risk = "write"
"""Risk of a tool that is not marked, where others are: forgetting one must not be the
careless side, and a forgotten one is seldom the worst."""


class ToolRisks(CascadeMiddleware):
    """Risks of tools: a draft that calls them has to be surer than one that only says something.

    What it accepts is a part of what the policy accepts, so a certificate holds on. Tools can also
    be marked themselves, by `risk` in the `metadata` or `extras` of a LangChain tool.

    Args:
        tools: risks by the tools' names. While no tool is marked, there is no rule.
        irreversible: `escalate` leaves the last word to the last tier; with `ask` a person has to
            approve of irreversible calls, the last tier's too, which needs a checkpointer.

    Attributes:
        irreversible_confidence: from which on a draft may call an irreversible tool; an
            uncalibrated score is never enough.
        write_confidence: from which on it may call one that writes, by whatever number there is.

    Raises:
        ConfigurationError: a risk has no meaning.
    """

    slot = Slot.GUARDS
    irreversible_confidence, write_confidence = 0.99, 0.9

    def __init__(
        self,
        tools: Mapping[str, Risk] | None = None,
        *,
        irreversible: Literal["escalate", "ask"] = "escalate",
    ) -> None:
        if not isinstance(tools, Mapping | None):
            raise ConfigurationError(f"ToolRisks({tools!r}): give {{'a tool': 'read', …}}.")
        if irreversible not in ("escalate", "ask"):
            raise ConfigurationError(
                f"ToolRisks(irreversible={irreversible!r}): give 'escalate' or 'ask'."
            )
        self.irreversible = irreversible
        self.tools: dict[str, Risk] = {
            tool: _checked(tool, risk) for tool, risk in (tools or {}).items()
        }

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """Hold what is accepted against what the draft calls."""
        decision = handler(situation)
        if not situation.called:
            return decision
        risks: dict[str, Risk] = {**_marks(run.settings.get("tools") or ()), **self.tools}
        if not risks:
            return decision
        tool = max(situation.called, key=lambda name: RISKS.index(risks.get(name, UNMARKED)))
        risk = risks.get(tool, UNMARKED)
        if situation.last and risk == "irreversible" and self.irreversible == "ask":
            reason = f"{decision.reason}; {tool} is irreversible"
            return decision.model_copy(update={"action": "ask", "reason": reason, "once": True})
        if situation.last or decision.action != "accept" or risk == "read":
            return decision
        final, p = risk == "irreversible", situation.assessment.confidence
        demand = self.irreversible_confidence if final else self.write_confidence
        marked = f"is {risk}" if tool in risks else f"has no mark and counts as {risk}"
        words = f"{tool} {marked}, which takes a confidence of {demand:g} or more"
        words += ", calibrated" if final else ""
        sure = p is not None and p >= demand
        update: dict[str, Any] = {"reason": f"{decision.reason}; {words}"}
        if sure and (not final or situation.assessment.calibrated):
            update["threshold"] = max(demand, decision.threshold or 0.0)
            return decision.model_copy(update=update)
        update = {"action": "escalate", "once": False, "threshold": demand, "confidence": p}
        update |= {"tier": None, "reason": f"{decision.reason}; but {words}"}
        refused = decision.model_copy(update=update)
        return refused if sure else with_observation(refused, situation.next_signal)


def _marks(tools: Sequence[Mapping[str, Any]]) -> dict[str, Risk]:
    """Risks that tools say of themselves; of several marks the greatest holds."""
    found: dict[str, Risk] = {}
    for tool in tools:
        name = tool["function"]["name"]
        marks = [_checked(name, mark) for mark in (tool.get("metadata") or {}).get("risk") or ()]
        if marks:
            found[name] = RISKS[max(map(RISKS.index, marks))]
    return found


def _checked(tool: str, risk: Any) -> Risk:
    if risk not in RISKS:
        raise ConfigurationError(
            f"the tool {tool!r} has risk={risk!r}; a tool is one of {', '.join(RISKS)}."
        )
    return RISKS[RISKS.index(risk)]
