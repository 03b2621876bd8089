"""The page: what the service saves, how sure that is, what it costs in quality, what is wrong now.

It is made here as HTML without a script: a browser may load one style sheet, and nothing from
another host.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from fastapi import FastAPI
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from cascade.errors import CascadeError
from cascade.evaluation.page import to_svg
from cascade.evaluation.render import Cell, Fact, Figure, Picture, Table, words
from cascade.evaluation.report import Report
from cascade.ledger.base import Selection
from cascade.service.admin import Reports, budgets_of, ledger_of
from cascade.service.faults import ServiceError, fault_of
from cascade.service.gateway import Gateway, Way
from cascade.service.keys import CASCADE_TAG, KEY_TAG, Key

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What a browser lets the page do."""

COOKIE, LASTS_S, LARGEST_FORM = "cascade_session", 12 * 3600, 4096

PERIODS = {"1": "24 hours", "7": "7 days", "30": "30 days", "90": "90 days"}

_STRONG = ' class="strong"'

NOW = timedelta(minutes=15)
"""Failures within so long are "now"."""


def add_routes(app: FastAPI, gateway: Gateway) -> None:
    """Add the routes of the page to an application."""
    desk = Desk(gateway)
    for path, methods, work in (
        ("/", ["GET", "HEAD"], desk.show),
        ("/login", ["GET", "HEAD"], desk.form),
        ("/login", ["POST"], desk.login),
        ("/logout", ["POST"], desk.logout),
        ("/export/{name}", ["GET"], desk.export),
        ("/static/{name}", ["GET", "HEAD"], desk.static),
    ):
        app.add_api_route(
            path, _guarded(work), methods=methods, include_in_schema=False, response_model=None
        )


Work = Callable[[Request], Awaitable[Response]]


def _guarded(work: Work) -> Work:
    """A route whose every answer has the headers, errors among them."""

    async def guarded(request: Request) -> Response:
        try:
            _same_site(request)
            response = await work(request)
        except (ServiceError, CascadeError) as error:
            fault = fault_of(error, request.url.path)
            if fault.status == 401:
                response = RedirectResponse("/login", 303)
            else:
                said = f"<h1>cascade</h1><p>{escape(fault.message)}</p>"
                response = HTMLResponse(_frame("cascade", said), fault.status, fault.headers)
        response.headers.update(HEADERS)
        return response

    return guarded


