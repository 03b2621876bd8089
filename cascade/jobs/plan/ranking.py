"""The drafts of a plan in the order in which they are escalated, and how far the money goes.

What rows cost is expected before they are asked and known after. So they are asked in rounds, first
of a few rows, then of more: each round takes the next rows that fit at what rows of the earlier
rounds cost, compared with what they were expected to. The rounds follow from the costs in the
journal alone, so that a job that was interrupted comes to the same ones.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from cascade.jobs.journal import Journal, Record
from cascade.jobs.plan.knapsack import most_gain, per_dollar, ranked
from cascade.jobs.plan.sampling import Asked, Learned, seen_by, upper_bound
from cascade.jobs.plan.stages import PlanDone, Verdict
from cascade.jobs.plan.weighing import Weighing
from cascade.jobs.rows import Row
from cascade.pausing import Paused
from cascade.policies.rule import dollars

__all__ = ["Ranking"]

FIRST_ROUND = 16
"""Rows that tell how far expected costs are off; the rounds after it are twice as large each."""

CAREFUL = 0.95
"""Rows put aside what so many of the earlier ones have not exceeded, compared with the expected."""


@dataclass(slots=True)
class Ranking:
    """Drafts by gain per dollar.

    Attributes:
        numbers: of the rows, ascending.
        gains: p_L − p_S of each.
        costs: what escalating each is expected to cost, dollars.
        ceilings: what it may cost by its length, dollars, while no row has shown how far the
            expected costs are off.
        money: dollars for escalations; None for as much as it takes.
        price_of_error: dollars; None where only the money limits.
        weighing: by which they were weighed.
        find: the draft of a row.
    """

    numbers: Sequence[int]
    gains: Sequence[float]
    costs: Sequence[Decimal]
    ceilings: Sequence[float]
    money: Decimal | None
    price_of_error: float | None
    weighing: Weighing
    find: Callable[[int], Paused]
    _factor: Decimal = Decimal(1)
    _spent: Decimal = Decimal(0)
    _rounds: int = 0
    _picked: tuple[int, ...] = ()
    _ratios: list[float] = field(default_factory=list)
    _paid: tuple[Decimal, Decimal] = (Decimal(0), Decimal(0))
    _order: list[int] = field(init=False)
    _rest: deque[int] = field(init=False)
    _rank: array[int] = field(init=False)

    def __post_init__(self) -> None:
        self._order = ranked(self.gains, self.costs)
        self._rest = deque(self._order)
        self._rank = array("Q", bytes(8 * len(self.numbers)))
        for rank, at in enumerate(self._order, 1):
            self._rank[at] = rank

    def next_round(self, journal: Journal) -> frozenset[int]:
        """The rows to escalate next, none where the money or the gain is at its end.

        A row that does not fit is passed over where it is the next one.
        """
        self._settle(journal)
        left = None if self.money is None else self.money - self._spent
        picked: list[int] = []
        while self._rest and len(picked) < FIRST_ROUND << self._rounds:
            at = self._rest[0]
            if not self._is_worth_it(at):
                break
            wanted = self._aside(at)
            if left is not None and wanted > left:
                if picked:
                    break
                self._rest.popleft()
                continue
            picked.append(self._rest.popleft())
            left = None if left is None else left - wanted
        self._picked = tuple(picked)
        self._rounds += 1
        return frozenset(self.numbers[at] for at in picked)

    def verdict(self, row: Row) -> Verdict:
        """Of a row of the present round."""
        at = self._at(row.number)
        assert at is not None, "a round takes what is ranked"
        reason = (
            f"rank {self._rank[at]} of {len(self._order)} by gain per dollar: a gain of "
            f"{self.gains[at]:.3f} for about {dollars(self.costs[at])}"
        )
        return self._verdict("escalate", reason, at, self.find(row.number))

    def verdict_at_last(self, row: Row) -> Verdict:
        """Of a row that no round has taken: its draft is the answer, if it can be one."""
        at = self._at(row.number)
        paused = self.find(row.number)
        assessment = paused.assessment
        objection = "there is none" if assessment is None else assessment.objection
        if paused.draft is None or objection is not None:
            failed = None if paused.decision is None else paused.decision.reason
            why = f"the draft is no answer ({failed or objection}), and the budget does not cover"
            return self._verdict("fail", f"BudgetError: {why} the large model", at, paused)
        if at is None:
            reason = "of the sample, but the budget does not cover asking the large model"
        elif self.gains[at] <= 0:
            reason = f"nothing to gain: {self.gains[at]:.3f}"
        elif not self._is_worth_it(at):
            price, gain = dollars(self.price_of_error or 0.0), self.gains[at]
            reason = f"a gain of {gain:.3f} at {price} an error is not worth {self._expected(at)}"
        else:
            reason = (
                f"rank {self._rank[at]} of {len(self._order)} by gain per dollar: the budget does "
                f"not cover it; a gain of {self.gains[at]:.3f} would cost {self._expected(at)}"
            )
        return self._verdict("accept", reason, at, paused)

    def report(
        self, done: PlanDone, journal: Journal, sample: Sequence[Asked], learnt: Learned
    ) -> None:
        """Say what the rounds are expected to have gained, and what is left."""
        escalated = {at for at in self._order if _is_escalated(journal.find(self.numbers[at]))}
        done.ranked = len(self._order)
        done.gain = math.fsum(self.gains[at] for at in escalated)
        done.gain_left = math.fsum(self.gains[at] for at in self._order if at not in escalated)
        costs = [cost * self._mean for cost in self.costs]
        worth = [at for at in self._order if self._is_worth_it(at)]
        done.most_gain = max(done.gain, most_gain(worth, self.gains, costs, self.money))
        if sample:
            left = (at for at in self._order if at not in escalated)
            best = max((per_dollar(self.gains[at], self.costs[at]) for at in left), default=0.0)
            wrong = sum(self._loses(one, best, seen) for one, seen in _seen(sample, learnt))
            done.loss = wrong / len(sample)
            done.loss_bound = upper_bound(wrong, len(sample))

    def _loses(self, asked: Asked, best: float, paused: Paused) -> bool:
        """Whether a plan that accepts up to so much gain per dollar accepts a wrong draft."""
        expected = self.weighing.cost(asked.row, paused)
        gain = self.weighing.gain(paused.assessment)
        return asked.agrees < 0.5 and (gain <= 0 or per_dollar(gain, expected) <= best)

    def _at(self, number: int) -> int | None:
        """The place of a row; None where it is not ranked."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else None

    def _aside(self, at: int) -> Decimal:
        """What a row puts aside."""
        if self._ratios:
            return self.costs[at] * self._factor
        return max(self.costs[at], Decimal(str(self.ceilings[at])))

    def _settle(self, journal: Journal) -> None:
        """Learn what the rows of the last round have cost; those that did not fit come again."""
        again = []
        for at in self._picked:
            record = journal.find(self.numbers[at])
            if record is None or record.status == "waiting":
                again.append(at)
                continue
            cost, expected = record.counted_usd or Decimal(0), self.costs[at]
            self._spent += cost
            if expected and _is_escalated(record):
                self._ratios.append(float(cost / expected))
                self._paid = (self._paid[0] + cost, self._paid[1] + expected)
        self._rest.extendleft(reversed(again[len(again) == len(self._picked) :]))
        if self._ratios:
            ordered = sorted(self._ratios)
            careful = ordered[math.ceil(CAREFUL * len(ordered)) - 1]
            self._factor = max(self._mean, Decimal(str(careful)))

    @property
    def _mean(self) -> Decimal:
        """What rows have cost, in units of what they were expected to."""
        paid, expected = self._paid
        return paid / expected if expected else Decimal(1)

    def _is_worth_it(self, at: int) -> bool:
        price = self.price_of_error
        cost = float(self.costs[at] * self._mean)
        return self.gains[at] > 0 and (price is None or self.gains[at] * price > cost)

    def _expected(self, at: int) -> str:
        return dollars(self.costs[at] * self._mean)

    def _verdict(self, action: str, reason: str, at: int | None, paused: Paused) -> Verdict:
        judged = replace(paused, assessment=self.weighing.assessed(paused))
        if at is None:
            return Verdict(action, reason, judged)
        aside = self._aside(at) if action == "escalate" else Decimal(0)
        rank, gain, cost = self._rank[at] or None, self.gains[at], self.costs[at]
        return Verdict(action, reason, judged, aside, rank, gain, cost)


def _is_escalated(record: Record | None) -> bool:
    if record is None or record.status != "ok":
        return False
    return bool(record.escalated) and not record.degraded


def _seen(sample: Sequence[Asked], learnt: Learned) -> list[tuple[Asked, Paused]]:
    """The sample, each draft with a confidence that was not fitted to it."""
    if not learnt.seen:
        return [(one, one.paused) for one in sample]
    pairs = zip(sample, learnt.seen, strict=True)
    return [(one, seen_by(one.paused, confidence)) for one, confidence in pairs]
