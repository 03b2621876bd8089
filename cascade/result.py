"""Result of a question."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage

from cascade.ledger.entries import LedgerView
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
        """True if the policy gave no answer on purpose."""
        return self.decision.action == "abstain"
