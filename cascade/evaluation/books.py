"""A ledger as sums and runs: read once, row by row, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from cascade.errors import ConfigurationError
from cascade.ledger.base import EXACT, MemoryLedger, Selection
from cascade.ledger.feedback import FEEDBACK, said_wrong
from cascade.state import LedgerEntry

SLACK = timedelta(hours=1)
"""A run belongs to the period in which it begins; its later entries are read for so long."""

WINDOW = timedelta(days=7)
"""So much of a ledger is read at a time."""

LONGEST_CALL = timedelta(minutes=15)
"""A call that began longer ago and has no entry is not under way any more."""

EVENTS = frozenset({"drift"})
"""Nodes of entries that tell of the cascade and not of one request."""

OUTAGE = 3
"""So many calls of a tier that fail one after the other are an outage."""

MOST_REASONS = 50
"""So many reasons for unknown costs are told apart: an error's text may differ every time."""

NOTHING = Decimal(0)

Outcome = Literal[
    "accepted", "escalated", "degraded", "abstained", "person", "shadow", "cached", "unfinished"
]
"""How a run ended: with a draft, with the large model's answer, with none on purpose, with a
person's; `shadow` is the large model's with a draft beside it; `degraded` asked the large model,
which could not be had; `cached` took an earlier answer; `unfinished` has no answer in the ledger.
"""


class Row(NamedTuple):
    """What is read of one entry."""

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
    price: str | None
    outcome: str
    note: str
    loss: float | None
    at: datetime
    id: str
    action: str | None
    confidence: float | None
    calibrated: bool | None
    threshold: float | None
    audit_rate: float | None
    tags: tuple[str, ...]
    """Values of the tags that are told apart; "" for none."""


_DECIDED = ("action", "confidence", "calibrated", "threshold", "audit_rate")

COLUMNS = tuple(f"decision.{name}" if name in _DECIDED else name for name in Row._fields[:-1])
"""The same as a store names it, but for the tags, which are `tags.KEY`."""


def row_of(entry: LedgerEntry, tags: Iterable[str]) -> Row:
    """What is read of an entry with these values of tags."""
    low, high = entry.baseline_range or (None, None)
    ends = {"baseline_low_usd": low, "baseline_high_usd": high, "tags": tuple(tags)}
    return Row._make(
        ends[name]
        if name in ends
        else getattr(entry.decision if name in _DECIDED else entry, name, None)
        for name in Row._fields
    )


class Readable(Protocol):
    """What a report reads: `cascade.ledger.open_store` makes one."""

    async def rows(
        self, selection: Selection, columns: Sequence[str], *, limit: int | None = None
    ) -> Sequence[tuple[Any, ...]]:
        """Columns of entries as plain tuples, ordered by time; the oldest `limit`."""
        ...

    async def unfinished(
        self, selection: Selection, *, older_than: timedelta
    ) -> Sequence[LedgerEntry]:
        """Calls that were begun and never completed."""
        ...


Earning = Literal["", "draft", "own", "measured", "other"]
"""How an entry earns its baseline: not at all; an accepted draft, whose estimate audits can
measure; a large answer of unknown cost, which is its own baseline; a measured one; another
estimate, which no audit can measure."""


def earning_of(row: Row) -> Earning:
    """How an entry earns its baseline."""
    if row.node in ("audit", "shadow") or (row.node == "expert" and row.outcome != "ok"):
        return ""  # what an audit measures is counted where its draft was accepted
    if row.node == "expert" and row.baseline_usd == row.cost_usd:
        return "own" if row.cost_usd is None else "measured"
    if row.action == "accept" and row.node != "expert" and row.baseline_usd != 0:
        return "draft"
    if not row.baseline_usd and row.node != "expert":
        return ""
    return "measured" if row.basis == "measured" else "other"


