"""What larger tiers would cost for a drafted question: an estimate until they are asked."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock
from typing import TypeVar

from langchain_core.messages import BaseMessage

from cascade.agents.steps import Step, last_asked
from cascade.ledger.baseline import AS_DRAFT, Baseline, BaselineModel, predict, predict_usd
from cascade.ledger.lengths import Lengths, fit_baseline
from cascade.ledger.shadow_cache import (
    CHARACTERS_PER_TOKEN,
    ShadowCache,
    asks_for_caching,
    characters,
)
from cascade.state import Completion, Draft, StateUpdate, Usage
from cascade.tiers import OpenTier

T = TypeVar("T")

AUDITS_KEPT = 2_000
"""Lengths are learned from the last so many audits."""

REFIT_EVERY = 100
"""Audits between two fits; the first fits come after 1, 2, 4, 8, … audits."""

_CACHES_WHEN_ASKED = re.compile("claude|anthropic", re.IGNORECASE)
"""Models whose provider caches only what the prompt marks for it."""


@dataclass(frozen=True, slots=True)
class GoingBack:
    """What some steps to come would cost with the smallest tier, and with the largest."""

    back_usd: Decimal
    stay_usd: Decimal


@dataclass(slots=True)
class Outlook:
    """The costs that a cascade expects; it learns from audits. Safe to share between threads.

    Attributes:
        tiers: from small to large.
        lengths: how long the last tier's answers are, learned from audits; before any, as long
            as the draft.
        cache: what the last tier's provider would hold in its prompt cache, had that tier been
            asked everything.
        clock: seconds since 1970, for tests.
    """

    tiers: tuple[OpenTier, ...]
    lengths: BaselineModel = AS_DRAFT
    cache: ShadowCache = field(default_factory=ShadowCache)
    clock: Callable[[], float] = time.time
    _audits: deque[tuple[float, float, float, float]] = field(
        default_factory=lambda: deque(maxlen=AUDITS_KEPT), init=False, repr=False
    )
    _learned: int = field(default=0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def cost(
        self, tier: OpenTier, draft: Draft, messages: Sequence[BaseMessage] = ()
    ) -> Decimal | None:
        """Dollars that a tier would probably cost; None where usage or price is unknown.

        Args:
            tier: whom to ask.
            draft: that was made of the question.
            messages: the conversation, its last message being the question. A tier that answered
                an earlier step of it finds that in its provider's prompt cache, and reads it at
                the price of `cached_input`; the others are charged for the whole prompt, at
                `cache_write` where that has a price. Without them nothing is in a cache.
        """
        tokens = self._tokens(messages, draft.usage.input_tokens)
        cached, written = self.prefix(tier, messages, tokens)
        return self._predict(predict_usd, tier, draft, cached, written)

    def prefix(
        self, tier: OpenTier, messages: Sequence[BaseMessage], tokens: int
    ) -> tuple[int, int]:
        """Tokens of a prompt that a tier's provider has in its cache, and those it writes there.

        It has what the tier was last asked in this conversation, as the answers themselves say
        (`cascade.agents.steps`), for as long and in such steps as `cache` knows it.

        Args:
            tier: whom to ask.
            messages: the conversation, its last message being the question.
            tokens: of the whole prompt.
        """
        if not messages or not self._caches(messages, tier):
            return 0, 0
        names = [tier.name for tier in self.tiers]
        return self._in_cache(messages, tokens, last_asked(messages, names, tier.name))

    def going_back(
        self, messages: Sequence[BaseMessage], steps: Sequence[Step], ahead: int
    ) -> GoingBack | None:
        """What so many steps like this one cost with the smallest tier, whose cache is cold at
        first, and with the largest one, whose cache is as it is now; None where prices do not say.

        Args:
            messages: the conversation, its last message being the question.
            steps: those of it so far; answers are taken to be as long as its last one.
            ahead: how many steps.
        """
        tokens = self._tokens(messages, None)
        written = next((s.output_tokens for s in reversed(steps) if s.output_tokens), 0)
        first, large = self.tiers[0], self.tiers[-1]
        now, then = (
            self._of_step(first, messages, tokens, written, seen)
            for seen in (steps, [*steps, self._as_asked(first, messages)])
        )
        stay = self._of_step(large, messages, tokens, written, steps)
        if now is None or then is None or stay is None:
            return None
        return GoingBack(now + then * (ahead - 1), stay * ahead)

    def _as_asked(self, tier: OpenTier, messages: Sequence[BaseMessage]) -> Step:
        return Step(len(messages), (tier.name,), self.clock(), "fine")

    def _of_step(
        self,
        tier: OpenTier,
        messages: Sequence[BaseMessage],
        tokens: int,
        output: int,
        steps: Sequence[Step],
    ) -> Decimal | None:
        cached, written = 0, 0
        if self._caches(messages, tier):
            asked = next((step for step in reversed(steps) if tier.name in step.asked), None)
            cached, written = self._in_cache(messages, tokens, asked)
        used = Usage(
            input_tokens=tokens,
            cached_tokens=cached,
            cache_write_tokens=written,
            output_tokens=output,
        )
        return tier.pricing.cost(used)

    def _in_cache(
        self, messages: Sequence[BaseMessage], tokens: int, asked: Step | None
    ) -> tuple[int, int]:
        place = 0
        if asked is not None and asked.at is not None:
            place = asked.place if self.cache.holds(self.clock() - asked.at) else 0
        cached, most = self.cache.of_prefix(messages, place, tokens)
        return cached, most - cached

    def baseline(self, draft: Draft, messages: Sequence[BaseMessage]) -> Baseline | None:
        """What the large model alone would have cost, with a range.

        Args:
            draft: the accepted draft.
            messages: the conversation, its last message being the question.
        """
        tokens = self._tokens(messages, draft.usage.input_tokens)
        cached = self.cache.cached(messages, tokens) if self._caches(messages) else 0
        return self._predict(predict, self.tiers[-1], draft, cached)

    def measured(
        self,
        usage: Usage,
        messages: Sequence[BaseMessage],
        *,
        busy_ms: float | None = None,
        tool_calls: int = 0,
    ) -> Decimal | None:
        """Dollars that the large model alone costs for a request that it was really asked.

        That is its real usage, but with as much of the prompt cached as there would have been,
        had it answered the turns too that it was not asked.

        Args:
            usage: of the large model.
            messages: the conversation, its last message being the question.
            busy_ms: how long it computed, where its price is by the hour.
            tool_calls: tool calls in its answer.
        """
        tokens = self._tokens(messages, usage.input_tokens)
        cached = self.cache.missed(messages, tokens) if self._caches(messages) else 0
        if cached > (usage.cached_tokens or 0):
            usage = usage.model_copy(update={"cached_tokens": cached})
        return self.tiers[-1].pricing.cost(usage, busy_ms, tool_calls)

    def asked(self, messages: Sequence[BaseMessage]) -> None:
        """The large model alone would have been asked this, whoever answers it here."""
        if self._caches(messages):
            self.cache.cached(messages, self._tokens(messages, None))

    def learn(
        self, prompt_tokens: int, draft_tokens: int, large_tokens: int, weight: float = 1.0
    ) -> None:
        """Learn from an audit how long the large model's answers are.

        Args:
            prompt_tokens: input tokens of the draft.
            draft_tokens: output tokens of the draft.
            large_tokens: output tokens of the large model.
            weight: 1/P(this draft was audited), where that differs between drafts.
        """
        with self._lock:
            self._audits.append((prompt_tokens, draft_tokens, large_tokens, weight))
            self._learned += 1
            n = self._learned
            if n % REFIT_EVERY == 0 or (n < REFIT_EVERY and n & (n - 1) == 0):
                self.lengths = fit_baseline(Lengths(*zip(*self._audits, strict=True)))

    def _caches(self, messages: Sequence[BaseMessage], tier: OpenTier | None = None) -> bool:
        by_mark = _CACHES_WHEN_ASKED.search((tier or self.tiers[-1]).model.name)
        return by_mark is None or asks_for_caching(messages)

    @staticmethod
    def _tokens(messages: Sequence[BaseMessage], counted: int | None) -> int:
        return characters(messages) // CHARACTERS_PER_TOKEN if counted is None else counted

    def _predict(
        self,
        how: Callable[..., T],
        tier: OpenTier,
        draft: Draft,
        cached: int = 0,
        written: int = 0,
    ) -> T:
        lengths = self.lengths if tier.name == self.tiers[-1].name else AS_DRAFT
        completion = draft.completion
        return how(
            draft.usage,
            tier.pricing,
            lengths,
            cap=tier.settings.max_tokens,
            cached_tokens=cached,
            written_tokens=written,
            tool_calls=len(completion.tool_calls),
        )

    def earned(
        self, draft: Draft, cost: Decimal | None, messages: Sequence[BaseMessage]
    ) -> StateUpdate:
        """What accepting a draft changes in the ledger entry of a node that cost so much.

        The large model's cost is spared; it is an estimate, since that model was not asked. A draft
        from a cache spares nothing: the large model alone would have had its answer there too.
        """
        if draft.completion.cached:
            return {}
        return _earned(self.baseline(draft, messages), cost)

    def reviewed(
        self,
        draft: Draft,
        reply: Completion,
        cost: Decimal | None,
        messages: Sequence[BaseMessage],
        sent: Sequence[BaseMessage],
        *,
        approved: bool,
    ) -> StateUpdate:
        """What it changes in the entry of the large model's call that it was shown a draft.

        Alone it would have read the question without the draft, and written a whole answer: as
        long as the draft lets expect where it approved of that, else as long as its correction.
        Both are estimates; its real cost is that of another request. A draft from a cache earns
        nothing here either.

        Args:
            draft: what it was shown.
            reply: what it said.
            cost: dollars of its call.
            messages: the conversation, its last message being the question.
            sent: the same with the draft.
            approved: whether the draft stands.
        """
        if draft.completion.cached:
            return {}
        usage, large = reply.usage, self.tiers[-1]
        share = characters(messages) / max(1, characters(sent))
        counted = usage.input_tokens
        prompt = draft.usage.input_tokens if counted is None else round(counted * share)
        tokens = self._tokens(messages, prompt)
        missed = self.cache.missed(messages, tokens) if self._caches(messages) else 0
        written = draft.completion if approved else reply
        baseline = predict(
            Usage(input_tokens=prompt, output_tokens=written.usage.output_tokens),
            large.pricing,
            self.lengths if approved else self._as_written,
            cap=large.settings.max_tokens,
            cached_tokens=min(tokens, max(missed, usage.cached_tokens or 0)),
            tool_calls=len(written.tool_calls),
        )
        return _earned(baseline, cost)

    def stood_in(
        self, reply: Completion, cost: Decimal | None, messages: Sequence[BaseMessage]
    ) -> StateUpdate:
        """What the answer of another large model earns, which answered because the last tier
        could not be had.

        Estimated is what the last tier alone would have cost for an answer of this length, and it
        is never more than the other model cost: whoever has that to fall back on would have it
        without a cascade too, so that a cheaper one saves nothing, while a dearer one is a loss.

        Args:
            reply: the answer of the other model.
            cost: dollars of its call; None where nobody knows.
            messages: the conversation, its last message being the question.
        """
        usage, large = reply.usage, self.tiers[-1]
        tokens = self._tokens(messages, usage.input_tokens)
        missed = self.cache.missed(messages, tokens) if self._caches(messages) else 0
        baseline = predict(
            Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
            large.pricing,
            self._as_written,
            cap=large.settings.max_tokens,
            cached_tokens=min(tokens, max(missed, usage.cached_tokens or 0)),
            tool_calls=len(reply.tool_calls),
        )
        if baseline is None or cost is None:
            return _earned(None, None)
        ends = {"usd": baseline.usd, "low_usd": baseline.low_usd, "high_usd": baseline.high_usd}
        capped = {name: min(usd, cost) for name, usd in ends.items()}
        return _earned(baseline.model_copy(update=capped), Decimal(0))

    @property
    def _as_written(self) -> BaselineModel:
        """The large model's answers as long as those that another request brought."""
        known = self.lengths
        return AS_DRAFT.model_copy(update={"ratios": known.ratios, "audits": known.audits})


def _earned(baseline: Baseline | None, cost: Decimal | None) -> StateUpdate:
    if baseline is None:
        return {"baseline_usd": None, "saved_usd": None, "basis": "unknown"}
    saved = None if cost is None else baseline.usd - cost
    return {
        "baseline_usd": baseline.usd,
        "baseline_low_usd": baseline.low_usd,
        "baseline_high_usd": baseline.high_usd,
        "saved_usd": saved,
        "basis": "unknown" if saved is None else "estimated",
    }
