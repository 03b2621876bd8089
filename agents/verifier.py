"""Verifier: accepts a draft, or sends the question on."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any

from pydantic import Field

from cascade.confidence import Signal
from cascade.errors import CascadeError, ConfigurationError, is_control_flow
from cascade.events import Decided
from cascade.policies import NextSignal, Policy, Situation, TierOutlook
from cascade.run import CascadeRuntime, Parts, Reader, Run, Step
from cascade.state import Assessment, Completion, Decision, Record

logger = logging.getLogger("cascade")


class Verdict(Record):
    """Verdict of a user's verifier about a draft.

    Give `accept` to decide, or `confidence` (in [0, 1]) to let the policy decide on it.
    `cost_usd` is what the verdict cost: None means unknown, and 0 is free.
    """

    accept: bool | None = None
    confidence: float | None = Field(default=None, ge=0, le=1)
    reason: str = ""
    cost_usd: Decimal | None = Field(default=Decimal(0), ge=0)
    calibrated: bool = False


Judge = Callable[..., bool | float | Verdict | Awaitable[bool | float | Verdict]]
"""`(question, answer)`: true accepts, false escalates, a float is a confidence for the policy.
Parameters called `run` and `runtime` get the `Run` and the `CascadeRuntime`."""


class Verifier:
    """Decision about a draft, by the policy or a judge of the user's."""

    def __init__(self, judge: Judge | None = None) -> None:
        self._judge = judge
        self._takes = frozenset[str]() if judge is None else _taken_by(judge)

    async def __call__(self, run: Run, runtime: CascadeRuntime) -> Step:
        """Go to the end (accept, abstain), to a larger tier (escalate), back for one more signal
        (observe), or to a person (ask).

        Raises:
            ConfigurationError: the policy or the verifier returned something without meaning.
        """
        draft, assessment, tier = run.draft, run.assessment, runtime.kernel.tiers[run.tier]
        assert draft is not None, "there is a draft to decide about"
        assert assessment is not None, "the self-checker comes before the verifier"
        verdict = await self._verdict(run, draft, assessment, runtime)
        if verdict.confidence is not None:
            sure: Any = {"confidence": verdict.confidence, "calibrated": verdict.calibrated}
            assessment = run.assessment = replace(assessment, missing=None, **sure)
        said: list[Decision] = []

        def policy(situation: Situation) -> Decision:
            said.append(_decide(runtime.kernel.policy, verdict, situation))
            return said[-1]

        situation = _situation(run, runtime, judged=verdict.confidence is not None)
        decision = runtime.kernel.decide(run, situation, policy)
        decision = decision.model_copy(update={"signals": dict(run.signals) or None})
        run.decision = decision
        runtime.emit(Decided(tier.name, decision, assessment))
        _book(run, runtime, decision, len(assessment.taken), verdict.cost_usd)
        if run.kind != "answer":
            return "end"
        shown = draft.text if runtime.show == "optimistic" else ""
        reader = Reader(runtime, tier.name, shown=shown)
        match decision.action:
            case "accept":
                run.source = draft.tier
                # The policy wanted a larger model, and something did not let it be asked.
                run.degraded = bool(said) and said[-1].action == "escalate"
                reader.settle(draft.text)
                return "end"
            case "observe":
                if not _due(runtime.kernel.parts, assessment):
                    raise ConfigurationError("the policy wants another signal; none is left.")
                return "self_check"
            case action:
                reader.retract(decision.reason)
                if action == "escalate":
                    return _escalate(run, decision, runtime)
                return "person" if action == "ask" else "end"

    def foresee(self, run: Run, runtime: CascadeRuntime) -> Decision:
        """The policy's decision if there were no further signal."""
        kernel, situation = runtime.kernel, _situation(run, runtime, judged=True)
        return kernel.decide(run, situation, partial(_decide, kernel.policy, Verdict()))

    async def _verdict(
        self, run: Run, draft: Completion, assessment: Assessment, runtime: CascadeRuntime
    ) -> Verdict:
        """What the user's verifier says; without one, or where the draft is ruled out, nothing. One
        that raises loses no request that is paid for: the question escalates."""
        if self._judge is None or assessment.objection is not None:
            return Verdict()
        given = {"run": run, "runtime": runtime}
        try:
            more = {name: given[name] for name in self._takes}
            found = self._judge(run.question, draft.transcript, **more)
            return _read(await found if inspect.isawaitable(found) else found)
        except CascadeError:
            raise
        except Exception as error:
            if is_control_flow(error):
                raise
            logger.warning("the verifier raised; the question escalates", exc_info=True)
            why = f"the verifier raised {type(error).__name__}"  # whose words may quote the answer
            return Verdict(accept=False, reason=why, cost_usd=None)


