"""The report of a ledger: what a cascade saved, how good its answers were, and how sure that is.

Every figure is a sum over entries, exact to the last digit, except what accepted drafts would have
cost with the large model: that is estimated from random audits. A ledger is read as columns.
"""

from __future__ import annotations

from collections import Counter, namedtuple
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from sys import intern
from typing import Any, Literal

import numpy as np

from cascade.errors import ConfigurationError
from cascade.evaluation import audit, render
from cascade.evaluation.audit import Choice, Quality, SavingReport
from cascade.evaluation.render import Fact, Figure, Picture, Series, Table, dollars, percent, words
from cascade.ledger.base import EVERYTHING, Selection
from cascade.ledger.entries import EXACT
from cascade.ledger.feedback import FEEDBACK
from cascade.ledger.store import SqlLedger

Verdict = Literal["saves", "loses", "cannot tell yet"]
Outcome = Literal[
    "accepted", "escalated", "degraded", "abstained", "person", "shadow", "cached", "unfinished"
]
"""End of a run; `degraded` asked the large model, which could not be had, `abstained` has no
answer on purpose, `shadow` the large model's with a draft beside it, `cached` an earlier one."""

TAGS = ("team", "key", "cascade", "agent")  # with tables where entries have them
TABLES = ("model", "tier", "day", "node")  # other columns with tables
OUTAGE = 3  # calls of a tier that fail one after the other
MOST_LINES = 30  # of a table; the others are summed up in one
ENDS = {"ok": "answered", "failed": "failed", "not_sent": "not sent", "cancelled": "cancelled"}
SPANS = "with its 95 % interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Savings and losses of a cascade in a period, with their intervals: `requests` that began in
    it, `verified_usd`, the lower end of the saving where it can be claimed, `quality` where drafts
    could be audited, `escalation`, a share of the decided requests, and `right_usd`, dollars per
    answer as good as the large model's."""

    requests: int
    outcomes: Mapping[Outcome, int]
    verified_usd: render.Number | None
    saving: SavingReport
    quality: Quality | None
    escalation: Figure
    right_usd: Figure
    what_if: tuple[Choice, ...]
    verdict: Verdict = "cannot tell yet"
    reason: str = ""
    advice: str = ""
    document: render.Document = field(default_factory=lambda: render.Document("", ""))


async def make_report(
    store: SqlLedger, selection: Selection = EVERYTHING, *, tag: str | None = None
) -> Report:
    """Report of a period, with tables by `TAGS`, one more `tag` and `TABLES`, compared with the
    period of the same length before it, where it has a begin. It takes a second of CPU for some
    60,000 entries: a service makes it in a thread of its own.

    Raises:
        ConfigurationError: the selection is of parts of runs, or entries have no such tag.
        LedgerError: the ledger cannot be read.
    """
    tags = [*TAGS] if tag in (None, *TAGS, *TABLES) else [*TAGS, str(tag)]
    books, earlier = await read(store, selection, tags), None
    since, until = books.period.since, books.period.until or datetime.now(UTC)
    if since is not None and since < until:  # else it begins later than now
        before = replace(selection, since=since - (until - since), until=since)
        earlier = _report(await read(store, before, tags))
    made = _report(books, earlier)
    there = [table.title[3:] for table in made.document.tables if table.title.startswith("By ")]
    if tag and there and tag not in there:
        told = f"no entry of this period has a tag {tag!r}"
        raise ConfigurationError(f"{told}; there are tables by {', '.join(there)}.")
    return made


