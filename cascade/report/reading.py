"""Reads a ledger entry by entry and keeps a few hundred bytes of each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cascade.errors import ConfigurationError
from cascade.ledger.amounts import EXACT
from cascade.ledger.judges import JudgeErrors
from cascade.ledger.runs import (
    ANSWERING,
    CACHE,
    FALLBACK,
    OUTAGE,
    SHED,
    STAND_IN,
    Outcome,
    outcome_of,
)
from cascade.ledger.store import Attempt, Selection, Store, Stored
from cascade.ledger.verdicts import FEEDBACK, judge_in, wrong_in
from cascade.report.sums import (
    NOTHING,
    Sums,
    earned,
    earns_estimate,
    is_own_baseline,
    is_review,
    is_stand_in,
    spent,
)
from cascade.state import Action, LedgerEntry

SLACK = timedelta(hours=1)
"""A run belongs to the period in which it begins; its later entries are read for so long."""

LONGEST_CALL = timedelta(minutes=15)
"""A call that began longer ago and has no entry is not under way any more."""

EVENTS = frozenset({"drift", "mode"})
"""Nodes of entries that tell of the cascade and not of one request."""

MOST_REASONS = 50
"""So many reasons for unknown costs are told apart: an error's text may differ every time."""

OTHER = "other reasons"

CENT_OF_A_NANO = Decimal("1e-11")
"""To this the mean cost of a model's calls is rounded, so that sums of it stay short."""

Key = tuple[str, str, str, str, tuple[str, ...]]
"""Node, tier, model, day, values of the tags that are asked for."""

Call = tuple[str, str, str]
"""Node, tier and model."""

Reason = tuple[str, str, str, str]
"""Node, tier, model and note of an entry of unknown cost."""


@dataclass(slots=True)
class Row:
    """What a report needs of one run.

    Attributes:
        outcome: how it ended, once all its entries are there.
        reviewed: the large model was shown its draft, to approve or correct it.
        predicted, low, high: the estimated baseline of its accepted or reviewed draft, and its
            range.
        earned_in: the sums in which that baseline stands.
        measured: baselines that are known without an audit.
        unpriced: node, tier and model of its large answer, where nobody can price it.
        expert: the large model's own cost, tokens of its prompt, and of the draft before it.
        paid: what its entries cost, as far as that is known or assumed.
        beside: loss of a draft that was made beside the large model's answer.
        drafted: whether a tier has drafted.
        down: the tier that was to draft and was down, so that the question went on.
        fell: the step of the fallback that led on, whom its entry names, and seconds waited.
        shed: what was left out under pressure.
        unpriced_calls: calls whose cost nobody can even assume.
        said: what users said of its answer, by who did; see `cascade.ledger.verdicts.wrong_in`.
    """

    day: str
    tags: tuple[str, ...]
    outcome: Outcome = "unfinished"
    action: Action | None = None
    asked: bool = False
    answered: bool = False
    shadow: bool = False
    cached: bool = False
    reviewed: bool = False
    audited: bool = False
    rate: float | None = None
    confidence: float | None = None
    calibrated: bool = False
    predicted: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None
    earned_in: Sums | None = None
    measured: Decimal = NOTHING
    unpriced: Call | None = None
    large: Decimal | None = None
    loss: float | None = None
    draft_tokens: int | None = None
    expert: tuple[float, int] | None = None
    paid: Decimal = NOTHING
    beside: float | None = None
    drafted: bool = False
    down: str | None = None
    fell: tuple[str, str, float] | None = None
    shed: tuple[str, ...] = ()
    unpriced_calls: int = 0
    said: dict[str, bool | None] = field(default_factory=dict)

    def add(self, entry: LedgerEntry, sums: Sums) -> None:
        """One more entry of the run, which was added to these sums."""
        self.paid = EXACT.add(self.paid, spent(entry))
        self.unpriced_calls += entry.cost_usd is None and entry.assumed_usd is None
        if entry.node in (OUTAGE, FALLBACK, SHED):
            self._mark(entry)
        self.shadow |= entry.node == "shadow"
        self.cached |= entry.node == CACHE
        if entry.action is not None or earns_estimate(entry):
            self.action = entry.action or "accept"
        if entry.confidence is not None:
            self.confidence, self.calibrated = entry.confidence, entry.calibrated
        if entry.node == "shadow" and entry.loss is not None:
            self.beside = entry.loss
        if entry.node == "draft" and entry.outcome == "ok":
            self.drafted = True
            if entry.output_tokens is not None:
                self.draft_tokens = entry.output_tokens
        if entry.node in ANSWERING:
            self._add_expert(entry)
        if entry.node == "audit" and (entry.large_usd is not None or entry.loss is not None):
            self.audited, self.large, self.loss = True, entry.large_usd, entry.loss
        elif earns_estimate(entry):
            self.predicted, self.rate, self.earned_in = entry.baseline_usd, entry.audit_rate, sums
            self.low, self.high = entry.baseline_low_usd, entry.baseline_high_usd
        elif is_stand_in(entry):
            self.predicted = entry.baseline_usd
            self.low, self.high = entry.baseline_low_usd, entry.baseline_high_usd
        elif is_review(entry):
            self.reviewed, self.predicted = True, entry.baseline_usd
            self.low, self.high = entry.baseline_low_usd, entry.baseline_high_usd
        else:
            self.measured = EXACT.add(self.measured, earned(entry))

    def _add_expert(self, entry: LedgerEntry) -> None:
        self.asked = True
        if entry.outcome == "ok":
            self.answered = True
            if entry.assumed_usd is None and is_own_baseline(entry):
                self.unpriced = (entry.node, entry.tier or "", entry.model or "")
            cost, tokens = entry.cost_usd, entry.input_tokens
            if cost is not None and tokens is not None and not is_review(entry):
                self.expert = (float(cost), tokens)

    def _mark(self, entry: LedgerEntry) -> None:
        """An entry that says what was done otherwise than usual."""
        kind, value = next(iter((entry.signals or {"": 0.0}).items()))
        if entry.node == OUTAGE:
            self.down = entry.tier
        elif entry.node == SHED:
            self.shed = (*self.shed, kind)
            self.shadow |= kind == "shadow"
        else:
            self.fell = (kind, entry.tier or "", value)
            if self.stood_in:
                self.answered, self.expert = False, None

    @property
    def stood_in(self) -> bool:
        """Whether another large model answered."""
        return self.fell is not None and self.fell[0] == STAND_IN

    def close(self) -> None:
        """There are no more entries."""
        self.outcome = outcome_of(
            self.action,
            asked=self.asked,
            answered=self.answered,
            shadow=self.shadow,
            cached=self.cached,
            fell_back=self.fell is not None,
        )


