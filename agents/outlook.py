"""What larger tiers would cost for a drafted question: an estimate until they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from langchain_core.messages import BaseMessage

from cascade.ledger.baseline import AS_DRAFT, Baseline, BaselineModel, predict
from cascade.state import Draft, StateUpdate, Usage
from cascade.tiers import OpenTier


@dataclass(slots=True)
class Outlook:
    """The costs that a cascade expects; it learns from audits.

    Attributes:
        tiers: from small to large.
        lengths: how long the last tier's answers are, learned from audits; before any, as long
            as the draft.
    """

    tiers: tuple[OpenTier, ...]
    lengths: BaselineModel = AS_DRAFT

    def cost(self, tier: OpenTier, draft: Draft) -> Decimal | None:
        """Dollars that a tier would probably cost; None where usage or price is unknown."""
        found = self._predict(tier, draft)
        return None if found is None else found.usd

    def baseline(self, draft: Draft) -> Baseline | None:
        """What the large model alone would have cost, with a range."""
        return self._predict(self.tiers[-1], draft)

    def measured(self, usage: Usage, messages: Sequence[BaseMessage]) -> Decimal | None:
        """Dollars that the large model alone costs for a request that it was really asked.

        Args:
            usage: of the large model.
            messages: the conversation, its last message being the question.
        """
        del messages
        return self.tiers[-1].pricing.cost(usage)

    def _predict(self, tier: OpenTier, draft: Draft) -> Baseline | None:
        lengths = self.lengths if tier is self.tiers[-1] else AS_DRAFT
        usage = draft.completion.usage
        return predict(usage, tier.pricing, lengths, cap=tier.settings.max_tokens)

    def earned(self, draft: Draft, cost: Decimal | None) -> StateUpdate:
        """What accepting a draft changes in the ledger entry of a node that cost so much.

        The large model's cost is spared; it is an estimate, since that model was not asked.
        """
        baseline = self.baseline(draft)
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
