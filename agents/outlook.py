"""What larger tiers would cost for a drafted question: an estimate until they are asked."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock

from langchain_core.messages import BaseMessage

from cascade.ledger.baseline import AS_DRAFT, Baseline, BaselineModel, predict
from cascade.ledger.lengths import Lengths, fit_baseline
from cascade.ledger.shadow_cache import (
    CHARACTERS_PER_TOKEN,
    ShadowCache,
    asks_for_caching,
    characters,
)
from cascade.state import Draft, StateUpdate, Usage
from cascade.tiers import OpenTier

AUDITS_KEPT = 2_000
"""Lengths are learned from the last so many audits."""

REFIT_EVERY = 100
"""Audits between two fits; the first fits come after 1, 2, 4, 8, … audits."""

_CACHES_WHEN_ASKED = re.compile("claude|anthropic", re.IGNORECASE)
"""Models whose provider caches only what the prompt marks for it."""


@dataclass(slots=True)
class Outlook:
    """The costs that a cascade expects; it learns from audits. Safe to share between threads.

    Attributes:
        tiers: from small to large.
        lengths: how long the last tier's answers are, learned from audits; before any, as long
            as the draft.
        cache: what the last tier's provider would hold in its prompt cache, had that tier been
            asked everything.
    """

    tiers: tuple[OpenTier, ...]
    lengths: BaselineModel = AS_DRAFT
    cache: ShadowCache = field(default_factory=ShadowCache)
    _audits: deque[tuple[float, float, float, float]] = field(
        default_factory=lambda: deque(maxlen=AUDITS_KEPT), init=False, repr=False
    )
    _learned: int = field(default=0, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def cost(self, tier: OpenTier, draft: Draft) -> Decimal | None:
        """Dollars that a tier would probably cost; None where usage or price is unknown."""
        found = self._predict(tier, draft)
        return None if found is None else found.usd

    def baseline(self, draft: Draft, messages: Sequence[BaseMessage]) -> Baseline | None:
        """What the large model alone would have cost, with a range.

        Args:
            draft: the accepted draft.
            messages: the conversation, its last message being the question.
        """
        tokens = self._tokens(messages, draft.completion.usage.input_tokens)
        cached = self.cache.cached(messages, tokens) if self._caches(messages) else 0
        return self._predict(self.tiers[-1], draft, cached)

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

    def _caches(self, messages: Sequence[BaseMessage]) -> bool:
        by_mark = _CACHES_WHEN_ASKED.search(self.tiers[-1].model.name)
        return by_mark is None or asks_for_caching(messages)

    @staticmethod
    def _tokens(messages: Sequence[BaseMessage], counted: int | None) -> int:
        return characters(messages) // CHARACTERS_PER_TOKEN if counted is None else counted

    def _predict(self, tier: OpenTier, draft: Draft, cached: int = 0) -> Baseline | None:
        lengths = self.lengths if tier.name == self.tiers[-1].name else AS_DRAFT
        completion = draft.completion
        return predict(
            completion.usage,
            tier.pricing,
            lengths,
            cap=tier.settings.max_tokens,
            cached_tokens=cached,
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
        baseline = self.baseline(draft, messages)
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