def _report(books: Books, earlier: Report | None = None) -> Report:
    runs, spent, unpriced = books.runs, float(books.total.spent), books.total.unpriced > 0
    found, quality = audit.account(runs, spent, unpriced=unpriced), audit.quality_of(runs)
    known = len(runs) > 0 and not unpriced and not found.unknown
    claimed = known and (found.saving.n or found.saving.basis == "measured")
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
    sentence = f"{verdict[0].upper()}{verdict[1:]}: {reason}."
    if quality is not None and quality.checked:
        bounds = f"{percent(quality.loss.value)} is lost per request, as all were checked"
        if quality.loss.basis != "measured":
            bounds = f"at most {percent(quality.error_rate.high)} of the accepted drafts are, at "
            bounds += f"most {percent(quality.loss.high)} is lost per request (95 %)"
        seen = f"{quality.worse:,} of {quality.checked:,} checked drafts were worse than the large"
        sentence += f" {seen} answer: {bounds}."
    lossy = quality is not None and quality.loss.numbers[1] > 0
    tone: Any = {"saves": "open" if lossy else "good", "loses": "bad"}.get(verdict, "open")
    days = [date.fromordinal(day) for day in runs.day.astype(int).tolist()]
    period = f", {min(days)} to {max(days)}" if days else ""
    tags = ", ".join(f"{key}={value}" for key, value in books.period.tags.items())
    facts = _facts(made, books) if len(books.entries["node"]) else ()
    both = zip(facts, earlier.document.facts if earlier else (), strict=False)
    rows = tuple((now.label, now.figure, before.figure) for now, before in both)
    compared = Table("Compared with the period before", ("", "this period", "before"), rows)
    tables = compared, *_tables(made, books)
    document = render.Document(
        title=f"What the cascade saved{period}{f' ({tags})' if tags else ''}",
        sentence=sentence,
        facts=facts,
        notes=tuple(filter(None, (advice, *_remarks(made, books)))),
        tables=tuple(table for table in tables if table.rows),
        pictures=tuple(_pictures(books)),
        tone=tone,
        alarms=tuple(_alarms(books)),
    )
    return replace(made, verdict=verdict, reason=reason, advice=advice, document=document)


def _verdict(made: Report, books: Books) -> tuple[Verdict, str, str]:
    saved, share, quality = made.saving.saving, made.saving.share, made.quality
    (_, low, high), unknown = saved.numbers, books.total.unpriced > 0 or made.saving.unknown
    audits = float(books.counted.spent[books.entries["node"] == "audit"].sum())
    of_bill, advice = "of what the large model alone would have cost", ""
    if unknown:
        advice = "Give the models that are listed as unknown a price, Tier(…, price=Price(…)), and "
        advice += "count from then on (--since)."
    verdict: Verdict = "cannot tell yet"
    if not made.requests:
        reason = "there are no requests in this period"
        advice = "Look whether period and tags are what you mean, and whether the cascade writes "
        advice += "into this ledger: Cascade(…, ledger=open_store(URL))."
    elif set(made.outcomes) == {"shadow"}:
        reason = "the large model answered everything: a shadow start saves nothing yet"
        for live in filter(lambda choice: choice.in_force, made.what_if):
            reason += f"; live at {live.threshold:.3f} it would have saved "
            reason += f"{dollars(live.saving.value)}, with {percent(live.worse.value)} of the "
            reason += f"requests accepted and worse, at most {percent(live.worse.high)}"
    elif high <= 0 and not low >= 0:  # an unknown end is no comfort
        if high + audits > 0:
            reason = f"its audits cost {dollars(audits)}, without which it would have saved up to "
            reason += f"{dollars(high + audits)}: audit a smaller share"
        else:
            verdict, reason = "loses", f"at best it has lost {dollars(-high)}"
            reason += "" if share.high is None else f", {percent(-share.high)} {of_bill}"
            advice = "Switch it off: ask the large model alone. A cheaper draft, a better "
            advice += "calibration or a lower threshold may turn it; `cascade evaluate` tells on "
            advice += "recorded answers."
    elif made.verified_usd is not None and low > 0:
        verdict, sure = "saves", f"{dollars(low)}, {percent(share.low)} {of_bill}"
        reason = f"a verified net saving of at least {sure}"
        if quality is not None and (lost := quality.loss.numbers[1]) > 0:
            reason += f"; but it lost at least {percent(lost)} of quality per request"
    elif unknown:
        reason = "there are calls or baselines without a price"
    else:
        reason = f"the saving is between {dollars(saved.low)} and {dollars(saved.high)}"
        if made.verified_usd is None:
            reason = f"no audit knows the large model's cost; by assumption, {reason}"
    return verdict, reason, advice


