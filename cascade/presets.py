"""Published methods on this package's parts, a few lines each: `Cascade(small, large, **preset)`.

Each returns the options of `Cascade` that make the method, and cites it. What has to be learned
is learned from columns of recorded outcomes, never from the rows that are then reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.confidence.metrics import Array
from cascade.confidence.prompt_router import fit_prompt_router
from cascade.confidence.signals import (
    Agreement,
    PromptVotes,
    SelfConsistency,
    TokenQuantile,
)
from cascade.errors import ConfigurationError
from cascade.policies import (
    AbstainPolicy,
    CascadeRoutingPolicy,
    EconomicPolicy,
    Situation,
    ThresholdPolicy,
    obstacle,
)
from cascade.policies.base import outright
from cascade.policies.threshold import compare
from cascade.state import Decision
from cascade.tiers import ModelLike

Options = dict[str, Any]
"""Keyword options of `Cascade`."""

VOTE_THRESHOLD = 0.6
"""The mixture-of-thought paper's own operating point on DATE."""
AUTOMIX_BINS = 8


def frugal_gpt(
    confidence: Array,
    small: Array,
    large: Array,
    *,
    large_cost: Array,
    small_cost: Array,
    budget: float,
) -> Options:
    """FrugalGPT (arXiv 2305.05176): the threshold of best quality whose mean cost keeps a budget.

    Args:
        confidence: (n,) of the scorer, on rows that did not train it.
        small: (n,) correctness of the drafts.
        large: (n,) correctness of the large model.
        large_cost: (n,) dollars.
        small_cost: (n,) dollars.
        budget: dollars per request.

    Raises:
        ConfigurationError: even drafts alone cost more than the budget.
    """
    order = np.argsort(-confidence, kind="stable")
    accepted = np.arange(len(order) + 1)
    quality = large.sum() + np.concatenate([[0.0], np.cumsum((small - large)[order])])
    cost = small_cost.sum() + large_cost.sum()
    costs = cost - np.concatenate([[0.0], np.cumsum(large_cost[order])])
    ranked = confidence[order]
    whole = np.concatenate([[True], np.append(np.diff(ranked) < 0, True)])
    allowed = whole & (costs / len(order) <= budget)
    if not allowed.any():
        raise ConfigurationError(
            f"budget={budget}: drafts alone cost {small_cost.mean():.6f} dollars each."
        )
    best = int(accepted[allowed][np.argmax(quality[allowed])])
    threshold = 1.0 if best == 0 else float(ranked[best - 1])
    return {"policy": ThresholdPolicy(min(1.0, max(0.0, threshold)))}


