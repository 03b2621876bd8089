"""Result: what a user holds after asking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage

from cascade.ledger.view import LedgerView
from cascade.questions import ResponseFormat, parse
from cascade.run import Run
from cascade.state import Decision, Record


class CascadeResult(Record):
    """Answer with its source, its confidence and its cost.

    Attributes:
        answer: the text of the answer; empty when the policy abstained.
        message: the answer as a LangChain message, with usage of the answering call.
        parsed: the answer read by `response_format`, None without one.
        tier: name of the tier that answered; `person` where a person did.
        escalated: whether a tier above the first was needed.
        confidence: of the last draft that was judged; None where none could be.
        calibrated: whether `confidence` is a probability or a raw score.
        decision: the last decision, with its reason.
        degraded: the large model was needed and could not be had; the answer is the draft.
        ledger: what each node cost and saved in this run.
        run_id: id of the run in the ledger.
        cached: whether the answer is that of an earlier run.
    """

    answer: str
    message: AIMessage
    parsed: Any
    tier: str
    escalated: bool
    confidence: float | None
    calibrated: bool
    decision: Decision
    degraded: bool
    ledger: LedgerView
    run_id: str
    cached: bool = False

    @property
    def abstained(self) -> bool:
        """Whether the policy gave no answer on purpose."""
        return self.decision.action == "abstain"


def result_of(
    run: Run,
    message: AIMessage,
    tiers: Sequence[str],
    response_format: ResponseFormat | None = None,
) -> CascadeResult:
    """The result of a finished run.

    Args:
        run: that has come to its end.
        message: the answer, empty where it abstained.
        tiers: names from small to large.
        response_format: to read the answer by.
    """
    decision = run.decision or Decision(action="accept", reason=f"answered by {run.source}")
    tier = run.source or (run.draft.tier if run.draft else "") or tiers[0]
    answer = str(message.text)
    judged = decision.confidence if run.assessment is None else run.assessment.confidence
    calibrated = decision.calibrated if run.assessment is None else run.assessment.calibrated
    answered_here = [e for e in run.entries if e.model and e.outcome == "ok"]
    return CascadeResult(
        answer=answer,
        message=message,
        parsed=parse(answer, response_format),
        tier=tier,
        escalated=tier not in (tiers[0], "person"),
        confidence=judged,
        calibrated=calibrated,
        decision=decision,
        degraded=run.degraded,
        ledger=LedgerView(run.entries),
        run_id=run.id,
        cached=not answered_here and tier in tiers,
    )
