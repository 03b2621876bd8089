"""`/admin/budgets` and `/admin/reload`, behind an admin key, and `/v1/feedback`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic_core import to_jsonable_python
from starlette.requests import Request
from starlette.responses import Response

from cascade.ledger.base import Selection
from cascade.ledger.feedback import Feedback
from cascade.ledger.store import SqlLedger
from cascade.service.faults import ServiceError
from cascade.service.gateway import Gateway
from cascade.service.keys import KEY_TAG
from cascade.service.wire import gateway_of, json_response, read_body, takes

router = APIRouter(tags=["admin"])


@router.get("/admin/budgets")
async def budgets(request: Request) -> Response:
    """Show what each valid key with a budget has spent."""
    gateway = gateway_of(request)
    await gateway.admin(request)
    return json_response(to_jsonable_python(await budgets_of(gateway)))


async def budgets_of(gateway: Gateway) -> list[dict[str, Any]]:
    """Budgets of the valid keys, with what is spent and put aside."""
    found = []
    for key in await gateway.keys.list():
        if key.revoked_at is None and key.limits:
            account = (await gateway.money.account(key.id)).on(datetime.now(UTC).date())
            found.append(
                {
                    "key": key.id,
                    "name": key.name,
                    "day_usd": key.day_usd,
                    "day_spent_usd": account.day_usd,
                    "month_usd": key.month_usd,
                    "month_spent_usd": account.month_usd,
                    "put_aside_usd": account.put_aside_usd,
                }
            )
    return found


@router.post("/admin/reload")
async def reload(request: Request) -> Response:
    """Read the configuration again: says what changed, and which keys need a restart."""
    gateway = gateway_of(request)
    await gateway.admin(request)
    return json_response(await gateway.reload())


def ledger_of(gateway: Gateway) -> SqlLedger:
    """The ledger of the service; an error where it keeps none."""
    if gateway.store is None:
        raise ServiceError(409, "there is no ledger: set `ledger`.", "no_ledger")
    return gateway.store


class Verdict(BaseModel):
    """Verdict about the answer of a run."""

    model_config = ConfigDict(extra="forbid")

    run_id: str = Field(min_length=1, max_length=256, description="`cascade.run_id` of an answer.")
    correct: StrictBool | None = Field(default=None, description="Whether the answer is right.")
    score: float | None = Field(default=None, ge=0, le=1, description="0, wrong, to 1, right.")
    by: str = Field(default="user", min_length=1, max_length=256, description="Who judges.")


@router.post("/v1/feedback", openapi_extra=takes(Verdict))
async def feedback(request: Request) -> Response:
    """Judge the answer of a run that was asked with the same key. The same again changes nothing;
    another verdict of the same judge replaces it."""
    gateway = gateway_of(request)
    key = await gateway.key_of(request)
    given, _ = await read_body(request, Verdict)
    if given.correct is None and given.score is None:
        raise ServiceError(400, "it says nothing: give correct or score.", param="correct")
    store = ledger_of(gateway)
    own = {} if key is None else {KEY_TAG: key.id}
    rows = await store.rows(Selection(run_id=given.run_id, tags=own), ["tags"], limit=1)
    if not rows:
        said = f"there is no run {given.run_id[:100]!r} of this key."
        raise ServiceError(404, said, "run_not_found", param="run_id")
    entry = Feedback(**given.model_dump()).entry(await store.of_run(given.run_id))
    if entry is not None:
        store.append([entry], rows[0][0] or {})
        await store.flush()
    return json_response({"run_id": given.run_id, "by": given.by, "changed": entry is not None})
