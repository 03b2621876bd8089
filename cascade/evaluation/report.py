"""The report of a ledger: what a cascade saved, how good its answers were, and how sure that is.

report = await make_report(open_store("sqlite:///ledger.db"))
print(to_text(report.document))

The ledger is read once. Every figure is a sum over entries, except what accepted drafts would have
cost with the large model: that is estimated from random audits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cascade.errors import ConfigurationError
from cascade.evaluation import audit
from cascade.evaluation.audit import Choice, Quality, SavingReport
from cascade.evaluation.books import Books, Key, Outcome, Sums, read
from cascade.evaluation.render import (
    Axis,
    Cell,
    Document,
    Fact,
    Figure,
    Number,
    Picture,
    Series,
    Table,
    Tone,
    counted,
    dollars,
    percent,
    words,
)
from cascade.ledger.base import EVERYTHING, Selection
from cascade.state import Basis

if TYPE_CHECKING:
    from cascade.ledger.store import SqlLedger

Verdict = Literal["saves", "loses", "cannot tell yet"]
_TONES: Mapping[Verdict, Tone] = {"saves": "good", "loses": "bad", "cannot tell yet": "open"}

TAGS = ("team", "key", "cascade", "agent")
"""Tags by which tables are made where entries have them."""

TABLES = ("model", "tier", "day", "node")
"""Other columns by which tables are made."""

OUTAGE = 3
"""So many calls of a tier that fail one after the other are an outage."""

MOST_LINES = 30
"""Lines of a table; the others are summed up in one."""

NO_DOCUMENT = Document("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Savings and losses of a cascade in a period, with their intervals; made by `make_report`.

    Attributes:
        requests: runs that began in the period; `outcomes`, how so many of them ended.
        verified_usd: the lower end of the saving's interval, where it can be claimed.
        quality: None where there are accepted drafts and none of them could be audited.
        escalation: share of the decided requests that went to the large model.
        right_usd: dollars per answer that is as good as the large model's, where quality is known.
    """

    requests: int
    outcomes: Mapping[Outcome, int]
    verified_usd: Number | None
    saving: SavingReport
    quality: Quality | None
    escalation: Figure
    right_usd: Figure
    what_if: tuple[Choice, ...]
    verdict: Verdict = "cannot tell yet"
    reason: str = ""
    advice: str = ""
    document: Document = NO_DOCUMENT


async def make_report(
    store: SqlLedger,
    selection: Selection = EVERYTHING,
    *,
    tag: str | None = None,
    compare: bool = True,
) -> Report:
    """Report of a period: verified saving, quality, costs, and a verdict.

    A run belongs to the period in which it begins, with all its entries up to an hour beyond. It
    takes a second of CPU for some 60,000 entries: a service makes it in a thread of its own.

    Args:
        store: the ledger.
        selection: by time, tag or run.
        tag: make a table by this tag as well; there is one by each of `TAGS` and `TABLES`.
        compare: also read the period of the same length before, where the selection has a begin.

    Raises:
        ConfigurationError: the selection is of parts of runs, or entries have no such tag.
        LedgerError: the ledger cannot be read.
    """
    tags = [*TAGS, *([tag] if tag and tag not in (*TAGS, *TABLES) else ())]
    books = await read(store, selection, tags)
    earlier, since = None, books.period.since
    if compare and since is not None:
        length = (books.period.until or datetime.now(UTC)) - since
        before = replace(selection, since=since - length, until=since)
        earlier = report_of(await read(store, before, tags))
    made = report_of(books, earlier)
    titles = [table.title for table in made.document.tables]
    if tag and titles and f"By {tag}" not in titles:
        there = ", ".join(title[3:] for title in titles if title.startswith("By "))
        raise ConfigurationError(
            f"no entry of this period has a tag {tag!r}; there are tables by {there}, and by other "
            "tags that entries have."
        )
    return made


