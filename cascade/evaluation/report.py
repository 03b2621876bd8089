"""The report of a ledger: what a cascade saved, how good its answers were, and how sure that is.

report = await make_report(open_store("sqlite:///ledger.db"))
print(to_text(report.document))

The ledger is read once. Every figure is a sum over entries, except what accepted drafts would have
cost with the large model: that is estimated from random audits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from cascade.errors import ConfigurationError
from cascade.evaluation.audit import Estimate, SavingReport
from cascade.evaluation.books import Books, Key, Outcome, Readable, Sums, read, utc
from cascade.evaluation.figures import (
    Quality,
    WhatIf,
    account,
    audits_to_come,
    escalation,
    quality_of,
    reliability,
    right,
    what_if_of,
)
from cascade.evaluation.render import (
    Axis,
    Cell,
    Document,
    Fact,
    Figure,
    Picture,
    Series,
    Table,
    Tone,
    Unit,
    counted,
    dollars,
    percent,
    words,
)
from cascade.ledger.base import EVERYTHING, MemoryLedger, Selection
from cascade.state import Basis

Status = Literal["verified", "measured", "estimated", "unknown", "empty"]
"""How far the saving can be claimed: `verified` by audits; `measured`, as every baseline is known;
`estimated`, no audits yet; `unknown`, as there are calls without a price; `empty`."""

Verdict = Literal["saves", "loses", "cannot tell yet"]

TEAMS = ("team", "key", "cascade", "agent")
"""Tags by which tables are made where entries have them."""

TABLES = ("tags", "model", "tier", "day", "node")
"""The tables that are made where nothing else is asked for; `tags` are those of `TEAMS`."""

NOTABLE = 5
"""So many audits that are due come to nothing by chance in less than one case of a hundred."""

MOST_LINES = 30
"""Lines of a table; the others are summed up in one."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a cascade saved and lost in a period, with how sure that is; made by `make_report`.

    Attributes:
        since, until: the period asked for; None where open. `first` and `last` are the times of
            its first and last entry.
        status: how far the saving can be claimed; `verified_usd` and `verified_share` (of the
            large-only bill) only where it can: the lower end of the saving's interval.
        unknown_baselines: accepted drafts for which neither an estimate nor audits stand.
        quality: None where there are accepted drafts and none of them could be audited.
        escalation: share of the decided requests that went to the large model.
        right_usd: dollars per answer that is as good as the large model's, where quality is known.
        trouble: what is wrong now, in sentences.
        document: all of it for people, with tables and pictures.
    """

    since: datetime | None
    until: datetime | None
    first: datetime | None
    last: datetime | None
    tags: Mapping[str, str]
    requests: int
    outcomes: Mapping[Outcome, int]
    status: Status
    verified_usd: float | None
    verified_share: float | None
    verdict: Verdict
    reason: str
    advice: str
    saving: SavingReport
    unknown_baselines: int
    quality: Quality | None
    escalation: Estimate | None
    right_usd: Estimate | None
    trouble: tuple[str, ...]
    what_if: WhatIf | None
    document: Document


async def make_report(
    store: Readable | MemoryLedger,
    selection: Selection = EVERYTHING,
    *,
    by: Sequence[str] = TABLES,
    precision: float = 0.02,
    compare: bool = True,
) -> Report:
    """What the ledger says about a period: verified saving, quality, costs, and a verdict.

    A run belongs to the period in which it begins, with all its entries up to an hour beyond. It
    takes a second of CPU for some 60,000 entries: a service makes it in a thread of its own.

    Args:
        store: the ledger.
        selection: by time, tag or run.
        by: tables to make: `node`, `tier`, `model`, `day`, `tags` (those of `TEAMS`), `tag:KEY`.
        precision: half width of the quality loss per request, for which the number of audits is
            worked out.
        compare: also read the period of the same length before, where the selection has a begin.

    Raises:
        ConfigurationError: the selection is of parts of runs, or an argument is wrong.
        LedgerError: the ledger cannot be read.
    """
    if not 0 < precision < 1:
        raise ConfigurationError(f"precision={precision:g}: a half width between 0 and 1.")
    for name in by:
        if name not in TABLES and not (name.startswith("tag:") and name != "tag:"):
            raise ConfigurationError(f"by={name!r}: {', '.join(TABLES)}, or tag:KEY.")
    keys = [name.removeprefix("tag:") for name in by if name.startswith("tag:")]
    tags = list(dict.fromkeys([*(TEAMS if "tags" in by else ()), *keys]))
    since = utc(selection.since) if compare else None
    length = None if since is None else (utc(selection.until) or datetime.now(UTC)) - since
    books, earlier = await read(store, selection, tags, before=length)
    return report_of(books, selection, earlier, by=by, precision=precision)


def report_of(
    books: Books,
    selection: Selection = EVERYTHING,
    earlier: Books | None = None,
    *,
    by: Sequence[str] = TABLES,
    precision: float = 0.02,
) -> Report:
    """The report of books that were read already; of tags, only tables that they were read for."""
    runs, total = books.columns(), books.total
    found, unknown, assumed = account(runs, float(total.spent))
    quality = quality_of(runs)
    status = _status(runs, total, found, unknown)
    claimed = status in ("verified", "measured")
    audits = books.summed(lambda key: key[0] == "audit").get(True, Sums())
    what_if = what_if_of(runs, float(total.spent))
    verdict, reason = _verdict(runs, found, status, quality, float(audits.spent), what_if)
    advice = _advice(books, runs, verdict, status, precision)
    facts, tables = _facts(books, runs, status), _lists(books, runs)
    if what_if is not None:
        tables.insert(0, _choices(what_if))
    if books.groups:
        shown = (*_breakdowns(books, by, found), _tokens(books), _calls(books))
        tables = [_money(total, found, unknown), *shown, *tables]
    if earlier is not None and earlier.runs:
        tables.insert(1, _compared(facts, earlier))
    trouble = _trouble(books)
    sentence = f"{verdict[0].upper()}{verdict[1:]}: {reason}."
    if quality is not None and quality.checked:
        sentence = f"{sentence} {quality.sentence}"
    tones: Mapping[Verdict, Tone] = {"saves": "good", "loses": "bad", "cannot tell yet": "open"}
    return Report(
        since=selection.since,
        until=selection.until,
        first=books.first,
        last=books.last,
        tags=dict(selection.tags),
        requests=len(runs),
        outcomes=Counter(run.outcome for run in books.runs.values()),
        status=status,
        verified_usd=found.verified_usd if claimed else None,
        verified_share=found.share.low if claimed else None,
        verdict=verdict,
        reason=reason,
        advice=advice,
        saving=found,
        unknown_baselines=unknown,
        quality=quality,
        escalation=escalation(runs),
        right_usd=None if total.unpriced else right(runs, float(total.spent), quality),
        trouble=trouble,
        what_if=what_if,
        document=Document(
            title=_title(books, selection),
            sentence=sentence,
            facts=(
                *facts,
                Fact("wrong now", counted(len(trouble), "thing") if trouble else "nothing"),
            ),
            notes=tuple(filter(None, (*trouble, advice, *_remarks(books, runs, assumed, quality)))),
            tables=tuple(table for table in tables if table.rows),
            pictures=(*_per_day(books, runs), *_by_confidence(runs, what_if)),
            tone=tones[verdict],
        ),
    )


# Verdict --------------------------------------------------------------------------------------


def _status(runs: Any, total: Sums, found: SavingReport, unknown: int) -> Status:
    if not len(runs):
        return "empty"
    if total.unpriced or unknown:
        return "unknown"
    if found.saving.basis == "measured":
        return "measured"
    return "verified" if found.saving.n else "estimated"


def _verdict(
    runs: Any,
    found: SavingReport,
    status: Status,
    quality: Quality | None,
    audits_usd: float,
    what_if: WhatIf | None,
) -> tuple[Verdict, str]:
    low, high = found.saving.low, found.saving.high
    of_bill = " of what the large model alone would have cost"
    verdict: Verdict = "cannot tell yet"
    reason = f"the saving is between {dollars(low)} and {dollars(high)}"
    if status == "empty":
        reason = "there are no requests in this period"
    elif (runs.outcome == "shadow").all():
        reason = "the large model answered everything: a shadow start saves nothing yet"
        if what_if is not None and what_if.in_force is not None:
            live = what_if.choices[what_if.start]
            reason += (
                f"; live at {live.threshold:.3f} it would have saved {dollars(live.saving.value)} "
                f"({percent(live.share.value)}), with {percent(live.worse)} of the requests "
                f"accepted and worse, at most {percent(live.worse_high)}"
            )
    elif high <= 0 and low < 0 and high + audits_usd > 0:
        reason = (
            f"its audits cost {dollars(audits_usd)}, without which it would have saved up to "
            f"{dollars(high + audits_usd)}: audit a smaller share"
        )
    elif high <= 0 and low < 0:
        verdict, reason = "loses", f"at best it has lost {dollars(-high)}"
        if found.baseline.value > 0:
            reason += f", {percent(-found.share.high)}{of_bill}"
    elif status in ("verified", "measured") and low > 0:
        verdict = "saves"
        share = f"{percent(found.share.low)}{of_bill}"
        reason = f"a verified net saving of at least {dollars(low)}, {share}"
        if quality is not None and quality.loss.low > 0:
            reason += f"; but it lost at least {percent(quality.loss.low)} of quality per request"
    elif status == "unknown":
        reason = "there are calls or baselines without a price"
    elif status == "estimated" and not np.isnan(runs.loss).all():
        reason = "what the large model costs is unknown, also from the audits"
    elif status == "estimated":
        reason = f"no accepted draft has been audited; by assumption, {reason}"
    return verdict, reason


def _advice(books: Books, runs: Any, verdict: Verdict, status: Status, precision: float) -> str:
    """What to do next."""
    audits, missing = audits_to_come(runs, precision)
    seen = audits - missing
    advice = f"±{100 * precision:g} points of quality loss take {audits:,} audits"
    if status == "empty":
        advice = (
            "Look whether period and tags are what you mean, and whether the cascade writes into "
            "this ledger: Cascade(…, ledger=open_store(URL))."
        )
    elif verdict == "loses":
        advice = (
            "Switch it off: ask the large model alone. A cheaper draft, a better calibration or a "
            "lower threshold may turn it; `cascade evaluate` tells on recorded answers."
        )
    elif status == "unknown":
        advice = (
            "Give the models that are listed as unknown a price, Tier(…, price=Price(…)), and "
            "count from then on (--since)."
        )
    elif not (runs.outcome == "accepted").any():
        advice = ""
    elif not missing:
        advice += ": they are there."
    elif not seen:
        advice += " if one draft in ten differs. Audit some: Cascade(…, audit_rate=0.05)."
    elif books.first is not None and books.last is not None:
        days = max(1.0, (books.last - books.first) / timedelta(days=1))
        until = counted(round(missing / seen * days), "day")
        advice += f": {missing:,} more, about {until} at this rate."
    return advice


def _remarks(books: Books, runs: Any, assumed: float, quality: Quality | None) -> tuple[str, ...]:
    """What a reader must know about the figures."""
    total, drafts = books.total, runs[runs.outcome == "accepted"]
    remarks = []
    if total.unknown:
        nothing = f" For {total.unpriced:,} nothing can be assumed." if total.unpriced else ""
        remarks.append(
            f"Calls of unknown cost: {total.unknown:,}. {dollars(total.assumed)} is assumed for "
            f"them and counted as spent.{nothing}"
        )
    if total.no_baseline:
        remarks.append(
            "Accepted drafts without a baseline, as their usage or the large model's price is "
            f"unknown: {total.no_baseline:,}. They count as nothing saved unless audited."
        )
    blind = int((~(drafts.rate > 0) & np.isnan(drafts.large)).sum())
    if blind:
        remarks.append(
            "Accepted drafts that could not be audited (auditing off, or its budget used up): "
            f"{blind:,} of {len(drafts):,}. {dollars(assumed)} of the baseline rests on assumed "
            "limits."
        )
    if quality is None:
        return (*remarks, "Nothing is known about quality: no accepted draft could be audited.")
    if quality.represented < 1:
        stands = percent(quality.represented)
        remarks.append(f"The quality figures stand for {stands} of the accepted drafts.")
    if quality.finished < 1:
        remarks.append(
            f"Only {percent(quality.finished)} of the audits that were due have a result: these "
            "are taken for a random part of them."
        )
    due = float(np.nansum(drafts.rate))
    if not quality.checked and due > NOTABLE:
        remarks.append(f"About {due:,.0f} audits were due and none has a result: see the log.")
    return tuple(remarks)


def _trouble(books: Books) -> tuple[str, ...]:
    """What is wrong now."""
    found = [
        f"Wrong now: the last {n:,} calls of {tier or 'a tier'} failed, since {_minute(begin)} "
        f"UTC: {note}"
        for tier, health in books.health.items()
        for begin, end, n, note in health.outages
        if end is None
    ]
    if books.unfinished:
        found.append(
            f"Calls of unknown outcome: {len(books.unfinished):,}. Their process ended before they "
            "did; if they were paid for, that is not in these figures."
        )
    return tuple(found)


# The document ---------------------------------------------------------------------------------


def figure(estimate: Estimate | None, unit: Unit) -> Figure:
    """An estimate as it is shown."""
    if estimate is None:
        return Figure(None, unit)
    return Figure(estimate.value, unit, estimate.low, estimate.high, estimate.basis)


def _title(books: Books, selection: Selection) -> str:
    first, last = selection.since or books.first, selection.until or books.last
    tags = ", ".join(f"{key}={value}" for key, value in selection.tags.items())
    period = f", {first:%Y-%m-%d} to {last:%Y-%m-%d}" if first and last else ""
    return f"What the cascade saved{period}{f' ({tags})' if tags else ''}"


def _facts(books: Books, runs: Any, status: Status) -> tuple[Fact, ...]:
    """The figures of the first view, also those by which two periods are compared."""
    total = books.total
    if not books.groups:
        return (Fact("requests", Figure(0, "count")),)
    found, unknown, _ = account(runs, float(total.spent))
    quality, spent = quality_of(runs), float(total.spent)
    checked = quality is not None and quality.checked > 0
    per_answer = None if total.unpriced else right(runs, spent, quality)
    failed = sum(health.ends["failed"] for health in books.health.values())
    calls = failed + sum(health.ends["ok"] for health in books.health.values())
    half, most = _took(runs.latency_s[runs.latency_s > 0], (0.5, 0.95))
    bill, saved, share = _shown(total, found, unknown)
    note = {"verified": "the lower end is what may be claimed", "estimated": "no audits yet"}
    worse = "" if quality is None else f"{quality.worse:,} of {quality.checked:,}"
    return (
        Fact("requests", Figure(len(runs), "count")),
        Fact("spent", _dollars(total.spent, total.unpriced), "audits included"),
        Fact("saved", saved, note.get(status, "")),
        Fact("of the large-only bill", share),
        Fact(
            "checked drafts that were worse",
            worse if checked else "?",
            "no accepted draft was checked"
            if quality is None or not checked
            else "all were checked"
            if quality.error_rate.basis == "measured"
            else f"at most {percent(quality.error_rate.high)} of the accepted, 95 %",
        ),
        Fact("escalated", figure(escalation(runs), "share")),
        Fact(
            "cost per answer as good as the large model's",
            figure(per_answer, "usd"),
            "large alone "
            + dollars(None if bill.value is None or not len(runs) else bill.value / len(runs)),
        ),
        Fact("95 % of requests took at most", most, f"half of them {words(half)}"),
        Fact("calls that failed", Figure(failed / calls if calls else None, "share")),
    )


def _shown(total: Sums, found: SavingReport, unknown: int) -> tuple[Figure, Figure, Figure]:
    """Large-only bill, saving and its share, as far as they are known: a cost without a price
    leaves a saving no lower end, a draft without a baseline leaves it no upper one."""

    def shown(estimate: Estimate, unit: Unit, unpriced: int) -> Figure:
        value = None if unknown or unpriced else estimate.value
        low, high = None if unpriced else estimate.low, None if unknown else estimate.high
        return Figure(value, unit, low, high, estimate.basis)

    return (
        shown(found.baseline, "usd", 0),
        shown(found.saving, "usd", total.unpriced),
        shown(found.share, "share", total.unpriced),
    )


def _money(total: Sums, found: SavingReport, unknown: int) -> Table:
    bill, saved, share = _shown(total, found, unknown)
    how = "; ".join(part for part in (found.saving.method, found.saving.note) if part)
    guess: Basis = "estimated" if found.estimated_usd else "measured"
    estimated = Figure(found.estimated_usd, "usd", basis=guess)
    rows: tuple[tuple[bool, tuple[Cell, ...]], ...] = (
        (True, ("large model alone", bill, "with every request")),
        (True, ("spent", _dollars(total.cost, total.unpriced), "known costs")),
        (
            total.unknown > 0,
            ("spent, assumed", Figure(total.assumed, "usd"), f"{total.unknown:,} unknown costs"),
        ),
        (True, ("saved, measured", Figure(found.measured_usd, "usd"), "escalated and audited")),
        (True, ("saved, estimated", estimated, "accepted drafts that were not audited")),
        (unknown > 0, ("saved, unknown", None, f"{unknown:,} accepted drafts without a baseline")),
        (True, ("net saving", saved, how)),
        (True, ("as a share", share, "of the large-only bill")),
    )
    return Table("Money", ("", "dollars", "how"), tuple(row for kept, row in rows if kept))


def _compared(now: Sequence[Fact], earlier: Books) -> Table:
    runs = earlier.columns()
    before = _facts(earlier, runs, "measured")
    known = {fact.label: fact.figure for fact in now}
    rows = ((fact.label, known.get(fact.label, ""), fact.figure) for fact in before)
    return Table("Compared with the period before", ("", "this period", "before"), tuple(rows))


_PLACES: Mapping[str, int] = {"node": 0, "tier": 1, "model": 2, "day": 3}
_HEADS = ("requests", "calls", "cost", "saved, measured", "saved, estimated")


def _breakdowns(books: Books, by: Sequence[str], found: SavingReport) -> list[Table]:
    """Tables by node, tier, model, day or tag, of which every column adds up to the headline.

    Estimated savings are those of the ledger, scaled to what the audits make of their sum.
    """
    total = float(books.total.estimated)
    scale = found.estimated_usd / total if total else None
    teams = tuple(f"tag:{tag}" for tag in TEAMS if tag in books.tags)
    names = [tag for name in by for tag in (teams if name == "tags" else (name,))]
    tables = [_breakdown(books, name, scale) for name in dict.fromkeys(names)]
    # A tag that no entry has makes one line without a name, and the total.
    return [table for table in tables if [row[0] for row in table.rows] != ["–", "total"]]


def _breakdown(books: Books, by: str, scale: float | None) -> Table:
    """One line per group: days in order, other groups by what they cost."""
    tag, place, requests = by.removeprefix("tag:"), _PLACES.get(by), Counter[Any]()
    index = books.tags.index(tag) if place is None else 0
    counts = place is None or by == "day"  # elsewhere a run has entries in several groups
    if counts:
        requests.update(
            run.tags[index] if place is None else run.day for run in books.runs.values()
        )

    def name_of(key: Key) -> Any:
        return key[4][index] if place is None else key[place]

    groups = books.summed(name_of)
    names = sorted(groups) if by == "day" else sorted(groups, key=lambda name: -groups[name].spent)
    if len(names) > MOST_LINES:
        cut = len(names) - MOST_LINES
        others = names[:cut] if by == "day" else names[MOST_LINES:]
        rest = f"({cut:,} {'earlier' if by == 'day' else 'others'})"
        groups[rest], requests[rest] = Sums(), sum(requests[name] for name in others)
        for name in others:
            groups[rest].merge(groups[name])
        names = [rest, *names[cut:]] if by == "day" else [*names[:MOST_LINES], rest]
    groups["total"], requests["total"] = books.total, len(books.runs)
    rows: list[tuple[Cell, ...]] = []
    for name in (*names, "total"):
        sums = groups[name]
        label = date.fromordinal(name).isoformat() if isinstance(name, int) else name or "–"
        guess = float(sums.estimated) * scale if scale is not None else None
        basis: Basis = "estimated" if guess else "measured"
        unknown = sums.no_baseline > 0
        cells = (
            Figure(sums.calls, "count"),
            _dollars(sums.spent, sums.unpriced),
            Figure(sums.saved, "usd", partial=sums.unpriced > 0),
            Figure(guess or (None if unknown else 0), "usd", basis=basis, partial=unknown),
        )
        if name or any(cell.value != 0 for cell in cells):
            rows.append((label, *((Figure(requests[name], "count"),) if counts else ()), *cells))
    heads = (tag, *(_HEADS if counts else _HEADS[1:]))
    return Table(f"By {tag}", heads, tuple(rows), strong=len(rows) - 1)


def _dollars(known: Decimal, unpriced: int) -> Figure:
    """A sum of which so many parts are unknown."""
    return Figure(known or (None if unpriced else 0), "usd", partial=unpriced > 0)


def _tokens(books: Books) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for tier, sums in books.summed(lambda key: key[1]).items():
        if sums.calls:
            fresh = sums.input - sums.cached - sums.written
            share = sums.cached / sums.input if sums.input else None
            counts = (sums.calls, fresh, sums.cached, sums.written, sums.output)
            open_ = sums.no_tokens > 0
            cells = [Figure(n, "count", partial=open_ and n != sums.calls) for n in counts]
            rows.append((tier, *cells, Figure(share, "share")))
    heads = ("tier", "calls", "input, uncached", "cached", "cache writes", "output", "cached share")
    return Table("Tokens by tier", heads, tuple(rows))


def _calls(books: Books) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for tier, health in books.health.items():
        ends = (health.ends[end] for end in ("ok", "failed", "not_sent", "cancelled"))
        took = _took(np.array(health.seconds), (0.5, 0.95, 0.99))
        rows.append((tier, *(Figure(n, "count") for n in ends), *took))
    heads = ("tier", "answered", "failed", "not sent", "cancelled", "50 % took", "95 %", "99 %")
    return Table("Calls by tier", heads, tuple(rows))


def _took(times: Any, shares: Sequence[float]) -> list[Figure]:
    """Within which times so many ended."""
    found = np.quantile(times, shares).tolist() if len(times) else [None for _ in shares]
    return [Figure(time, "seconds") for time in found]


def _choices(found: WhatIf) -> Table:
    last = len(found.choices) - 1
    places = sorted({round(i * last / 8) for i in range(9)} | {found.start})
    rows = []
    for choice in (found.choices[place] for place in places):
        worse = Figure(choice.worse, "share", choice.worse_low, choice.worse_high)
        escalated = Figure(choice.escalated, "share")
        saved = figure(choice.saving, "usd")
        rows.append(
            (f"{choice.threshold:.3f}", escalated, Figure(choice.cost_usd, "usd"), saved, worse)
        )
    heads = ("accept from", "large answers", "cost", "saved", "accepted and worse")
    notes = [
        f"On the latest {found.requests:,} decided requests, in the order of their confidence."
    ]
    if found.in_force is not None:
        notes.append(f"The threshold in force is {found.in_force:.3f}.")
    if found.calibrated < 1:
        notes.append("Not all confidences are calibrated: those are scores and no probabilities.")
    return Table(
        "Other thresholds", heads, tuple(rows), tuple(notes), strong=places.index(found.start)
    )


def _lists(books: Books, runs: Any) -> list[Table]:
    """What went wrong, what people said, what is not known, and where prices came from."""
    outages = tuple(
        (tier, _minute(begin), _minute(end) if end else "goes on", Figure(n, "count"), note)
        for tier, health in books.health.items()
        for begin, end, n, note in health.outages
    )
    said = []
    for outcome, whose in (("accepted", "accepted drafts"), ("escalated", "large answers")):
        judged = runs.wrong[(runs.outcome == outcome) & ~np.isnan(runs.wrong)]
        if len(judged):
            said.append((whose, Figure(len(judged), "count"), Figure(int(judged.sum()), "count")))
    unknown = sorted(books.unknown.items(), key=lambda item: -item[1].entries)
    return [
        Table("Outages", ("tier", "since, UTC", "until", "calls", "why"), outages),
        Table(
            "Calls of unknown outcome",
            ("begun, UTC", "node", "model", "run"),
            tuple((_minute(e.at), e.node, e.model or "", e.run_id) for e in books.unfinished),
            folded=True,
        ),
        Table(
            "What people said",
            ("", "verdicts", "wrong"),
            tuple(said),
            ("Those who say something are no random sample; audits are.",),
        ),
        Table(
            "Unknown costs",
            ("node", "model", "why", "entries", "assumed"),
            tuple(
                (
                    *(node, model, note or "no reason given", Figure(sums.entries, "count")),
                    _dollars(sums.assumed, sums.unpriced),
                )
                for (node, model, note), sums in unknown
            ),
        ),
        Table(
            "Where prices came from",
            ("model", "price", "calls"),
            tuple((*key, Figure(n, "count")) for key, n in books.prices.most_common()),
            folded=True,
        ),
        Table(
            "Events",
            ("at, UTC", "what", "told"),
            tuple((_minute(row.at), row.node, row.note) for row in books.events),
            folded=True,
        ),
    ]


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _per_day(books: Books, runs: Any) -> list[Picture]:
    """Saving and escalation of each day (UTC), by the beginning of runs."""
    sums = books.summed(lambda key: key[3])
    saved, escalated = [], []
    for day in np.unique(runs.day).astype(int).tolist():
        part = runs[runs.day == day]
        saved.append((day, account(part, float(sums[day].spent))[0].saving))
        if (rate := escalation(part)) is not None:
            escalated.append((day, rate))
    if len(saved) < 2:
        return []
    kinds: tuple[tuple[str, str, Unit, list[tuple[int, Estimate]]], ...] = (
        ("Saving per day", "dollars saved", "usd", saved),
        ("Escalation per day", "share of decided requests", "share", escalated),
    )
    return [
        Picture(title, Axis("day, UTC", "days"), Axis(label, unit), (_spans(found),))
        for title, label, unit, found in kinds
    ]


def _spans(found: Iterable[tuple[float, Estimate]]) -> Series:
    """Estimates as dots with their intervals."""
    known = list(found)
    points = tuple((float(at), each.value) for at, each in known)
    ranges = tuple((each.low, each.high) for _, each in known)
    return Series("with its 95 % interval", points, "dots", ranges=ranges)


def _by_confidence(runs: Any, what_if: WhatIf | None) -> list[Picture]:
    pictures = []
    groups = reliability(runs)
    axis = Axis("confidence", "share", 0.0, 1.0)
    if groups:
        ideal = Series("as it should be", ((0.0, 0.0), (1.0, 1.0)), role="other", dashed=True)
        right = Axis("as good as the large answer", "share", 0.0, 1.02)
        pictures.append(Picture("Confidence and correctness", axis, right, (ideal, _spans(groups))))
    if what_if is not None:
        middles = [(low + high) / 2 for low, high, _, _ in what_if.bins]
        accepted = tuple(
            (at, float(n)) for at, (_, _, n, _) in zip(middles, what_if.bins, strict=True)
        )
        large = tuple(
            (at, float(n)) for at, (_, _, _, n) in zip(middles, what_if.bins, strict=True)
        )
        bars = (
            Series("accepted", accepted, "bars"),
            Series("large answer", large, "bars", role="large"),
        )
        pictures.append(Picture("Drafts by confidence", axis, Axis("drafts", "count"), bars))
    return pictures