@dataclass(slots=True)
class Books:
    """A ledger as a report needs it.

    Attributes:
        rows: runs by their id; None where a run began outside of the period.
        groups: sums by all that tables are made by.
        unknown: entries of unknown cost by reason: how many, assumed dollars, how many without.
        prices: how often a model was charged at which price.
        events: entries of drift alarms and changes of mode, in order.
        judge: errors that were seen of the judge of audits.
        unfinished: calls whose process ended before they did.
        first, last: times of the first and the last entry.
    """

    tags: tuple[str, ...] = ()
    rows: dict[str, Row | None] = field(default_factory=dict)
    groups: dict[Key, Sums] = field(default_factory=dict)
    unknown: dict[Reason, Sums] = field(default_factory=dict)
    prices: Counter[tuple[str, str]] = field(default_factory=Counter)
    events: list[LedgerEntry] = field(default_factory=list)
    judge: JudgeErrors = field(default_factory=JudgeErrors)
    unfinished: Sequence[Attempt] = ()
    first: datetime | None = None
    last: datetime | None = None

    def runs(self) -> list[Row]:
        """The runs of the period."""
        return [row for row in self.rows.values() if row is not None]

    def add(self, stored: Stored, selection: Selection) -> None:
        """One more entry, in the order of their times."""
        entry = stored.entry
        row = None
        if entry.node == FEEDBACK:  # no money, and no beginning of a run
            if (row := self.rows.get(entry.run_id)) is not None:
                row.said[judge_in(entry)] = wrong_in(entry)
            return
        if entry.node in EVENTS or self._comes_late(entry):
            if not _within(entry.at, selection):
                return
            day, tags = _day(entry.at), _values(stored.tags, self.tags)
            if entry.note and entry.node in EVENTS:
                self.events.append(entry)
        else:
            row = self._row(stored, selection)
            if row is None:
                return
            day, tags = row.day, row.tags
        key = (entry.node, entry.tier or "", entry.model or "", day, tags)
        sums = self.groups.get(key)
        if sums is None:
            sums = self.groups[key] = Sums()
        sums.add(entry)
        if row is not None:
            row.add(entry, sums)
        if entry.cost_usd is None:
            self._reason(entry).add(entry)
        if entry.signals and entry.action is None:
            self.judge = self.judge.plus(entry.signals)
        if entry.price is not None and entry.model is not None:
            self.prices[entry.model, entry.price] += 1
        self.first, self.last = self.first or entry.at, entry.at

    def settle(self) -> None:
        """All entries are there: count the baselines that audits have measured as measured.

        A call of unknown cost without an assumption is taken for the mean of its node, tier and
        model, where that is known: a failed call seldom costs more than one that succeeds.
        """
        means = self._means()
        for key, sums in self.groups.items():
            if key[:3] in means:
                sums.assume(means[key[:3]])
        for (node, tier, model, _), sums in self.unknown.items():
            if (node, tier, model) in means:
                sums.assume(means[node, tier, model])
        for row in self.runs():
            row.close()
            if row.unpriced in means:
                row.measured = EXACT.add(row.measured, means[row.unpriced])
            if row.large is not None and row.earned_in is not None and row.predicted is not None:
                row.earned_in.settle(row.predicted)

    def _means(self) -> dict[Call, Decimal]:
        calls: dict[Call, Sums] = {}
        for key, sums in self.groups.items():
            calls.setdefault(key[:3], Sums()).merge(sums)
        return {
            call: (sums.cost / (sums.entries - sums.unknown)).quantize(CENT_OF_A_NANO)
            for call, sums in calls.items()
            if sums.unpriced and sums.entries > sums.unknown
        }

    def _comes_late(self, entry: LedgerEntry) -> bool:
        """Whether it belongs to the audit of a run of an earlier period: its cost counts now."""
        return entry.node == "audit" and entry.run_id not in self.rows

    def _row(self, stored: Stored, selection: Selection) -> Row | None:
        entry = stored.entry
        if entry.run_id in self.rows:
            return self.rows[entry.run_id]
        begins_here = _within(entry.at, selection)
        row = Row(_day(entry.at), _values(stored.tags, self.tags)) if begins_here else None
        self.rows[entry.run_id] = row
        return row

    def _reason(self, entry: LedgerEntry) -> Sums:
        note = entry.note[:200]
        reason = (entry.node, entry.tier or "", entry.model or "", note)
        if reason not in self.unknown and len(self.unknown) >= MOST_REASONS:
            reason = (*reason[:3], OTHER)
        return self.unknown.setdefault(reason, Sums())


