"""The stages of a plan as work on rows: drafting all of them, then deciding about each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from cascade.errors import CascadeError, ConfigurationError
from cascade.jobs import continuing
from cascade.jobs.journal import Record
from cascade.jobs.rows import Row
from cascade.jobs.running import Done, Job, guessed
from cascade.ledger.tags import tagged
from cascade.pausing import Paused
from cascade.state import Decision

__all__ = ["Deciding", "Drafting", "PlanDone", "Verdict", "check_plannable"]


@dataclass(slots=True)
class PlanDone(Done):
    """How far a plan is.

    Attributes:
        drafted: rows whose draft waited for the decision, in this run or an earlier one.
        sampled: rows that both models were asked, whatever the draft was like.
        ranked: drafts that the large model is expected to better.
        gain: answers that escalating is expected to set right, over all rows but the sample.
        most_gain: what no choice of rows could be expected to gain more than for the same money.
        gain_left: answers that escalating all the others would set right as well: what the budget
            costs in quality, as expected.
        loss: share of the sample whose drafts such a plan accepts and the large model contradicts.
        loss_bound: 95 % upper bound of that share. None without a sample.
    """

    drafted: int = 0
    sampled: int = 0
    ranked: int = 0
    gain: float = 0.0
    most_gain: float = 0.0
    gain_left: float = 0.0
    loss: float | None = None
    loss_bound: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a plan says of a row.

    Attributes:
        action: `accept`, `escalate`, or `fail` where there is no draft that could be an answer.
        reason: in words.
        paused: the draft, with the confidence by which it was weighed.
        aside_usd: dollars to put aside for it.
        rank, gain, expected_usd: as in a `Record`.
    """

    action: str
    reason: str
    paused: Paused
    aside_usd: Decimal = Decimal(0)
    rank: int | None = None
    gain: float | None = None
    expected_usd: Decimal | None = None


@dataclass(slots=True, kw_only=True)
class Drafting(Job[PlanDone]):
    """Drafts and checks each row, and lets it wait."""

    def passes(self, row: Row) -> bool:
        """Whether the row has a draft, or an answer."""
        before = self.journal.find(row.number)
        if before is None or before.key != row.key:
            return False
        if before.status == "ok":
            self.done.resumed += 1
        waited = self.journal.find_waiting(row.number)
        if waited is not None and waited.key == row.key:
            self.done.drafted += 1
            return True
        return before.status == "ok"

    def guess_usd(self, row: Row) -> Decimal:
        """What the draft may cost."""
        return guessed(row, self.cascade.tiers[:1])

    async def answered(self, row: Row) -> Record | None:
        """Draft."""
        found = await continuing.drafted(self.cascade, row, self.name)
        if isinstance(found, Paused):
            return continuing.waiting(row, found)
        return replace(found, reason="known from the cache") if found.status == "ok" else found

    def refused(self, row: Row) -> None:
        """The budget does not even cover the drafts."""
        del row
        self.done.stopped = self.done.stopped or (
            f"the budget of ${self.purse.budget_usd} does not cover the drafts of all rows: "
            f"${self.purse.spent_usd:.6f} are spent, and nothing is decided yet. Give a larger one"
        )

    def waits(self) -> None:
        """A draft is there."""
        self.done.drafted += 1


@dataclass(slots=True, kw_only=True)
class Deciding(Job[PlanDone]):
    """Goes on with rows as a plan says."""

    verdict: Callable[[Row], Verdict]

    def passes(self, row: Row) -> bool:
        """Whether there is no draft to decide about, or it was decided before."""
        waited, now = self.journal.find_waiting(row.number), self.journal.find(row.number)
        return now is None or waited is None or waited.key != row.key or now.status == "ok"

    def guess_usd(self, row: Row) -> Decimal:
        """What escalating may cost; accepting costs nothing."""
        return self.verdict(row).aside_usd

    async def answered(self, row: Row) -> Record | None:
        """Accept the draft, or ask the large model."""
        verdict, before = self.verdict(row), self.journal.find_waiting(row.number)
        assert before is not None, "what is decided about has a draft"
        assert row.question is not None, "what has a draft was asked"
        if verdict.action == "fail":
            return self._with_plan(continuing.failed(row, verdict.reason, before), verdict)
        action = "accept" if verdict.action == "accept" else "escalate"
        decision = Decision(action=action, reason=verdict.reason, once=action == "accept")
        try:
            with tagged(job=self.name, row=str(row.number)):
                paused = verdict.paused
                result = await self.cascade.adecide(row.question, paused, decision)
        except CascadeError as error:
            return self._with_plan(continuing.failed(row, error, before), verdict)
        record = continuing.answered(row, result, before)
        usage = result.message.usage_metadata
        written = None if usage is None else usage["output_tokens"]
        return self._with_plan(replace(record, output_tokens=written), verdict)

    def refused(self, row: Row) -> None:
        """Its costs were more than expected: what is left does not cover it, and it comes later."""

    @staticmethod
    def _with_plan(record: Record, verdict: Verdict) -> Record:
        return replace(
            record,
            rank=verdict.rank,
            gain=verdict.gain,
            expected_usd=verdict.expected_usd,
            reason=verdict.reason,
        )


def check_plannable(options: dict[str, object], tiers: int, budget_usd: Decimal | None) -> None:
    """Refuse a cascade in which something else would decide, or spend, besides the plan.

    Args:
        options: of the cascade.
        tiers: how many it has.
        budget_usd: dollars of the job.

    Raises:
        ConfigurationError: it cannot be planned for; the message says why.
    """
    if tiers != 2:
        raise ConfigurationError(
            f"a plan is for a small and a large model, and this cascade has {tiers} tiers."
        )
    if budget_usd is None and options["price_of_error"] is None:
        raise ConfigurationError(
            "a plan needs a budget, or the price of an error: give budget_usd (--budget-usd) or "
            "price_of_error (--price-of-error)."
        )
    for name in ("policy", "max_harm", "escalation_budget"):
        if options[name] is not None:
            raise ConfigurationError(
                f"{name} decides about each request alone, and a plan about all rows together: "
                "leave it out (--threshold, on the command line)."
            )
    for name in ("verifier", "abort", "hedge"):
        if options[name]:
            raise ConfigurationError(
                f"{name}={options[name]!r}: it would decide or spend before the plan is made. "
                "Leave it out."
            )
    if options["mode"] != "live":
        raise ConfigurationError(
            f"mode={options['mode']!r}: the large model answers first there, and nothing is left "
            "to plan. Give mode='live'."
        )
