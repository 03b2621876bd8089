"""Expected costs: of larger tiers for a drafted question, and of the large model alone."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Protocol

from langchain_core.messages import BaseMessage

from cascade.ledger.prices import Pricing
from cascade.state import Basis, Completion, Record, Usage


class Tier(Protocol):
    """What is known of a tier here: `cascade.tiers.OpenTier`."""

    @property
    def name(self) -> str: ...
    @property
    def pricing(self) -> Pricing: ...
    @property
    def max_tokens(self) -> int | None: ...


class Baseline(Record):
    """Dollars of the large model alone for one question, with a 95 % range of this question."""

    usd: Decimal
    low_usd: Decimal
    high_usd: Decimal
    output_tokens: int
    basis: Basis = "estimated"
    note: str = ""


class Outlook:
    """Costs that a cascade expects; it learns from the large model's answers.

    Args:
        tiers: from small to large.
    """

    def __init__(self, tiers: Sequence[Tier]) -> None:
        self.tiers = tuple(tiers)

    def cost(
        self, tier: Tier, completion: Completion, messages: Sequence[BaseMessage] = ()
    ) -> Decimal | None:
        """Dollars that a tier would probably cost; None where usage or price is unknown."""
        raise NotImplementedError

    def baseline(self, completion: Completion, messages: Sequence[BaseMessage]) -> Baseline | None:
        """What the large model alone would have cost for a drafted question, with a range."""
        raise NotImplementedError

    def earned(
        self, completion: Completion, cost_usd: Decimal | None, messages: Sequence[BaseMessage]
    ) -> dict[str, Any]:
        """Fields of the entry of a node that cost so much and accepted a draft: baseline and its
        range, saving, basis."""
        raise NotImplementedError

    def measured(
        self, usage: Usage, messages: Sequence[BaseMessage], busy_ms: float | None = None
    ) -> Decimal | None:
        """Dollars that the large model alone costs for a request that it was really asked."""
        raise NotImplementedError

    def asked(self, messages: Sequence[BaseMessage]) -> None:
        """Note that the large model alone would have been asked this, whoever answers it here."""

    def learn(
        self,
        prompt_tokens: int,
        draft_tokens: int,
        large_tokens: int,
        weight: float = 1.0,
        *,
        audit: bool = True,
    ) -> None:
        """Learn how long the large model's answers are.

        Args:
            prompt_tokens: of the question.
            draft_tokens: visible output tokens of the draft.
            large_tokens: output tokens of the large model.
            weight: of an audit 1/P(this draft was audited), of an escalation 1/P(escalated).
            audit: whether the draft was chosen at random among those accepted. Escalated questions
                are harder and longer; they count less.
        """
