"""The report of a ledger: what a cascade saved, how good its answers were, and how sure that is.

report = await make_report(open_store("sqlite:///ledger.db"))
print(to_text(report.document))

The ledger is read once. Every figure is a sum over entries, except what accepted drafts would have
cost with the large model: that is estimated from random audits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade.errors import ConfigurationError
from cascade.evaluation.audit import Estimate
from cascade.evaluation.books import Books, Sums, read
from cascade.evaluation.figures import (
    Choice,
    Findings,
    account,
    escalation,
    findings,
    reliability,
)
from cascade.evaluation.render import (
    ESTIMATED,
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

if TYPE_CHECKING:
    from cascade.ledger.store import SqlLedger

Verdict = Literal["saves", "loses", "cannot tell yet"]
_TONES: Mapping[Verdict, Tone] = {"saves": "good", "loses": "bad", "cannot tell yet": "open"}

TEAMS = ("team", "key", "cascade", "agent")
"""Tags by which tables are made where entries have them."""

TABLES = ("tags", "model", "tier", "day", "node")
"""The tables that are made where nothing else is asked for; `tags` are those of `TEAMS`."""

OUTAGE = 3
"""So many calls of a tier that fail one after the other are an outage."""

MOST_LINES = 30
"""Lines of a table; the others are summed up in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Findings):
    """What a cascade saved and lost in a period, with how sure that is; made by `make_report`.

    Attributes:
        first, last: times of the first and last entry of the period.
        trouble: what is wrong now, in sentences.
        document: all of it for people, with tables and pictures.
    """

    first: datetime | None
    last: datetime | None
    verdict: Verdict
    reason: str
    advice: str
    trouble: tuple[str, ...]
    document: Document


async def make_report(
    store: SqlLedger | MemoryLedger,
    selection: Selection = EVERYTHING,
    *,
    by: Sequence[str] = TABLES,
    compare: bool = True,
) -> Report:
    """What the ledger says about a period: verified saving, quality, costs, and a verdict.

    A run belongs to the period in which it begins, with all its entries up to an hour beyond. It
    takes a second of CPU for some 60,000 entries: a service makes it in a thread of its own.

    Args:
        store: the ledger.
        selection: by time, tag or run.
        by: tables to make: `node`, `tier`, `model`, `day`, `tags` (those of `TEAMS`), `tag:KEY`.
        compare: also read the period of the same length before, where the selection has a begin.

    Raises:
        ConfigurationError: the selection is of parts of runs, an argument is wrong, or entries have
            no such tag.
        LedgerError: the ledger cannot be read.
    """
    for name in by:
        if name not in TABLES and (name == "tag:" or not name.startswith("tag:")):
            raise ConfigurationError(f"by={name!r}: {', '.join(TABLES)}, or tag:KEY.")
    asked = [name.removeprefix("tag:") for name in by if name not in TABLES]
    tags = list(dict.fromkeys([*(TEAMS if "tags" in by else ()), *asked]))
    books = await read(store, selection, tags)
    for tag in asked:
        if books.groups and not any(key.tags[tags.index(tag)] for key in books.groups):
            raise ConfigurationError(
                f"no entry of this period has a tag {tag!r}; there are tables by "
                f"{', '.join([*TABLES[1:], *await _tags_of(store, selection)])}."
            )
    earlier, since = None, books.period.since
    if compare and since is not None:
        length = (books.period.until or datetime.now(UTC)) - since
        before = replace(selection, since=since - length, until=since)
        earlier = report_of(await read(store, before, tags), by=by)
    return report_of(books, earlier, by=by)


async def _tags_of(store: SqlLedger | MemoryLedger, selection: Selection) -> list[str]:
    """Tags of the oldest entries."""
    if isinstance(store, MemoryLedger):
        found = list(store.tags.values())
    else:
        found = [tags or {} for (tags,) in await store.rows(selection, ("tags",), limit=1_000)]
    return sorted({name for tags in found for name in tags})