def report_of(books: Books, earlier: Report | None = None) -> Report:
    """The report of books that were read already."""
    runs, total = books.columns(), books.total
    spent, unpriced = float(total.spent), total.unpriced > 0
    found = audit.account(runs, spent, unpriced=unpriced)
    known = len(runs) > 0 and not unpriced and not found.unknown
    claimed = known and (found.saving.n or found.saving.basis == "measured")
    quality = audit.quality_of(runs)
    made = Report(
        requests=len(runs),
        outcomes=Counter(runs.outcome.tolist()),
        verified_usd=found.saving.low if claimed else None,
        saving=found,
        quality=quality,
        escalation=audit.escalation(runs),
        right_usd=Figure(None) if unpriced else audit.right(runs, spent, quality),
        what_if=audit.choices_of(runs, spent, found.baseline),
    )
    verdict, reason, advice = _verdict(made, books)
    made = replace(made, verdict=verdict, reason=reason, advice=advice)
    return replace(made, document=_document(made, books, runs, earlier))


# Verdict --------------------------------------------------------------------------------------


def _verdict(made: Report, books: Books) -> tuple[Verdict, str, str]:
    """The verdict, its reason, and what to do next."""
    saved, share, quality = made.saving.saving, made.saving.share, made.quality
    _, low, high = saved.numbers
    audits = books.summed(lambda key: key.node == "audit").get(True, Sums())
    paid, of_bill = float(audits.spent), " of what the large model alone would have cost"
    unsure: Verdict = "cannot tell yet"
    if not made.requests:
        return (
            unsure,
            "there are no requests in this period",
            "Look whether period and tags are what you mean, and whether the cascade writes into "
            "this ledger: Cascade(…, ledger=open_store(URL)).",
        )
    loses = high <= 0 and not low >= 0  # an unknown end is no comfort
    if loses and high + paid <= 0 and set(made.outcomes) != {"shadow"}:
        part = "" if share.high is None else f", {percent(-share.high)}{of_bill}"
        return (
            "loses",
            f"at best it has lost {dollars(-high)}{part}",
            "Switch it off: ask the large model alone. A cheaper draft, a better calibration or a "
            "lower threshold may turn it; `cascade evaluate` tells on recorded answers.",
        )
    advice, unknown = "", books.total.unpriced or made.saving.unknown
    if unknown:
        advice = (
            "Give the models that are listed as unknown a price, Tier(…, price=Price(…)), and "
            "count from then on (--since)."
        )
    elif quality is None:
        advice = "Audit some drafts: Cascade(…, audit_rate=0.05)."
    if set(made.outcomes) == {"shadow"}:
        return unsure, _going_live(made), advice
    if loses:
        reason = (
            f"its audits cost {dollars(paid)}, without which it would have saved up to "
            f"{dollars(high + paid)}: audit a smaller share"
        )
        return unsure, reason, advice
    if made.verified_usd is not None and low > 0:
        reason = f"a verified net saving of at least {dollars(low)}, {percent(share.low)}{of_bill}"
        if quality is not None and (lost := quality.loss.low):
            reason += f"; but it lost at least {percent(lost)} of quality per request" * (lost > 0)
        return "saves", reason, advice
    between = f"the saving is between {dollars(saved.low)} and {dollars(saved.high)}"
    if unknown:
        between = "there are calls or baselines without a price"
    elif made.verified_usd is None:
        between = f"no audit knows the large model's cost; by assumption, {between}"
    return unsure, between, advice


def _going_live(made: Report) -> str:
    reason = "the large model answered everything: a shadow start saves nothing yet"
    for live in made.what_if:
        if live.in_force:
            reason += (
                f"; live at {live.threshold:.3f} it would have saved "
                f"{dollars(live.saving.value)}, with {percent(live.worse.value)} of the requests "
                f"accepted and worse, at most {percent(live.worse.high)}"
            )
    return reason