def _remarks(made: Report, books: Books) -> Iterable[str]:
    quality, drafts = made.quality, books.runs[books.runs.outcome == "accepted"]
    if missing := books.total.no_baseline:
        why = "as their usage or the large model's price is unknown; they count as nothing saved"
        yield f"Accepted drafts without a baseline, {why} unless audited: {missing:,}."
    if blind := int((~(drafts.rate > 0) & np.isnan(drafts.large)).sum()):
        yield (
            "Accepted drafts that could not be audited (auditing off, or its budget used up): "
            f"{blind:,} of {len(drafts):,}, for which the quality figures do not stand. "
            f"{dollars(made.saving.assumed_usd)} of the baseline rests on assumed limits."
        )
    if quality is None:
        yield "Nothing is known about quality: audit some drafts, Cascade(…, audit_rate=0.05)."
    elif quality.due - quality.checked > 3 * quality.due**0.5:  # more than chance explains
        known = f"{quality.checked:,} have a result, which stand for all: see the log."
        yield f"About {quality.due:,.0f} audits were due; {known}"


def _alarms(books: Books) -> Iterable[str]:
    entries = books.entries
    for tier, calls in books.calls_of.items():
        ends = entries["outcome"][calls]
        after = max(np.flatnonzero(ends == "ok"), default=-1) + 1
        failed = calls[after:][ends[after:] != "cancelled"]
        if len(failed) >= OUTAGE:
            since, why = entries["at"][failed[0]], entries["note"][failed[0]]
            last = f"The last {len(failed):,} calls of {tier or 'a tier'} failed"
            yield f"{last}, since {since:%Y-%m-%d %H:%M} UTC: {why}"
    if books.unfinished:
        why = "Their process ended before they did; what they cost is not in these figures."
        yield f"Calls of unknown outcome: {books.unfinished:,}. {why}"


def _facts(made: Report, books: Books) -> tuple[Fact, ...]:
    found, quality, total, took = made.saving, made.quality, books.total, books.runs.latency_s
    ends = Counter(books.entries["outcome"][books.counted.calls > 0].tolist())
    calls = ends["failed"] + ends["ok"]
    half, most = _took(took[took > 0], 0.5, 0.95)
    parts = f"measured {dollars(found.measured_usd)}"
    if found.estimated_usd:
        parts += f", estimated {words(Figure(found.estimated_usd, 'usd', basis='estimated'))}"
    paid = "audits included"
    if total.unknown:
        unknown = render.counted(total.unknown, "unknown cost")
        paid += f"; {dollars(total.assumed)} assumed for {unknown}"
    worse = rate = "?"
    if quality is not None and quality.checked:
        worse, rate = f"{quality.worse:,} of {quality.checked:,}", words(quality.error_rate)
    each = found.baseline.map(lambda bill: bill / made.requests if made.requests else None)
    alone = f"large alone {dollars(each.value)}"
    return (
        Fact("requests", Figure(made.requests, "count")),
        Fact("spent", _dollars(total.spent, total.unpriced), paid),
        Fact("large model alone", found.baseline, "with every request"),
        Fact("saved", found.saving, parts),
        Fact("of the large-only bill", found.share, found.saving.method),
        Fact("checked drafts that were worse", worse, f"of all accepted {rate}"),
        Fact("escalated", made.escalation),
        Fact("cost per answer as good as the large model's", made.right_usd, alone),
        Fact("95 % of requests took at most", most, f"half of them {words(half)}"),
        Fact("calls that failed", Figure(ends["failed"] / calls if calls else None, "share")),
    )