@dataclass(slots=True)
class Sums:
    """Sums over entries, exact to the last digit.

    Attributes:
        calls: entries that asked a model; of `no_tokens` answers the tokens are unknown.
        unknown: entries of unknown cost; `assumed` is what they are assumed to cost together,
            `unpriced` how many of them have no assumption, of which `own` are large answers.
        measured, estimated: baselines earned; an audit turns the second into the first.
        no_baseline: accepted drafts whose baseline is unknown; they count as nothing earned.
        written: tokens of the prompt, written to a cache.
    """

    entries: int = 0
    calls: int = 0
    no_tokens: int = 0
    unknown: int = 0
    unpriced: int = 0
    own: int = 0
    no_baseline: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    cost: Decimal = NOTHING
    assumed: Decimal = NOTHING
    measured: Decimal = NOTHING
    estimated: Decimal = NOTHING

    def add(self, row: Row, earning: Earning) -> None:
        """One more entry; in the context `EXACT`."""
        self.entries += 1
        if row.cost_usd is not None:
            self.cost += row.cost_usd
        else:
            self.unknown += 1
            self.assumed += row.assumed_usd or NOTHING
            self.unpriced += row.assumed_usd is None
            self.own += earning == "own" and row.assumed_usd is None
        if earning == "own":
            self.measured += row.assumed_usd or NOTHING
        elif earning == "measured":
            self.measured += row.baseline_usd or NOTHING
        elif earning:
            self.no_baseline += row.baseline_usd is None
            self.estimated += row.baseline_usd or NOTHING
        if row.model is not None:
            self.calls += 1
            known = row.input_tokens is not None and row.output_tokens is not None
            self.no_tokens += not known and row.outcome == "ok"
            self.input += row.input_tokens or 0
            self.output += row.output_tokens or 0
            self.cached += row.cached_tokens or 0
            self.written += row.cache_write_tokens or 0

    def assume(self, each: Decimal) -> None:
        """Take this for the cost of each entry that has no other assumption."""
        self.assumed += each * self.unpriced
        self.measured += each * self.own
        self.unpriced = self.own = 0

    def merge(self, other: Sums) -> None:
        """Take in all of another."""
        with localcontext(EXACT):
            for part in fields(self):
                setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

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
    """What a report needs of one run.

    Attributes:
        predicted, low, high: estimated baseline of its accepted draft, and its range.
        earned_in: the sums in which that baseline stands.
        measured: baselines that are known without an audit.
        assumed, assumed_low, assumed_high: estimated baselines that no audit can measure, such as
            that of an answer from another large model.
        unpriced: node, tier and model of its large answer, where that has no price.
        expert_usd, expert_tokens: the large model's own cost and prompt.
        large: what the large model alone would have cost, as an audit of it found: the cost of the
            audit's call, or what that `corrected` the prediction by, where a cache made it cheaper.
        loss: of its audit; `beside`, of a draft that was made beside the large model's answer.
        wrong: what people say of its answer.
    """

    day: int
    tags: tuple[str, ...]
    drafter: str = ""
    action: str | None = None
    asked: bool = False
    answered: bool = False
    shadow: bool = False
    cached: bool = False
    answered_by_person: bool = False
    rate: float | None = None
    confidence: float | None = None
    calibrated: bool = False
    threshold: float | None = None
    predicted: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    earned_in: Sums | None = None
    measured: Decimal = NOTHING
    assumed: Decimal = NOTHING
    assumed_low: Decimal = NOTHING
    assumed_high: Decimal = NOTHING
    unpriced: tuple[str, str, str] | None = None
    large: Decimal | None = None
    corrected: Decimal | None = None
    loss: float | None = None
    beside: float | None = None
    draft_tokens: int | None = None
    expert_usd: Decimal | None = None
    expert_tokens: int | None = None
    paid_usd: Decimal = NOTHING
    latency_s: float = 0.0
    wrong: bool | None = None

    def add(self, row: Row, earning: Earning, sums: Sums) -> None:
        """One more entry of the run, which was added to these sums."""
        node, ok = row.node, row.outcome == "ok"
        self.paid_usd += row.cost_usd or row.assumed_usd or NOTHING
        if node == "audit":
            self.loss = self.loss if row.loss is None else row.loss
            if row.model is None:
                self.corrected = row.baseline_usd or None
            elif self.large is None and ok:
                self.large = row.cost_usd  # a judge, if there is one, is asked afterwards
            return
        if node != "shadow":
            self.latency_s += row.latency_ms / 1000
        if row.action is not None:
            self.action, self.threshold = row.action, row.threshold
            if row.confidence is not None:
                self.confidence, self.calibrated = row.confidence, bool(row.calibrated)
        self.cached |= node == "cache" or row.note.startswith("answered by ")
        self.answered_by_person |= node == "person" and row.tier == "person"
        if node == "shadow":
            self.shadow = True
            self.beside = self.beside if row.loss is None else row.loss
        elif node == "draft" and ok:
            self.draft_tokens, self.drafter = row.output_tokens, row.model or ""
        elif node == "expert":
            self.asked = True
            self.answered |= ok
            if ok:
                self.expert_usd, self.expert_tokens = row.cost_usd, row.input_tokens
        self._earn(row, earning, sums)

    def _earn(self, row: Row, earning: Earning, sums: Sums) -> None:
        baseline = row.baseline_usd
        low, high = row.baseline_low_usd, row.baseline_high_usd
        if row.action == "accept" and row.node != "expert":
            # A draft from a cache earns 0: the large model would have had its answer there too.
            self.predicted, self.low, self.high = baseline, low, high
            self.rate, self.earned_in = row.audit_rate, sums
        elif earning == "own":
            self.measured += row.assumed_usd or NOTHING
            if row.assumed_usd is None:
                self.unpriced = (row.node, row.tier or "", row.model or "")
        elif earning == "measured":
            self.measured += baseline or NOTHING
        elif earning and baseline is not None:
            self.assumed += baseline
            self.assumed_low += low or NOTHING
            # Where another model answered, the large one is never taken to cost more than it.
            self.assumed_high += max(baseline, high or row.cost_usd or baseline)

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        ways: tuple[tuple[bool, Outcome], ...] = (
            (self.cached, "cached"),
            (self.shadow, "shadow"),
            (self.answered, "escalated"),
            (self.action == "escalate" and self.asked, "degraded"),
            (self.action == "ask" or self.answered_by_person, "person"),
            (self.action == "accept", "accepted"),
            (self.action == "abstain", "abstained"),
            (True, "unfinished"),
        )
        return next(outcome for so, outcome in ways if so)


