"""`/admin`: keys, budgets, calibrations, modes and the report, behind a key of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, WithJsonSchema

from cascade.errors import ConfigurationError
from cascade.ledger.store import Selection
from cascade.oversight.shadow import Mode
from cascade.report import make_report
from cascade.service.admission import authenticated
from cascade.service.config import Exhausted
from cascade.service.faults import ServiceError
from cascade.service.keys import Key
from cascade.service.protocols.chat_wire import ERRORS
from cascade.service.service import Service, service_of

Dollars = Annotated[
    Decimal,
    Field(gt=0, allow_inf_nan=False),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,12}([.][0-9]{1,12})?$"},
            ]
        }
    ),
]
"""A budget, as a number or exactly as text."""


class NewKey(BaseModel):
    """What a new key may do."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    models: tuple[str, ...] = ()
    per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    day_usd: Dollars | None = None
    month_usd: Dollars | None = None
    exhausted: Exhausted | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)
    admin: StrictBool = False


class KeyInfo(BaseModel):
    """A key without its secret, which nobody has."""

    id: str
    name: str
    models: tuple[str, ...]
    per_minute: float | None
    day_usd: Decimal | None
    month_usd: Decimal | None
    exhausted: Exhausted | None
    tags: Mapping[str, str]
    admin: bool
    made_at: datetime
    revoked_at: datetime | None


class MadeKey(BaseModel):
    """A new key; its secret is shown here and never again."""

    key: KeyInfo
    secret: str


class BudgetInfo(BaseModel):
    """What a key has spent, in dollars, by days and months of UTC."""

    key: str
    name: str
    day_usd: Decimal | None
    day_spent_usd: Decimal
    month_usd: Decimal | None
    month_spent_usd: Decimal
    reserved_usd: Decimal


class LoadedInfo(BaseModel):
    """How loading a calibration went; `problem` says why the one before goes on."""

    cascade: str
    at: datetime
    problem: str | None


class CascadeInfo(BaseModel):
    """A cascade as it runs."""

    name: str
    tiers: tuple[str, ...]
    mode: Mode
    canary_share: float
    calibrated: bool


class NewMode(BaseModel):
    """Who answers first."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["live", "shadow", "canary"]


async def admin_key(key: Annotated[Key | None, Depends(authenticated)]) -> Key | None:
    """The admin key of a request; None with `--no-auth`.

    Raises:
        ServiceError: 401, no valid key; 403, it is no admin key.
    """
    if key is not None and not key.admin:
        raise ServiceError(
            403,
            "this needs an admin key: `cascade keys create … --admin` makes one.",
            "permission_error",
            "admin_key_needed",
        )
    return key


_REFUSED: dict[int | str, dict[str, Any]] = {
    **{status: ERRORS[status] for status in (400, 401, 403, 404, 503)},
    409: {**ERRORS[400], "description": "It cannot be done with this configuration."},
}

router = APIRouter(
    prefix="/admin", tags=["admin"], dependencies=[Depends(admin_key)], responses=_REFUSED
)
Served = Annotated[Service, Depends(service_of)]


@router.get("/keys")
async def list_keys(service: Served) -> Sequence[KeyInfo]:
    """All keys, revoked ones too."""
    return [_info(key) for key in await service.keys.list()]


@router.post("/keys", status_code=201)
async def create_key(new: NewKey, service: Served) -> MadeKey:
    """Make a key."""
    unknown = [model for model in new.models if model not in service.served]
    if unknown:
        raise ServiceError(
            400,
            f"models: there is no {', '.join(unknown)}; there are {', '.join(service.served)}.",
            code="model_not_found",
            param="models",
        )
    try:
        key, secret = await service.keys.create(**dict(new))
    except ConfigurationError as error:
        raise ServiceError(400, str(error), code="invalid_value") from error
    return MadeKey(key=_info(key), secret=secret)


@router.delete("/keys/{key_id}")
async def revoke_key(key_id: str, service: Served) -> KeyInfo:
    """Revoke a key, at once in this process."""
    try:
        return _info(await service.keys.revoke(key_id))
    except ConfigurationError as error:
        raise ServiceError(404, str(error), code="key_not_found") from error


@router.post("/keys/{key_id}/rotate")
async def rotate_key(key_id: str, service: Served) -> MadeKey:
    """Give a key a new secret, at once; its budgets and tags stay."""
    try:
        key, secret = await service.keys.rotate(key_id)
    except ConfigurationError as error:
        raise ServiceError(404, str(error), code="key_not_found") from error
    return MadeKey(key=_info(key), secret=secret)


@router.get("/budgets")
async def budgets(service: Served) -> Sequence[BudgetInfo]:
    """What each valid key with a budget has spent."""
    found = []
    for key in await service.keys.list():
        if key.revoked_at is None and key.budgeted:
            account = await service.budgets.account(key)
            found.append(
                BudgetInfo(
                    key=key.id,
                    name=key.name,
                    day_usd=key.day_usd,
                    day_spent_usd=account.day_usd,
                    month_usd=key.month_usd,
                    month_spent_usd=account.month_usd,
                    reserved_usd=account.reserved_usd,
                )
            )
    return found


@router.post("/reload")
async def reload(service: Served) -> Sequence[LoadedInfo]:
    """Load every calibration again; what cannot be loaded changes nothing."""
    return [
        LoadedInfo(cascade=loaded.cascade, at=loaded.at, problem=loaded.problem)
        for loaded in await service.reloads.load_all()
    ]


@router.get("/cascades")
async def cascades(service: Served) -> Sequence[CascadeInfo]:
    """The cascades as they run."""
    return [_cascade(service, name) for name in service.config.cascades]


@router.put("/cascades/{name}/mode")
async def set_mode(name: str, new: NewMode, service: Served) -> CascadeInfo:
    """Say who answers first, from the next request on. A restart goes by the configuration."""
    if name not in service.config.cascades:
        raise ServiceError(404, f"there is no cascade {name!r}.", code="cascade_not_found")
    try:
        service.served[name].cascade.mode = new.mode
    except ConfigurationError as error:
        raise ServiceError(409, str(error), code="mode_not_possible") from error
    return _cascade(service, name)


@router.get("/report")
async def report(
    service: Served, days: Annotated[float, Query(gt=0, le=3660)] = 30.0
) -> dict[str, Any]:
    """What the ledger says was saved, as `cascade report --json` prints it."""
    if service.store is None:
        raise ServiceError(409, "there is no ledger: set `ledger`.", code="no_ledger")
    since = datetime.now(UTC) - timedelta(days=days)
    found = await make_report(service.store, Selection(since=since))
    return found.model_dump(mode="json")


def _info(key: Key) -> KeyInfo:
    return KeyInfo.model_validate({name: getattr(key, name) for name in KeyInfo.model_fields})


def _cascade(service: Service, name: str) -> CascadeInfo:
    cascade = service.served[name].cascade
    return CascadeInfo(
        name=name,
        tiers=tuple(tier.name for tier in cascade.tiers),
        mode=cascade.mode,
        canary_share=cascade.canary_share,
        calibrated=cascade.calibration is not None,
    )
