"""`/admin` (keys, budgets, reload, report), behind an admin key, and `/v1/feedback`."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StrictBool, ValidationError
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
from cascade.service.keys import KEY_TAG
from cascade.service.wire import Endpoint, invalid, json_response, read_body

Dollars = Annotated[Decimal, Field(gt=0, allow_inf_nan=False, max_digits=24)]
Text = Annotated[str, Field(min_length=1, max_length=200)]


class NewKey(BaseModel):
    """What a new key may do."""

    model_config = ConfigDict(extra="forbid")

    name: Text
    models: tuple[str, ...] = ()
    per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    day_usd: Dollars | None = None
    month_usd: Dollars | None = None
    exhausted: Literal["refuse", "local_only"] | None = None
    tags: Mapping[Text, Text] = Field(default_factory=dict, max_length=20)
    admin: StrictBool = False


def _said(content: Any) -> Response:
    return json_response(to_jsonable_python(content))


def _with_keys(gateway: Gateway) -> None:
    if not gateway.config.auth:
        raise ServiceError(
            409, "this service asks for no keys (--no-auth), so there are none to make.", "no_keys"
        )


async def list_keys(request: Request, gateway: Gateway) -> Response:
    """List all keys, revoked ones too, without their secrets."""
    await gateway.admin(request)
    return _said([key.shown() for key in await gateway.keys.list()])


async def create_key(request: Request, gateway: Gateway) -> Response:
    """Make a key; its secret is in this answer and in no other."""
    await gateway.admin(request)
    _with_keys(gateway)
    new, _ = await read_body(request, NewKey)
    unknown = [model for model in new.models if model not in gateway.served]
    if unknown:
        said = f"models: there is no {', '.join(unknown)}; there are {', '.join(gateway.served)}."
        raise ServiceError(400, said, "model_not_found", param="models")
    key, secret = await gateway.keys.create(**dict(new))
    made = _said({"key": key.shown(), "secret": secret})
    made.status_code = 201
    return made


async def revoke_key(request: Request, gateway: Gateway) -> Response:
    """Revoke a key, at once in this process."""
    await gateway.admin(request)
    try:
        gone = await gateway.keys.revoke(request.path_params["name"])
    except ConfigurationError as error:
        raise ServiceError(404, str(error), "key_not_found") from error
    return _said(gone.shown())


async def rotate_key(request: Request, gateway: Gateway) -> Response:
    """Give a key a new secret; its budgets and tags stay."""
    await gateway.admin(request)
    try:
        key, secret = await gateway.keys.rotate(request.path_params["name"])
    except ConfigurationError as error:
        raise ServiceError(404, str(error), "key_not_found") from error
    return _said({"key": key.shown(), "secret": secret})


async def budgets(request: Request, gateway: Gateway) -> Response:
    """Show what each valid key with a budget has spent."""
    await gateway.admin(request)
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


async def reload(request: Request, gateway: Gateway) -> Response:
    """Read the configuration again: says what changed, and which keys need a restart."""
    await gateway.admin(request)
    return _said(await gateway.reload())


async def cascades(request: Request, gateway: Gateway) -> Response:
    """Show the cascades as they run."""
    await gateway.admin(request)
    return _said(
        [
            {
                "name": served.name,
                "tiers": [tier.name for tier in served.cascade.tiers],
                "policy": repr(served.cascade.policy),
                "mode": served.config.mode,
                "calibrated": served.cascade.calibration is not None,
                "running": served.gate.running,
                "waiting": served.gate.waiting,
            }
            for served in gateway.served.values()
        ]
    )


async def report(request: Request, gateway: Gateway) -> Response:
    """Show what the ledger says was saved, as `cascade report --json` does."""
    await gateway.admin(request)
    given = request.query_params.get("days", "30")
    try:
        days = float(given)
        if not 0 < days <= 3660:
            raise ValueError
    except ValueError:
        raise ServiceError(
            400, f"days: {given!r:.40} is none of 0 to 3660.", param="days"
        ) from None
    since = datetime.now(UTC) - timedelta(days=days)
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


class FeedbackRequest(BaseModel):
    """Verdict about the answer of a run."""

    model_config = ConfigDict(extra="forbid")

    run_id: str = Field(description="`cascade.run_id` of an answer.")
    key: str = Field(default="correct", description="`correct`; other aspects are not kept here.")
    correct: StrictBool | None = Field(default=None, description="Whether the answer is right.")
    score: float | None = Field(default=None, description="From 0, wrong, to 1, right.")
    value: JsonValue = None
    comment: str | None = None
    correction: JsonValue = None
    by: str | None = Field(default=None, description="Who judges.")


async def feedback(request: Request, gateway: Gateway) -> Response:
    """Judge the answer of a run that was asked with the same key. The same again changes nothing;
    another verdict of the same judge replaces it."""
    key = await gateway.key_of(request)
    body, _ = await read_body(request, FeedbackRequest)
    given = body.model_dump(exclude_none=True)
    for name in ("value", "comment", "correction"):
        if name in given:
            said = f"{name}: the ledger keeps no words; give correct or score."
            raise ServiceError(400, said, "feedback_not_kept", param=name)
    try:
        verdict = Feedback(**given)
    except ValidationError as error:
        raise invalid(error) from None
    store = ledger_of(gateway)
    own = {} if key is None else {KEY_TAG: key.id}
    rows = await store.rows(Selection(run_id=verdict.run_id, tags=own), ["tags"], limit=1)
    if not rows:
        said = f"there is no run {verdict.run_id[:100]!r} of this key."
        raise ServiceError(404, said, "run_not_found", param="run_id")
    entry = verdict.entry(await store.of_run(verdict.run_id))
    if entry is not None:
        store.append([entry], rows[0][0] or {})
        await store.flush()
    return _said(
        {
            "run_id": verdict.run_id,
            "key": verdict.key,
            "by": verdict.by,
            "changed": entry is not None,
        }
    )


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
        if task is None or time.monotonic() - at > KEPT_S or task.cancelled() or _failed(task):
            task = asyncio.create_task(report_of_period(store, selection))
            self._made[name] = (time.monotonic(), task)
            self._made.move_to_end(name)
            while len(self._made) > MOST:
                self._made.popitem(last=False)
        return await asyncio.shield(task)


def _failed(task: asyncio.Task[Report]) -> bool:
    return task.done() and task.exception() is not None


ENDPOINTS = (
    Endpoint("GET", "/admin/keys", list_keys, "admin"),
    Endpoint("POST", "/admin/keys", create_key, "admin", NewKey),
    Endpoint("DELETE", "/admin/keys/{name}", revoke_key, "admin"),
    Endpoint("POST", "/admin/keys/{name}/rotate", rotate_key, "admin"),
    Endpoint("GET", "/admin/budgets", budgets, "admin"),
    Endpoint("POST", "/admin/reload", reload, "admin"),
    Endpoint("GET", "/admin/cascades", cascades, "admin"),
    Endpoint("GET", "/admin/report", report, "admin"),
    Endpoint("POST", "/v1/feedback", feedback, "feedback", FeedbackRequest),
)