@dataclass(slots=True)
class Health:
    """Calls of a tier: seconds of those that succeeded, how others ended, and outages as (first
    call, next success, calls, why)."""

    seconds: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    outages: list[tuple[datetime, datetime | None, int, str]] = field(default_factory=list)
    failing: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """One more call, in the order of their times."""
        self.ends[row.outcome] += 1
        if row.outcome == "ok":
            self.seconds.append(row.latency_ms / 1000)
            self.end(row.at)
        elif row.outcome != "cancelled":
            self.failing.append(row)

    def end(self, at: datetime | None) -> None:
        """A call succeeds, or there are no more."""
        if len(self.failing) >= OUTAGE:
            self.outages.append((self.failing[0].at, at, len(self.failing), self.failing[0].note))
        self.failing.clear()


Key = tuple[str, str, str, int, tuple[str, ...]]
"""Node, tier, model, day, and values of the tags."""


@dataclass(slots=True)
class Books:
    """A period of a ledger.

    Attributes:
        tags: names of the tags whose values are told apart.
        runs: by their id, in the order in which they began.
        groups: sums by all that tables are made by.
        unknown: entries of unknown cost by node, model and reason.
        prices: how often a model was charged at which price.
        health: calls by tier.
        events: what happened to the cascade.
        unfinished: calls whose process ended before they did.
    """

    tags: tuple[str, ...] = ()
    runs: dict[str, Run] = field(default_factory=dict)
    groups: dict[Key, Sums] = field(default_factory=dict)
    unknown: dict[tuple[str, str, str], Sums] = field(default_factory=dict)
    prices: Counter[tuple[str, str]] = field(default_factory=Counter)
    health: dict[str, Health] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    unfinished: Sequence[LedgerEntry] = ()
    first: datetime | None = None
    last: datetime | None = None

    def begin(self, row: Row) -> Run:
        """A run begins in this period."""
        self.runs[row.run_id] = run = Run(row.at.toordinal(), row.tags)
        return run

    def add(self, row: Row, run: Run | None) -> None:
        """One more entry, in the order of their times; `run` is None where it is of none."""
        if row.node in EVENTS and row.note:
            self.events.append(row)
        day, tags = (run.day, run.tags) if run else (row.at.toordinal(), row.tags)
        earning = earning_of(row)
        # A verifier's baseline is earned by the model that drafted.
        model = row.model or (run.drafter if run and earning else "")
        key = (row.node, row.tier or "", model, day, tags)
        sums = self.groups.get(key)
        if sums is None:
            sums = self.groups[key] = Sums()
        sums.add(row, earning)
        if run is not None:
            run.add(row, earning, sums)
        if row.cost_usd is None:
            reason = (row.node, row.model or "", row.note[:200])
            if reason not in self.unknown and len(self.unknown) >= MOST_REASONS:
                reason = (*reason[:2], "other reasons")
            self.unknown.setdefault(reason, Sums()).add(row, "")
        if row.model is not None:
            self.health.setdefault(row.tier or "", Health()).add(row)
            if row.price is not None:
                self.prices[row.model, row.price] += 1
        self.first, self.last = self.first or row.at, row.at

    def settle(self) -> None:
        """All entries are there: baselines that audits have measured count as measured.

        A call of unknown cost without an assumption is taken for the mean of its node, tier and
        model, where that is known: a failed call seldom costs more than one that succeeds.
        """
        means = {
            call: EXACT.divide(sums.cost, Decimal(sums.entries - sums.unknown)).quantize(
                Decimal("1e-15")
            )
            for call, sums in self.summed(lambda key: key[:3]).items()
            if sums.unpriced and sums.entries > sums.unknown
        }
        for key, sums in self.groups.items():
            if key[:3] in means:
                sums.assume(means[key[:3]])
        for run in self.runs.values():
            if run.unpriced in means:
                run.measured += means[run.unpriced]
            if run.corrected is not None and run.predicted is not None:
                run.large = run.predicted + run.corrected
            if run.large is not None and run.earned_in is not None:
                run.earned_in.no_baseline -= run.predicted is None
                run.earned_in.estimated -= run.predicted or NOTHING
                run.earned_in.measured += run.large
        for health in self.health.values():
            health.end(None)

    def summed(self, name_of: Callable[[Key], Any]) -> dict[Any, Sums]:
        """Sums by the name of each key."""
        groups: dict[Any, Sums] = {}
        for key, sums in self.groups.items():
            groups.setdefault(name_of(key), Sums()).merge(sums)
        return groups

    @property
    def total(self) -> Sums:
        """All that its entries add up to."""
        return self.summed(lambda _: None).get(None, Sums())

    def columns(self) -> Any:
        """The runs as a numpy record array; NaN where a number is unknown or does not apply."""
        runs = list(self.runs.values())
        arrays = [
            np.array([getattr(run, name) for run in runs], dtype=np.float64) for name in _NUMBERS
        ]
        outcomes = np.array([run.outcome for run in runs], dtype="U10")
        made: Any = np.rec.fromarrays  # numpy's types forget names without formats
        return made([outcomes, *arrays], names=["outcome", *_NUMBERS])