def _tables(made: Report, books: Books) -> Iterable[Table]:
    entries, estimated = books.entries, float(books.total.estimated)
    # Estimated savings are those of the ledger, scaled to what the audits make of their sum.
    scale = made.saving.estimated_usd / estimated if estimated else 0.0
    tags = (name for name in entries if name.startswith("tags."))
    yield from (_breakdown(books, by, scale) for by in (*tags, *TABLES))

    rows: list[Any] = []
    for tier, calls in books.calls_of.items():
        ends, took = entries["outcome"][calls], entries["latency_ms"][calls] / 1000
        counts = (Figure(int((ends == end).sum()), "count") for end in ENDS)
        rows.append((tier, *counts, *_took(took[ends == "ok"], 0.5, 0.95, 0.99)))
    heads = ("tier", *ENDS.values(), "50 % took", "95 %", "99 %")
    yield Table("Calls by tier", heads, tuple(rows))

    rows, strong = [], None
    for i, of in enumerate(made.what_if):
        asked, cost = Figure(of.escalated, "share"), Figure(of.cost_usd, "usd")
        rows.append((f"{of.threshold:.3f}", asked, cost, of.saving, of.worse))
        strong = i if of.in_force else strong
    note = "On the decided requests, by their confidence; the marked threshold is in force."
    heads = ("accept from", "large answers", "cost", "saved", "accepted and worse")
    yield Table("Other thresholds", heads, tuple(rows), (note,), strong)

    node, note, rows = entries["node"], entries["note"], []
    places = list(zip(node, entries["model"], strict=True))
    why = {places[i]: note[i] for i in np.flatnonzero(np.isnan(entries["cost_usd"]))}
    for label, sums in books.summed(places).items() if why else ():
        cells = Figure(sums.unknown, "count"), _dollars(sums.assumed, sums.unpriced)
        rows += [(*label, why[label] or "no reason given", *cells)] if label in why else []
    yield Table("Unknown costs", ("node", "model", "why", "entries", "assumed"), tuple(rows))

    told = np.flatnonzero((node == EVENTS) & (note != ""))
    events = tuple((f"{entries['at'][i]:%Y-%m-%d %H:%M}", note[i]) for i in told)
    yield Table("Events", ("at, UTC", "what"), events, folded=True)


def _breakdown(books: Books, by: str, scale: float) -> Table:
    """Lines by group, days in order, others by cost, that add up to the headline; none without any
    entry of such a tag."""
    group, labels = by.removeprefix("tags."), books.entries[by].tolist()
    days = by == "day"
    left_out = by in ("model", "tier", "node")  # a run has entries in several groups
    groups = books.summed(labels) if any(labels) else {}
    names = sorted(groups, key=lambda name: -name if days else -groups[name].spent)
    if others := set(names[MOST_LINES:]):
        rest = f"({len(others):,} {'earlier' if days else 'others'})"
        groups = books.summed(rest if label in others else label for label in labels)
        names[MOST_LINES:] = [rest]
    lines = [(name, groups[name]) for name in (names[::-1] if days else names)]
    rows: list[Any] = []
    for name, sums in (*lines, ("total", books.total)) if lines else ():
        label = date.fromordinal(name).isoformat() if isinstance(name, int) else name or "–"
        guess = float(sums.estimated) * scale
        cells = [
            Figure(sums.requests, "count"),
            Figure(sums.calls, "count"),
            _dollars(sums.spent, sums.unpriced),
            Figure(sums.saved, "usd", partial=sums.unpriced > 0),
            replace(_dollars(guess, sums.no_baseline), basis="estimated" if guess else "measured"),
        ][left_out:]
        if name or any(cell.value != 0 for cell in cells):
            rows.append((label, *cells))
    heads = ("requests", "calls", "cost", "saved, measured", "saved, estimated")[left_out:]
    return Table(f"By {group}", (group, *heads), tuple(rows), strong=len(rows) - 1)


def _dollars(known: render.Number, unpriced: int) -> Figure:
    return Figure(known or (None if unpriced else 0), "usd", partial=unpriced > 0)


def _took(times: Any, *shares: float) -> list[Figure]:
    found = np.quantile(times if len(times) else [np.nan], shares)
    return [Figure(time, "seconds") for time in found.tolist()]


