"""Finished requests the moment they finish, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from cascade.ledger.store import UnavailableError
from cascade.service.faults import ServiceError
from cascade.service.page.desk import Desk, desk_of
from cascade.service.page.guard import PageRoute, SignedIn
from cascade.service.page.routes import shown
from cascade.service.page.sessions import Session

router = APIRouter(route_class=PageRoute, include_in_schema=False)

MOST_WATCHING = 32
"""Open streams; each is a connection that stays."""

BEAT_S = 15.0
"""After so much silence something is sent, so that whoever went away is noticed."""

LOOK_S = 0.5
"""So often the end of the service and of the session is looked for."""

BURST = 100
"""Requests that are told at once; of more, the latest."""

STREAM = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers of a stream, also for proxies that would collect it."""


@router.get("/page/api/events")
async def events(
    request: Request, session: SignedIn, after: Annotated[str, Query(max_length=64)] = ""
) -> StreamingResponse:
    """Requests that finish from now on; `after` and `Last-Event-ID` are `EPOCH-NUMBER`, and a
    browser that reconnects sends the latter.

    Raises:
        ServiceError: 429, too many streams are open.
    """
    desk = desk_of(request)
    if desk.watching >= MOST_WATCHING:
        raise ServiceError(
            429,
            f"{desk.watching} pages are open already: close some.",
            "rate_limit_error",
            "too_many_pages",
            headers={"Retry-After": "10"},
        )
    begin = _number(desk, request.headers.get("last-event-id") or after)
    return StreamingResponse(
        _watch(desk, session, begin), media_type="text/event-stream", headers=STREAM
    )


async def _watch(desk: Desk, session: Session, number: int) -> AsyncGenerator[bytes]:
    desk.watching += 1
    try:
        yield b"retry: 2000\n\n"
        silent_s = 0.0
        while await _goes_on(desk, session):
            try:
                async with asyncio.timeout(LOOK_S):
                    found = await desk.service.recent.after(number)
            except TimeoutError:
                silent_s += LOOK_S
                if silent_s >= BEAT_S:
                    silent_s = 0.0
                    yield b": still here\n\n"
                continue
            silent_s, number = 0.0, found[-1].number
            for item in found[-BURST:]:
                yield message("request", shown(item), f"{desk.epoch}-{item.number}")
    finally:
        desk.watching -= 1


async def _goes_on(desk: Desk, session: Session) -> bool:
    if desk.service.draining:
        return False
    try:
        return await desk.still_valid(session)
    except UnavailableError:  # the browser comes back, and is told then
        return False


def message(event: str, content: Any, name: str | None = None) -> bytes:
    """One server-sent event; JSON has no line breaks of its own."""
    head = f"id: {name}\n" if name else ""
    return (
        f"{head}event: {event}\ndata: ".encode() + to_json(content, inf_nan_mode="null") + b"\n\n"
    )


def _number(desk: Desk, name: str) -> int:
    """Where to go on: after a number of this process, else with what is there."""
    epoch, _, number = name.partition("-")
    if epoch != desk.epoch or not number.isascii() or not number.isdigit():
        return 0
    return int(number[:15])
