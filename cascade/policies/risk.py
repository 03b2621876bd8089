"""What a draft has to show before it may call a tool that changes something.

A wrong text can be read again; a deleted file is gone. So the demand does not follow from what an
error costs on average: it stands beside the policy, and only ever makes it accept less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from cascade.errors import ConfigurationError
from cascade.policies.base import Policy, Situation
from cascade.policies.guard import GuardedPolicy
from cascade.policies.rule import can_change, with_observation
from cascade.state import Decision

Risk = Literal["read", "write", "irreversible"]
"""What a tool can do: `read` changes nothing, what a `write` changed can be changed back."""

RISKS: tuple[Risk, ...] = get_args(Risk)

UNMARKED: Risk = "write"
"""What a tool counts as that nobody marked, where others are: forgetting one must not be the
careless side, and one that nobody thought of is seldom the worst."""

LastWord = Literal["escalate", "ask"]
"""Who has the last word on an irreversible call: the last tier, or a person."""


@dataclass(frozen=True, slots=True)
class ToolRisks:
    """Which tools can do what, and how sure a draft has to be that calls them.

    Args:
        tools: risks by the tools' names. While nobody has marked any tool, there is no rule.
        irreversible_confidence: from which on a draft may call an irreversible tool. It has to
            be a probability: an uncalibrated score is never enough.
        write_confidence: from which on it may call one that writes, by whatever number there is.
        irreversible: `escalate` leaves the last word to the last tier; with `ask` a person has
            to approve of what the last tier calls, which needs a checkpointer.

    Raises:
        ConfigurationError: a risk or a confidence is none.
    """

    tools: Mapping[str, Risk] = field(default_factory=dict)
    irreversible_confidence: float = 0.99
    write_confidence: float = 0.9
    irreversible: LastWord = "escalate"

    def __post_init__(self) -> None:
        for name, risk in self.tools.items():
            if risk not in RISKS:
                raise ConfigurationError(
                    f"tool_risks: {name!r} is {risk!r}; a tool is one of {', '.join(RISKS)}."
                )
        if not 0.0 <= self.write_confidence <= self.irreversible_confidence <= 1.0:
            raise ConfigurationError(
                f"ToolRisks(write_confidence={self.write_confidence}, irreversible_confidence="
                f"{self.irreversible_confidence}): both are between 0 and 1, and the second is "
                "not below the first."
            )
        if self.irreversible not in get_args(LastWord):
            raise ConfigurationError(
                f"ToolRisks(irreversible={self.irreversible!r}): give 'escalate' or 'ask'."
            )

    def of(self, tool: str) -> Risk:
        """The risk of a tool."""
        return self.tools.get(tool, UNMARKED)

    def worst(self, called: Sequence[str]) -> tuple[str, Risk]:
        """The most dangerous of some tools, and its risk; the first of several."""
        tool = max(called, key=lambda name: RISKS.index(self.of(name)))
        return tool, self.of(tool)

    def irreversible_among(self, called: Sequence[str]) -> str | None:
        """The first irreversible tool among some; None where there is none, or no rule."""
        return next((tool for tool in called if self.tools.get(tool) == "irreversible"), None)

    def besides(self, marks: Mapping[str, Risk]) -> ToolRisks:
        """These, and what tools say of themselves where nothing is said of them here."""
        return replace(self, tools={**marks, **self.tools}) if marks else self


@dataclass(frozen=True, slots=True)
class RiskPolicy:
    """Another policy, which has to be surer where a draft calls tools that change something.

    What it accepts is a part of what the inner policy accepts, so that a certificate, which
    bounds P(accepted and wrong), holds on. A signal that could still satisfy the demand is taken.

    Args:
        inner: decides; nothing that it does not accept is accepted here.
        risks: of the tools.
    """

    inner: Policy
    risks: ToolRisks

    def decide(self, situation: Situation) -> Decision:
        """The inner decision, or escalate where the draft is not sure enough for what it calls."""
        return self.held(self.inner.decide(situation), situation)

    def held(self, decision: Decision, situation: Situation) -> Decision:
        """A decision to accept, held against what the draft calls."""
        if decision.action != "accept" or not situation.called or not self.risks.tools:
            return decision
        tool, risk = self.risks.worst(situation.called)
        if risk == "read":
            return decision
        final, p = risk == "irreversible", situation.assessment.confidence
        demand = self.risks.irreversible_confidence if final else self.risks.write_confidence
        enough = p is not None and p >= demand
        if enough and (not final or situation.assessment.calibrated):
            reason = f"{decision.reason}; {self._demand(tool, demand)}"
            threshold = max(demand, decision.threshold or 0.0)
            return decision.model_copy(update={"reason": reason, "threshold": threshold})
        refused = decision.model_copy(
            update={
                "action": "escalate",
                "once": False,
                "reason": f"{decision.reason}; but {self._demand(tool, demand)}",
                "threshold": demand,
                "confidence": p,
                "tier": None,
            }
        )
        return refused if enough else with_observation(refused, situation.next_signal, can_change)

    def _demand(self, tool: str, demand: float) -> str:
        risk, kind = self.risks.of(tool), "a confidence"
        said = (
            f"is marked {risk}" if tool in self.risks.tools else f"has no mark and counts as {risk}"
        )
        if risk == "irreversible":
            said, kind = "is irreversible", "a calibrated confidence"
        return f"{tool} {said}, which takes {kind} of {demand:g} or more"


def with_risks(policy: Policy, risks: ToolRisks) -> Policy:
    """The policy under the rule, where a tool is marked.

    The rule stands around all but a guard, so that neither a deadline nor another wrapper accepts
    what it does not, and so that confidences are doubted before they are held against it.
    """
    if not risks.tools:
        return policy
    if isinstance(policy, GuardedPolicy):
        return replace(policy, inner=with_risks(policy.inner, risks))
    return RiskPolicy(policy, risks)


def hold(policy: Policy, decision: Decision, situation: Situation) -> Decision:
    """What somebody else decided, held against the rule that a policy is under, if it is."""
    inner: object = policy
    while inner is not None:
        if isinstance(inner, RiskPolicy):
            return inner.held(decision, situation)
        inner = getattr(inner, "inner", None)
    return decision