def _decide(policy: Policy, verdict: Verdict, situation: Situation) -> Decision:
    if verdict.accept is not None:
        word = "accepted" if verdict.accept else "rejected"
        return Decision(
            action="accept" if verdict.accept else "escalate",
            reason=verdict.reason or f"your verifier {word} the draft",
            confidence=verdict.confidence,
            calibrated=verdict.calibrated,
        )
    decision: object = policy.decide(situation)
    if isinstance(decision, Decision):
        return decision
    if inspect.iscoroutine(decision):
        decision.close()  # an async decide: nothing waits for it
    raise ConfigurationError(
        f"the policy returned {decision!r}: decide(situation) returns a cascade.Decision, such "
        "as Decision(action='accept', reason='…')."
    )


def _escalate(run: Run, decision: Decision, runtime: CascadeRuntime) -> Step:
    tiers, wanted = runtime.kernel.tiers, decision.tier
    above = [tier.name for tier in tiers[run.tier + 1 :]]
    if wanted is not None and wanted not in above:
        raise ConfigurationError(
            f"the decision escalates to {wanted!r}; above {tiers[run.tier].name!r} there are: "
            f"{', '.join(above)}"
        )
    run.tier += 1 if wanted is None else above.index(wanted) + 1
    return "draft" if run.tier < len(tiers) - 1 else "expert"


def _situation(run: Run, runtime: CascadeRuntime, *, judged: bool) -> Situation:
    draft, assessment, kernel = run.draft, run.assessment, runtime.kernel
    assert draft is not None
    assert assessment is not None
    tier, *above = kernel.tiers[run.tier :]
    costs = [kernel.outlook.cost(larger, draft, run.messages) for larger in above]
    due, calibrator = _due(kernel.parts, assessment), kernel.parts.calibrators.get(tier.name)
    signal = None
    # What a signal led to on calibration rows says nothing about a judge's confidence.
    if due and calibrator is not None and assessment.confidence is not None and not judged:
        each = kernel.outlook.cost(tier, draft, ())
        led = calibrator.outlook(assessment.confidence, assessment.taken)
        signal = NextSignal(due[0].name, led, None if each is None else each * due[0].calls)
    return Situation(
        assessment,
        tuple(
            TierOutlook(larger.name, assessment.p_large if larger is above[-1] else None, cost)
            for larger, cost in zip(above, costs, strict=True)
        ),
        signal,
        draft.called,
    )


def _due(parts: Parts, assessment: Assessment) -> list[Signal]:
    return [s for s in parts.signals if s.calls and s.name not in assessment.taken]


def _book(
    run: Run, runtime: CascadeRuntime, decision: Decision, taken: int, cost: Decimal | None
) -> None:
    """The verifier's entry: its own cost, and the baseline where it accepts."""
    kernel, node = runtime.kernel, "verify" if run.kind == "answer" else run.kind
    basis, saved = ("unknown", None) if cost is None else ("measured", -cost)
    fields: dict[str, Any] = {"cost_usd": cost, "saved_usd": saved}
    fields |= {"cost_basis": basis, "basis": basis}
    if decision.action == "accept":
        fields |= run.earned(kernel.outlook, cost)
    fields |= {"note": decision.reason, "decision": decision, "tags": run.settings.get("tags")}
    # Executed again after a crash, the same decision earns its baseline once.
    once = f"{run.id}-verify-{run.tier}-{taken}-{decision.action}"
    kernel.ledger.book(run.id, node, id=once, tier=kernel.tiers[run.tier].name, **fields)


def _taken_by(judge: Judge) -> frozenset[str]:
    """Of `run` and `runtime`, those that a judge is called with."""
    try:
        signature = inspect.signature(judge)
    except (TypeError, ValueError):  # a builtin
        return frozenset()
    takes = frozenset({"run", "runtime"} & signature.parameters.keys())
    try:
        signature.bind("", "", **dict.fromkeys(takes))
    except TypeError:
        raise ConfigurationError(
            f"the verifier takes {signature}: write it as (question, answer) or "
            "(question, answer, runtime)."
        ) from None
    return takes


def _read(said: Any) -> Verdict:
    # NumPy's truth values are no bool, and most of its numbers no float.
    judgement = said.item() if getattr(said, "ndim", None) == 0 else said
    if isinstance(judgement, Verdict):
        if judgement.accept is not None or judgement.confidence is not None:
            return judgement
    elif isinstance(judgement, bool):
        return Verdict(accept=judgement)
    elif isinstance(judgement, Real | Decimal) and 0 <= float(judgement) <= 1:
        return Verdict(confidence=float(judgement))
    raise ConfigurationError(
        f"the verifier returned {judgement!r}: return True or False, a confidence between 0 and "
        "1, or a Verdict with either of them."
    )