def _same_site(request: Request) -> None:
    """Refuse what a page of another site has sent, whatever cookies it carries.

    Raises:
        ServiceError: 403.
    """
    place = request.headers.get("sec-fetch-site")
    if request.method in ("GET", "HEAD"):
        # A link from elsewhere may open the page, where the strict cookie does not come along.
        allowed = place != "cross-site" or request.headers.get("sec-fetch-mode") == "navigate"
    else:
        origin = request.headers.get("origin")
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
        allowed = own if place is None else place == "same-origin"
    if not allowed:
        raise ServiceError(403, "this request was sent by a page of another site.", "cross_site")


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at: a period, a part of the traffic, and which requests are listed."""

    days: str = "7"
    first: str = ""
    last: str = ""
    cascade: str = ""
    key: str = ""
    search: str = ""
    only: str = ""

    @classmethod
    def of(cls, request: Request) -> View:
        """The view that the address asks for."""
        names = {"from": "first", "to": "last", "q": "search"}
        given = {names.get(name, name): v[:200] for name, v in request.query_params.items()}
        return cls(**{name: given[name] for name in cls.__slots__ if name in given})

    def selection(self) -> Selection:
        """The entries of the view.

        Raises:
            ServiceError: 400, a day is none.
        """
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        since, until = self._day(self.first), self._day(self.last)
        if since is None and self.days in PERIODS and not self.last:
            since = now - timedelta(days=int(self.days))
        tags = {CASCADE_TAG: self.cascade, KEY_TAG: self.key}
        return Selection(
            since=since,
            until=None if until is None else until + timedelta(days=1),
            tags={name: value for name, value in tags.items() if value},
        )

    def _day(self, text: str) -> datetime | None:
        if not text:
            return None
        try:
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        except ValueError:
            raise ServiceError(400, f"{text!r} is no day such as 2026-01-31.") from None

    def query(self) -> str:
        """The view as the query of an address."""
        given = {"days": self.days, "from": self.first, "to": self.last}
        given |= {"cascade": self.cascade, "key": self.key}
        return urlencode({name: value for name, value in given.items() if value})

    def lists(self, way: Way) -> bool:
        """Whether a request is listed."""
        if self.cascade and way.cascade != self.cascade:
            return False
        if self.only == "failed" and not (way.error or way.degraded):
            return False
        if self.only == "escalated" and not way.escalated:
            return False
        text = f"{way.run_id} {way.key} {way.tier} {way.reason} {way.error}".lower()
        return self.search.lower() in text


class Desk:
    """Routes of the page."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reports = Reports()

    # --- who looks

    async def signed_in(self, request: Request) -> Key | None:
        """The admin key of a session.

        Raises:
            ServiceError: 401, there is none.
        """
        if not self._gateway.config.auth:
            return None
        token = request.cookies.get(_cookie(request), "")
        key_id, _, rest = token.partition(".")
        until, _, mark = rest.partition(".")
        key = await self._gateway.keys.get(key_id) if key_id and until.isdigit() else None
        valid = key is not None and key.admin and key.revoked_at is None
        if not valid or key is None or int(until[:12]) < time.time():
            raise ServiceError(401, "you are not logged in: open /login.", "no_session")
        if not hmac.compare_digest(mark, _mark(key, until)):
            raise ServiceError(401, "you are not logged in: open /login.", "no_session")
        return key

    async def form(self, request: Request, error: str = "", status: int = 200) -> Response:
        """The form of the log-in."""
        if not self._gateway.config.auth:
            return RedirectResponse("/", 303)
        said = f'<p class="error" role="alert">{escape(error)}</p>' if error else ""
        body = (
            f"<h1>cascade</h1>{said}"
            '<form method="post" action="/login" class="login"><label for="key">Admin key</label>'
            '<input id="key" name="key" type="password" autocomplete="current-password" required>'
            "<button>Log in</button></form>"
            '<p class="soft"><code>cascade keys create cascade.yaml NAME --admin</code> makes '
            "one.</p>"
        )
        return HTMLResponse(_frame("Log in", body), status)

    async def login(self, request: Request) -> Response:
        """Begin a session: a cookie that is signed with the key's hash, so that every process of
        the service knows it, and it ends with the key."""
        body = await request.body()
        if len(body) > LARGEST_FORM:
            raise ServiceError(413, "that is too long for a key.", "body_too_long")
        try:
            secret = parse_qs(body.decode(), max_num_fields=8).get("key", [""])[0].strip()
        except ValueError:
            raise ServiceError(400, "the form cannot be read.") from None
        try:
            key = await self._gateway.find_key(request, secret)
        except ServiceError as error:
            return await self.form(request, error.message, error.status)
        if key is None or not key.admin:
            said = "This is no valid key." if key is None else "This key is no admin key."
            return await self.form(request, said, 403 if key else 401)
        until = str(int(time.time()) + LASTS_S)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            _cookie(request),
            f"{key.id}.{until}.{_mark(key, until)}",
            max_age=LASTS_S,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    async def logout(self, request: Request) -> Response:
        """End the session in this browser."""
        response = RedirectResponse("/login", 303)
        response.delete_cookie(_cookie(request), path="/", httponly=True, samesite="strict")
        return response

    # --- what is shown

    async def show(self, request: Request) -> Response:
        """The page."""
        await self.signed_in(request)
        view, gateway = View.of(request), self._gateway
        names = {key.id: key.name for key in await self._keys()}
        made = None
        if gateway.store is not None:
            made = await self._reports.get(gateway.store, view.selection())
        ready = None if gateway.store is None else await gateway.store.ready()
        wrong = await self._wrong(made, ready)
        parts = [_header(view, gateway, names), _first_view(made, wrong)]
        if made is not None:
            parts += [
                _pictures(made.document.pictures),
                *(_table(_named(table, names)) for table in made.document.tables),
            ]
        spent = await self._budgets()
        parts += [_table(spent) if spent.rows else "", _service(gateway), _requests(view, gateway)]
        return HTMLResponse(_frame("cascade", "\n".join(filter(None, parts))))

    async def _keys(self) -> Sequence[Key]:
        return await self._gateway.keys.list() if self._gateway.config.auth else ()

    async def _wrong(self, made: Report | None, ready: str | None) -> list[str]:
        """What is wrong now, in sentences."""
        found = [] if ready is None else [f"The ledger cannot be written: {ready}"]
        since = datetime.now(UTC) - NOW
        late = [way for way in self._gateway.ways if way.at >= since]
        failed = [way for way in late if way.error and way.error != "the client left"]
        if failed:
            kinds = ", ".join(sorted({way.error for way in failed}))
            found.append(f"{len(failed)} of {len(late)} requests failed in 15 minutes: {kinds}.")
        worse = [way for way in late if way.degraded]
        if worse:
            found.append(
                f"{len(worse)} answers of 15 minutes are drafts in place of the large model's."
            )
        return [*found, *(made.trouble if made is not None else ())]

    async def _budgets(self) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for each in await budgets_of(self._gateway) if self._gateway.config.auth else ():
            for window in ("day", "month"):
                limit, spent = each[f"{window}_usd"], each[f"{window}_spent_usd"]
                if limit is not None:
                    share = Figure(float(spent / limit), "share")
                    aside = _usd(each["put_aside_usd"])
                    rows.append((each["name"], window, _usd(limit), _usd(spent), share, aside))
        columns = ("key", "window", "budget", "spent", "share", "put aside")
        return Table("Budgets of keys", columns, tuple(rows))

    async def export(self, request: Request) -> Response:
        """The entries of the view as a file."""
        await self.signed_in(request)
        name = request.path_params["name"]
        ending = {"ledger.csv": "text/csv", "ledger.jsonl": "application/x-ndjson"}.get(name)
        if ending is None:
            raise ServiceError(404, "there are /export/ledger.csv and /export/ledger.jsonl.")
        store = ledger_of(self._gateway)
        folder = Path(tempfile.mkdtemp(prefix="cascade-"))
        path = folder / f"{secrets.token_hex(4)}-{name}"
        await store.export(path, View.of(request).selection())

        def remove() -> None:
            path.unlink(missing_ok=True)
            folder.rmdir()

        done = BackgroundTask(asyncio.to_thread, remove)
        return FileResponse(path, media_type=ending, filename=name, background=done)

    async def static(self, request: Request) -> Response:
        """The style sheet."""
        if request.path_params["name"] != "page.css":
            raise HTTPException(404)
        own = files("cascade.service").joinpath("static/page.css").read_text(encoding="utf-8")
        shared = files("cascade.evaluation").joinpath("page.css").read_text(encoding="utf-8")
        return Response(shared + own, media_type="text/css")