def report_of(books: Books, earlier: Report | None = None, *, by: Sequence[str] = TABLES) -> Report:
    """The report of books that were read already; of tags, only tables that they were read for."""
    runs = books.columns()
    found = findings(books, runs)
    verdict, reason = _verdict(found, books)
    advice, trouble, facts = _advice(found, verdict), _trouble(books), _facts(found, books, runs)
    alarm = Fact("wrong now", counted(len(trouble), "thing") if trouble else "nothing")
    sentence = f"{verdict[0].upper()}{verdict[1:]}: {reason}."
    if found.quality is not None and found.quality.checked:
        sentence = f"{sentence} {found.quality.sentence}"
    return Report(
        **{part.name: getattr(found, part.name) for part in fields(found)},
        first=books.first,
        last=books.last,
        verdict=verdict,
        reason=reason,
        advice=advice,
        trouble=trouble,
        document=Document(
            title=_title(books),
            sentence=sentence,
            facts=(*facts, alarm),
            notes=tuple(filter(None, (*trouble, advice, *_remarks(found, books.total, runs)))),
            tables=tuple(_tables(found, books, by, facts, earlier)) if books.groups else (),
            pictures=_pictures(books, runs),
            tone=_TONES[verdict],
        ),
    )


# Verdict --------------------------------------------------------------------------------------


def _verdict(found: Findings, books: Books) -> tuple[Verdict, str]:
    low, high = found.saving.saving.low, found.saving.saving.high
    audits = books.summed(lambda key: key.node == "audit").get(True, Sums())
    paid, status = float(audits.spent), found.status
    of_bill = " of what the large model alone would have cost"
    verdict: Verdict = "cannot tell yet"
    reason = f"the saving is between {dollars(low)} and {dollars(high)}"
    if status == "empty":
        reason = "there are no requests in this period"
    elif set(found.outcomes) == {"shadow"}:
        reason = "the large model answered everything: a shadow start saves nothing yet"
        for live in (choice for choice in found.what_if if choice.in_force):
            reason += (
                f"; live at {live.threshold:.3f} it would have saved "
                f"{dollars(live.saving.value)}, with {percent(live.worse)} of the requests "
                f"accepted and worse, at most {percent(live.worse_high)}"
            )
    elif high <= 0 and low < 0 and high + paid > 0:
        reason = (
            f"its audits cost {dollars(paid)}, without which it would have saved up to "
            f"{dollars(high + paid)}: audit a smaller share"
        )
    elif high <= 0 and low < 0:
        verdict, reason = "loses", f"at best it has lost {dollars(-high)}"
        if found.saving.baseline.value > 0:
            reason += f", {percent(-found.saving.share.high)}{of_bill}"
    elif status in ("verified", "measured") and low > 0:
        share = f"{percent(found.saving.share.low)}{of_bill}"
        verdict, reason = "saves", f"a verified net saving of at least {dollars(low)}, {share}"
        if found.quality is not None and found.quality.loss.low > 0:
            lost = percent(found.quality.loss.low)
            reason += f"; but it lost at least {lost} of quality per request"
    elif status == "unknown":
        reason = "there are calls or baselines without a price"
    elif status == "estimated":
        reason = f"no audit knows the large model's cost; by assumption, {reason}"
    return verdict, reason


def _advice(found: Findings, verdict: Verdict) -> str:
    """What to do next."""
    if found.status == "empty":
        return (
            "Look whether period and tags are what you mean, and whether the cascade writes into "
            "this ledger: Cascade(…, ledger=open_store(URL))."
        )
    if verdict == "loses":
        return (
            "Switch it off: ask the large model alone. A cheaper draft, a better calibration or a "
            "lower threshold may turn it; `cascade evaluate` tells on recorded answers."
        )
    if found.status == "unknown":
        return (
            "Give the models that are listed as unknown a price, Tier(…, price=Price(…)), and "
            "count from then on (--since)."
        )
    unaudited = found.quality is None or not found.quality.checked
    accepted = found.outcomes.get("accepted", 0)
    return "Audit some drafts: Cascade(…, audit_rate=0.05)." if accepted and unaudited else ""