def _remarks(made: Report, total: Sums, runs: Any) -> Iterable[str]:
    """Notes on the figures."""
    quality, drafts = made.quality, runs[runs.outcome == "accepted"]
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
            f"{dollars(made.saving.assumed_usd)} of the baseline rests on assumed limits."
        )
    if quality is None:
        yield "Nothing is known about quality: no accepted draft could be audited."
    elif quality.due - quality.checked > 3 * quality.due**0.5:  # more than chance explains
        yield (
            f"About {quality.due:,.0f} audits were due; {quality.checked:,} have a result, and "
            "stand for all of them: see the log."
        )


def _alarms(books: Books) -> tuple[str, ...]:
    found = [
        f"The last {calls.failing:,} calls of {tier or 'a tier'} failed, since "
        f"{_minute(calls.first_failure.at)} UTC: {calls.first_failure.note}"
        for tier, calls in books.calls.items()
        if calls.first_failure is not None and calls.failing >= OUTAGE
    ]
    if books.unfinished:
        found.append(
            f"Calls of unknown outcome: {books.unfinished:,}. Their process ended before they "
            "did; if they were paid for, that is not in these figures."
        )
    return tuple(found)


# Document -------------------------------------------------------------------------------------


def _document(made: Report, books: Books, runs: Any, earlier: Report | None) -> Document:
    days = [date.fromordinal(day) for day in runs.day.astype(int).tolist()]
    first, until = books.period.since or min(days, default=None), books.period.until
    last = until and until - timedelta(microseconds=1)
    period = f", {first:%Y-%m-%d} to {last or max(days):%Y-%m-%d}" if days else ""
    tags = ", ".join(f"{key}={value}" for key, value in books.period.tags.items())
    sentence = f"{made.verdict[0].upper()}{made.verdict[1:]}: {made.reason}."
    if made.quality is not None and made.quality.checked:
        sentence = f"{sentence} {made.quality.sentence}"
    lost = made.verdict == "saves" and made.quality is not None and (made.quality.loss.low or 0) > 0
    facts = _facts(made, books, runs)
    notes = (made.advice, *_remarks(made, books.total, runs))
    return Document(
        title=f"What the cascade saved{period}{f' ({tags})' if tags else ''}",
        sentence=sentence,
        facts=facts,
        notes=tuple(filter(None, notes)),
        tables=tuple(_tables(made, books, facts, earlier)) if books.groups else (),
        pictures=tuple(_pictures(books, runs)),
        tone=_TONES[made.verdict] if not lost else "open",
        alarms=_alarms(books),
    )


def _facts(made: Report, books: Books, runs: Any) -> tuple[Fact, ...]:
    """The figures of the first view, also those by which two periods are compared."""
    total, quality, found = books.total, made.quality, made.saving
    if not books.groups:
        return (Fact("requests", Figure(0, "count")),)
    ends = sum((calls.ends for calls in books.calls.values()), Counter[str]())
    calls = ends["failed"] + ends["ok"]
    half, most = _took(runs.latency_s[runs.latency_s > 0], (0.5, 0.95))
    parts, paid = [f"measured {dollars(found.measured_usd)}"], "audits included"
    if found.estimated_usd:
        estimate = Figure(found.estimated_usd, "usd", basis="estimated")
        parts.append(f"estimated {words(estimate)}")
    if made.verified_usd is not None and found.saving.basis == "estimated":
        parts.append("the lower end may be claimed")
    if total.unknown:
        paid += f"; {dollars(total.assumed)} assumed for {counted(total.unknown, 'unknown cost')}"
    worse, bound = "?", "no accepted draft was checked"
    if quality is not None and quality.checked:
        worse = f"{quality.worse:,} of {quality.checked:,}"
        bound = f"at most {percent(quality.error_rate.high)} of the accepted, 95 %"
        bound = "all were checked" if quality.error_rate.basis == "measured" else bound
    alone = found.baseline.map(lambda bill: bill / made.requests if made.requests else None)
    return (
        Fact("requests", Figure(made.requests, "count")),
        Fact("spent", _dollars(total.spent, total.unpriced), paid),
        Fact("large model alone", found.baseline, "with every request"),
        Fact("saved", found.saving, ", ".join(parts)),
        Fact("of the large-only bill", found.share, found.saving.method),
        Fact("checked drafts that were worse", worse, bound),
        Fact("escalated", made.escalation),
        Fact(
            "cost per answer as good as the large model's",
            made.right_usd,
            f"large alone {dollars(alone.value)}",
        ),
        Fact("95 % of requests took at most", most, f"half of them {words(half)}"),
        Fact("calls that failed", Figure(ends["failed"] / calls if calls else None, "share")),
    )