def _cookie(request: Request) -> str:
    """With the prefix that forbids other hosts and plain HTTP to set it, where there is TLS."""
    return f"__Host-{COOKIE}" if request.url.scheme == "https" else COOKIE


def _mark(key: Key, until: str) -> str:
    return hmac.new(key.digest.encode(), f"page {key.id} {until}".encode(), sha256).hexdigest()


# --- HTML


def _header(view: View, gateway: Gateway, names: dict[str, str]) -> str:
    def options(given: Iterable[tuple[str, str]], chosen: str) -> str:
        return "".join(
            f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
            f"{escape(said[:60])}</option>"
            for value, said in given
        )

    periods = options([*PERIODS.items(), ("all", "everything")], view.days)
    cascades = options([("", "all cascades"), *((n, n) for n in gateway.served)], view.cascade)
    keys = options([("", "all teams"), *names.items()], view.key)
    leave = '<form method="post" action="/logout"><button>Log out</button></form>'
    query = escape(view.query())
    return (
        '<header class="bar"><strong>cascade</strong>'
        '<form method="get" action="/" class="filters">'
        f'<label>Period <select name="days">{periods}</select></label>'
        f'<label>from <input type="date" name="from" value="{escape(view.first)}"></label>'
        f'<label>to <input type="date" name="to" value="{escape(view.last)}"></label>'
        f'<label>Cascade <select name="cascade">{cascades}</select></label>'
        f'<label>Team <select name="key">{keys}</select></label><button>Show</button></form>'
        f'<nav aria-label="Export"><a href="/export/ledger.csv?{query}">CSV</a> '
        f'<a href="/export/ledger.jsonl?{query}">JSON lines</a></nav>'
        f"{leave if gateway.config.auth else ''}</header>"
    )


def _first_view(made: Report | None, wrong: Sequence[str]) -> str:
    alarm = (
        f'<section class="sentence bad" role="alert"><h2>Wrong now</h2>{_list(wrong)}</section>'
        if wrong
        else '<p class="sentence good">Nothing is wrong now.</p>'
    )
    if made is None:
        said = "There is no ledger, so nothing is known of savings: set <code>ledger</code>."
        return f'<p class="sentence open">{said}</p>{alarm}'
    document = made.document
    notes = [note for note in document.notes if note not in wrong]
    facts = [fact for fact in document.facts if fact.label != "wrong now"]
    return (
        f"<h1>{escape(document.title)}</h1>"
        f'<p class="sentence {document.tone}">{_marked(document.sentence)}</p>'
        f"{alarm}{_facts(facts)}{_list(notes)}"
    )


def _facts(facts: Sequence[Fact]) -> str:
    cards = []
    for fact in facts:
        value, said = words(fact.figure, interval=False), words(fact.figure)
        interval = said.removeprefix(value).strip(" ()") if isinstance(fact.figure, Figure) else ""
        small = "; ".join(filter(None, (interval, fact.note)))
        cards.append(
            f"<div><dt>{escape(fact.label)}</dt><dd>{escape(value)}"
            f"<small>{escape(small)}</small></dd></div>"
        )
    return f'<dl class="facts">{"".join(cards)}</dl>' if cards else ""


