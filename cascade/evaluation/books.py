"""A ledger as columns: its entries, its runs, and sums over them, exact to the last digit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, Literal, NamedTuple

import numpy as np

from cascade.errors import ConfigurationError
from cascade.ledger.base import EXACT, Selection
from cascade.ledger.feedback import FEEDBACK
from cascade.ledger.store import SqlLedger

NOTHING = Decimal(0)

SLACK, WINDOW, LONGEST_CALL = timedelta(hours=1), timedelta(days=1), timedelta(minutes=15)
"""A run belongs to the period in which it begins, and its later entries are read for so long; so
much of a ledger is read at a time, so that its rows are never in memory as a whole; a call that
began longer ago and has no entry is not under way any more."""

EVENTS = "drift"
"""Node of entries that tell of the cascade and not of one request."""

Outcome = Literal[
    "accepted", "escalated", "degraded", "abstained", "person", "shadow", "cached", "unfinished"
]
"""End of a run: with a draft, with the large model's answer, with none on purpose, with a
person's; `shadow` is the large model's with a draft beside it; `degraded` asked the large model,
which could not be had; `cached` took an earlier answer; `unfinished` has no answer in the ledger.
"""

_WORDS = ("run_id", "node", "tier", "model", "basis", "outcome", "note", "action")
_DOLLARS = ("cost_usd", "assumed_usd", "baseline_usd")
_MEASURES = (
    *("baseline_low_usd", "baseline_high_usd"),
    *("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "latency_ms"),
    *("confidence", "calibrated", "threshold", "audit_rate", "loss"),
)
"""Columns of entries: words, "" for none; exact dollars, None where unknown; and numbers, NaN."""

_DECIDED = ("action", "confidence", "calibrated", "threshold", "audit_rate")

NUMBERS = (
    *("day", "rate", "confidence", "calibrated", "threshold", "predicted", "low", "high"),
    *("measured", "large", "loss", "latency_s"),
)
RUNS = np.dtype([("outcome", "U10"), *((name, float) for name in NUMBERS)])
"""Runs as columns; NaN where a number is unknown or does not apply.