def _remarks(found: Findings, total: Sums, runs: Any) -> Iterable[str]:
    """What a reader must know about the figures."""
    quality, drafts = found.quality, runs[runs.outcome == "accepted"]
    if total.unpriced:
        yield f"Calls of unknown cost, for which nothing can be assumed: {total.unpriced:,}."
    if total.no_baseline:
        yield (
            "Accepted drafts without a baseline, as their usage or the large model's price is "
            f"unknown: {total.no_baseline:,}. They count as nothing saved unless audited."
        )
    blind = int((~(drafts.rate > 0) & np.isnan(drafts.large)).sum())
    if blind:
        yield (
            "Accepted drafts that could not be audited (auditing off, or its budget used up): "
            f"{blind:,} of {len(drafts):,}, for which the quality figures do not stand. "
            f"{dollars(found.assumed_usd)} of the baseline rests on assumed limits."
        )
    if quality is None:
        yield "Nothing is known about quality: no accepted draft could be audited."
    elif quality.due - quality.checked > 3 * quality.due**0.5:  # more than chance explains
        yield (
            f"About {quality.due:,.0f} audits were due; {quality.checked:,} have a result, and "
            "stand for all of them: see the log."
        )


def _trouble(books: Books) -> tuple[str, ...]:
    """What is wrong now."""
    found = [
        f"Wrong now: the last {len(failing):,} calls of {tier or 'a tier'} failed, since "
        f"{_minute(failing[0].at)} UTC: {failing[0].note}"
        for tier, failing in books.failing.items()
        if len(failing) >= OUTAGE
    ]
    if books.unfinished:
        found.append(
            f"Calls of unknown outcome: {books.unfinished:,}. Their process ended before they "
            "did; if they were paid for, that is not in these figures."
        )
    return tuple(found)


# Figures and tables ---------------------------------------------------------------------------


def figure(estimate: Estimate | None, unit: Unit) -> Figure:
    """An estimate as it is shown."""
    if estimate is None:
        return Figure(None, unit)
    return Figure(estimate.value, unit, estimate.low, estimate.high, estimate.basis)


def _title(books: Books) -> str:
    first, last = books.period.since or books.first, books.period.until or books.last
    tags = ", ".join(f"{key}={value}" for key, value in books.period.tags.items())
    period = f", {first:%Y-%m-%d} to {last:%Y-%m-%d}" if first and last else ""
    return f"What the cascade saved{period}{f' ({tags})' if tags else ''}"


def _facts(found: Findings, books: Books, runs: Any) -> tuple[Fact, ...]:
    """The figures of the first view, also those by which two periods are compared."""
    total, quality, n = books.total, found.quality, found.requests
    if not books.groups:
        return (Fact("requests", Figure(0, "count")),)
    failed = sum(ends["failed"] for ends in books.ends.values())
    calls = failed + sum(ends["ok"] for ends in books.ends.values())
    half, most = _took(runs.latency_s[runs.latency_s > 0], (0.5, 0.95))
    bill, saved, share = _shown(found, total.unpriced)
    parts = [f"measured {dollars(found.saving.measured_usd)}"]
    if found.saving.estimated_usd:
        parts.append(f"estimated {ESTIMATED}{dollars(found.saving.estimated_usd)}")
    if found.status == "verified":
        parts.append("the lower end may be claimed")
    paid = "audits included"
    if total.unknown:
        paid += f"; {dollars(total.assumed)} assumed for {counted(total.unknown, 'unknown cost')}"
    worse, bound = "?", "no accepted draft was checked"
    if quality is not None and quality.checked:
        worse = f"{quality.worse:,} of {quality.checked:,}"
        bound = f"at most {percent(quality.error_rate.high)} of the accepted, 95 %"
        bound = "all were checked" if quality.error_rate.basis == "measured" else bound
    alone = None if bill.value is None or not n else bill.value / n
    return (
        Fact("requests", Figure(n, "count")),
        Fact("spent", _dollars(total.spent, total.unpriced), paid),
        Fact("large model alone", bill, "with every request"),
        Fact("saved", saved, ", ".join(parts)),
        Fact("of the large-only bill", share, found.saving.saving.method),
        Fact("checked drafts that were worse", worse, bound),
        Fact("escalated", figure(found.escalation, "share")),
        Fact(
            "cost per answer as good as the large model's",
            figure(found.right_usd, "usd"),
            f"large alone {dollars(alone)}",
        ),
        Fact("95 % of requests took at most", most, f"half of them {words(half)}"),
        Fact("calls that failed", Figure(failed / calls if calls else None, "share")),
    )


