"""The policies that decide online, over recorded rows: one by one, or all at once on columns.

`replay` calls `policy.decide` on a `Situation` per row. `accepts` works out the same decisions
on columns, by the same rule; a test holds the two together.
"""

from __future__ import annotations

import math
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