def _tables(
    made: Report, books: Books, facts: Sequence[Fact], earlier: Report | None
) -> Iterable[Table]:
    """All tables that have rows, each under a title with its columns."""
    if earlier is not None and earlier.requests:
        before = {fact.label: fact.figure for fact in earlier.document.facts}
        pairs = tuple((fact.label, fact.figure, before.get(fact.label, "")) for fact in facts)
        yield Table("Compared with the period before", ("", "this period", "before"), pairs)
    # Estimated savings are those of the ledger, scaled to what the audits make of their sum.
    total = float(books.total.estimated)
    scale = made.saving.estimated_usd / total if total else None
    for by in (*books.tags, *TABLES):
        yield from _breakdown(books, by, scale)
    tokens = ("input, uncached", "cached", "cache writes", "output", "cached share")
    took = ("answered", "failed", "not sent", "cancelled", "50 % took", "95 %", "99 %")
    why = ("node", "model", "why", "entries", "assumed")
    yield from _table("Tokens by tier", ("tier", "calls", *tokens), _tokens(books))
    yield from _table("Calls by tier", ("tier", *took), _calls(books))
    yield from _choices(made.what_if)
    yield from _table("Unknown costs", why, _unknown(books))
    events = ((_minute(row.at), row.node, row.note) for row in books.events)
    yield from _table("Events", ("at, UTC", "what", "told"), events, folded=True)


Rows = Iterable[tuple[Cell, ...]]


def _table(title: str, columns: tuple[str, ...], rows: Rows, **more: Any) -> Iterable[Table]:
    if found := tuple(rows):
        yield Table(title, columns, found, **more)


def _breakdown(books: Books, by: str, scale: float | None) -> Iterable[Table]:
    """One line per group, of which every column adds up to the headline: days in order, other
    groups by what they cost. No table where no entry has such a tag."""
    days, tag = by == "day", books.tags.index(by) if by in books.tags else None
    counts = days or tag is not None  # elsewhere a run has entries in several groups

    def name_of(key: Key) -> Any:
        return getattr(key, by) if tag is None else key.tags[tag]

    groups = books.summed(name_of)
    names = sorted(groups, key=lambda name: -name if days else -groups[name].spent)
    if names == [""]:
        return
    if others := names[MOST_LINES:]:
        rest = f"({len(others):,} {'earlier' if days else 'others'})"
        names = [*names[:MOST_LINES], rest]
        renamed = dict.fromkeys(others, rest)
        groups = books.summed(lambda key: renamed.get(name_of(key), name_of(key)))
    rows: list[tuple[Cell, ...]] = []
    lines = [(name, groups[name]) for name in (names[::-1] if days else names)]
    for name, sums in (*lines, ("total", books.total)):
        label = date.fromordinal(name).isoformat() if isinstance(name, int) else name or "–"
        guess = float(sums.estimated) * scale if scale is not None else None
        unknown = sums.no_baseline > 0
        basis: Basis = "estimated" if guess else "measured"
        cells = (
            *((Figure(sums.requests, "count"),) if counts else ()),
            Figure(sums.calls, "count"),
            _dollars(sums.spent, sums.unpriced),
            Figure(sums.saved, "usd", partial=sums.unpriced > 0),
            Figure(guess or (None if unknown else 0), "usd", basis=basis, partial=unknown),
        )
        if name or any(cell.value != 0 for cell in cells):
            rows.append((label, *cells))
    heads = (*(("requests",) if counts else ()), "calls", "cost", "saved, measured")
    yield Table(f"By {by}", (by, *heads, "saved, estimated"), tuple(rows), strong=len(rows) - 1)


