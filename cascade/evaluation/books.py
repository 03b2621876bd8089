"""A ledger as columns: its entries, its runs, and sums over them, exact to the last digit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, Literal, NamedTuple

import numpy as np

from cascade.errors import ConfigurationError
from cascade.ledger.base import Selection
from cascade.ledger.entries import EXACT
from cascade.ledger.feedback import FEEDBACK
from cascade.ledger.store import SqlLedger

NOTHING: Any = Decimal(0)

SLACK, WINDOW, LONGEST_CALL = timedelta(hours=1), timedelta(days=1), timedelta(minutes=15)
"""A run belongs to the period in which it begins, and its later entries are read for so long; so
much of a ledger is read at a time, so that its rows are never in memory as a whole; a call that
began longer ago and has no entry is not under way any more."""

EVENTS = "drift"
"""Node of entries that tell of the cascade and not of one request."""

Outcome = Literal[
    "accepted", "escalated", "degraded", "abstained", "person", "shadow", "cached", "unfinished"
]
"""End of a run; `degraded` asked the large model, which could not be had, `abstained` has no
answer on purpose, `shadow` the large model's with a draft beside it, `cached` an earlier one."""

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
"""Runs as columns; NaN where a number is unknown or does not apply.

`predicted`, `low`, `high` are the estimated baseline of an accepted draft, or of an answer from
another large model; `measured` are baselines that are known without an audit. `large` is what an
audit's call cost, or where a cache made it cheaper, the prediction as it was corrected. `loss` is
of the audit, or of a draft beside the large model's answer, which has a `rate` of 1.
"""


class Sums(NamedTuple):
    """Sums over entries, of which `requests` begin a run and `calls` asked a model; `spent` has in
    it what is `assumed` for those of `unknown` cost, of which `unpriced` have no assumption;
    `saved` are measured baselines less `spent`, `estimated` the others, `no_baseline` unknown."""

    requests: Any = 0
    calls: Any = 0
    unknown: Any = 0
    unpriced: Any = 0
    no_baseline: Any = 0
    spent: Any = NOTHING
    assumed: Any = NOTHING
    saved: Any = NOTHING
    estimated: Any = NOTHING


@dataclass(frozen=True, slots=True)
class Books:
    """A period of a ledger.

    Attributes:
        period: when its runs begin, in UTC, and what else they have in common.
        entries: columns by name (a tag's is `tags.NAME`), in the order of their times, with their
            `day`, which is that of their run, as tags are. The model of a verifier is the one that
            drafted.
        runs: record array of `RUNS`, in the order in which they began.
        counted: columns of what each entry adds to the fields of `Sums`.
        unfinished: calls whose process ended before they did.
    """

    period: Selection
    entries: dict[str, Any]
    runs: Any
    counted: Sums
    unfinished: int

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
        LedgerError: the ledger cannot be read.
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
    same: dict[str, str] = {}  # equal words are kept once
    end = wider.until or datetime.now(UTC) + SLACK
    oldest = await store.rows(wider, ("at",), limit=1)
    begin = oldest[0][0] if oldest else end
    while begin < end:
        part = replace(wider, since=begin, until=min(begin + WINDOW, end))
        rows = await store.rows(part, columns)
        for i, values in enumerate(zip(*rows, strict=True)):
            told = [each or "" for each in values] if i < len(words) else ()
            known = map(same.setdefault, told, told) if told else values
            parts[i].append(np.fromiter(known, parts[i][0].dtype, len(rows)))
        begin += WINDOW
    entries = {name: np.concatenate(parts.pop(0)) for name in names}
    ended = datetime.now(UTC) - LONGEST_CALL
    begun = replace(period, until=min(until, ended) if until else ended)
    return _books(entries, period, len(await store.unfinished(begun)))


def _books(entries: dict[str, Any], period: Selection, unfinished: int) -> Books:
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
    for name, dollars in zip(_DOLLARS, exact, strict=True):
        entries[name] = dollars.astype(float)
        dollars[np.isnan(entries[name])] = NOTHING
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
    counted = Sums._make([*(count.astype(int) for count in counts), *sums])
    return Books(period, entries, runs[begins_run[begun]], counted, unfinished)


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
