"""The policies that decide online, over recorded rows: one by one, or all at once on columns.

`replay` calls `policy.decide` on a `Situation` per row. `accepts` works out the same decisions
on columns, by the same rule; a test holds the two together. `sweep` tries many thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import Array, Mask
from cascade.policies import CertifiedPolicy, EconomicPolicy, Policy, Situation, ThresholdPolicy
from cascade.state import Assessment, Decision


@dataclass(frozen=True)
class Drafts:
    """What a policy may look at, (n,) each; NaN where unknown.

    Attributes:
        confidence: in the drafts.
        calibrated: whether it is a probability.
        escalation_cost: dollars of asking the large model.
        p_large: P(the large model is right) on each question.
    """

    confidence: Array
    calibrated: bool = True
    escalation_cost: Array | None = None
    p_large: Array | None = None

    def column(self, values: Array | None) -> Array:
        """A column, all NaN where nothing is known."""
        return np.full(len(self.confidence), np.nan) if values is None else values


def replay(policy: Policy, drafts: Drafts) -> list[Decision]:
    """The decision on each row, by the policy itself."""
    columns = (
        drafts.confidence,
        drafts.column(drafts.escalation_cost),
        drafts.column(drafts.p_large),
    )
    return [
        policy.decide(
            Situation(
                Assessment(
                    confidence=_known(confidence),
                    calibrated=drafts.calibrated,
                    missing="not in the recording" if math.isnan(confidence) else None,
                    p_large=_known(p_large),
                ),
                escalation_cost_usd=None if math.isnan(dollars) else Decimal(str(dollars)),
            )
        )
        for confidence, dollars, p_large in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def accepts(policy: Policy, drafts: Drafts) -> Mask:
    """Which rows the policy accepts, all at once.

    Raises:
        ConfigurationError: a policy whose rule is not known here; `replay` takes any.
    """
    known = np.isfinite(drafts.confidence)
    confidence = np.nan_to_num(drafts.confidence)
    if isinstance(policy, ThresholdPolicy):
        raw = None if drafts.calibrated else policy.uncalibrated
        return known & (confidence >= (policy.threshold if raw is None else raw))
    if isinstance(policy, CertifiedPolicy):
        return known & (confidence >= policy.certificate.threshold) & drafts.calibrated
    if isinstance(policy, EconomicPolicy):
        cost, each = drafts.column(drafts.escalation_cost), drafts.column(drafts.p_large)
        p_large = np.where(np.isnan(each), policy.p_large, each)
        cut = np.clip(p_large - cost / policy.price_of_error, 0.0, 1.0)
        return known & np.isfinite(cost) & (confidence >= cut)
    raise ConfigurationError(
        f"{type(policy).__name__} cannot be replayed on columns: use `replay`, row by row."
    )


@dataclass(frozen=True, slots=True)
class Sweep:
    """What each threshold would have given, (k,) each; costs are sums over the rows."""

    thresholds: Array
    accepted: Array
    quality: Array
    cost: Array
    harm: Array


def sweep(
    thresholds: Sequence[float] | Array,
    confidence: Array,
    small: Array,
    large: Array,
    small_cost: Array,
    large_cost: Array,
) -> Sweep:
    """Many thresholds on one confidence: sorted once, then a look-up each.

    Args:
        thresholds: accepted is what has a confidence of this or more; NaN never is.
        confidence: (n,).
        small: (n,) correctness of the draft.
        large: (n,) correctness of the large model's answer.
        small_cost: (n,) dollars of the draft and its signals, paid for every row.
        large_cost: (n,) dollars of the large model's answer.
    """
    cuts, n = np.asarray(thresholds, dtype=np.float64), len(confidence)
    unknown = np.isnan(confidence)
    order = np.argsort(np.where(unknown, -np.inf, confidence), kind="stable")
    ranked = np.where(unknown, -np.inf, confidence)[order]
    escalated = np.maximum(np.searchsorted(ranked, cuts, side="left"), int(unknown.sum()))

    def up_to(values: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(values[order])])[escalated]

    wrong = 1.0 - small
    return Sweep(
        thresholds=cuts,
        accepted=1.0 - escalated / n,
        quality=(small.sum() + up_to(large - small)) / n,
        cost=small_cost.sum() + up_to(large_cost),
        harm=(wrong.sum() - up_to(wrong)) / n,
    )
