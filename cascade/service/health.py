"""Whether the service lives, and whether it is ready: `/healthz` and `/readyz`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from cascade._masking import mask_places
from cascade.errors import CascadeError
from cascade.resilience import BreakerState, TierState
from cascade.service.last_calls import LastCall
from cascade.service.service import Service, service_of

DATABASE_PATIENCE_S = 2.0

Database = Literal["ok", "failed", "none"]

_FOLDER = re.compile(r"(?<![\w.:/])/(?:[^\s/]{1,255}/)+")


class TierHealth(BaseModel):
    """A tier: `untried` since the start, or how its last call ended; and what its circuit breaker
    does with the next: one that is `open` sends none for so many seconds.
    """

    state: Literal["ok", "failed", "untried"]
    error: str | None = None
    at: datetime | None = None
    breaker: BreakerState | None = None
    ready_in_s: float | None = None


class Readiness(BaseModel):
    """Whether requests should be sent here, and what is not as it should be.

    Tiers and calibrations are told and do not count: another copy of this service would fare
    no better with them.
    """

    ready: bool
    shutting_down: bool
    database: Database
    running: int
    tiers: Mapping[str, Mapping[str, TierHealth]]
    calibration_problems: Mapping[str, str]


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Alive:
    """Whether the process answers."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Whether requests should be sent here: its database answers, and it is not shutting down."""
    service = service_of(request)
    database = await database_of(service)
    ready = database != "failed" and not service.draining
    response.status_code = 200 if ready else 503
    return Readiness(
        ready=ready,
        shutting_down=service.draining,
        database=database,
        running=len(service.flights),
        tiers={
            name: {
                tier: _health(service.last_calls.of(name, tier), state)
                for tier, state in cascade.tier_states().items()
            }
            for name, cascade in service.cascades.items()
        },
        # Everybody may read this: the log and /admin/reload say in which folders.
        calibration_problems={
            name: mask_places(_FOLDER.sub("", problem))
            for name, problem in service.reloads.problems.items()
        },
    )


async def database_of(service: Service) -> Database:
    """Whether the ledger's database answers, or there is none."""
    try:
        async with asyncio.timeout(DATABASE_PATIENCE_S):
            return "ok" if await service.keys.reach() else "none"
    except (CascadeError, TimeoutError):
        return "failed"


def _health(last: LastCall | None, now: TierState) -> TierHealth:
    shut = {"breaker": now.breaker, "ready_in_s": now.ready_in_s or None}
    if last is None:
        return TierHealth(state="untried", **shut)
    state = "failed" if last.error else "ok"
    return TierHealth(state=state, error=last.error, at=last.at, **shut)
