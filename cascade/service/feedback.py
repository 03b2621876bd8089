"""`POST /v1/feedback`: what a client says of an answer that it was given."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool

from cascade.errors import ConfigurationError
from cascade.judging import keep_feedback, to_feedback
from cascade.ledger.verdicts import CORRECT
from cascade.service.admission import authenticated, let_in
from cascade.service.faults import ServiceError
from cascade.service.keys import KEY_TAG, Key
from cascade.service.protocols.chat_wire import ERRORS
from cascade.service.protocols.parameters import unsupported
from cascade.service.service import Service, service_of

MEANINGLESS = (
    "comparative_experiment_id",
    "feedback_group_id",
    "feedback_config",
    "extra",
    "error",
)
"""Fields of LangSmith's that would mean something, and have no place here: they are refused."""


class FeedbackSource(BaseModel):
    """Who judges, in LangSmith's form."""

    model_config = ConfigDict(extra="ignore")

    type: str | None = None
    user_id: str | None = None
    user_name: str | None = None


class FeedbackRequest(BaseModel):
    """A verdict about the answer of a run, in the form of LangSmith's feedback.

    `id`, `created_at`, `modified_at`, `session_id`, `start_time` and `extend_trace_retention` are
    LangSmith's own bookkeeping: its client sends them, and they say nothing about the answer.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "run_id": "1f0c5f2e-7a52-6b1c-8000-3c2f1e9d4b5a",
                    "key": "correct",
                    "score": 0,
                    "comment": "It is Canberra.",
                    "correction": {"answer": "Canberra"},
                }
            ]
        },
    )

    run_id: str | None = Field(default=None, description="`cascade.run_id` of an answer.")
    trace_id: str | None = Field(default=None, description="The same, where run_id is left out.")
    key: str = Field(default=CORRECT, description="`correct`, or another aspect.")
    correct: StrictBool | None = Field(default=None, description="Whether the answer is right.")
    score: float | None = Field(default=None, description="Of the key `correct` from 0 to 1.")
    value: JsonValue = None
    comment: str | None = None
    correction: JsonValue = None
    by: str | None = Field(default=None, description="Who judges; else `feedback_source`.")
    feedback_source: FeedbackSource | None = None
    id: str | None = None
    created_at: datetime | None = None
    modified_at: datetime | None = None
    session_id: str | None = None
    start_time: datetime | None = None
    extend_trace_retention: bool | None = None
    comparative_experiment_id: JsonValue = None
    feedback_group_id: JsonValue = None
    feedback_config: JsonValue = None
    extra: JsonValue = None
    error: JsonValue = None


class FeedbackReply(BaseModel):
    """What became of a verdict."""

    run_id: str
    key: str
    by: str
    changed: bool = Field(description="False where the same was said before.")


_REFUSED: dict[int | str, dict[str, Any]] = {
    **{status: ERRORS[status] for status in ("default", 400, 401, 429, 503)},
    404: {**ERRORS[404], "description": "There is no such run of this key."},
}

router = APIRouter(tags=["feedback"])


@router.post(
    "/v1/feedback",
    responses=_REFUSED,
)
async def feedback(
    body: FeedbackRequest,
    key: Annotated[Key | None, Depends(authenticated)],
    service: Annotated[Service, Depends(service_of)],
) -> FeedbackReply:
    """Judge the answer of a run that was asked with the same key.

    The same again changes nothing; another verdict of the same `key` and judge replaces it.
    """
    let_in(service, key)
    given = to_feedback(_fields(body))
    own = {} if key is None else {KEY_TAG: key.id}
    try:
        changed = await keep_feedback(given, service.store, service.lessons, within=own)
    except ConfigurationError as error:
        raise ServiceError(
            400,
            "this service keeps no comments, corrections, values or other keys than 'correct': "
            "its configuration has no `lessons`."
            if service.store is not None
            else "this service keeps no feedback: its configuration has no ledger.",
            code="feedback_not_kept",
        ) from error
    return FeedbackReply(run_id=given.run_id, key=given.key, by=given.by, changed=changed)


def _fields(body: FeedbackRequest) -> dict[str, Any]:
    """The verdict that a body says.

    Raises:
        ServiceError: 400, there is something in it that has no place here, or no run.
    """
    for name in MEANINGLESS:
        if getattr(body, name) is not None:
            raise unsupported(name, "this has no meaning here: leave it out.")
    run_id = body.run_id or body.trace_id
    if run_id is None:
        raise ServiceError(
            400, "run_id: say which run is judged.", code="missing_parameter", param="run_id"
        )
    source = body.feedback_source or FeedbackSource()
    by = body.by or source.user_name or source.user_id
    said = ("key", "correct", "score", "value", "comment", "correction")
    given = {name: getattr(body, name) for name in said}
    return {**given, "run_id": run_id} | ({} if by is None else {"by": by})