@dataclass(frozen=True, slots=True)
class BinPolicy:
    """Accept in some bins of the confidence, not necessarily the upper ones (AutoMix).

    Attributes:
        accept: per bin of equal width on [0, 1], whether a draft in it is accepted.
    """

    accept: tuple[bool, ...]

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate by the bin."""
        assessment = situation.assessment
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked
        confidence = assessment.confidence or 0.0
        at = min(len(self.accept) - 1, int(confidence * len(self.accept)))
        decision = compare(confidence, 0.0, assessment.calibrated)
        word = "accepts" if self.accept[at] else "escalates"
        return decision.model_copy(
            update={
                "action": "accept" if self.accept[at] else "escalate",
                "reason": f"the meta-verifier {word} self-verifications like {confidence:.3f}",
                "threshold": None,
            }
        )


class AcceptAll:
    """Accept every draft that is not ruled out: what a router without a check does."""

    def decide(self, situation: Situation) -> Decision:
        """Accept, unless a fact speaks against the draft."""
        assessment = situation.assessment
        against = assessment.objection
        if against is not None:
            return outright("escalate", against, assessment)
        return outright("accept", "all that is drafted is accepted", assessment)


def automix(
    verification: Array,
    small: Array,
    large: Array,
    *,
    price_of_error: float,
    large_cost: float,
    k: int = 8,
    bins: int = AUTOMIX_BINS,
) -> Options:
    """AutoMix (arXiv 2310.12963): k-sampled self-verification and a POMDP meta-verifier.

    The belief over {draft right, large better, hopeless} given a bin of the verification is
    the share of training rows in it; one step ahead, the best action maximises expected reward:
    accept P(draft right), escalate P(large right) − c_L/λ. Empty bins follow their neighbours.

    Args:
        verification: (n,) share of k samples that agree with the draft.
        small: (n,) correctness of the drafts.
        large: (n,) correctness of the large model.
        price_of_error: λ, dollars per error.
        large_cost: c_L, dollars.
        k: samples.
        bins: of the verification.
    """
    at = np.minimum(bins - 1, (verification * bins).astype(int))
    counts = np.bincount(at, minlength=bins)
    reward = np.bincount(at, weights=small - large, minlength=bins)
    mean = np.where(counts > 0, reward / np.maximum(counts, 1), np.nan)
    known = np.flatnonzero(counts > 0)
    filled = mean[known[np.argmin(np.abs(np.arange(bins)[:, None] - known), axis=1)]]
    accept = filled >= -large_cost / price_of_error
    return {
        "signals": [SelfConsistency(k, sharpness=0.0)],
        "policy": BinPolicy(tuple(bool(value) for value in accept)),
    }


def mixture_of_thought(
    prompts: Sequence[str], *, samples: int = 7, threshold: float = VOTE_THRESHOLD
) -> Options:
    """Mixture-of-thought cascades (arXiv 2310.03094): accept when differently put questions agree.

    Args:
        prompts: templates with `{question}`, such as chain-of-thought and program-of-thought.
        samples: per template. The paper pools 7 of each of two.
        threshold: share of votes from which on the draft is accepted.
    """
    votes = PromptVotes(prompts, samples=samples, temperature=0.7)
    return {"signals": [votes], "policy": ThresholdPolicy(threshold)}


def agreement_based(models: Sequence[ModelLike]) -> Options:
    """Agreement-based cascading (arXiv 2407.02348): accept when all cheap models say the same."""
    signals = [Agreement(model, name=f"agreement_{i}") for i, model in enumerate(models, 1)]
    if not signals:
        raise ConfigurationError("agreement_based needs at least one other model.")
    return {"signals": signals, "policy": ThresholdPolicy(1.0)}


def token_quantile(
    confidence: Sequence[float], *, escalation_rate: float, quantile: float = 0.1
) -> Options:
    """Token-quantile deferral (arXiv 2404.10136): Chow's rule on a quantile of token log-probs.

    Args:
        confidence: e^quantile of earlier drafts' log-probabilities.
        escalation_rate: share of questions to escalate.
        quantile: of the token log-probabilities.
    """
    policy = ThresholdPolicy.at_rate(confidence, escalation_rate)
    return {"signals": [TokenQuantile(quantile)], "policy": policy}


def route_llm(
    questions: Sequence[str], small: Array, large: Array, *, large_share: float
) -> Options:
    """RouteLLM-style routing (arXiv 2406.18665): a share goes to the large model before drafting.

    All that is drafted is accepted: without a check this is a router and no cascade.
    """
    router = fit_prompt_router(questions, small, large, large_share=large_share)
    return {"router": router, "policy": AcceptAll()}


def cascade_routing(*, price_of_error: float) -> Options:
    """Cascade routing (arXiv 2410.10347): after each answer the best of all tiers above."""
    return {"policy": CascadeRoutingPolicy(price_of_error)}


def early_abstention(*, price_of_error: float, price_of_abstaining: float) -> Options:
    """Early abstention (arXiv 2502.09054): no answer where both sides are too likely wrong."""
    return {"policy": AbstainPolicy(EconomicPolicy(price_of_error), price_of_abstaining)}
