"""Makes a report: the ledger is read once, entry by entry, and then estimated from."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta

from cascade.errors import ConfigurationError
from cascade.ledger.store import Selection, Store
from cascade.ledger.tags import AGENT
from cascade.report.figures import account, escalation, needed, quality, reliability
from cascade.report.outages import bad_times
from cascade.report.page import to_page
from cascade.report.reading import Books, Key, Row, read
from cascade.report.records import (
    Day,
    Event,
    Figures,
    Line,
    Lost,
    PriceUsed,
    Status,
    Table,
    Unknown,
)
from cascade.report.said import said_of
from cascade.report.sums import Sums
from cascade.report.text import render
from cascade.report.verdict import judge, remarks_of
from cascade.state import Basis

TABLES = ("node", "tier", "model", "day", AGENT)
"""The tables that are made where nothing else is asked for; those by agent where there are any."""

AGENT_AND_NODE = "agent and node"
"""The table that comes with the one by agent: what each of them spent and saved in each node."""

EVERYTHING = Selection()

_PLACES: Mapping[str, int] = {"node": 0, "tier": 1, "model": 2, "day": 3}


class Report(Figures):
    """What a cascade saved and lost in a period, with how sure that is; made by `make_report`."""

    def text(self) -> str:
        """The report for a terminal."""
        return render(self)

    def html(self) -> str:
        """The report as one page that asks no other host for anything."""
        return to_page(self)


async def make_report(
    store: Store,
    selection: Selection = EVERYTHING,
    *,
    by: Sequence[str] = TABLES,
    precision: float = 0.02,
) -> Report:
    """What the ledger says about a period: verified saving, quality, costs, and a verdict.

    A run belongs to the period in which it begins, with all its entries up to an hour beyond.

    Args:
        store: the ledger.
        selection: by time, tag or run.
        by: tables to make: "node", "tier", "model", "day", "agent" (with one by agent and node),
            "tag:KEY".
        precision: half width of the quality loss per request, for which the number of audits is
            worked out.

    Raises:
        ConfigurationError: the selection is of parts of runs, or an argument is wrong.
        LedgerError: the ledger cannot be read.
    """
    if not 0 < precision < 1:
        raise ConfigurationError(f"precision={precision:g}: a half width between 0 and 1.")
    for name in by:
        if name not in (*_PLACES, AGENT) and not re.fullmatch(r"tag:.+", name):
            raise ConfigurationError(f"by={name!r}: node, tier, model, day, agent, or tag:KEY.")
    tables = list(dict.fromkeys(by))
    tags = [name.removeprefix("tag:") for name in tables if name.startswith("tag:")]
    if AGENT in tables and AGENT not in tags:
        tags.append(AGENT)
    return report_of(await read(store, selection, tags), selection, tables, precision)


def report_of(
    books: Books, selection: Selection, by: Sequence[str] = TABLES, precision: float = 0.02
) -> Report:
    """The report of books that were read already; of tags, only tables that they were read for."""
    rows = books.runs()
    total = total_of(books)
    saved, assumed = account(rows, total.spent)
    lost, missing = quality(rows), needed(rows, precision, _days(books))
    status, verified = _claim(rows, total, saved.saving.basis, saved.saving.audits)
    audits_usd = _merged(sums for key, sums in books.groups.items() if key[0] == "audit").spent
    judged = judge(rows, saved, status, lost, float(audits_usd))
    return Report(
        since=selection.since,
        until=selection.until,
        first=books.first,
        last=books.last,
        tags=dict(selection.tags),
        requests=len(rows),
        audits=sum(row.audited for row in rows),
        outcomes=Counter(row.outcome for row in rows),
        status=status,
        verified_usd=saved.verified_usd if verified else None,
        verified_share=saved.share.low if verified else None,
        verdict=judged.verdict,
        reason=judged.reason,
        advice=judged.advice(missing),
        remarks=remarks_of(books, total, saved, lost, assumed),
        saving=saved,
        assumed_baseline_usd=assumed,
        quality=lost,
        judge=books.judge,
        needed=missing,
        escalation=escalation(rows),
        total=_line("total", total, len(rows)),
        tables=tuple(table for name in by for table in _tables(books, name)),
        days=_by_day(books),
        reliability=reliability(rows),
        unknown=_unknown(books),
        unfinished=_unfinished(books),
        prices=_prices(books),
        events=_events(books),
        said=said_of(rows),
        **bad_times(rows),
    )


def _claim(rows: Sequence[Row], total: Sums, basis: Basis, audits: int) -> tuple[Status, bool]:
    """How far the saving can be claimed, and whether its lower end is a verified figure."""
    if not rows:
        return "empty", False
    if total.unpriced:
        return "unknown", False
    if basis == "measured":
        return "measured", True
    return ("verified", True) if audits else ("estimated", False)


def _days(books: Books) -> float:
    if books.first is None or books.last is None:
        return 0.0
    return (books.last - books.first) / timedelta(days=1)


def _merged(parts: Iterable[Sums]) -> Sums:
    whole = Sums()
    for part in parts:
        whole.merge(part)
    return whole


def total_of(books: Books) -> Sums:
    """All that the entries of a period add up to."""
    return _merged(books.groups.values())


def _grouped(books: Books, name_of: Callable[[Key], str]) -> dict[str, Sums]:
    groups: dict[str, Sums] = {}
    for key, sums in books.groups.items():
        groups.setdefault(name_of(key), Sums()).merge(sums)
    return groups


def _tables(books: Books, by: str) -> tuple[Table, ...]:
    if by != AGENT:
        return (_table(books, by),)
    place = books.tags.index(AGENT) if AGENT in books.tags else None
    if place is None or not any(key[4][place] for key in books.groups):
        return ()
    groups: dict[tuple[str, str], Sums] = {}
    for key, sums in books.groups.items():
        groups.setdefault((key[4][place], key[0]), Sums()).merge(sums)
    lines = [
        _line(node, groups[agent, node], None).model_copy(update={"agent": agent})
        for agent, node in sorted(groups, key=lambda group: group[0])
    ]
    agents = _table(books, f"tag:{AGENT}").model_copy(update={"by": AGENT})
    return agents, Table(by=AGENT_AND_NODE, lines=tuple(lines))


def _table(books: Books, by: str) -> Table:
    """One line per group; days in order, other groups as they first appear."""
    requests: Counter[str] | None = None
    if by in _PLACES:
        place = _PLACES[by]
        groups = _grouped(books, lambda key: str(key[place]))
        if by == "day":
            requests = Counter(row.day for row in books.runs())
    else:
        tag = books.tags.index(by.removeprefix("tag:"))
        groups = _grouped(books, lambda key: key[4][tag])
        requests = Counter(row.tags[tag] for row in books.runs())
    names = sorted(groups) if by == "day" else list(groups)
    lines = (_line(n, groups[n], None if requests is None else requests[n]) for n in names)
    return Table(by=by, lines=tuple(lines))


def _line(name: str, sums: Sums, requests: int | None) -> Line:
    return Line(
        name=name,
        entries=sums.entries,
        requests=requests,
        unknown=sums.unknown,
        unpriced=sums.unpriced,
        cost_usd=sums.cost,
        assumed_usd=sums.assumed,
        marginal_usd=sums.marginal,
        baseline_measured_usd=sums.measured,
        baseline_estimated_usd=sums.estimated,
        saved_measured_usd=sums.saved_measured,
        saved_estimated_usd=sums.estimated,
        input_tokens=sums.input_tokens,
        output_tokens=sums.output_tokens,
        no_tokens=sums.no_tokens,
    )


def _by_day(books: Books) -> tuple[Day, ...]:
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for row in books.runs():
        rows[row.day].append(row)
    sums = _grouped(books, lambda key: key[3])
    return tuple(
        Day(
            day=day,
            requests=len(rows[day]),
            escalation=escalation(rows[day]),
            saving=account(rows[day], sums[day].spent)[0].saving,
        )
        for day in sorted(rows)
    )


def _unknown(books: Books) -> tuple[Unknown, ...]:
    found = (
        Unknown(
            node=node,
            model=model,
            reason=note or "no reason given",
            entries=sums.entries,
            unpriced=sums.unpriced,
            assumed_usd=sums.assumed,
        )
        for (node, _, model, note), sums in books.unknown.items()
    )
    return tuple(sorted(found, key=lambda item: -item.entries))


def _unfinished(books: Books) -> tuple[Lost, ...]:
    return tuple(
        Lost(begun_at=a.begun_at, run_id=a.run_id, node=a.node, tier=a.tier, model=a.model)
        for a in books.unfinished
    )


def _prices(books: Books) -> tuple[PriceUsed, ...]:
    return tuple(
        PriceUsed(model=model, price=price, calls=calls)
        for (model, price), calls in books.prices.most_common()
    )


def _events(books: Books) -> tuple[Event, ...]:
    return tuple(Event(at=e.at, node=e.node, text=e.note) for e in books.events)
