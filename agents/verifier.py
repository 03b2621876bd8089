"""The verifier accepts a draft or sends the question on."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.types import Command
from pydantic import Field

from cascade.agents.base import AgentRuntime, Deadline, Task
from cascade.agents.border import may_ask, noted
from cascade.agents.moves import abstain, accept, escalate, within
from cascade.agents.outlook import Outlook
from cascade.agents.shedding import Pressure, shed_entry
from cascade.agents.showing import shows_answers, shows_drafts, words
from cascade.agents.watching import Case, Watcher
from cascade.confidence import Calibrator
from cascade.confidence.signals import Signal
from cascade.errors import ConfigurationError
from cascade.events import Decided, Retracted, Token
from cascade.ledger import Recorder
from cascade.policies import NextSignal, Policy, Situation, TierOutlook, hold, promises
from cascade.state import (
    Assessment,
    Basis,
    CascadeState,
    Decision,
    Draft,
    LedgerEntry,
    Record,
    Run,
    StateUpdate,
)
from cascade.tiers import OpenTier


class Verdict(Record):
    """What a verifier of the user's says about a draft.

    Give `accept` to decide, or `confidence` (in [0, 1]) to let the policy decide on it.
    `cost_usd` is what the verdict cost: None means unknown, and 0 is free.
    """

    accept: bool | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    reason: str = ""
    cost_usd: Decimal | None = Field(default=Decimal(0), ge=0)
    calibrated: bool = False


Judgement = bool | float | Verdict
Judge = Callable[[str, str], Judgement | Awaitable[Judgement]]
"""Takes the question and the draft's text; true accepts, false escalates, a float is a
confidence for the policy."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """Lets the policy, or a judge of the user's, decide about a draft."""

    tiers: tuple[OpenTier, ...]
    policy: Policy
    recorder: Recorder
    outlook: Outlook
    judge: Judge | None = None
    signals: Sequence[Signal] = ()
    calibrators: Mapping[str, Calibrator] = field(default_factory=dict)
    deadline: Deadline = field(default_factory=Deadline)
    watchers: Sequence[Watcher] = ()
    task: Task = field(default_factory=Task)
    pressure: Pressure | None = None

    async def __call__(self, state: CascadeState, runtime: AgentRuntime) -> Command[str]:
        """Go to END (accept, abstain), on to a larger tier (escalate), back for one more signal
        (observe), or to a person (ask).
        """
        run, draft, assessment = state["run"], state["draft"], state["assessment"]
        assert draft is not None, "the drafter comes before the verifier"
        assert assessment is not None, "the self-checker comes before the verifier"
        decided, assessment, cost = await self._decide(state, draft, assessment)
        kept = self._ruled_out(run, draft, assessment, decided)
        decision = within(run, self.tiers, decided, usable=kept.objection is None)
        runtime.stream_writer(Decided(draft.tier, decision, assessment))
        if decision.action in ("escalate", "abstain", "ask") and shows_drafts():
            runtime.stream_writer(Retracted(decision.reason))
        case = self._case(Case(run, state["messages"], draft, assessment, decision))
        entry = self.recorder.record(self._entry(case, cost))
        case = replace(case, baseline_usd=entry.baseline_usd, task=self.task)
        for watcher in self.watchers:
            watcher.judged(case)
        if self.deadline.hedging is not None and decision.action not in ("escalate", "observe"):
            await self.deadline.hedging.drop(run.id)
        common: StateUpdate = {"assessment": kept, "ledger": self.recorder.take(run.id)}
        match decision.action:
            case "accept":
                if shows_answers() and not shows_drafts():
                    for word in words(draft.completion.text):
                        runtime.stream_writer(Token(word, draft.tier))
                answer = accept(run, draft, decision, degraded=decided.action == "escalate")
                return Command(goto="__end__", update=answer | common)
            case "escalate":
                return escalate(run, self.tiers, decision, **common)
            case "observe":
                if not self._due(assessment):
                    raise ConfigurationError("the policy wants another signal; none is left.")
                return Command(goto="self_check", update={"decision": decision} | common)
            case "ask":
                return Command(goto="ask", update={"decision": decision} | common)
            case "abstain":
                return Command(goto="__end__", update=abstain(run, decision) | common)

    async def _decide(
        self, state: CascadeState, draft: Draft, assessment: Assessment
    ) -> tuple[Decision, Assessment, Decimal | None]:
        cost: Decimal | None = Decimal(0)
        judged = False
        if self.judge is not None and assessment.objection is None:
            question = str(state["messages"][-1].text)
            judgement = self.judge(question, draft.completion.transcript)
            if inspect.isawaitable(judgement):
                judgement = await judgement
            verdict = _verdict(judgement)
            cost = verdict.cost_usd
            judged = verdict.confidence is not None
            if judged:
                assessment = replace(
                    assessment,
                    confidence=verdict.confidence,
                    calibrated=verdict.calibrated,
                    missing=None,
                )
            if verdict.accept is not None:
                situation = self._situation(
                    state["run"], draft, assessment, state["messages"], judged=True
                )
                return hold(self.policy, _by_verdict(verdict), situation), assessment, cost
        situation = self._situation(
            state["run"], draft, assessment, state["messages"], judged=judged
        )
        return self._under_pressure(state["run"], situation), assessment, cost

    def _under_pressure(self, run: Run, situation: Situation) -> Decision:
        """What the policy says; under pressure without the paid signal that it would take.

        What a certificate was proved with belongs to its promise, and is taken all the same.
        """
        decision, seen = self.policy.decide(situation), situation.assessment
        tier = self.tiers[run.tier]
        if self.pressure is None:
            return decision
        left_out = not seen.objection and tier.name not in self.calibrators and self._due(seen)
        pressure = None
        if decision.action == "observe" and not promises(self.policy):
            pressure = self.pressure.sheds("signal", situation.time_left_s)
        if pressure is not None and situation.next_signal is not None:
            name = situation.next_signal.name
            decided = self.policy.decide(replace(situation, next_signal=None))
            if decided.action != "observe":
                what = f"decided without {name}"
                self.recorder.record(shed_entry(run, "signal", tier.name, pressure, what))
                reason = f"{decided.reason}; {what}, under a pressure of {pressure:.2f}"
                return decided.model_copy(update={"reason": reason, "once": True})
        if not left_out:
            return decision
        # The self-check left one out: with less pressure this may come out otherwise.
        names = " and ".join(signal.name for signal in left_out)
        reason = f"{decision.reason}; decided without {names}, under pressure"
        return decision.model_copy(update={"reason": reason, "once": True})

    def _ruled_out(
        self, run: Run, draft: Draft, assessment: Assessment, decision: Decision
    ) -> Assessment:
        """The assessment, in which a draft is ruled out whose irreversible call was not accepted.

        Any other draft may still become the answer where no larger tier can be had.
        """
        final = self.task.risks.irreversible_among(draft.completion.called)
        refused = decision.action in ("escalate", "ask") and not run.shadow
        if final is None or not refused or assessment.objection is not None:
            return assessment
        why = f"the call of {final}, which is irreversible, was not accepted: {decision.reason}"
        return replace(assessment, objection=why, withheld=True)

    def foresee(
        self,
        run: Run,
        draft: Draft,
        assessment: Assessment,
        messages: Sequence[BaseMessage] = (),
    ) -> Decision:
        """What the policy would say now, were this the draft and no further signal to be had."""
        return self.policy.decide(self._situation(run, draft, assessment, messages, judged=True))

    def _situation(
        self,
        run: Run,
        draft: Draft,
        assessment: Assessment,
        messages: Sequence[BaseMessage],
        *,
        judged: bool,
    ) -> Situation:
        above = self.tiers[run.tier + 1 :]
        costs = [self.outlook.cost(tier, draft, messages) for tier in above]
        last = len(above) - 1
        needed_s = self.deadline.expected_s(above[0].name)
        if self.deadline.hedging is not None and not last:
            needed_s = self.deadline.hedging.needed_s(run, needed_s)
        return Situation(
            assessment,
            escalation_cost_usd=costs[0],
            # What a signal led to on calibration rows says nothing about a judge's confidence.
            next_signal=None
            if judged
            else self._next_signal(self.tiers[run.tier], draft, assessment),
            above=tuple(
                TierOutlook(tier.name, assessment.p_large if i == last else None, cost)
                for i, (tier, cost) in enumerate(zip(above, costs, strict=True))
            ),
            escalation_s=needed_s,
            time_left_s=self.deadline.left_s(run),
            called=draft.completion.called,
        )

    def _next_signal(
        self, tier: OpenTier, draft: Draft, assessment: Assessment
    ) -> NextSignal | None:
        calibrator = self.calibrators.get(tier.name)
        if calibrator is None or assessment.confidence is None:
            return None
        due = self._due(assessment)
        if not due:
            return None
        each = self.outlook.cost(tier, draft)
        return NextSignal(
            due[0].name,
            calibrator.outlook(assessment.confidence, assessment.taken),
            None if each is None else each * due[0].calls,
        )

    def _due(self, assessment: Assessment) -> list[Signal]:
        return [s for s in self.signals if s.calls and s.name not in assessment.taken]

    def _case(self, case: Case) -> Case:
        """The case with the rate of its audit, which is fixed before the audit is drawn."""
        if case.decision.action != "accept":
            return case
        pressure = None
        if self.pressure is not None:
            pressure = self.pressure.sheds("audit", self.deadline.left_s(case.run))
            if pressure is not None:
                case = replace(case, audits_kept=self.pressure.shedding.audits_kept)
        rates = [watcher.audit_rate(case) for watcher in self.watchers]
        rate = next((r for r in rates if r is not None), None)
        if pressure is not None and rate is not None:
            what = f"the chance of an audit is lowered to {rate:.4g}"
            entry = shed_entry(case.run, "audit", case.draft.tier, pressure, what)
            self.recorder.record(entry)
        return replace(case, audit_rate=rate)

    def _entry(self, case: Case, cost: Decimal | None) -> LedgerEntry:
        basis: Basis = "unknown" if cost is None else "measured"
        assessment, decision = case.assessment, case.decision
        fields: dict[str, Any] = {
            "run_id": case.run.id,
            "node": "verify",
            "tier": case.draft.tier,
            "cost_usd": cost,
            "saved_usd": None if cost is None else -cost,
            "cost_basis": basis,
            "basis": basis,
            "note": decision.reason,
            "action": decision.action,
            "confidence": assessment.confidence,
            "calibrated": assessment.calibrated,
            "signals": assessment.signals or None,
            "audit_rate": case.audit_rate,
            # Executed again after a crash, the same decision earns its baseline once.
            "attempt_id": _decision_id(case) if cost == 0 else None,
        }
        if not may_ask(case.run, self.tiers[-1]):
            fields["note"] = noted(decision.reason, self.tiers[-1])
        elif decision.action == "accept":
            fields |= self.outlook.earned(case.draft, cost, case.messages)
        else:
            self.outlook.asked(case.messages)
        return LedgerEntry(**fields)


def _decision_id(case: Case) -> str:
    place = (case.run.id, case.run.tier, len(case.assessment.taken), case.decision.action)
    return "-".join(map(str, ("verify", *place)))


def _verdict(judgement: Judgement) -> Verdict:
    if isinstance(judgement, Verdict):
        if judgement.accept is not None or judgement.confidence is not None:
            return judgement
    elif isinstance(judgement, bool):
        return Verdict(accept=judgement)
    elif isinstance(judgement, int | float) and 0.0 <= judgement <= 1.0:
        return Verdict(confidence=float(judgement))
    raise ConfigurationError(
        f"the verifier returned {judgement!r}: return True or False, a confidence between 0 and "
        "1, or a Verdict with either of them."
    )


def _by_verdict(verdict: Verdict) -> Decision:
    word = "accepted" if verdict.accept else "rejected"
    return Decision(
        action="accept" if verdict.accept else "escalate",
        reason=verdict.reason or f"your verifier {word} the draft",
        confidence=verdict.confidence,
        calibrated=verdict.calibrated,
    )
