"""The page: what the service saves, how sure that is, what it costs in quality, what is wrong now.
It is HTML without a script, and a browser loads nothing beside it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from html import escape
from pathlib import Path
from time import monotonic
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, HTMLResponse

from cascade.evaluation import render
from cascade.evaluation.render import Cell, Document, Figure, Table
from cascade.evaluation.report import Report, make_report
from cascade.ledger.base import Selection
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.store import SqlLedger
from cascade.service.faults import ServiceError, invalid
from cascade.service.gateway import Gateway, Route, Way, asked_by
from cascade.service.keys import CASCADE_TAG, KEY_TAG, Key, dollars

HEADERS = {
    "Content-Security-Policy": f"{render.POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers that bound the page in a browser."""

WEEK, NOW, MIDNIGHT = timedelta(days=7), timedelta(minutes=15), time(tzinfo=UTC)
"""Period that is shown where none is asked for, and time within which failures are "now"."""

KEPT_S, MOST_KEPT, LISTED = 30.0, 32, 200
"""Seconds for which a report is shown again, reports that are kept, and requests that are shown."""

Reports = dict[str, tuple[float, asyncio.Task[Report]]]

Day = Annotated[date, Field(ge=date(1900, 1, 1), lt=date(2500, 1, 1))]
"""Of those beyond, the period before would lie outside of the calendar."""

LOG_IN = "log in with any name, and an admin key (`cascade keys create … --admin`) as the password."

router = APIRouter(route_class=Route)


async def _asked(request: Request) -> Gateway:
    """The gateway, for the browser of an admin, which asks by itself or by a link that opens it."""
    opened = request.headers.get("sec-fetch-mode") == "navigate"
    if request.headers.get("sec-fetch-site") == "cross-site" and not opened:
        raise ServiceError(403, "this request was sent by a page of another site.", "cross_site")
    return (await asked_by(request, admin=True, page=True))[0]


def told(fault: ServiceError) -> Response:
    """The page of an error; where an admin key is needed, the browser asks for it."""
    if fault.code in ("invalid_api_key", "admin_key_needed"):
        basic = {"WWW-Authenticate": 'Basic realm="cascade", charset="UTF-8"'}
        fault = ServiceError(401, LOG_IN, headers=basic)
    said = f"<h1>cascade</h1><p>{render.marked(fault.message)}</p>"
    return HTMLResponse(render.framed("cascade", said), fault.status, HEADERS | fault.headers)


class View(BaseModel):
    """View of the page: a period, a part of the traffic, and which requests are listed."""

    first: Day = Field(default_factory=lambda: datetime.now(UTC).date() - WEEK, alias="from")
    last: Day | None = Field(default=None, alias="to")
    cascade: str = ""
    key: str = ""
    search: str = Field(default="", alias="q")
    only: str = ""

    @classmethod
    def of(cls, request: Request) -> View:
        """The view that the address asks for; 400 where a day is none."""
        given = {name: value[:200] for name, value in request.query_params.items() if value}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise invalid(error, given) from None

    def selection(self) -> Selection:
        """The entries of the view."""
        since, until = datetime.combine(self.first, MIDNIGHT), None
        if self.last is not None:
            until = datetime.combine(self.last, MIDNIGHT) + timedelta(days=1)
        tags = {CASCADE_TAG: self.cascade, KEY_TAG: self.key}
        return Selection(since=since, until=until, tags={n: v for n, v in tags.items() if v})

    def lists(self, way: Way) -> bool:
        """True if a request is listed."""
        kinds = {"failed": way.error or way.degraded, "escalated": way.escalated}
        if self.cascade not in ("", way.name) or not kinds.get(self.only, True):
            return False
        text = f"{way.run_id} {way.key} {way.tier} {way.reason} {way.error}".lower()
        return self.search.lower() in text


@router.head("/")
@router.get("/")
async def show(request: Request) -> Response:
    """Show the page."""
    gateway, view = await _asked(request), View.of(request)
    keys = await gateway.keys.list() if gateway.config.auth else []
    told = Document("cascade", "There is no ledger, so nothing is known of savings: set `ledger`.")
    alarms = _alarms(gateway)
    if gateway.store is not None:
        told = (await _report(request.app.state.reports, gateway.store, view.selection())).document
        if (why := await gateway.store.ready()) is not None:
            alarms.append(f"The ledger cannot be written: {why}")
    tables = [*told.tables, *await _budgets(gateway, keys)]
    # Requests that are looked for stand first, and all of them last and folded.
    tables.insert(0 if view.search or view.only else len(tables), _requests(view, gateway))
    alarms += told.alarms or ()
    said = render.body(replace(told, alarms=tuple(alarms), tables=tuple(tables)))
    for key in keys:
        said = said.replace(key.id, escape(key.name))
    whole = render.framed("cascade", f"{_header(view, gateway, keys)}\n{said}")
    return HTMLResponse(whole, headers=HEADERS)