def _pictures(books: Books) -> Iterable[Picture]:
    """Saving and escalation by the day on which runs began, and how right a confidence is."""
    runs, sums = books.runs, books.summed(books.entries["day"].tolist())
    saved: Any = "Saving per day", "dollars", "usd", []
    escalated: Any = "Escalation per day", "share of decided requests", "share", []
    for day in np.unique(runs.day).tolist():
        part, paid = runs[runs.day == day], sums[day]
        found = audit.account(part, float(paid.spent), unpriced=paid.unpriced > 0)
        saved[-1].append((day, *found.saving.numbers))
        escalated[-1].append((day, *audit.escalation(part).numbers))
    for title, label, unit, days in (saved, escalated):
        if not np.isnan([value for _, value, *_ in days]).all():
            dots = Series(SPANS, tuple(days), "dots")
            yield Picture(title, "day, UTC", label, (dots,), ("days", unit))
    if groups := tuple(audit.reliability(runs)):
        line = Series("as it should be", ((0.0, 0.0), (1.0, 1.0)), role="other")
        dots, good = Series(SPANS, groups, "dots"), "as good as the large answer"
        yield Picture("Confidence and correctness", "confidence", good, (line, dots))


# --- a ledger as columns

NOTHING: Any = Decimal(0)
EVENTS = "drift"  # node of entries that tell of the cascade and not of one request
SLACK = timedelta(hours=1)  # after a period, for later entries of the runs that began in it
WINDOW = timedelta(days=1)  # that is read at a time, so that rows are never in memory as a whole
LONGEST_CALL = timedelta(minutes=15)  # one that began earlier is not under way any more

_WORDS = ("run_id", "node", "tier", "model", "basis", "outcome", "note", "action")
_DOLLARS = ("cost_usd", "assumed_usd", "baseline_usd")
_DECIDED = ("confidence", "calibrated", "threshold", "audit_rate")
_FLOATS = ("baseline_low_usd", "baseline_high_usd", "latency_ms", "loss", *_DECIDED)
"""Columns of entries: words, "" for none; exact dollars; and numbers, NaN where unknown."""

NUMBERS = (
    *("day", "rate", "confidence", "calibrated", "threshold", "predicted", "low", "high"),
    *("measured", "large", "loss", "latency_s"),
)
RUNS = np.dtype([("outcome", "U10"), *((name, float) for name in NUMBERS)])
"""Runs as columns; NaN where a number is unknown or does not apply. `predicted`, `low`, `high` are
the estimated baseline of an accepted draft, or of an answer from another large model, `measured`
baselines that are known without an audit. `large` is what an audit's call cost, or where a cache
made it cheaper, the prediction as it was corrected; `loss` is of the audit, or of a draft beside
the large model's answer, which has a `rate` of 1."""

Sums = namedtuple(
    "Sums", "requests calls unknown unpriced no_baseline spent assumed saved estimated"
)
"""Sums over entries, of which `requests` begin a run and `calls` asked a model; `spent` has in it
what is `assumed` for those of `unknown` cost, of which `unpriced` have no assumption; `saved` are
measured baselines less `spent`, `estimated` the others, `no_baseline` unknown."""


