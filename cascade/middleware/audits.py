"""Audits: the large model is asked about a few accepted drafts as well, after the reply."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from threading import Lock
from typing import Any

from cascade._numbers import to_number
from cascade.errors import ConfigurationError
from cascade.ledger.entries import LedgerEntry
from cascade.ledger.ledger import Ledger
from cascade.ledger.outlook import visible
from cascade.ledger.prices import Dollars, has_price
from cascade.middleware.background import lot, patience
from cascade.middleware.base import Decide, Slot
from cascade.middleware.comparing import AfterReply, Loss
from cascade.policies.base import Situation
from cascade.run import Answer, CascadeRuntime, Parts, Run, known_cost
from cascade.state import Completion, Decision
from cascade.tiers import ModelLike

REFRESH_S = 15.0
"""Age from which the sum that other processes have spent is read again."""

PRIOR_S = 600.0
"""The first draft of a day counts as one in ten minutes: a burst is no forecast of the day."""

DAY_S = 86_400.0


class Audits(AfterReply):
    """Audits of accepted drafts at random, which book how much better the large answer is (`loss`).

    Each accepted draft is drawn by a hash of its run with the chance that its decision states
    (`Decision.audit_rate`), so that sums weighted by 1/rate are unbiased. Drafts that were accepted
    for want of a larger model, by a person, from a cache, or that must stay on this machine have no
    chance. One that fails leaves no loss.

    Args:
        rate: share of accepted drafts.
        daily_usd: dollars per day of UTC for audits and their judge; the rate is lowered so that
            they last.
        compare, judge: how a draft is compared, see `cascade.middleware.comparing.AfterReply`.
    """

    slot = Slot.ANSWERS
    kind = "audit"

    def __init__(
        self,
        rate: float = 0.05,
        *,
        daily_usd: Dollars | None = None,
        compare: str | Loss = "auto",
        judge: ModelLike | None = None,
        name: str = "audits",
    ) -> None:
        super().__init__(name, compare, judge)
        self.rate = to_number("audit_rate", rate, least=0, most=1)
        self.budget: DailyBudget | None = None
        if daily_usd is not None:
            to_number("Audits.daily_usd", daily_usd, above=0)
            self.budget = DailyBudget(Decimal(str(daily_usd)))

    def check(self, parts: Parts) -> None:
        """Refuse a cascade without drafts, without a ledger, or without prices for the budget."""
        super().check(parts)
        if parts.store is None:
            raise ConfigurationError(
                "audits need ledger=…: their results come after the reply. Give "
                "open_store('sqlite:///ledger.db'), or MemoryLedger()."
            )
        paid = (parts.tiers[-1], self._judge) if self.budget is not None else ()
        for tier in filter(None, paid):
            if not has_price(tier.pricing, busy_ms=1.0):
                raise ConfigurationError(
                    f"the daily_usd of audits cannot be kept: what {tier.name} ({tier.model.name}) "
                    f"costs is unknown ({tier.pricing.source})."
                )

    async def before_run(self, run: Run, runtime: CascadeRuntime) -> Answer | None:
        """Read the budget."""
        if run.kind == "answer" and self.budget is not None:
            await self.budget.refresh(runtime.kernel.ledger)
        return None

    def wrap_decision(self, run: Run, situation: Situation, handler: Decide) -> Decision:
        """State the chance with which an accepted draft is audited."""
        decision, rate = handler(situation), self.rate
        accepted = decision.action == "accept" and not decision.once and not situation.last
        drafted = run.kind == "answer" and run.draft is not None and not run.draft.cached
        if not (accepted and drafted) or run.settings.get("local_only") or self._background.full:
            return decision
        if self.budget is not None:
            rate = self.budget.rate(rate, situation.above[-1].cost_usd if situation.above else None)
        return decision.model_copy(update={"audit_rate": rate}) if rate > 0 else decision

    async def after_run(self, run: Run, answer: Answer, runtime: CascadeRuntime) -> None:
        """Draw, and leave the work to the background."""
        decision, kernel = answer.decision, runtime.kernel
        rate = decision.audit_rate if decision and decision.action == "accept" else None
        drafted = answer.source in [tier.name for tier in kernel.tiers[:-1]] and not answer.degraded
        if run.kind != "answer" or not drafted or not rate or lot(run.id, self.kind) >= rate:
            return
        draft, messages = run.draft, list(run.messages)
        assert draft is not None, "what is audited is a draft"
        if self.budget is not None:
            expected = kernel.outlook.cost(kernel.tiers[-1], draft, messages)
            self.budget.reserve(run.id, expected)
        accepted = [e for e in run.entries if e.decision and e.decision.action == "accept"]
        estimate = accepted[-1].baseline_usd if accepted else None

        def measured(large: Completion) -> Mapping[str, Any]:
            # What makes the estimated baseline the measured one; and how long large answers are.
            seen, written = visible(draft.usage), large.usage.output_tokens
            if seen is not None and written is not None:
                kernel.outlook.learn(seen, written, 1 / rate)
            usd = kernel.outlook.measured(large.usage, messages, large.busy_ms)
            error = Decimal(0) if usd is None or estimate is None else usd - estimate
            basis = "estimated" if error else "measured"
            return {"saved_usd": error, "baseline_usd": error, "basis": basis}

        self.answer_again(run, kernel, measured)


class DailyBudget:
    """Dollars of a day of UTC for audits, and what they have cost: as the store has it, which knows
    other processes, and by the ledger's entries since then. Audits under way count as estimated."""

    def __init__(self, daily_usd: Decimal, clock: Callable[[], float] = time.time) -> None:
        self.daily_usd, self._clock = daily_usd, clock
        self._told_usd: Decimal | None = None
        self._heard_usd, self._under_way = Decimal(0), dict[str, Decimal]()
        self._midnight, self._since, self._read_at, self._drafts = -1.0, 0.0, -math.inf, 0
        self._lock = Lock()

    def rate(self, wanted: float, usd: Decimal | None) -> float:
        """The wanted rate, or the lower one with which what is left lasts until midnight, at what
        an audit would probably cost; 0 where it is used up, or something is not known."""
        with self._lock:
            now = self._roll()
            if self._told_usd is None or usd is None:
                return 0.0
            reserved = sum(self._under_way.values(), Decimal(0))
            left = self.daily_usd - self._told_usd - self._heard_usd - reserved
            if left < usd:
                return 0.0
            per_second = max(1, self._drafts) / (PRIOR_S + max(0.0, now - self._since))
            drafts = max(1.0, per_second * (self._midnight + DAY_S - now))
            return min(wanted, float(left) / (drafts * float(usd))) if usd else wanted

    def reserve(self, run_id: str, usd: Decimal | None) -> None:
        """Keep back what an audit will probably cost. One that is drawn is always paid: to leave it
        out would bias the sample."""
        with self._lock:
            self._under_way.setdefault(run_id, usd or Decimal(0))

    async def refresh(self, ledger: Ledger) -> None:
        """Listen to a ledger, and read what was spent today where that was not done lately."""
        with self._lock:
            if self._hear not in ledger.listeners:
                ledger.listeners.append(self._hear)
            now, store = self._roll(), ledger.store
            if store is None or abs(now - self._read_at) < REFRESH_S:
                return
            self._read_at, midnight, heard = now, self._midnight, self._heard_usd
        async with patience("audits have to wait: the ledger"):
            spent = await store.spent("audit", datetime.fromtimestamp(midnight, UTC))
            with self._lock:
                if self._midnight == midnight:  # without an answer the budget is the process's
                    self._told_usd = Decimal(0) if spent is None else spent - heard

    def _hear(self, entry: LedgerEntry) -> None:
        """Count accepted drafts, calls of audits, and audits that have ended."""
        with self._lock:
            self._roll()
            if entry.decision is not None and entry.decision.audit_rate:
                self._drafts += 1
            elif entry.node == "audit" and entry.model is None:
                self._under_way.pop(entry.run_id, None)
            elif entry.node == "audit":
                self._heard_usd += known_cost([entry])

    def _roll(self) -> float:
        """The time; at midnight a new day begins."""
        now = self._clock()
        if now - now % DAY_S != self._midnight:
            self._midnight, self._since, self._read_at = now - now % DAY_S, now, -math.inf
            self._told_usd, self._heard_usd, self._drafts = None, Decimal(0), 0
            self._under_way.clear()
        return now