`predicted`, `low`, `high` are the estimated baseline of an accepted draft, or of an answer from
another large model; `measured` are baselines that are known without an audit. `large` is what an
audit's call cost, or where a cache made it cheaper, the prediction as it was corrected. `loss` is
of the audit, or of a draft beside the large model's answer, which has a `rate` of 1.
"""


class Sums(NamedTuple):
    """Sums over entries, of which `requests` begin a run and `calls` asked a model.

    `spent` has in it what is `assumed` for the entries of `unknown` cost; `unpriced` of them have
    no assumption. `saved` are measured baselines less `spent`, `estimated` the other baselines;
    `no_baseline` drafts were accepted and theirs is unknown.
    """

    requests: int
    calls: int
    unknown: int
    unpriced: int
    no_baseline: int
    spent: Decimal
    assumed: Decimal
    saved: Decimal
    estimated: Decimal


@dataclass(frozen=True, slots=True)
class Books:
    """A period of a ledger.

    Attributes:
        period: when its runs begin, in UTC, and what else they have in common.
        entries: columns by name (a tag's is `tags.NAME`), in the order of their times, with their
            `day`, which is that of their run, as tags are, and `called`: whether a model was
            asked. The model of a verifier is the one that drafted.
        runs: record array of `RUNS`, in the order in which they began.
        counted: what each entry adds to the fields of `Sums`.
        unfinished: calls whose process ended before they did.
    """

    period: Selection
    entries: dict[str, Any]
    runs: Any
    counted: Sequence[Any]
    unfinished: int

    def total(self, where: Any = slice(None)) -> Sums:
        """Sums over all entries, or those that a mask takes."""
        part = [column[where] for column in self.counted]
        return _summed(np.zeros(len(part[0]), int), 1, part)[0]

    def summed(self, labels: Iterable[Any]) -> dict[Any, Sums]:
        """Sums over entries of the same label."""
        codes: dict[Any, int] = {}
        places = np.array([codes.setdefault(label, len(codes)) for label in labels], int)
        return dict(zip(codes, _summed(places, len(codes), self.counted), strict=True))


def _summed(places: Any, n: int, counted: Sequence[Any]) -> list[Sums]:
    """Sums over entries of the same place, of which there are so many."""
    found = [np.full(n, NOTHING, column.dtype) for column in counted]
    with localcontext(EXACT):
        for sums, column in zip(found, counted, strict=True):
            np.add.at(sums, places, column)
    return [Sums(*row) for row in zip(*(sums.tolist() for sums in found), strict=True)]


def merged(parts: Iterable[Sums]) -> Sums:
    """The sums of all parts."""
    with localcontext(EXACT):
        return Sums._make(map(sum, zip(*parts, strict=True)))


async def read(store: SqlLedger, selection: Selection, tags: Sequence[str]) -> Books:
    """The books of a selection.

    Raises:
        ConfigurationError: the period is empty.
        LedgerError: the ledger cannot be read.
    """
    since, until = _utc(selection.since), _utc(selection.until)
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(f"a period from {since} until {until} is empty: since < until.")
    period = replace(selection, since=since, until=until)
    wider = replace(selection, since=since and since - SLACK, until=until and until + SLACK)
    names = (*_WORDS, *(f"tags.{tag}" for tag in tags), "at", *_DOLLARS, *_MEASURES)
    columns = [f"decision.{name}" if name in _DECIDED else name for name in names]
    parts = {name: [np.empty(0, float if name in _MEASURES else object)] for name in names}
    same: dict[str, str] = {}  # equal words are kept once
    end = wider.until or datetime.now(UTC) + SLACK
    oldest = await store.rows(wider, ("at",), limit=1)
    begin = oldest[0][0] if oldest else end
    while begin < end:
        part = replace(wider, since=begin, until=min(begin + WINDOW, end))
        found = zip(*await store.rows(part, columns), strict=True)
        for name, values in zip(names, found, strict=False):  # none where there are no rows
            words = name not in ("at", *_DOLLARS, *_MEASURES)
            kept = (same.setdefault(each or "", each or "") if words else each for each in values)
            parts[name].append(np.fromiter(kept, parts[name][0].dtype, len(values)))
        begin += WINDOW
    whole = {name: np.concatenate(parts.pop(name)) for name in names}
    ended = datetime.now(UTC) - LONGEST_CALL
    begun = replace(period, until=min(until, ended) if until else ended)
    return _books(whole, period, len(await store.unfinished(begun)))


def _utc(time: datetime | None) -> datetime | None:
    """A time in UTC; one without a zone is in UTC already."""
    return time and (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))


def _books(whole: Any, period: Selection, unfinished: int) -> Books:
    begins: dict[str, int] = {}
    # An audit of a run of an earlier period belongs to none: its cost counts now.
    for i, (run_id, node) in enumerate(zip(whole["run_id"], whole["node"], strict=True)):
        if node not in (EVENTS, "audit", FEEDBACK):
            begins.setdefault(run_id, i)
    first = np.array([begins.get(run_id, i) for i, run_id in enumerate(whole["run_id"])], int)
    inside = np.ones(len(first), bool)
    if period.since is not None:
        inside &= whole["at"] >= period.since
    if period.until is not None:
        inside &= whole["at"] < period.until
    kept = inside[first] & (whole["node"] != FEEDBACK)
    entries, first = {name: whole.pop(name)[kept] for name in [*whole]}, first[kept]
    _, begun, run = np.unique(first, return_index=True, return_inverse=True)

    usd, assumed, worth = (entries[name] for name in _DOLLARS)
    entries |= {name: entries[name].astype(float) for name in _DOLLARS}
    node, cost, baseline = entries["node"], entries["cost_usd"], entries["baseline_usd"]
    called, ok, unknown = entries["model"] != "", entries["outcome"] == "ok", np.isnan(cost)
    accepted = (entries["action"] == "accept") & ~np.isin(node, ("expert", "shadow"))
    large = (node == "expert") & ok
    # Without a price it is its own baseline, whatever it cost.
    unpriced = large & unknown & np.isnan(baseline)
    own = unpriced | (large & ((entries["basis"] == "measured") | (cost == baseline)))
    missing = (accepted | (large & ~unpriced)) & np.isnan(baseline)
    measured = _known(np.where(unpriced, assumed, worth), own)
    estimated = _known(worth, (large | accepted) & ~own)

    runs = _runs(entries, run, len(begun), measured.astype(float), estimated.astype(float))
    drafted, drafter = (node == "draft") & ok, np.full(len(begun), "", object)
    drafter[run[drafted]] = entries["model"][drafted]
    runs.day = [at.toordinal() for at in entries["at"][begun]]
    tags = [name for name in entries if name.startswith("tags.")]
    entries |= {name: entries[name][begun][run] for name in tags}
    entries |= {"called": called, "day": runs.day[run].astype(int)}
    credited = accepted & ~called & (baseline != 0)
    entries["model"] = np.where(credited, drafter[run], entries["model"])
    begins_run = np.zeros(len(run), bool)
    begins_run[begun] = ~np.isin(node[begun], (EVENTS, "audit"))

    seen = accepted & ~np.isnan(runs.large[run])  # by an audit
    measured[seen] = [Decimal(repr(each)) for each in runs.large[run][seen].tolist()]
    assumed, estimated[seen] = _known(assumed, unknown), NOTHING
    no_price = unknown & np.isnan(entries["assumed_usd"])
    counts = (begins_run, called, unknown, no_price, missing & ~seen)
    with localcontext(EXACT):
        spent = _known(usd, ~unknown) + assumed
        dollars = (spent, assumed, measured - spent, estimated)
    counted = (*(column.astype(int) for column in counts), *dollars)
    return Books(period, entries, runs[begins_run[begun]], counted, unfinished)


def _known(dollars: Any, where: Any) -> Any:
    """Exact dollars where a mask says so and they are known, else nothing."""
    kept = (usd if yes and usd else NOTHING for usd, yes in zip(dollars, where, strict=True))
    return np.fromiter(kept, object, len(dollars))


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