async def _report(made: Reports, store: SqlLedger, selection: Selection) -> Report:
    """The report of a period, made in a thread (a second for 60,000 entries) and kept for a while;
    requests that come together wait for one."""
    at, task = made.pop(repr(selection), (0.0, None))
    failed = task is not None and task.done() and (task.cancelled() or task.exception())
    if task is None or failed or monotonic() - at > KEPT_S:
        at, work = monotonic(), lambda: asyncio.run(make_report(store, selection))
        task = asyncio.create_task(asyncio.to_thread(work))
    made[repr(selection)] = (at, task)
    if len(made) > MOST_KEPT:
        del made[next(iter(made))]
    return await asyncio.shield(task)


@router.get("/export/{name}")
async def export(request: Request, name: str) -> Response:
    """The entries of the view as a file."""
    gateway = await _asked(request)
    kind = {"ledger.csv": "text/csv", "ledger.jsonl": "application/x-ndjson"}.get(name)
    if kind is None:
        raise ServiceError(404, "there are /export/ledger.csv and /export/ledger.jsonl.")
    if gateway.store is None:
        raise ServiceError(409, "there is no ledger: set `ledger`.", "no_ledger")
    folder = tempfile.TemporaryDirectory(prefix="cascade-")  # removed with the last reference
    path, done = Path(folder.name, name), BackgroundTask(folder.cleanup)
    await gateway.store.export(path, View.of(request).selection())
    return FileResponse(path, headers=HEADERS, media_type=kind, filename=name, background=done)


def _alarms(gateway: Gateway) -> list[str]:
    since = datetime.now(UTC) - NOW
    late = [way for way in gateway.ways if way.at >= since]
    found = []
    if failed := [way for way in late if way.error and way.error != "the client left"]:
        kinds = ", ".join(sorted({way.error for way in failed}))
        found.append(f"{len(failed)} of {len(late)} requests failed in 15 minutes: {kinds}.")
    if worse := sum(way.degraded for way in late):
        found.append(f"{worse} answers of 15 minutes are drafts in place of the large model's.")
    return found


def _select(label: str, name: str, options: Mapping[str, str], chosen: str) -> str:
    listed = "".join(
        f'<option value="{escape(value)}"{" selected" * (value == chosen)}>'
        f"{escape(said[:60])}</option>"
        for value, said in options.items()
    )
    return f'<label>{label} <select name="{name}">{listed}</select></label>'


def _header(view: View, gateway: Gateway, keys: Iterable[Key]) -> str:
    cascades = {"": "all cascades", **{name: name for name in gateway.served}}
    teams = {"": "all teams", **{key.id: key.name for key in keys}}
    kinds = {"": "all requests", "failed": "failed", "escalated": "escalated"}
    told = view.model_dump(mode="json", by_alias=True, include={"first", "last", "cascade", "key"})
    query = escape(urlencode({name: value for name, value in told.items() if value}))
    return (
        '<header class="bar"><strong>cascade</strong><form action="/" class="filters">'
        f'<label>From <input type="date" name="from" value="{view.first}"></label>'
        f'<label>to <input type="date" name="to" value="{view.last or ""}"></label>'
        f"{_select('Cascade', 'cascade', cascades, view.cascade)}"
        f"{_select('Team', 'key', teams, view.key)}{_select('List', 'only', kinds, view.only)}"
        f'<label>with <input name="q" value="{escape(view.search)}"></label>'
        '<button>Show</button></form><nav aria-label="Export">'
        f'<a href="/export/ledger.csv?{query}">CSV</a> '
        f'<a href="/export/ledger.jsonl?{query}">JSON lines</a></nav></header>'
    )


async def _budgets(gateway: Gateway, keys: Iterable[Key]) -> Iterable[Table]:
    rows: list[tuple[Cell, ...]] = []
    for key in keys:
        if key.limits and key.revoked_at is None:
            account = await gateway.money.account(key.id)
            for window, limit in key.limits.items():
                spent = account.spent_usd(window)
                usd = [Figure(each, "usd") for each in (limit, spent, account.put_aside_usd)]
                rows.append((key.name, window, *usd, Figure(float(spent / limit), "share")))
    columns = ("key", "window", "budget", "spent", "put aside", "share spent")
    return [Table("Budgets of keys", columns, tuple(rows))] if rows else []


def _requests(view: View, gateway: Gateway) -> Table:
    ways = [way for way in reversed(gateway.ways) if view.lists(way)]
    rows: list[tuple[Cell, ...]] = []
    for way in ways[:LISTED]:
        by, why = way.error or way.tier or "no answer", "degraded: " * way.degraded + way.reason
        told = (f"{way.at:%m-%d %H:%M:%S}", way.name, way.key or "–", by, why)
        money = Figure(way.cost_usd, "usd"), Figure(way.saved_usd, "usd")
        took = Figure(way.seconds, "seconds")
        rows.append((*told, " → ".join(map(_step, way.entries)), *money, took, way.run_id))
    title = f"Requests of this process: {len(ways)} of the last {len(gateway.ways)}"
    heads = ("at (UTC)", "cascade", "team", "answered by", "why", "way", "cost", "saved", "time")
    folded = not (view.search or view.only)
    return Table(title, (*heads, "run"), tuple(rows), folded=folded)


def _step(entry: LedgerEntry) -> str:
    ended = entry.outcome.replace("_", " ") if entry.outcome != "ok" else ""
    took, cost = f"{entry.latency_ms:.0f} ms", dollars(entry.cost_usd)
    return " ".join(filter(None, (entry.node, entry.tier, ended, took, cost)))