class Books:
    """A period of a ledger, in UTC: entries as columns by name, in the order of their times, with
    `day` and tags (`tags.NAME`) of their run, and for a verifier the model that drafted; runs as a
    record array of `RUNS`, in the order in which they began; columns of what each entry adds to
    `Sums`, and their `total`; entries that are calls of each tier; and how many calls ended with
    their process."""

    def __init__(self, entries: dict[str, Any], period: Selection, unfinished: int) -> None:
        begins: dict[str, int] = {}
        # An audit of a run of an earlier period belongs to none: its cost counts now.
        for i, (run_id, node) in enumerate(zip(entries["run_id"], entries["node"], strict=True)):
            if node not in (EVENTS, "audit", FEEDBACK):
                begins.setdefault(run_id, i)
        first = np.array([begins.get(run_id, i) for i, run_id in enumerate(entries["run_id"])], int)
        kept, at = entries["node"] != FEEDBACK, entries["at"][first]
        if period.since is not None:
            kept &= at >= period.since
        if period.until is not None:
            kept &= at < period.until
        entries = {name: entries.pop(name)[kept] for name in [*entries]}
        _, begun, run = np.unique(first[kept], return_index=True, return_inverse=True)

        exact = [entries[name] for name in _DOLLARS]
        for name, column in zip(_DOLLARS, exact, strict=True):
            entries[name] = column.astype(float)
            column[np.isnan(entries[name])] = NOTHING
        usd, assumed, worth = exact
        cost, baseline, node = entries["cost_usd"], entries["baseline_usd"], entries["node"]
        ok, unknown, called = entries["outcome"] == "ok", np.isnan(cost), entries["model"] != ""
        accepted = (entries["action"] == "accept") & ~np.isin(node, ("expert", "shadow"))
        large = (node == "expert") & ok
        # Without a price it is its own baseline, whatever it cost.
        unpriced = large & unknown & np.isnan(baseline)
        own = unpriced | (large & ((entries["basis"] == "measured") | (cost == baseline)))
        missing = (accepted | (large & ~unpriced)) & np.isnan(baseline)
        measured = np.where(own, np.where(unpriced, assumed, worth), NOTHING)
        estimated = np.where((large | accepted) & ~own, worth, NOTHING)

        runs = _runs(entries, run, len(begun), measured.astype(float), estimated.astype(float))
        runs.day = [at.toordinal() for at in entries["at"][begun]]
        entries |= {name: entries[name][begun][run] for name in entries if name.startswith("tags.")}
        entries["day"] = runs.day[run].astype(int)
        drafted, drafter = (node == "draft") & ok, np.full(len(begun), "", object)
        drafter[run[drafted]] = entries["model"][drafted]
        credited = accepted & ~called & (baseline != 0)
        entries["model"] = np.where(credited, drafter[run], entries["model"])
        begins_run = np.zeros(len(run), bool)
        begins_run[begun] = ~np.isin(node[begun], (EVENTS, "audit"))

        seen = accepted & ~np.isnan(runs.large[run])  # by an audit
        measured[seen] = [Decimal(repr(each)) for each in runs.large[run][seen].tolist()]
        spent, assumed = np.where(unknown, assumed, usd), np.where(unknown, assumed, NOTHING)
        estimated[seen] = NOTHING
        no_price = unknown & np.isnan(entries["assumed_usd"])
        counts = (begins_run, called, unknown, no_price, missing & ~seen)
        with localcontext(EXACT):
            sums = (spent, assumed, measured - spent, estimated)
        self.period, self.entries, self.unfinished = period, entries, unfinished
        self.runs = runs[begins_run[begun]]
        self.counted = Sums._make([*(count.astype(int) for count in counts), *sums])
        self.total = self.summed([""] * len(run)).get("", Sums(*[0] * 9))
        tiers, there = entries["tier"], dict.fromkeys(entries["tier"][called])
        self.calls_of = {tier: np.flatnonzero(called & (tiers == tier)) for tier in there}

    def summed(self, labels: Iterable[Any]) -> dict[Any, Sums]:
        """Sums over entries of the same label."""
        codes: dict[Any, int] = {}
        places = np.array([codes.setdefault(label, len(codes)) for label in labels], int)
        found = [np.full(len(codes), NOTHING, column.dtype) for column in self.counted]
        with localcontext(EXACT):
            for sums, column in zip(found, self.counted, strict=True):
                np.add.at(sums, places, column)
        rows = zip(*(sums.tolist() for sums in found), strict=True)
        return dict(zip(codes, map(Sums._make, rows), strict=True))


