"""The playground: one question to a cascade, and everything that becomes of it as it happens.

It goes the way of every request: a rate, a place in the queue, a budget, the ledger.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from cascade.events import Decided, Event, Provisional, Retracted
from cascade.result import CascadeResult
from cascade.service.admission import let_in
from cascade.service.faults import ServiceError
from cascade.service.page.events import STREAM, message
from cascade.service.page.guard import PageRoute, SignedIn
from cascade.service.protocols.asking import Wishes
from cascade.service.protocols.replying import Rendering, streamed
from cascade.service.protocols.running import Asked, run
from cascade.service.service import service_of

router = APIRouter(route_class=PageRoute, include_in_schema=False)

TAGS = {"app": "playground"}
"""Of the ledger entries of these requests, so that a report can tell them from real ones."""


class Play(BaseModel):
    """A question, and to whom it goes."""

    model_config = ConfigDict(extra="forbid")

    model: str
    question: Annotated[str, Field(min_length=1, max_length=50_000)]
    local_only: bool = False


class Events(Rendering):
    """Everything, drafts before the decision too: the page can withdraw what it has shown."""

    media_type = "text/event-stream"
    ping = b": still here\n\n"

    def event(self, number: int, event: Event) -> bytes:
        """`provisional`, `decided`, `retracted` or `token`."""
        del number
        return message(*_told(event))

    def end(self, results: list[CascadeResult]) -> bytes:
        """`done`."""
        return message("done", _result(results[0]))

    def failed(self, fault: ServiceError) -> bytes:
        """`error`."""
        return message("error", {"message": fault.message, "code": fault.code})


@router.post("/page/api/play")
async def play(asked: Play, request: Request, session: SignedIn) -> Response:
    """A stream of events; whoever goes away cancels the run.

    Raises:
        ServiceError: 404 or 403, no such model for this key; 402, its budget is exhausted; 429,
            too many requests; 503, the service is shutting down.
        CascadeError: the run failed before anything could be shown.
    """
    admitted = let_in(service_of(request), session.key, len(asked.question))
    wishes = Wishes(local_only=asked.local_only, tags=TAGS)
    question = Asked(
        model=asked.model,
        messages=[{"role": "user", "content": asked.question}],
        settings={},
        # The streams of the protocols cannot withdraw a word; so they do not offer this.
        wishes=wishes.model_copy(update={"show": "optimistic"}),
    )
    return await streamed(request, partial(run, admitted, question), Events(), STREAM)


def _told(event: Event) -> tuple[str, dict[str, Any]]:
    if isinstance(event, Decided):
        decision, assessment = event.decision, event.assessment
        return "decided", {
            "tier": event.tier,
            "action": decision.action,
            "reason": decision.reason,
            "threshold": decision.threshold,
            "confidence": assessment.confidence,
            "calibrated": assessment.calibrated,
            "objection": assessment.objection,
        }
    if isinstance(event, Retracted):
        return "retracted", {"reason": event.reason}
    kind = "provisional" if isinstance(event, Provisional) else "token"
    return kind, {"tier": event.tier, "text": event.text}


def _result(result: CascadeResult) -> dict[str, Any]:
    ledger = result.ledger
    return {
        "run_id": result.run_id,
        "answer": result.answer,
        "tier": result.tier,
        "escalated": result.escalated,
        "degraded": result.degraded,
        "abstained": result.abstained,
        "confidence": result.confidence,
        "calibrated": result.calibrated,
        "reason": result.decision.reason,
        "cost_usd": ledger.cost_usd,
        "cost_basis": ledger.cost_basis,
        "saved_usd": ledger.saved_usd,
        "saved_basis": ledger.saved_basis,
        "baseline_usd": ledger.baseline_usd,
    }