_NUMBERS = (
    *("day", "rate", "confidence", "calibrated", "threshold", "predicted", "low", "high"),
    *("measured", "assumed", "assumed_low", "assumed_high", "large", "loss", "beside"),
    *("draft_tokens", "expert_usd", "expert_tokens", "paid_usd", "latency_s", "wrong"),
)

Ends = tuple[datetime | None, datetime | None, datetime | None]
"""Begin of the period before, begin and end of the period."""


async def read(
    store: Readable | MemoryLedger,
    selection: Selection,
    tags: Sequence[str] = (),
    *,
    before: timedelta | None = None,
) -> tuple[Books, Books]:
    """The books of a selection, and those of a period of this length before it.

    Raises:
        ConfigurationError: the selection cuts runs in pieces, or its period is empty.
        LedgerError: the ledger cannot be read.
    """
    if selection.node is not None or selection.tier is not None:
        raise ConfigurationError(
            "a report is about whole runs, and a node or tier is a part of one: select by run, "
            "time or tag; there is a table by node and one by tier."
        )
    since, until = utc(selection.since), utc(selection.until)
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(f"a period from {since} until {until} is empty: since < until.")
    earlier = None if since is None or before is None else since - before
    begin = earlier or since
    wider = replace(
        selection,
        since=begin and begin - SLACK,
        until=until and until + SLACK,
    )
    reading = _Reading((earlier, since, until), tags)
    if isinstance(store, MemoryLedger):
        reading.add(_in_memory(store, wider, tags))
        return reading.close()
    async for rows in _windows(store, wider, tags):
        reading.add(rows)
    books = reading.close()
    period = replace(selection, since=since, until=until)
    books[0].unfinished = await store.unfinished(period, older_than=LONGEST_CALL)
    return books


