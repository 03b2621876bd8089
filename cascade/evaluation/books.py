"""A ledger as sums and runs: read once, row by row, for the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cascade.errors import ConfigurationError
from cascade.ledger.base import EVERYTHING, EXACT, Selection
from cascade.ledger.feedback import FEEDBACK

if TYPE_CHECKING:
    from cascade.ledger.store import SqlLedger

SLACK = timedelta(hours=1)
"""A run belongs to the period in which it begins; its later entries are read for so long."""

WINDOW = timedelta(days=7)
"""So much of a ledger is read at a time, so that it is never in memory as a whole."""

LONGEST_CALL = timedelta(minutes=15)
"""A call that began longer ago and has no entry is not under way any more."""

EVENTS = "drift"
"""Node of entries that tell of the cascade and not of one request."""

NOTHING = Decimal(0)

Outcome = Literal[
    "accepted", "escalated", "degraded", "abstained", "person", "shadow", "cached", "unfinished"
]
"""End of a run: with a draft, with the large model's answer, with none on purpose, with a
person's; `shadow` is the large model's with a draft beside it; `degraded` asked the large model,
which could not be had; `cached` took an earlier answer; `unfinished` has no answer in the ledger.
"""


class Row(NamedTuple):
    """Fields of one entry that are read; `tags` are values of the tags that are told apart."""

    run_id: str
    node: str
    tier: str | None
    model: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    latency_ms: float
    cost_usd: Decimal | None
    assumed_usd: Decimal | None
    baseline_usd: Decimal | None
    baseline_low_usd: Decimal | None
    baseline_high_usd: Decimal | None
    basis: str
    outcome: str
    note: str
    loss: float | None
    at: datetime
    action: str | None
    confidence: float | None
    calibrated: bool | None
    threshold: float | None
    audit_rate: float | None
    tags: tuple[str, ...]

    @property
    def baseline(self) -> tuple[Decimal | None, bool]:
        """The baseline that the entry earns, None where it is unknown; whether it is measured.

        What an audit measures is counted where its draft was accepted.
        """
        if self.node == "expert" and self.outcome == "ok":
            if self.cost_usd is None and self.baseline_usd is None:
                return self.assumed_usd or NOTHING, True  # its own baseline, whatever it cost
            own = self.baseline_usd is not None and self.baseline_usd == self.cost_usd
            return self.baseline_usd, own or self.basis == "measured"
        if self.action == "accept" and self.node not in ("expert", "shadow"):
            return self.baseline_usd, False
        return NOTHING, True


_DECIDED = ("action", "confidence", "calibrated", "threshold", "audit_rate")

COLUMNS = tuple(f"decision.{name}" if name in _DECIDED else name for name in Row._fields[:-1])
"""The same as a store names it, but for the tags, which are `tags.KEY`."""


@dataclass(slots=True)
class Sums:
    """Sums over entries, exact to the last digit.

    So many `requests` begin with one of them. `assumed` stands for the cost of `unknown` entries;
    `unpriced` of them have no assumption. `measured` and `estimated` are baselines earned;
    `no_baseline` drafts were accepted and theirs is unknown. Of `no_tokens` answered calls the
    tokens are unknown.
    """

    requests: int = 0
    unknown: int = 0
    unpriced: int = 0
    no_baseline: int = 0
    cost: Decimal = NOTHING
    assumed: Decimal = NOTHING
    measured: Decimal = NOTHING
    estimated: Decimal = NOTHING
    calls: int = 0
    no_tokens: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    cache_writes: int = 0

    def add(self, row: Row) -> None:
        """One more entry; in the context `EXACT`."""
        if row.cost_usd is not None:
            self.cost += row.cost_usd
        else:
            self.unknown += 1
            self.assumed += row.assumed_usd or NOTHING
            self.unpriced += row.assumed_usd is None
        earned, measured = row.baseline
        self.no_baseline += earned is None
        if measured:
            self.measured += earned or NOTHING
        else:
            self.estimated += earned or NOTHING
        if row.model is not None:
            self.calls += 1
            known = row.input_tokens is not None and row.output_tokens is not None
            self.no_tokens += not known and row.outcome == "ok"
            self.input += row.input_tokens or 0
            self.output += row.output_tokens or 0
            self.cached += row.cached_tokens or 0
            self.cache_writes += row.cache_write_tokens or 0

    def merge(self, other: Sums) -> None:
        """Take in all of another; in the context `EXACT`."""
        for name in Sums.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def spent(self) -> Decimal:
        """Cost, with what is assumed where it is unknown."""
        return EXACT.add(self.cost, self.assumed)

    @property
    def saved(self) -> Decimal:
        """Measured baselines less all that was spent."""
        return EXACT.subtract(self.measured, self.spent)


@dataclass(slots=True)
class Run:
    """One run, as far as a report needs it.

    Attributes:
        predicted, low, high: estimated baseline of its accepted draft, or of an answer from another
            large model; it stands in the sums `earned_in`.
        measured: baselines that are known without an audit.
        large_usd: cost of the large model's own answer.
        large: of an audit's call; where a cache made that cheaper, the prediction, `corrected`.
        loss: of its audit, or of a draft beside the large model's answer, which has a rate of 1.
    """

    day: int
    tags: tuple[str, ...]
    drafter: str = ""
    action: str | None = None
    asked: bool = False
    answered: bool = False
    shadow: bool = False
    cached: bool = False
    person: bool = False
    rate: float | None = None
    confidence: float | None = None
    calibrated: bool = False
    threshold: float | None = None
    predicted: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    earned_in: Sums | None = None
    measured: Decimal = NOTHING
    large_usd: Decimal | None = None
    large: Decimal | None = None
    corrected: Decimal | None = None
    loss: float | None = None
    latency_s: float = 0.0

    def add(self, row: Row, sums: Sums) -> None:
        """One more entry of the run, which was added to these sums."""
        node, ok = row.node, row.outcome == "ok"
        if node == "audit":
            self.loss = self.loss if row.loss is None else row.loss
            if row.model is None:
                self.corrected = row.baseline_usd or None
            elif self.large is None and ok:
                self.large = row.cost_usd  # a judge, if there is one, is asked afterwards
            return
        if row.action is not None:
            self.action, self.threshold = row.action, row.threshold
            if row.confidence is not None:
                self.confidence, self.calibrated = row.confidence, bool(row.calibrated)
        self.cached |= node == "cache" or row.note.startswith("answered by ")
        self.person |= node == "person" and row.tier == "person"
        self.shadow |= node == "shadow"
        self.latency_s += 0.0 if node == "shadow" else row.latency_ms / 1000
        if node == "draft" and ok:
            self.drafter = row.model or ""
        elif node == "expert":
            self.asked, self.answered = True, self.answered or ok
            self.large_usd = row.cost_usd if ok else self.large_usd
        earned, measured = row.baseline
        if row.action == "accept" and node != "expert":
            self.rate, self.earned_in = row.audit_rate, sums
            self.predicted = row.baseline_usd
            self.low, self.high = row.baseline_low_usd, row.baseline_high_usd
        elif measured:
            self.measured += earned or NOTHING
        elif earned is not None:
            # Where another model answered, the large one is never taken to cost more than it.
            self.predicted, self.low = earned, row.baseline_low_usd
            self.high = max(earned, row.baseline_high_usd or row.cost_usd or earned)
        if node == "shadow" and row.loss is not None:
            self.loss, self.rate = row.loss, 1.0

    @property
    def outcome(self) -> Outcome:
        """End of the run."""
        if self.cached or self.shadow or self.answered:
            return "cached" if self.cached else "shadow" if self.shadow else "escalated"
        if self.action == "escalate" and self.asked:
            return "degraded"
        if self.action == "ask" or self.person:
            return "person"
        ends: dict[str | None, Outcome] = {"accept": "accepted", "abstain": "abstained"}
        return ends.get(self.action, "unfinished")


class Key(NamedTuple):
    """Key of sums."""

    node: str
    tier: str
    model: str
    day: int
    tags: tuple[str, ...]


@dataclass(slots=True)
class Calls:
    """Ends of the calls of a tier, seconds of the successful ones, and the failures since the last
    success: the first of them, and how many."""

    ends: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    failing: int = 0
    first_failure: Row | None = None

    def add(self, row: Row) -> None:
        """One more call."""
        self.ends[row.outcome] += 1
        if row.outcome == "ok":
            self.seconds.append(row.latency_ms / 1000)
            self.failing = 0
        elif row.outcome != "cancelled":
            self.first_failure = self.first_failure if self.failing else row
            self.failing += 1


@dataclass(slots=True)
class Books:
    """A period of a ledger.

    Attributes:
        tags: names of the tags whose values are told apart.
        period: when its runs begin, in UTC, and what else they have in common.
        runs: by their id, in the order in which they began; `others` are of other periods.
        reasons: why costs are unknown, by node and model, as the last entry says it.
        unfinished: calls whose process ended before they did.
    """

    tags: tuple[str, ...] = ()
    period: Selection = EVERYTHING
    runs: dict[str, Run] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    groups: dict[Key, Sums] = field(default_factory=lambda: defaultdict(Sums))
    total: Sums = field(default_factory=Sums)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    calls: dict[str, Calls] = field(default_factory=lambda: defaultdict(Calls))
    events: list[Row] = field(default_factory=list)
    unfinished: int = 0

    def read(self, rows: Iterable[Row]) -> None:
        """Take in entries, in the order of their times."""
        with localcontext(EXACT):
            for row in rows:
                if row.outcome != "begun" and row.node != FEEDBACK:
                    self._add(row)

    def _add(self, row: Row) -> None:
        run, begins = self.runs.get(row.run_id), False
        if run is None:
            since, until = self.period.since, self.period.until
            inside = (since is None or row.at >= since) and (until is None or row.at < until)
            # An audit of a run of an earlier period belongs to none: its cost counts now.
            begins = row.node not in (EVENTS, "audit")
            if begins and not inside:
                self.others.add(row.run_id)
            if not inside or row.run_id in self.others:
                return
            if begins:
                run = self.runs[row.run_id] = Run(row.at.toordinal(), row.tags)
        if row.node == EVENTS and row.note:
            self.events.append(row)
        # A verifier's baseline is earned by the model that drafted.
        model = row.model or (run.drafter if run and row.baseline[0] != 0 else "")
        day, tags = (run.day, run.tags) if run else (row.at.toordinal(), row.tags)
        key = Key(row.node, row.tier or "", model, day, tags)
        sums = self.groups[key]
        sums.add(row)
        sums.requests += begins
        if run is not None:
            run.add(row, sums)
        if row.cost_usd is None:
            self.reasons[key.node, key.model] = row.note
        if row.model is not None:
            self.calls[key.tier].add(row)

    def settle(self) -> None:
        """All entries are there: baselines that audits have measured count as measured."""
        with localcontext(EXACT):
            for run in self.runs.values():
                if run.corrected is not None and run.predicted is not None:
                    run.large = run.predicted + run.corrected
                if run.large is not None and run.earned_in is not None:
                    run.earned_in.no_baseline -= run.predicted is None
                    run.earned_in.estimated -= run.predicted or NOTHING
                    run.earned_in.measured += run.large
        self.total = self.summed(lambda _: None).get(None, Sums())

    def summed(self, name_of: Callable[[Key], Any]) -> dict[Any, Sums]:
        """Sums by the name of each key."""
        groups: dict[Any, Sums] = {}
        with localcontext(EXACT):
            for key, sums in self.groups.items():
                groups.setdefault(name_of(key), Sums()).merge(sums)
        return groups

    def columns(self) -> Any:
        """The runs as a numpy record array of `RUNS`."""
        columns: Any = np.recarray(len(self.runs), RUNS)
        for name in RUNS.names or ():
            columns[name] = [getattr(run, name) for run in self.runs.values()]
        return columns


NUMBERS = (
    *("day", "rate", "confidence", "calibrated", "threshold", "predicted", "low", "high"),
    *("measured", "large_usd", "large", "loss", "latency_s"),
)
RUNS = np.dtype([("outcome", "U10"), *((name, float) for name in NUMBERS)])
"""Runs as columns; NaN where a number is unknown or does not apply."""


async def read(store: SqlLedger, selection: Selection, tags: Sequence[str] = ()) -> Books:
    """The books of a selection.

    Raises:
        ConfigurationError: the selection cuts runs in pieces, or its period is empty.
        LedgerError: the ledger cannot be read.
    """
    if selection.node is not None or selection.tier is not None:
        raise ConfigurationError(
            "a report is about whole runs, and a node or tier is a part of one: select by run, "
            "time or tag; there is a table by node and one by tier."
        )
    since, until = _utc(selection.since), _utc(selection.until)
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(f"a period from {since} until {until} is empty: since < until.")
    books = Books(tuple(tags), replace(selection, since=since, until=until))
    wider = replace(selection, since=since and since - SLACK, until=until and until + SLACK)
    columns, n = (*COLUMNS, *(f"tags.{tag}" for tag in tags)), len(COLUMNS)
    end = wider.until or datetime.now(UTC) + SLACK
    oldest = await store.rows(wider, ("at",), limit=1)
    begin = oldest[0][0] if oldest else end
    while begin < end:
        part = replace(wider, since=begin, until=min(begin + WINDOW, end))
        found = await store.rows(part, columns)
        books.read(Row._make((*row[:n], tuple([tag or "" for tag in row[n:]]))) for row in found)
        begin += WINDOW
    books.unfinished = len(await store.unfinished(books.period, older_than=LONGEST_CALL))
    books.settle()
    return books


def _utc(time: datetime | None) -> datetime | None:
    """A time in UTC; one without a zone is in UTC already."""
    if time is None:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
