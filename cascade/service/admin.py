"""`/admin` (keys, budgets, reload, report), behind an admin key, and `/v1/feedback`."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic_core import to_jsonable_python
from starlette.requests import Request
from starlette.responses import Response

from cascade.errors import ConfigurationError
from cascade.evaluation.render import to_json
from cascade.evaluation.report import Report, make_report
from cascade.ledger.base import Selection
from cascade.ledger.feedback import Feedback
from cascade.ledger.store import SqlLedger
from cascade.service.faults import ServiceError
from cascade.service.gateway import Gateway
from cascade.service.keys import KEY_TAG, KeySettings
from cascade.service.wire import gateway_of, json_response, read_body, takes


async def _administered(request: Request) -> Gateway:
    gateway = gateway_of(request)
    await gateway.admin(request)
    return gateway


Administered = Annotated[Gateway, Depends(_administered)]

router = APIRouter(tags=["admin"])


def _said(content: Any, status: int = 200) -> Response:
    response = json_response(to_jsonable_python(content))
    response.status_code = status
    return response


@router.get("/admin/keys")
async def list_keys(gateway: Administered) -> Response:
    """List all keys, revoked ones too, without their secrets."""
    return _said([key.shown() for key in await gateway.keys.list()])


@router.post("/admin/keys", status_code=201, openapi_extra=takes(KeySettings))
async def create_key(request: Request, gateway: Administered) -> Response:
    """Make a key; its secret is in this answer and in no other."""
    if not gateway.config.auth:
        said = "this service asks for no keys (--no-auth), so there are none to make."
        raise ServiceError(409, said, "no_keys")
    new, _ = await read_body(request, KeySettings)
    unknown = [model for model in new.models if model not in gateway.served]
    if unknown:
        said = f"models: there is no {', '.join(unknown)}; there are {', '.join(gateway.served)}."
        raise ServiceError(400, said, "model_not_found", param="models")
    key, secret = await gateway.keys.create(**dict(new))
    return _said({"key": key.shown(), "secret": secret}, 201)


@router.delete("/admin/keys/{name}")
async def revoke_key(gateway: Administered, name: str) -> Response:
    """Revoke a key, at once in this process."""
    try:
        return _said((await gateway.keys.revoke(name)).shown())
    except ConfigurationError as error:
        raise ServiceError(404, str(error), "key_not_found") from error


@router.post("/admin/keys/{name}/rotate")
async def rotate_key(gateway: Administered, name: str) -> Response:
    """Give a key a new secret; its budgets and tags stay."""
    try:
        key, secret = await gateway.keys.rotate(name)
    except ConfigurationError as error:
        raise ServiceError(404, str(error), "key_not_found") from error
    return _said({"key": key.shown(), "secret": secret})


@router.get("/admin/budgets")
async def budgets(gateway: Administered) -> Response:
    """Show what each valid key with a budget has spent."""
    return _said(await budgets_of(gateway))


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
async def reload(gateway: Administered) -> Response:
    """Read the configuration again: says what changed, and which keys need a restart."""
    return _said(await gateway.reload())


@router.get("/admin/report")
async def report(gateway: Administered, days: str = "30") -> Response:
    """Show what the ledger says was saved, as `cascade report --json` does."""
    if not days.isdecimal() or not 0 < int(days[:5]) <= 3660:
        raise ServiceError(400, f"days: {days!r:.40} is none of 1 to 3660.", param="days")
    since = datetime.now(UTC) - timedelta(days=int(days[:5]))
    made = await report_of_period(ledger_of(gateway), Selection(since=since))
    return Response(to_json(made.document), media_type="application/json")


def ledger_of(gateway: Gateway) -> SqlLedger:
    """The ledger of the service.

    Raises:
        ServiceError: 409, there is none.
    """
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
    return _said({"run_id": given.run_id, "by": given.by, "changed": entry is not None})


# --- reports


KEPT_S, MOST = 30.0, 32
"""Seconds for which a report is shown again, and reports that are kept."""


async def report_of_period(store: SqlLedger, selection: Selection) -> Report:
    """The report of a period, made in a thread of its own: it takes a second for 60,000 entries."""
    return await asyncio.to_thread(lambda: asyncio.run(make_report(store, selection)))


class Reports:
    """Reports that were made a moment ago; requests that come together wait for one report."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, tuple[float, asyncio.Task[Report]]] = OrderedDict()

    async def get(self, store: SqlLedger, selection: Selection) -> Report:
        """The report of a selection.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        name = repr(selection)
        at, task = self._made.get(name, (0.0, None))
        failed = task is not None and task.done() and (task.cancelled() or task.exception())
        if task is None or failed or time.monotonic() - at > KEPT_S:
            task = asyncio.create_task(report_of_period(store, selection))
            self._made[name] = (time.monotonic(), task)
            self._made.move_to_end(name)
            while len(self._made) > MOST:
                self._made.popitem(last=False)
        return await asyncio.shield(task)
