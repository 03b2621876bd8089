"""What a user holds after asking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage
from pydantic import BaseModel

from cascade.agents.border import mark
from cascade.agents.steps import told
from cascade.ledger import LedgerView
from cascade.ledger.runs import CACHE
from cascade.observing import ending_of
from cascade.questions import ResponseFormat
from cascade.state import CascadeState, Decision


@dataclass(frozen=True, slots=True)
class CascadeResult:
    """The answer, who gave it, how sure the cascade was, and what it cost.

    Attributes:
        answer: the text of the answer; empty when the policy abstained.
        message: the answer as a LangChain message, with usage of the answering call.
        parsed: the answer read by `response_format`, None without one.
        tier: name of the tier that answered; `person` where a person did.
        escalated: whether a tier above the first was needed.
        confidence: of the last draft that was judged; None where none could be.
        calibrated: whether `confidence` is a probability or a raw score.
        decision: the last decision, with its reason.
        degraded: the large model was needed and could not be had; the answer is what the fallback
            came to, as a rule the draft.
        ledger: what each node cost and saved in this run.
        run_id: id of the run in the ledger.
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

    @property
    def abstained(self) -> bool:
        """Whether the policy gave no answer on purpose."""
        return self.decision.action == "abstain"

    @property
    def cached(self) -> bool:
        """Whether the answer is that of an earlier run, taken from a cache."""
        return any(entry.node == CACHE for entry in self.ledger)


def read_result(
    state: CascadeState, first_tier: str, response_format: ResponseFormat | None
) -> CascadeResult:
    """The result that a finished state holds."""
    run, ending = state["run"], ending_of(state)
    draft = state.get("draft")
    asked = first_tier if draft is None else draft.tier
    message = ending.answer or AIMessage(
        "", response_metadata=mark(run) | told(run, asked, degraded=True)
    )
    answer = str(message.text)
    return CascadeResult(
        answer=answer,
        message=message,
        parsed=_parse(answer, response_format),
        tier=ending.tier or first_tier,
        escalated=ending.escalated,
        confidence=ending.confidence,
        calibrated=ending.calibrated,
        decision=ending.decision,
        degraded=state.get("degraded", False),
        ledger=LedgerView(entry for entry in state["ledger"] if entry.run_id == run.id),
        run_id=run.id,
    )


def _parse(answer: str, response_format: ResponseFormat | None) -> Any:
    """The answer by its format; None where the large model did not keep to it either."""
    if response_format is None or not answer:
        return None
    try:
        if isinstance(response_format, type) and issubclass(response_format, BaseModel):
            return response_format.model_validate_json(answer)
        return json.loads(answer)
    except ValueError:
        return None
