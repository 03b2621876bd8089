"""The auditor asks the large model about a few accepted drafts, after their replies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from threading import Lock

from pydantic import ValidationError

from cascade._background import MOST_WAITING, Background
from cascade._patience import READY_S, Patience
from cascade.agents.audit_rates import AuditRates
from cascade.agents.base import Caller
from cascade.agents.border import may_ask
from cascade.agents.comparing import Answers, Ask, Compare, Comparison
from cascade.agents.leftovers import (
    STALE,
    Leftover,
    LeftoverStore,
    QueryStore,
    identity,
    is_over,
    learn,
    lengths_of,
    pending_of,
    recall,
    release,
)
from cascade.agents.outlook import Outlook
from cascade.agents.watching import Case
from cascade.errors import CascadeError, LedgerError, ModelError
from cascade.ledger.draws import drawn
from cascade.ledger.tags import current_tags, tagged
from cascade.ledger.texts import Pending
from cascade.models import Request
from cascade.state import Completion, LedgerEntry, Run
from cascade.tiers import OpenTier

NODE = "audit"

REMEMBERED = 10_000
"""Runs that this process has drawn: a node that is executed again starts no second audit."""

logger = logging.getLogger("cascade")

Again = Callable[[ModelError, int], float | None]
"""Seconds to wait after a failed attempt before the next; None for no other."""

OnAudit = Callable[[str, float | None], None]
"""Is told of each accepted draft that had a chance, by its run: the loss where its audit found one,
None where it was not drawn, failed, or could not be compared."""


def never_again(error: ModelError, attempt: int) -> float | None:
    """One attempt only."""
    return None


@dataclass(slots=True, kw_only=True)
class Auditor:
    """Watches decisions, draws accepted drafts, and compares them with the large model's answers.

    It is no node of the graph: nothing of it happens before the reply. Drafts that a person
    accepted are not audited, nor those that were returned because the large model was down.

    Attributes:
        caller: asks models for the auditor alone; its recorder must be no other's, since runs
            take their entries from theirs.
        outlook: what the large model is expected to cost; learns from each audit.
        background: does the work.
        rates: the chance of each draft.
        compare: says how much better the large model's answer is.
        again: when to repeat a failed call.
        seed: of the draws.
        on_audit: are told how each draft fared that had a chance of being audited.
    """

    caller: Caller
    outlook: Outlook
    background: Background
    rates: AuditRates
    compare: Compare
    again: Again = never_again
    seed: str = ""
    on_audit: list[OnAudit] = field(default_factory=list)
    _drawn: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _resumed_at: float | None = None
    _patience: Patience = field(default_factory=lambda: Patience(READY_S))
    _recalls: bool = True
    _lock: Lock = field(default_factory=Lock)

    @property
    def tier(self) -> OpenTier:
        """The large model."""
        return self.outlook.tiers[-1]

    def audit_rate(self, case: Case) -> float | None:
        """The chance of this accepted draft; None where it cannot, or must not, be audited."""
        self._begin()
        if case.draft.completion.cached:  # it earned nothing that an audit could correct
            return None
        if not may_ask(case.run, self.tier):
            return None
        if self.background.outstanding >= MOST_WAITING:
            return None
        cost = self.outlook.cost(self.tier, case.draft)
        rate = self.rates.chance(case.assessment.confidence, cost)
        # Lowered before the draw and written down like that: figures weigh by it, and stay true.
        return None if rate is None else rate * case.audits_kept

    def judged(self, case: Case) -> None:
        """Draw, and leave the work to the background."""
        self._begin()
        if not case.audit_rate:  # there was no chance
            return
        if not drawn(case.run.id, case.audit_rate, self.seed):
            self._tell(case.run.id, None)
            return
        if not self._is_new(case.run.id):
            return
        case = replace(case, messages=tuple(case.messages))
        store = self._store
        if store is not None:
            try:
                store.put_pending(pending_of(case, self._identity))
            except (LedgerError, ValueError) as error:
                logger.warning("an audit will not survive a crash: %s", error)
        if not self._start(case, current_tags()):
            logger.warning("too many audits are waiting: run %s is not audited now", case.run.id)
            self._tell(case.run.id, None)

    async def ready(self) -> None:
        """Return once it is known what today's audits have cost, where there is a budget.

        All questions together wait `READY_S` for it; until it is known nothing is audited.
        """
        budget = self.rates.budget
        if budget is None or budget.known or self._patience.over:
            return
        try:
            await self._patience.wait_for(budget.read())
        except Exception as error:  # noqa: BLE001 - a question waits for this, and must go on
            logger.warning("nothing is audited until the ledger can be read: %s", error)

    async def resume(self, older_than: timedelta = STALE) -> int:
        """Take on audits that other processes left when they died; returns how many.

        Args:
            older_than: since they were drawn. Zero where no other process is at work.
        """
        store = self._store
        if store is None:
            return 0
        with self._lock:
            self._resumed_at = time.monotonic()
        await self.ready()
        started, foreign = 0, []
        for audit in await store.claim_pending(older_than):
            case = self._case_of(audit)
            if case is None:
                store.drop_pending(audit.run_id)
            elif isinstance(case, Pending):
                foreign.append(case)
            elif await is_over(store, audit.run_id):
                store.drop_pending(audit.run_id)
            elif self._affords(case) and self._is_new(audit.run_id):
                started += self._start(case, audit.tags)
        await release(store, foreign)
        return started

    @property
    def _store(self) -> LeftoverStore | None:
        """The store, where it keeps audits."""
        store = self.caller.recorder.store
        return store if isinstance(store, LeftoverStore) and store.texts != "none" else None

    @property
    def _identity(self) -> str:
        return identity(self.outlook.tiers)

    def _case_of(self, audit: Pending) -> Case | Pending | None:
        """The case of a pending audit, or the audit itself where it is another cascade's."""
        try:
            left = Leftover.model_validate_json(audit.payload)
        except ValidationError as error:
            # Not with the error's own words, which quote the conversation.
            n = error.error_count()
            logger.warning("a pending audit cannot be read and is dropped: %d fields do not fit", n)
            return None
        return left.case if left.cascade == self._identity else audit

    def _begin(self) -> None:
        """Read the budget and look for leftovers, now and then, without waiting."""
        budget = self.rates.budget
        if budget is not None and budget.stale:
            budget.asked()
            self.background.start(budget.read)
        now = time.monotonic()
        with self._lock:
            recalls = self._recalls
            self._recalls = False
        store = self.caller.recorder.store
        if recalls and isinstance(store, QueryStore):
            self.background.start(partial(recall, store, self.outlook))
        with self._lock:
            if self._resumed_at is not None and now - self._resumed_at < STALE.total_seconds():
                return
            self._resumed_at = now
        if self._store is not None:
            self.background.start(self._resume)

    async def _resume(self) -> None:
        await self.resume()

    def _is_new(self, run_id: str) -> bool:
        with self._lock:
            if run_id in self._drawn:
                return False
            self._drawn[run_id] = None
            while len(self._drawn) > REMEMBERED:
                self._drawn.popitem(last=False)
            return True

    def _forget(self, run_id: str) -> None:
        """Let another try come: the store may have kept the audit."""
        with self._lock:
            self._drawn.pop(run_id, None)

    def _affords(self, case: Case) -> bool:
        budget = self.rates.budget
        return budget is None or budget.affords(self.outlook.cost(self.tier, case.draft))

    def _start(self, case: Case, tags: Mapping[str, str]) -> bool:
        if self.rates.budget is not None:
            self.rates.budget.hold(case.run.id, self.outlook.cost(self.tier, case.draft))
        started = self.background.start(partial(self._work, case, tags))
        if not started:
            self._settle(case.run.id)
            self._forget(case.run.id)
        return started

    def _settle(self, run_id: str) -> None:
        """Count what an audit has cost."""
        entries = self.caller.recorder.take(run_id)
        if self.rates.budget is not None:
            costs = [e.assumed_usd if e.cost_usd is None else e.cost_usd for e in entries]
            known = [cost for cost in costs if cost is not None]
            unknown = len(known) < len(costs)
            self.rates.budget.settle(run_id, None if unknown else sum(known, Decimal(0)))

    async def _work(self, case: Case, tags: Mapping[str, str]) -> None:
        loss = None
        try:
            with tagged(**tags), self.caller.recorder.observers.work_after(NODE, case.run.id):
                loss = await self._audit(case)
                if self._store is not None:
                    self._store.drop_pending(case.run.id)
        except CascadeError as error:
            logger.warning("run %s was not audited: %s", case.run.id, error)
            self._forget(case.run.id)
        finally:
            self._settle(case.run.id)
            self._tell(case.run.id, loss)

    def _tell(self, run_id: str, loss: float | None) -> None:
        for told in self.on_audit:
            told(run_id, loss)

    async def _audit(self, case: Case) -> float | None:
        """Ask the large model, compare, and write down the result.

        Raises:
            ModelError: the large model cannot be had; what that cost is in the ledger.
        """
        ask = partial(self._ask, case.run)
        large = await ask(self.tier, case.task.request(self.tier, case.messages))
        has_schema = case.task.schema is not None
        answers = Answers(case.run.id, case.messages, case.draft.completion, large, has_schema)
        comparison = await self._compared(answers, ask)
        lengths = lengths_of(case, large)
        self.caller.recorder.record(self._result(case, large, comparison, lengths))
        learn(self.outlook, lengths)
        return comparison.loss

    async def _ask(self, run: Run, tier: OpenTier, request: Request) -> Completion:
        attempt = 1
        while True:
            try:
                return await self.caller.ask(tier, request, NODE, run, attempt=attempt)
            except ModelError as error:
                pause_s = self.again(error, attempt)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            attempt += 1

    async def _compared(self, answers: Answers, ask: Ask) -> Comparison:
        try:
            return await self.compare(answers, ask)
        except CascadeError as error:
            return Comparison(None, f"the judge failed: {error}")
        except Exception as error:
            logger.exception("the comparison of run %s failed", answers.run_id)
            return Comparison(None, f"the comparison failed: {type(error).__name__}")

    def _result(
        self, case: Case, large: Completion, comparison: Comparison, lengths: Mapping[str, float]
    ) -> LedgerEntry:
        """The result; its saving is the difference between the baseline and its estimate."""
        large_usd = self.outlook.measured(
            large.usage, case.messages, busy_ms=large.busy_ms, tool_calls=len(large.tool_calls)
        )
        note, correction = comparison.note, None
        if large_usd is None:
            note = f"{note}; what the large model costs is unknown, so the estimate stands"
            correction = Decimal(0)
        elif case.baseline_usd is not None:
            correction = large_usd - case.baseline_usd
        return LedgerEntry(
            run_id=case.run.id,
            node=NODE,
            tier=case.draft.tier,
            cost_usd=Decimal(0),
            saved_usd=correction,
            baseline_usd=correction,
            basis="unknown" if correction is None else "estimated",
            note=note,
            large_usd=large_usd,
            loss=comparison.loss,
            signals={**comparison.signals, **lengths} or None,
            # Two processes at the same audit, by whatever mishap, still leave one result.
            attempt_id=f"audit-{case.run.id}",
        )