async def _windows(
    store: Readable, selection: Selection, tags: Sequence[str]
) -> AsyncIterator[Iterable[Row]]:
    """Rows by windows of time, so that a large ledger is never in memory as a whole."""
    n, columns = len(COLUMNS), (*COLUMNS, *(f"tags.{tag}" for tag in tags))
    first = await store.rows(selection, ("at",), limit=1)
    since = first[0][0] if first else None
    while since is not None:
        end = since + WINDOW
        last = end >= (selection.until or datetime.now(UTC))
        part = replace(selection, since=since, until=selection.until if last else end)
        found = await store.rows(part, columns)
        yield (Row._make((*row[:n], tuple([tag or "" for tag in row[n:]]))) for row in found)
        since = None if last else end


def books_of(
    rows: Iterable[Row], ends: Ends = (None, None, None), tags: Sequence[str] = ()
) -> tuple[Books, Books]:
    """The books of a period and of the one before, from rows in the order of their times.

    Args:
        rows: of both periods.
        ends: of the periods.
        tags: names of the tags whose values the rows have.
    """
    reading = _Reading(ends, tags)
    reading.add(rows)
    return reading.close()


class _Reading:
    """Puts rows into the books of the period in which their run begins."""

    def __init__(self, ends: Ends, tags: Sequence[str]) -> None:
        self._ends = ends
        self._books, self._earlier = Books(tuple(tags)), Books(tuple(tags))
        self._homes: dict[str, tuple[Books | None, Run | None]] = {}
        self._said: dict[str, list[LedgerEntry]] = {}

    def add(self, rows: Iterable[Row]) -> None:
        """More rows, in the order of their times."""
        homes = self._homes
        with localcontext(EXACT):
            for row in rows:
                if row.outcome == "begun":
                    continue
                if row.node == FEEDBACK:
                    told = {"run_id": row.run_id, "loss": row.loss, "at": row.at, "id": row.id}
                    entry = LedgerEntry(node=row.node, **told)
                    self._said.setdefault(row.run_id, []).append(entry)
                    continue
                home, run = homes.get(row.run_id, (None, None))
                if row.run_id not in homes or row.node in EVENTS:
                    home, run = self._home(row.at), None
                    # An audit of a run of an earlier period belongs to none: its cost counts now.
                    if row.node != "audit" and row.node not in EVENTS:
                        run = None if home is None else home.begin(row)
                        homes[row.run_id] = home, run
                if home is not None:
                    home.add(row, run)

    def _home(self, at: datetime) -> Books | None:
        begin, since, until = self._ends
        if until is not None and at >= until:
            return None
        if since is None or at >= since:
            return self._books
        return self._earlier if begin is not None and at >= begin else None

    def close(self) -> tuple[Books, Books]:
        """There are no more rows."""
        for run_id, entries in self._said.items():
            _, run = self._homes.get(run_id, (None, None))
            if run is not None:
                run.wrong = said_wrong(entries)
        with localcontext(EXACT):
            self._books.settle()
            self._earlier.settle()
        return self._books, self._earlier


def _in_memory(store: MemoryLedger, selection: Selection, tags: Sequence[str]) -> list[Row]:
    rows = []
    for entry in list(store.entries):
        known = store.tags.get(entry.id, {})
        if (
            selection.run_id in (None, entry.run_id)
            and (selection.since is None or entry.at >= selection.since)
            and (selection.until is None or entry.at < selection.until)
            and selection.tags.items() <= known.items()
        ):
            rows.append(row_of(entry, (known.get(tag, "") for tag in tags)))
    return sorted(rows, key=lambda row: row.at)


def utc(time: datetime | None) -> datetime | None:
    """A time in UTC; one without a zone is in UTC already."""
    if time is None:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