async def read(store: SqlLedger, selection: Selection, tags: Sequence[str]) -> Books:
    """The books of a selection.

    Raises:
        ConfigurationError: the period is empty.
    """
    since, until = (
        time and (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
        for time in (selection.since, selection.until)
    )
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(f"a period from {since} until {until} is empty: since < until.")
    period = replace(selection, since=since, until=until)
    wider = replace(selection, since=since and since - SLACK, until=until and until + SLACK)
    words = (*_WORDS, *(f"tags.{tag}" for tag in tags))
    names = (*words, "at", *_DOLLARS, *_FLOATS)
    columns = [f"decision.{name}" if name in (*_DECIDED, "action") else name for name in names]
    parts = [[np.empty(0, float if name in _FLOATS else object)] for name in names]
    end = wider.until or datetime.now(UTC) + SLACK
    oldest = await store.rows(wider, ("at",), limit=1)
    begin = oldest[0][0] if oldest else end
    while begin < end:
        part = replace(wider, since=begin, until=min(begin + WINDOW, end))
        rows = await store.rows(part, columns)
        for i, values in enumerate(zip(*rows, strict=True)):
            # Equal words are kept once.
            known = (intern(str(each or "")) for each in values) if i < len(words) else values
            parts[i].append(np.fromiter(known, parts[i][0].dtype, len(rows)))
        begin += WINDOW
    entries = {name: np.concatenate(parts.pop(0)) for name in names}
    ended = datetime.now(UTC) - LONGEST_CALL
    begun = replace(period, until=min(until, ended) if until else ended)
    return Books(entries, period, len(await store.unfinished(begun)))


def _runs(entries: Any, run: Any, n: int, measured: Any, estimated: Any) -> Any:
    """Runs as `RUNS`, but for the day, from the place of the run of each entry."""

    def last(values: Any, where: Any, empty: Any = np.nan) -> Any:
        """The last value of each run, of the entries that a mask or an order of indices takes."""
        found = np.full(n, empty, values.dtype)
        found[run[where]] = values[where]
        return found

    def any_of(where: Any) -> Any:
        return np.bincount(run[where], minlength=n) > 0

    node, ok, action = entries["node"], entries["outcome"] == "ok", entries["action"]
    cost, baseline, high = (entries[f"{of}_usd"] for of in ("cost", "baseline", "baseline_high"))
    audit, expert, shadow = (node == name for name in ("audit", "expert", "shadow"))
    called, decided = entries["model"] != "", (action != "") & ~audit
    cached = np.array([note.startswith("answered by ") for note in entries["note"]], bool)
    end = last(action, decided, "")
    ends: dict[Outcome, Any] = {
        "cached": any_of((node == "cache") | (cached & ~audit)),
        "shadow": any_of(shadow),
        "escalated": any_of(expert & ok),
        "degraded": (end == "escalate") & any_of(expert),
        "person": (end == "ask") | any_of((node == "person") & (entries["tier"] == "person")),
        "accepted": end == "accept",
        "abstained": end == "abstain",
    }
    runs: Any = np.recarray(n, RUNS)
    runs.outcome = np.select(list(ends.values()), list(ends), "unfinished")
    accepted, compared = (action == "accept") & decided & ~expert, ~np.isnan(entries["loss"])
    rates = np.where(shadow & compared, 1.0, entries["audit_rate"])
    runs.rate = last(rates, accepted | (shadow & compared))
    runs.loss = last(entries["loss"], (audit | shadow) & compared)
    sure = decided & ~np.isnan(entries["confidence"])
    runs.confidence = last(entries["confidence"], sure)
    runs.calibrated = last(entries["calibrated"], sure)
    runs.threshold = last(entries["threshold"], decided)
    # Where another model answered, the large one is never taken to cost more than it.
    other = expert & (estimated != 0)
    most = np.where(other, np.fmax(baseline, np.where(high > 0, high, cost)), high)
    runs.predicted = last(baseline, accepted | other)
    runs.low = last(entries["baseline_low_usd"], accepted | other)
    runs.high = last(most, accepted | other)
    runs.measured = np.bincount(run, measured, n)
    # A judge, if there is one, is asked after the large model.
    asked = np.flatnonzero(audit & called & ok & ~np.isnan(cost))
    error = last(baseline, audit & ~called)
    mended = runs.predicted + np.where(error == 0, np.nan, error)
    runs.large = np.where(np.isnan(mended), last(cost, asked[::-1]), mended)
    runs.latency_s = np.bincount(run, np.where(audit | shadow, 0, entries["latency_ms"]), n) / 1000
    return runs
