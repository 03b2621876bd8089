"""Recorded rows through the deciding code that runs online, one by one or all at once.

`replay` calls `policy.decide` on a `Situation` per row. `accepts` works out the same decisions
on columns, by the same rule; a test holds the two together. `sweep` tries many thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.policies import (
    CertifiedPolicy,
    DollarBudgetPolicy,
    EconomicPolicy,
    Policy,
    Situation,
    ThresholdPolicy,
)
from cascade.state import Assessment, Decision

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """What a policy may look at, (n,) each; NaN where unknown.

    Attributes:
        confidence: in the drafts.
        calibrated: whether it is a probability.
        escalation_cost: dollars of asking the large model.
        p_large: P(the large model is right) on each question.
        escalation_s: seconds that escalating takes.
    """

    confidence: Array
    calibrated: bool = True
    escalation_cost: Array | None = None
    p_large: Array | None = None
    escalation_s: Array | None = None

    def __len__(self) -> int:
        return len(self.confidence)

    def column(self, values: Array | None) -> Array:
        """A column, all NaN where nothing is known."""
        return np.full(len(self), np.nan) if values is None else values


def situations(rows: Rows) -> list[Situation]:
    """Each row as what a policy sees online."""
    cost, p_large = rows.column(rows.escalation_cost), rows.column(rows.p_large)
    seconds = rows.column(rows.escalation_s)
    return [
        Situation(
            assessment=Assessment(
                confidence=_known(confidence),
                calibrated=rows.calibrated,
                missing="not in the recording" if math.isnan(confidence) else None,
                p_large=_known(large),
            ),
            escalation_cost_usd=None if math.isnan(dollars) else Decimal(str(dollars)),
            escalation_s=_known(wait),
        )
        for confidence, dollars, large, wait in zip(
            rows.confidence.tolist(), cost.tolist(), p_large.tolist(), seconds.tolist(), strict=True
        )
    ]


def replay(policy: Policy, rows: Rows) -> list[Decision]:
    """The decision on each row, by the policy itself."""
    return [policy.decide(situation) for situation in situations(rows)]


def accepts(policy: Policy, rows: Rows) -> Mask:
    """Which rows the policy accepts, all at once.

    Raises:
        ConfigurationError: a policy whose rule is not known here; `replay` takes any.
    """
    known = np.isfinite(rows.confidence)
    confidence = np.nan_to_num(rows.confidence)
    match policy:
        case ThresholdPolicy():
            return np.asarray(known & (confidence >= policy.threshold))
        case CertifiedPolicy():
            above = known & (confidence >= policy.certificate.threshold)
            return np.asarray(above & rows.calibrated)
        case EconomicPolicy():
            wait = policy.price_of_second * np.nan_to_num(rows.column(rows.escalation_s))
            cost = rows.column(rows.escalation_cost)
            cut = _break_even(policy.p_large, rows, (cost + wait) / policy.price_of_error)
            return np.asarray(known & np.isfinite(cost) & (confidence >= cut))
        case DollarBudgetPolicy():
            cost = rows.column(rows.escalation_cost)
            cut = _break_even(policy.p_large, rows, policy.shadow_price * cost)
            return np.asarray(known & (np.isnan(cost) | (confidence >= cut)))
    raise ConfigurationError(
        f"{type(policy).__name__} cannot be replayed on columns: use `replay`, row by row."
    )


def _break_even(p_large: float, rows: Rows, cost_per_error: Array) -> Array:
    """`cascade.policies.rule.break_even` on columns."""
    each = rows.column(rows.p_large)
    known = np.where(np.isnan(each), p_large, each)
    return np.clip(known - cost_per_error, 0.0, 1.0)


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


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