def _pictures(pictures: Sequence[Picture]) -> str:
    drawn = []
    for picture in pictures:
        legend = "".join(
            f'<li class="{s.kind} {s.role}{" dashed" * s.dashed}">{escape(s.name)}</li>'
            for s in picture.series
            if s.name
        )
        drawn.append(
            f"<figure><figcaption>{escape(picture.title)}</figcaption>"
            f'<ul class="legend">{legend}</ul>{to_svg(picture)}</figure>'
        )
    return f'<div class="pictures">{"".join(drawn)}</div>' if drawn else ""


def _table(table: Table, more: str = "", *, opened: bool = False) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.columns)
    rows = "".join(
        f"<tr{_STRONG if number == table.strong else ''}>"
        f'<th scope="row">{escape(words(row[0]))}</th>'
        + "".join(f"<td{_left(cell)}>{escape(words(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    label = escape(table.title)
    grid = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{label}"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    notes = "".join(f'<p class="soft">{_marked(note)}</p>' for note in table.notes)
    if table.folded:
        state = " open" if opened else ""
        return f"<details{state}><summary>{label}</summary>{more}{grid}{notes}</details>"
    return f"<section><h2>{label}</h2>{more}{grid}{notes}</section>"


def _left(cell: Cell) -> str:
    return ' class="left"' if isinstance(cell, str) and len(cell) > 24 else ""


def _list(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{_marked(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _marked(sentence: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(sentence).split("`")
    if len(parts) % 2 == 0:
        return escape(sentence)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _named(table: Table, names: dict[str, str]) -> Table:
    """A table whose keys are called by their names: those of the teams."""
    rows = tuple(
        tuple(names.get(cell, cell) if isinstance(cell, str) else cell for cell in row)
        for row in table.rows
    )
    heads = tuple("team" if head == KEY_TAG else head for head in table.columns)
    title = table.title.replace("tag key", "team (key)")
    return Table(title, heads, rows, table.notes, table.strong, table.folded)


def _usd(amount: Decimal | None) -> Figure:
    return Figure(amount, "usd")


def _service(gateway: Gateway) -> str:
    """Latency, errors and load of this process."""
    ways = list(gateway.ways)
    times = sorted(way.seconds for way in ways if way.seconds is not None and not way.error)
    failed = sum(bool(way.error) for way in ways)
    rows: list[tuple[Cell, ...]] = [
        ("requests", Figure(len(ways), "count")),
        ("failed", Figure(failed / len(ways), "share") if ways else ""),
    ]
    for share in (50, 95, 99):
        at = math.ceil(len(times) * share / 100) - 1
        rows.append((f"p{share}", Figure(times[at], "seconds") if times else ""))
    for served in gateway.served.values():
        rows.append((f"{served.name}: running", Figure(served.gate.running, "count")))
        rows.append((f"{served.name}: waiting", Figure(served.gate.waiting, "count")))
    return _table(Table("The last requests of this process", ("", ""), tuple(rows)))


def _requests(view: View, gateway: Gateway) -> str:
    """The list of requests: folded, searchable, filtered."""
    ways = [way for way in reversed(gateway.ways) if view.lists(way)]
    rows = tuple(
        (
            f"{way.at:%m-%d %H:%M:%S}",
            way.cascade,
            way.key or "–",
            way.error or way.tier or "no answer",
            ("degraded: " if way.degraded else "") + way.reason,
            " → ".join(way.steps),
            _usd(way.cost_usd),
            _usd(way.saved_usd),
            Figure(way.seconds, "seconds"),
            way.run_id,
        )
        for way in ways[:200]
    )
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in (
            ("days", view.days),
            ("from", view.first),
            ("to", view.last),
            ("cascade", view.cascade),
            ("key", view.key),
        )
        if value
    )
    chosen = "".join(
        f'<option value="{value}"{" selected" if value == view.only else ""}>{said}</option>'
        for value, said in (("", "all"), ("failed", "failed"), ("escalated", "escalated"))
    )
    form = (
        f'<form method="get" action="/#requests" class="filters">{hidden}'
        f'<label>Search <input name="q" value="{escape(view.search)}"></label>'
        f'<label>Only <select name="only">{chosen}</select></label><button>List</button></form>'
    )
    columns = (
        "at (UTC)",
        "cascade",
        "team",
        "answered by",
        "why",
        "way",
        "cost",
        "saved",
        "time",
        "run",
    )
    title = f"Requests of this process: {len(ways)} of the last {len(gateway.ways)}"
    table = Table(title, columns, rows, folded=True)
    opened = bool(view.search or view.only)
    return f'<div id="requests">{_table(table, form, opened=opened)}</div>'


def _frame(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/static/page.css">'
        '<link rel="icon" href="data:,"></head>'
        f"<body><main>{body}</main></body></html>"
    )