def _shown(found: Findings, unpriced: int) -> tuple[Figure, Figure, Figure]:
    """Large-only bill, saving and its share, as far as they are known: a cost without a price
    leaves a saving no lower end, a draft without a baseline leaves it no upper one."""

    def shown(estimate: Estimate, unit: Unit, unpriced: int) -> Figure:
        unknown = found.unknown_baselines
        value = None if unknown or unpriced else estimate.value
        low, high = None if unpriced else estimate.low, None if unknown else estimate.high
        return Figure(value, unit, low, high, estimate.basis)

    return (
        shown(found.saving.baseline, "usd", 0),
        shown(found.saving.saving, "usd", unpriced),
        shown(found.saving.share, "share", unpriced),
    )


def _tables(
    found: Findings,
    books: Books,
    by: Sequence[str],
    facts: Sequence[Fact],
    earlier: Report | None,
) -> Iterable[Table]:
    """All tables that have rows."""
    compared = []
    if earlier is not None and earlier.requests:
        before = {fact.label: fact.figure for fact in earlier.document.facts}
        rows = tuple((fact.label, fact.figure, before[fact.label]) for fact in facts)
        heads = ("", "this period", "before")
        compared = [Table("Compared with the period before", heads, rows)]
    tables = [*compared, *_breakdowns(found, books, by), _tokens(books), _calls(books)]
    tables += [_choices(found.what_if), _unknown(books), _events(books)]
    return (table for table in tables if table.rows)


def _breakdowns(found: Findings, books: Books, by: Sequence[str]) -> Iterable[Table]:
    """Tables by node, tier, model, day or tag, of which every column adds up to the headline.

    Estimated savings are those of the ledger, scaled to what the audits make of their sum.
    """
    total = float(books.total.estimated)
    scale = found.saving.estimated_usd / total if total else None
    teams = tuple(f"tag:{tag}" for tag in TEAMS if tag in books.tags)
    for name in dict.fromkeys(each for one in by for each in (teams if one == "tags" else (one,))):
        table = _breakdown(books, name, scale)
        # A tag that no entry has makes one line without a name, and the total.
        if [row[0] for row in table.rows] != ["–", "total"]:
            yield table


def _breakdown(books: Books, by: str, scale: float | None) -> Table:
    """One line per group: days in order, other groups by what they cost."""
    tag, days = by.removeprefix("tag:"), by == "day"
    counts = days or tag != by  # elsewhere a run has entries in several groups

    def name_of(one: Any) -> Any:
        """Of a key of sums, or of a run."""
        return one.tags[books.tags.index(tag)] if tag != by else getattr(one, by)

    groups = books.summed(name_of)
    names = sorted(groups, key=lambda name: -name if days else -groups[name].spent)
    requests = Counter(map(name_of, books.runs.values())) if counts else Counter()
    if others := names[MOST_LINES:]:
        rest = f"({len(others):,} {'earlier' if days else 'others'})"
        names = [*names[:MOST_LINES], rest]
        renamed = dict.fromkeys(others, rest)
        groups = books.summed(lambda key: renamed.get(name_of(key), name_of(key)))
        requests[rest] = sum(requests[name] for name in others)
    names = names[::-1] if days else names
    groups["total"], requests["total"] = books.total, len(books.runs)
    rows: list[tuple[Cell, ...]] = []
    for name in (*names, "total"):
        sums = groups[name]
        label = date.fromordinal(name).isoformat() if isinstance(name, int) else name or "–"
        guess = float(sums.estimated) * scale if scale is not None else None
        unknown = sums.no_baseline > 0
        basis: Basis = "estimated" if guess else "measured"
        cells = (
            Figure(sums.calls, "count"),
            _dollars(sums.spent, sums.unpriced),
            Figure(sums.saved, "usd", partial=sums.unpriced > 0),
            Figure(guess or (None if unknown else 0), "usd", basis=basis, partial=unknown),
        )
        if name or any(cell.value != 0 for cell in cells):
            rows.append((label, *((Figure(requests[name], "count"),) if counts else ()), *cells))
    heads = (*(("requests",) if counts else ()), "calls", "cost", "saved, measured")
    return Table(f"By {tag}", (tag, *heads, "saved, estimated"), tuple(rows), strong=len(rows) - 1)


def _dollars(known: Decimal, unpriced: int) -> Figure:
    """A sum of which so many parts are unknown."""
    return Figure(known or (None if unpriced else 0), "usd", partial=unpriced > 0)