async def read(store: Store, selection: Selection, tags: Sequence[str] = ()) -> Books:
    """The books of a selection; `tags` are the keys by whose values tables are made.

    Raises:
        ConfigurationError: the selection cuts runs in pieces, or its period is empty.
    """
    if selection.node is not None or selection.tier is not None:
        raise ConfigurationError(
            "a report is about whole runs, and a node or tier is a part of one: select by run, "
            "time or tag; there is a table by node and one by tier."
        )
    since, until = _utc(selection.since), _utc(selection.until)
    if since is not None and until is not None and since >= until:
        raise ConfigurationError(f"a period from {since} until {until} is empty: since < until.")
    selection = replace(selection, since=since, until=until)
    books = Books(tuple(tags))
    async with aclosing(store.stored(_wider(selection))) as stored:
        async for item in stored:
            books.add(item, selection)
    books.settle()
    books.unfinished = await store.unfinished(selection, older_than=LONGEST_CALL)
    return books


def _wider(selection: Selection) -> Selection:
    """With the hour before, in which a run may have begun, and the one after, for its end."""
    since, until = selection.since, selection.until
    return replace(
        selection,
        since=None if since is None else since - SLACK,
        until=None if until is None else until + SLACK,
    )


def _within(at: datetime, selection: Selection) -> bool:
    since, until = selection.since, selection.until
    return (since is None or at >= since) and (until is None or at < until)


def _utc(time: datetime | None) -> datetime | None:
    if time is None:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _day(at: datetime) -> str:
    return at.date().isoformat()


def _values(tags: Mapping[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(tags.get(key, "") for key in keys)