def _dollars(known: Decimal, unpriced: int) -> Figure:
    """A sum of which so many parts are unknown."""
    return Figure(known or (None if unpriced else 0), "usd", partial=unpriced > 0)


def _tokens(books: Books) -> Rows:
    for tier, sums in books.summed(lambda key: key.tier).items():
        if sums.calls:
            fresh = sums.input - sums.cached - sums.cache_writes
            tokens = (fresh, sums.cached, sums.cache_writes, sums.output)
            cells = (Figure(n, "count", partial=sums.no_tokens > 0) for n in tokens)
            share = Figure(sums.cached / sums.input if sums.input else None, "share")
            yield (tier, Figure(sums.calls, "count"), *cells, share)


def _calls(books: Books) -> Rows:
    for tier, calls in books.calls.items():
        counts = [calls.ends[end] for end in ("ok", "failed", "not_sent", "cancelled")]
        figures = (Figure(n, "count") for n in counts)
        yield (tier, *figures, *_took(calls.seconds, (0.5, 0.95, 0.99)))


def _took(times: Any, shares: Sequence[float]) -> list[Figure]:
    """Within which times so many ended."""
    found = np.quantile(times, shares).tolist() if len(times) else [None for _ in shares]
    return [Figure(time, "seconds") for time in found]


def _choices(found: Sequence[Choice]) -> Iterable[Table]:
    rows: list[tuple[Cell, ...]] = []
    notes, strong = ["On the decided requests, in the order of their confidence."], None
    for i, choice in enumerate(found):
        cost, asked = Figure(choice.cost_usd, "usd"), Figure(choice.escalated, "share")
        rows.append((f"{choice.threshold:.3f}", asked, cost, choice.saving, choice.worse))
        if choice.in_force:
            notes.append(f"The threshold in force is {choice.threshold:.3f}.")
            strong = i
    heads = ("accept from", "large answers", "cost", "saved", "accepted and worse")
    return _table("Other thresholds", heads, rows, notes=tuple(notes), strong=strong)


def _unknown(books: Books) -> Rows:
    groups = books.summed(lambda key: (key.node, key.model))
    for (node, model), note in books.reasons.items():
        sums = groups[node, model]
        assumed = _dollars(sums.assumed, sums.unpriced)
        yield node, model, note or "no reason given", Figure(sums.unknown, "count"), assumed


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


# Pictures -------------------------------------------------------------------------------------


def _pictures(books: Books, runs: Any) -> Iterable[Picture]:
    """Saving and escalation of each day (UTC), by the beginning of runs; and whether the confidence
    is what it says."""
    sums, saved, escalated = books.summed(lambda key: key.day), [], []
    for day in np.unique(runs.day).astype(int).tolist():
        part, paid = runs[runs.day == day], sums[day]
        found = audit.account(part, float(paid.spent), unpriced=paid.unpriced > 0)
        saved.append((day, found.saving))
        if (rate := audit.escalation(part)).n:
            escalated.append((day, rate))
    days = Axis("day, UTC", "days")
    if saved:
        yield Picture("Saving per day", days, Axis("dollars saved", "usd"), (_spans(saved),))
    if escalated:
        decided = Axis("share of decided requests", "share")
        yield Picture("Escalation per day", days, decided, (_spans(escalated),))
    if groups := audit.reliability(runs):
        ideal = Series("as it should be", ((0.0, 0.0), (1.0, 1.0)), role="other")
        confidence, good = Axis("confidence", "share"), Axis("as good as the large answer", "share")
        yield Picture("Confidence and correctness", confidence, good, (ideal, _spans(groups)))


def _spans(found: Sequence[tuple[float, Figure]]) -> Series:
    """Figures as dots with their intervals; an unknown one is not drawn."""
    points = tuple((float(at), each.numbers[0]) for at, each in found)
    ranges = tuple(each.numbers[1:] for _, each in found)
    return Series("with its 95 % interval", points, "dots", ranges=ranges)
