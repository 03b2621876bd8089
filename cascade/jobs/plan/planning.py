"""A whole file within a budget: draft all rows, weigh all drafts, escalate the best of them.

Each step follows from what the journal holds: a job that is interrupted, at whatever stage, goes on
with the same sample, the same ranking and the same rounds.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import insort
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any

from cascade._together import together
from cascade.api import Cascade
from cascade.errors import ConfigurationError
from cascade.evaluation.scorers import Scorer, get_scorer
from cascade.jobs.continuing import paused_in
from cascade.jobs.journal import Journal, Record
from cascade.jobs.plan.ranking import Ranking
from cascade.jobs.plan.sampling import Asked, Learned, check_sample, learned, lot
from cascade.jobs.plan.stages import Deciding, Drafting, PlanDone, Verdict, check_plannable
from cascade.jobs.plan.weighing import Weighing
from cascade.jobs.rows import Row
from cascade.jobs.running import CONCURRENCY, Job, Purse, breath, guessed
from cascade.pausing import Paused
from cascade.questions import to_messages

__all__ = ["plan_job", "planned_with"]


async def plan_job(
    cascade: Cascade,
    read: Callable[[], Iterable[Row]],
    journal: Journal,
    *,
    name: str = "batch",
    concurrency: int = CONCURRENCY,
    budget_usd: Decimal | None = None,
    sample: int = 0,
    scorer: str | Scorer = "exact",
    progress: Callable[[PlanDone], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> PlanDone:
    """Draft all rows, then escalate those that gain most per dollar, as far as the budget goes.

    A draft's gain is p_L − p_S, of the cascade's calibration, or of one that is fitted on a sample
    of the rows, which both models answer. With a `price_of_error` λ, what gains less than its cost
    over λ is accepted, whatever the budget.

    Args:
        cascade: of two tiers; its policy is not asked.
        read: the rows, each time it is called.
        journal: made with `planned_with`.
        name: tags the ledger's entries as `job`.
        concurrency: rows under way at once.
        budget_usd: dollars of the whole job, drafts and sample and earlier runs of it included.
            What is overspent at most is what rows cost above what they put aside.
        sample: so many rows, drawn at random, are asked of both models.
        scorer: says whether the draft of a row in the sample agrees with the large model.
        progress: called after each row.
        stop: set it to begin no more rows; those under way are ended.

    Raises:
        ConfigurationError: the cascade cannot be planned for, a tier has no price, the confidence
            is no probability and there is no sample, or the sample is too small.
        MissingDependencyError: a sample without scikit-learn and scipy.
        LedgerError: the journal cannot be written.
    """
    scorer = get_scorer(scorer) if isinstance(scorer, str) else scorer
    check_plannable(cascade.options, len(cascade.tiers), budget_usd)
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency}: must be 1 or more.")
    if cascade.calibration is None and not sample:
        raise ConfigurationError(
            "the confidence is no probability yet, so that nobody knows what escalating brings: "
            "give a calibration (--calibration), or a sample (--sample 200) of rows that both "
            "models are asked."
        )
    if sample:
        check_sample(sample, scorer, calibrates=cascade.calibration is None)
    done = PlanDone(before_usd=journal.spent_usd)
    job = _Plan(
        cascade, read, journal, name, concurrency, budget_usd, sample, scorer, progress, done
    )
    job.stop = stop or job.stop
    await job.run()
    return done


def planned_with(made: dict[str, Any], sample: int, scorer: str) -> dict[str, Any]:
    """What the answers of a plan depend on, from what those of the cascade do, for a journal."""
    return {**made, "plan": {"sample": sample, "scorer": scorer if sample else None}}


@dataclass(slots=True)
class _Plan:
    cascade: Cascade
    read: Callable[[], Iterable[Row]]
    journal: Journal
    name: str
    concurrency: int
    budget_usd: Decimal | None
    sample: int
    scorer: Scorer
    progress: Callable[[PlanDone], None]
    done: PlanDone
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    failed: set[int] = field(default_factory=set)

    async def run(self) -> None:
        """All stages, as far as nothing stops them."""
        await self._work(partial(Drafting, purse=self._purse()), self.read())
        if self._is_stopped() or not self.done.drafted:
            return
        lots, left = await self._survey()
        asked = await self._sampled(lots, left)
        if self._is_stopped():
            return
        calibration = self.cascade.calibration
        learnt = await learned(self.cascade, asked, calibrates=calibration is None)
        ranking = await self._ranking(learnt, asked, lots, left)
        while (picked := ranking.next_round(self.journal)) and not self._is_stopped():
            await self._decide(picked, ranking.verdict)
        if not self._is_stopped():
            ranking.report(self.done, self.journal, asked, learnt)
            await self._decide(None, ranking.verdict_at_last)

    def _is_stopped(self) -> bool:
        return self.done.stopped is not None

    def _purse(self, *, by_guess: bool = False) -> Purse:
        return Purse(self.budget_usd, self.journal.spent_usd, by_guess=by_guess)

    async def _work(self, job: Callable[..., Job[PlanDone]], rows: Iterable[Row]) -> None:
        made = job(
            cascade=self.cascade,
            rows=iter(rows),
            journal=self.journal,
            name=self.name,
            progress=self.progress,
            stop=self.stop,
            done=self.done,
        )
        await together(made.work() for _ in range(self.concurrency))

    async def _decide(
        self, numbers: frozenset[int] | None, verdict: Callable[[Row], Verdict]
    ) -> None:
        """Go on with these rows; or at last with all but those that have just failed."""
        if numbers is None:
            rows = (row for row in self.read() if row.number not in self.failed)
        else:
            rows = (row for row in self.read() if row.number in numbers)
        purse = self._purse(by_guess=True)
        await self._work(partial(Deciding, purse=purse, verdict=verdict), rows)
        for number in numbers or ():
            record = self.journal.find(number)
            if record is not None and record.status == "error":
                self.failed.add(number)

    async def _waiting(
        self, among: Collection[int] | None = None
    ) -> AsyncIterator[tuple[Row, Record]]:
        """All rows with a draft, or with none that could be had, also those decided by now; where
        numbers are given, of these.
        """
        for n, row in enumerate(self.read()):
            await breath(n)
            if among is not None and row.number not in among:
                continue
            record = self.journal.find_waiting(row.number)
            if record is not None and record.key == row.key:
                yield row, record

    async def _survey(self) -> tuple[frozenset[int], Decimal | None]:
        """The rows of the sample, of those whose draft could be an answer; and the money that the
        drafts have left, None for no limit.
        """
        spent, drawn = Decimal(0), list[tuple[bytes, int]]()
        async for row, record in self._waiting():
            spent += record.counted_usd or Decimal(0)
            if self.sample and is_usable(paused_in(record)):
                insort(drawn, (lot(row), row.number))
                del drawn[self.sample :]
        left = None if self.budget_usd is None else self.budget_usd - spent
        return frozenset(number for _, number in drawn), left

    async def _sampled(self, lots: frozenset[int], left: Decimal | None) -> list[Asked]:
        """The sample, asked and compared."""
        if not lots:
            return []
        why = "measure what is lost" if self.cascade.calibration else "calibrate"
        reason = f"one of {len(lots)} rows that both models are asked, to {why}"
        large = self.cascade.tiers[-1]
        verdicts, drawn = {}, []
        async for row, record in self._waiting(among=lots):
            usd, paused = Decimal(0) if left is None else guessed(row, (large,)), paused_in(record)
            verdicts[row.number] = Verdict("escalate", reason, paused, usd)
            drawn.append((row, paused))
        expected = sum((verdict.aside_usd for verdict in verdicts.values()), Decimal(0))
        if left is not None and expected > left / 2:
            self.done.stopped = (
                f"a sample of {len(lots)} rows may cost ${expected:.6f}, and ${left:.6f} are left "
                "of the budget after the drafts: less than half of it would be. Give a smaller "
                "sample (with --fresh), or a larger budget"
            )
            return []
        await self._decide(lots, lambda row: verdicts[row.number])
        self.done.sampled = len(lots)
        found = [await self._asked(row, paused) for row, paused in drawn]
        return [asked for asked in found if asked is not None]

    async def _asked(self, row: Row, paused: Paused) -> Asked | None:
        record = self.journal.find(row.number)
        if record is None or record.status != "ok" or record.degraded or not record.escalated:
            return None
        assert paused.draft is not None, "only drafts are in the sample"
        assert row.question is not None, "only rows that were asked are in the sample"
        question = str(to_messages(row.question)[-1].text)
        draft = paused.draft.completion.transcript
        score = await self.scorer.score(draft, record.answer, question=question)
        return None if score.value is None else Asked(row, paused, record, score.value)

    async def _ranking(
        self,
        learnt: Learned,
        asked: Sequence[Asked],
        lots: frozenset[int],
        left: Decimal | None,
    ) -> Ranking:
        """All drafts but those of the sample, weighed."""
        calibration = learnt.calibration or self.cascade.calibration
        assert calibration is not None, "without one there is a sample"
        fitted, large = learnt.calibration is not None, self.cascade.tiers[-1]
        weighing = Weighing(large, calibration, fitted, learnt.lengths)
        numbers, gains, ceilings, costs = array("Q"), array("d"), array("d"), []
        judged, missing = 0, None
        async for row, record in self._waiting():
            if row.number in lots:
                continue
            paused = paused_in(record)
            assessment = weighing.assessed(paused)
            judged += assessment is not None and assessment.calibrated
            missing = missing or (assessment and assessment.missing)
            numbers.append(row.number)
            gains.append(weighing.gain(assessment))
            costs.append(weighing.cost(row, paused))
            ceilings.append(0.0 if left is None else float(guessed(row, (large,))))
        if len(numbers) and not judged:
            raise ConfigurationError(
                f"none of the drafts has a calibrated confidence ({missing or 'none was made'}), "
                "so that there is nothing to rank them by: calibrate again, or give a sample and "
                "no calibration. The drafts are kept."
            )
        spent = (one.record.counted_usd or Decimal(0) for one in asked)
        money = None if left is None else max(Decimal(0), left - sum(spent, Decimal(0)))
        price = self.cascade.options["price_of_error"]
        return Ranking(numbers, gains, costs, ceilings, money, price, weighing, self._paused)

    def _paused(self, number: int) -> Paused:
        record = self.journal.find_waiting(number)
        assert record is not None, "only rows with a draft are ranked"
        return paused_in(record)


def is_usable(paused: Paused) -> bool:
    """Whether the draft could be an answer."""
    assessment = paused.assessment
    return paused.draft is not None and assessment is not None and assessment.objection is None
