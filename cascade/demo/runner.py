"""Runs the cascade over the questions and compares it with either model alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from cascade._together import together
from cascade.agents.base import Task
from cascade.api import Cascade
from cascade.demo.large import Large, choose_large, parse_price
from cascade.demo.page import to_page
from cascade.demo.picture import draw
from cascade.demo.prompts import MAX_TOKENS
from cascade.demo.questions import Question, take
from cascade.demo.records import DemoOptions, DemoOutcome, Facts, Findings, Step, Watcher
from cascade.demo.report import Outcome, summarise
from cascade.ledger import LedgerView, Price
from cascade.policies import ThresholdPolicy
from cascade.questions import to_messages
from cascade.result import CascadeResult, read_result
from cascade.state import CascadeInput, CascadeState, Completion, Draft, LedgerEntry
from cascade.tiers import Tier

UNDER_WAY = 2
"""Questions at once. The small model computes one at a time, so that its busy time is its own;
the next question is prepared meanwhile."""


async def run_demo(options: DemoOptions, watcher: Watcher | None = None) -> DemoOutcome:
    """Run the demo, and write its page and its picture.

    Raises:
        ConfigurationError: an option cannot work, or a package is missing.
        ModelError: a model could not answer.
    """
    watcher = watcher or Watcher()
    questions = take(options.n)
    price = parse_price(options.large_price) if options.large_price else None
    large = await choose_large(options.large, live=options.live, price=price)
    facts = _facts(options, large, len(questions))
    watcher.begins(facts)
    begun = time.perf_counter()
    tiers = _small_tier(options), large.tier
    policy = ThresholdPolicy(options.threshold)
    async with Cascade(*tiers, policy=policy, name="demo") as cascade:
        asking = _Asking(cascade, facts, watcher)
        outcomes = await asking.all(questions)
    ledger = LedgerView(asking.entries)
    found = Findings(
        facts=facts,
        report=summarise(outcomes),
        nodes=tuple(ledger.by_node().values()),
        table=ledger.table(),
        outcomes=tuple(outcomes),
        degraded=asking.degraded,
        compare_cost=asking.compare_cost,
        seconds=time.perf_counter() - begun,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    page, picture = options.out / "demo.html", options.out / "demo.png"
    page.write_text(to_page(found), encoding="utf-8")
    return DemoOutcome(found, page, picture if draw(found, picture) else None)


def _small_tier(options: DemoOptions) -> Tier:
    in_process = isinstance(options.small, str) and options.small.startswith("llamacpp:")
    return Tier(
        options.small,
        name="small",
        price=Price(per_hour=options.per_hour),
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        options={"n_parallel": 1} if in_process else {},
    )


def _facts(options: DemoOptions, large: Large, n: int) -> Facts:
    small = options.small if isinstance(options.small, str) else options.small.name
    return Facts(
        n=n,
        small=small,
        large=large.name,
        large_source=large.source,
        large_alone=large.source == "recorded" or options.compare,
        remarks=large.remarks,
        assumptions=(
            f"{small} costs ${options.per_hour.normalize():f} per hour in which it "
            "computes (an assumption for hardware and power; its time is measured)",
            f"{large.name}: {large.price_note}",
        ),
        threshold=options.threshold,
    )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the large model says to a question, and what that costs."""

    text: str
    cost: Decimal | None
    ms: float


class _Asking:
    """Asks the cascade, and where it may the large model, question by question."""

    def __init__(self, cascade: Cascade, facts: Facts, watcher: Watcher) -> None:
        self.entries: list[LedgerEntry] = []
        self.degraded = 0
        self.compare_cost: Decimal | None = Decimal(0)
        self._cascade = cascade
        self._facts = facts
        self._watcher = watcher
        self._free = asyncio.Semaphore(UNDER_WAY)
        self._done = 0
        self._escalated = 0

    async def all(self, questions: Sequence[Question]) -> list[Outcome]:
        """The outcome of each question, in their order."""
        return await together(self._ask(question) for question in questions)

    async def _ask(self, question: Question) -> Outcome:
        async with self._free:
            outcome = await self._outcome(question)
        self._done += 1
        self._escalated += outcome.escalated
        self._watcher.steps(Step(self._done, self._facts.n, self._escalated, outcome))
        return outcome

    async def _outcome(self, question: Question) -> Outcome:
        # The graph's state and not a result: only there is the draft that was rejected.
        state = await self._cascade.graph.ainvoke(
            CascadeInput(messages=to_messages(question.messages))
        )
        result = read_result(cast("CascadeState", state), "small", None)
        self.entries += result.ledger
        self.degraded += result.degraded
        large = self._given(result) or await self._asked_anyway(question)
        draft: Draft | None = state.get("draft")
        small = draft.completion if draft else Completion(text="", model=self._facts.small)
        small_ms = small.latency_ms if small.busy_ms is None else small.busy_ms
        small_ledger = LedgerView(e for e in result.ledger if e.tier == "small")
        return Outcome(
            id=question.id,
            kind=question.kind,
            question=question.question,
            answer=question.answer,
            small_answer=small.text,
            large_answer=large.text if large else None,
            small_correct=question.is_right(small.text),
            large_correct=question.is_right(large.text) if large else None,
            cascade_correct=question.is_right(result.answer),
            escalated=result.escalated,
            confidence=result.confidence,
            small_cost=small_ledger.cost_usd,
            large_cost=large.cost if large else None,
            cascade_cost=result.ledger.cost_usd,
            small_ms=small_ms,
            large_ms=large.ms if large else None,
            cascade_ms=small_ms + (large.ms if large and result.escalated else 0.0),
        )

    def _given(self, result: CascadeResult) -> _Answer | None:
        """What the large model answered in the cascade, where it did."""
        if result.tier != "large":
            return None
        ledger = LedgerView(e for e in result.ledger if e.tier == "large")
        return _Answer(result.answer, ledger.cost_usd, ledger.entries[-1].latency_ms)

    async def _asked_anyway(self, question: Question) -> _Answer | None:
        """What it would have answered: looked up, or asked for when the user wants to know."""
        if not self._facts.large_alone:
            return None
        tier = self._cascade.tiers[-1]
        completion = await tier.model.complete(Task().request(tier, question.messages))
        cost = tier.pricing.cost(completion.usage, completion.busy_ms)
        if self._facts.large_source == "live":
            so_far = self.compare_cost
            self.compare_cost = None if so_far is None or cost is None else so_far + cost
        return _Answer(completion.text, cost, completion.latency_ms)