def _tokens(books: Books) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for tier, sums in books.summed(lambda key: key.tier).items():
        if sums.calls:
            fresh = sums.input - sums.cached - sums.cache_writes
            tokens = (fresh, sums.cached, sums.cache_writes, sums.output)
            cells = (Figure(n, "count", partial=sums.no_tokens > 0) for n in tokens)
            share = Figure(sums.cached / sums.input if sums.input else None, "share")
            rows.append((tier, Figure(sums.calls, "count"), *cells, share))
    heads = ("tier", "calls", "input, uncached", "cached", "cache writes", "output", "cached share")
    return Table("Tokens by tier", heads, tuple(rows))


def _calls(books: Books) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for tier, ends in books.ends.items():
        counts = (Figure(ends[how], "count") for how in ("ok", "failed", "not_sent", "cancelled"))
        rows.append((tier, *counts, *_took(books.seconds[tier], (0.5, 0.95, 0.99))))
    heads = ("tier", "answered", "failed", "not sent", "cancelled", "50 % took", "95 %", "99 %")
    return Table("Calls by tier", heads, tuple(rows))


def _took(times: Any, shares: Sequence[float]) -> list[Figure]:
    """Within which times so many ended."""
    found = np.quantile(times, shares).tolist() if len(times) else [None for _ in shares]
    return [Figure(time, "seconds") for time in found]


def _choices(found: Sequence[Choice]) -> Table:
    rows = tuple(
        (
            f"{choice.threshold:.3f}",
            Figure(choice.escalated, "share"),
            Figure(choice.cost_usd, "usd"),
            figure(choice.saving, "usd"),
            Figure(choice.worse, "share", choice.worse_low, choice.worse_high),
        )
        for choice in found
    )
    force = [i for i, choice in enumerate(found) if choice.in_force]
    notes = ["On the decided requests, in the order of their confidence."]
    notes += [f"The threshold in force is {found[i].threshold:.3f}." for i in force]
    heads = ("accept from", "large answers", "cost", "saved", "accepted and worse")
    return Table("Other thresholds", heads, rows, tuple(notes), strong=force[0] if force else None)


def _unknown(books: Books) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (node, model), (sums, note) in books.unknown.items():
        cells = (Figure(sums.entries, "count"), _dollars(sums.assumed, sums.unpriced))
        rows.append((node, model, note or "no reason given", *cells))
    return Table("Unknown costs", ("node", "model", "why", "entries", "assumed"), tuple(rows))


def _events(books: Books) -> Table:
    rows = tuple((_minute(row.at), row.node, row.note) for row in books.events)
    return Table("Events", ("at, UTC", "what", "told"), rows, folded=True)


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


# Pictures -------------------------------------------------------------------------------------


def _pictures(books: Books, runs: Any) -> tuple[Picture, ...]:
    """Saving and escalation of each day (UTC), by the beginning of runs; and whether the confidence
    is what it says."""
    sums, pictures = books.summed(lambda key: key.day), []
    saved, escalated = [], []
    for day in np.unique(runs.day).astype(int).tolist():
        part = runs[runs.day == day]
        saved.append((day, account(part, float(sums[day].spent))[0].saving))
        if (rate := escalation(part)) is not None:
            escalated.append((day, rate))
    if saved:
        days, usd = Axis("day, UTC", "days"), Axis("dollars saved", "usd")
        pictures.append(Picture("Saving per day", days, usd, (_spans(saved),)))
        decided = Axis("share of decided requests", "share")
        pictures.append(Picture("Escalation per day", days, decided, (_spans(escalated),)))
    if groups := reliability(runs):
        ideal = Series("as it should be", ((0.0, 0.0), (1.0, 1.0)), role="other", dashed=True)
        confidence = Axis("confidence", "share", 0.0, 1.0)
        good = Axis("as good as the large answer", "share", 0.0, 1.02)
        series = (ideal, _spans(groups))
        pictures.append(Picture("Confidence and correctness", confidence, good, series))
    return tuple(pictures)


def _spans(found: Sequence[tuple[float, Estimate]]) -> Series:
    """Estimates as dots with their intervals."""
    points = tuple((float(at), each.value) for at, each in found)
    ranges = tuple((each.low, each.high) for _, each in found)
    return Series("with its 95 % interval", points, "dots", ranges=ranges)
