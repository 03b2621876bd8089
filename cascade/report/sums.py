"""Exact sums of ledger entries, and what one entry earns and spends in a report."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal

from cascade.ledger.amounts import EXACT
from cascade.ledger.runs import FALLBACK, REVIEW, STAND_IN
from cascade.state import LedgerEntry

NOTHING = Decimal(0)


def spent(entry: LedgerEntry) -> Decimal:
    """What an entry counts as spend: its cost, where that is unknown what is assumed for it."""
    known = entry.cost_usd if entry.cost_usd is not None else entry.assumed_usd
    return NOTHING if known is None else known


def earns_estimate(entry: LedgerEntry) -> bool:
    """Whether the entry earns a baseline that is an estimate: that of an accepted draft.

    Entries from before the migration "audits" have no action; what earned something accepted.
    """
    if entry.action is None:
        return entry.node in ("verify", "ask") and entry.baseline_usd != 0
    return entry.action == "accept" and entry.node != "shadow"


def is_review(entry: LedgerEntry) -> bool:
    """Whether it is an answer of the large model that was shown the draft: its baseline is an
    estimate too, and no audit will measure it.
    """
    return entry.node == REVIEW and entry.outcome == "ok"


def is_stand_in(entry: LedgerEntry) -> bool:
    """Whether it says that another large model answered: what the large model would have cost is
    an estimate there, and no audit will measure it.
    """
    return entry.node == FALLBACK and STAND_IN in (entry.signals or ())


def earned(entry: LedgerEntry) -> Decimal:
    """The baseline that an entry earns; nothing where nobody knows it.

    An audit whose accepted draft had no estimate earns all that the large model cost. A large
    answer of unknown cost is its own baseline, so both count at what is assumed.
    """
    if entry.baseline_usd is not None:
        return entry.baseline_usd
    if entry.large_usd is not None and entry.node == "audit":
        return entry.large_usd
    return spent(entry) if is_own_baseline(entry) else NOTHING


def is_own_baseline(entry: LedgerEntry) -> bool:
    """Whether the entry is the large model's own answer, of unknown cost."""
    answered = entry.node == "expert" and entry.outcome == "ok"
    return answered and entry.cost_usd is None and entry.baseline_usd is None


@dataclass(slots=True)
class Sums:
    """Sums over entries, to the last decimal.

    Attributes:
        unknown: entries of unknown cost; `assumed` is what they are assumed to cost together,
            `unpriced` how many of them nobody has an assumption for, of which `own` are large
            answers, whose cost is their own baseline.
        marginal: what was spent without the hardware.
        measured, estimated: baselines earned; an audit turns the second into the first.
        no_baseline: accepted or reviewed drafts, and answers of stand-ins, whose baseline nobody
            knows; they count as nothing earned.
        no_tokens: calls whose tokens are unknown.
    """

    entries: int = 0
    unknown: int = 0
    unpriced: int = 0
    own: int = 0
    no_baseline: int = 0
    no_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = NOTHING
    assumed: Decimal = NOTHING
    marginal: Decimal = NOTHING
    measured: Decimal = NOTHING
    estimated: Decimal = NOTHING

    def add(self, entry: LedgerEntry) -> None:
        """One more entry."""
        self.entries += 1
        amount, cost = spent(entry), entry.cost_usd
        if cost is None:
            self.unknown += 1
            self.unpriced += entry.assumed_usd is None
            self.own += entry.assumed_usd is None and is_own_baseline(entry)
            self.assumed = EXACT.add(self.assumed, amount)
        else:
            self.cost = EXACT.add(self.cost, cost)
        marginal = amount if entry.marginal_usd is None else entry.marginal_usd
        self.marginal = EXACT.add(self.marginal, marginal)
        if earns_estimate(entry) or is_review(entry) or is_stand_in(entry):
            self.no_baseline += entry.baseline_usd is None
            self.estimated = EXACT.add(self.estimated, earned(entry))
        else:
            self.measured = EXACT.add(self.measured, earned(entry))
        if entry.model is not None:
            self.no_tokens += entry.input_tokens is None or entry.output_tokens is None
            self.input_tokens += entry.input_tokens or 0
            self.output_tokens += entry.output_tokens or 0

    def settle(self, baseline: Decimal) -> None:
        """An estimated baseline in here has been measured: an audit's correction completes it."""
        self.estimated = EXACT.subtract(self.estimated, baseline)
        self.measured = EXACT.add(self.measured, baseline)

    def assume(self, each: Decimal) -> None:
        """Take this for the cost of each entry that has no other assumption."""
        together = EXACT.multiply(each, Decimal(self.unpriced))
        self.assumed = EXACT.add(self.assumed, together)
        self.marginal = EXACT.add(self.marginal, together)
        self.measured = EXACT.add(self.measured, EXACT.multiply(each, Decimal(self.own)))
        self.unpriced = self.own = 0

    def merge(self, other: Sums) -> None:
        """Take in all of another."""
        for field in fields(Sums):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            is_money = isinstance(mine, Decimal)
            setattr(self, field.name, EXACT.add(mine, theirs) if is_money else mine + theirs)

    @property
    def spent(self) -> Decimal:
        """Cost, with what is assumed where it is unknown."""
        return EXACT.add(self.cost, self.assumed)

    @property
    def saved_measured(self) -> Decimal:
        """Measured baselines less all that was spent."""
        return EXACT.subtract(self.measured, self.spent)
