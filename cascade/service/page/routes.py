"""The page, and what it shows as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic_core import to_json

from cascade._version import __version__
from cascade.service.faults import ServiceError
from cascade.service.keys import RESERVATION_TAG, RESERVED_TAG
from cascade.service.page.describing import describe
from cascade.service.page.desk import Desk, desk_of
from cascade.service.page.files import read_text
from cascade.service.page.guard import PageRoute, SignedIn
from cascade.service.page.reading import Asked, Reading
from cascade.service.recent import Finished
from cascade.service.service import Service, service_of

router = APIRouter(route_class=PageRoute, include_in_schema=False)

COMMON_TAGS = ("cascade", "key")
"""Tags by which there are tables wherever entries have them."""

HIDDEN = (RESERVATION_TAG, RESERVED_TAG)
"""Tags with another value for nearly each request."""

MOST_TAGS = 6
"""Tables by tags; a client may name as many tags as it likes."""

SHOWN = 100
"""Finished requests that are listed when the page is opened."""

REPORT_PARTS = frozenset(
    [
        "since",
        "until",
        "first",
        "last",
        "requests",
        "audits",
        "outcomes",
        "status",
        "verified_usd",
        "verified_share",
        "verdict",
        "reason",
        "advice",
        "remarks",
        "saving",
        "assumed_baseline_usd",
        "quality",
        "judge",
        "needed",
        "escalation",
        "total",
        "tables",
        "days",
        "reliability",
        "unknown",
        "prices",
        "events",
    ]
)

Days = Annotated[float, Query(ge=0, le=3_660, allow_inf_nan=False)]
Tag = Annotated[str | None, Query(max_length=400)]


@router.get("/")
async def page(session: SignedIn) -> Response:
    """The page itself, which is empty: it fetches what it shows."""
    del session
    return HTMLResponse(read_text("page.html"))


@router.get("/page/api/service")
async def service(request: Request, session: SignedIn) -> Response:
    """What runs here: cascades with their tiers, thresholds and calibrations."""
    found = service_of(request)
    return _json(
        {
            "version": __version__,
            "login": found.config.auth,
            "key": None if session.key is None else session.key.name,
            "ledger": found.store is not None,
            "cascades": [describe(name, found.cascades[name]) for name in found.models(None)],
        }
    )


@router.get("/page/api/report")
async def report(request: Request, session: SignedIn, days: Days = 0, tag: Tag = None) -> Response:
    """What was saved and how sure that is: the record of `cascade report --json`, without lists
    of calls, and its sentences.
    """
    del session
    from cascade.report.text import claim, period, quality_claim, verdict_line  # noqa: PLC0415

    reading = await _read(desk_of(request), days, tag)
    found = reading.report
    words = (verdict_line, claim, quality_claim, period)
    return _json(
        {
            **_times(reading),
            "words": {part.__name__: part(found) for part in words},
            "report": found.model_dump(mode="python", include=set(REPORT_PARTS)),
        }
    )


@router.get("/page/api/thresholds")
async def thresholds(
    request: Request, session: SignedIn, days: Days = 0, tag: Tag = None
) -> Response:
    """What other thresholds would have given, how many drafts had which confidence, and how right
    those were that were audited.
    """
    del session
    reading = await _read(desk_of(request), days, tag)
    return _json(
        {
            **_times(reading),
            "thresholds": reading.thresholds,
            "reliability": reading.report.reliability,
        }
    )


@router.get("/page/api/requests")
async def requests(request: Request, session: SignedIn) -> Response:
    """The last finished requests of this process, oldest first."""
    del session
    desk = desk_of(request)
    found = desk.service.recent.since(0)[-SHOWN:]
    return _json({"epoch": desk.epoch, "requests": [shown(item) for item in found]})


def shown(item: Finished) -> dict[str, Any]:
    """A finished request as the page reads it."""
    return {name: getattr(item, name) for name in Finished.__dataclass_fields__}


def _json(content: Mapping[str, Any]) -> Response:
    """Exact amounts become strings; what is no number becomes null."""
    return Response(to_json(content, inf_nan_mode="null"), media_type="application/json")


async def _read(desk: Desk, days: float, tag: str | None) -> Reading:
    return await desk.shelf.read(Asked(days, _tag(tag), _tag_keys(desk.service)))


def _tag(text: str | None) -> tuple[str, str] | None:
    """`KEY=VALUE`.

    Raises:
        ServiceError: 400, it is not.
    """
    if not text:
        return None
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise ServiceError(400, f"tag={text!r}: give KEY=VALUE.", code="invalid_value", param="tag")
    return key, value


def _tag_keys(found: Service) -> tuple[str, ...]:
    """The tags by which there are tables: the common ones, those of keys, those seen last."""
    seen: dict[str, None] = dict.fromkeys(COMMON_TAGS)
    for item in reversed(found.recent.since(0)):
        seen |= dict.fromkeys(key for key in item.tags if key not in HIDDEN)
    return tuple(sorted(list(seen)[:MOST_TAGS]))


def _times(reading: Reading) -> dict[str, Any]:
    return {"at": reading.at, "took_s": round(reading.took_s, 3)}
