"""The cheapest staged policy within ε of the large model, or the verdict to switch it off.

A stage is a point of decision: after the prompt alone, after the draft, after other cheap models
were asked as well. At each, the expected gain of escalating says whether to accept, escalate, or
pay for the next stage; it is the shared rule with a threshold on p_L − p_S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from cascade.confidence.metrics import Array
from cascade.state import Record

NEVER, ALWAYS = -math.inf, math.inf

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stage:
    """What is known at a point of decision.

    Attributes:
        gain: (n,) expected gain of escalating, as seen here.
        cost: (n,) dollars to get here from the stage before.
        accept_cost: (n,) dollars paid on acceptance only: the draft, where the stage stands
            before it.
    """

    gain: Array
    cost: Array
    accept_cost: Array

    def take(self, rows: NDArray[np.intp]) -> Stage:
        """The stage on some of the rows."""
        return Stage(self.gain[rows], self.cost[rows], self.accept_cost[rows])


class StagedPolicy(Record):
    """Per stage: accept at gain ≤ `accept`, escalate at gain > `escalate`, else go on.

    At the last stage the two are equal. `cost` (relative to the large model alone) and
    `quality_change` are those on the rows that it was chosen on. `off`: the large model answers
    everything, since no threshold on those rows saved money.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    accept: tuple[float, ...]
    escalate: tuple[float, ...]
    cost: float
    quality_change: float
    off: bool = False


OFF = StagedPolicy(accept=(), escalate=(), cost=1.0, quality_change=0.0, off=True)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a policy is chosen.

    Attributes:
        epsilon: how much quality may be lost against the large model.
        caution: z of quality change − z·SE ≥ −ε; 0 takes the estimate as it is.
        margin: z of cost + z·SE < ceiling, so that chance alone does not switch it on.
        ceiling: 1 gives the verdict "off"; more lets a policy lose money, for comparisons.
        grid: shares that leave at an inner stage; few, so that the choice does not overfit.
    """

    epsilon: float = 0.01
    caution: float = 0.0
    margin: float = 1.0
    ceiling: float = 1.0
    grid: tuple[float, ...] = (0.0, 0.15, 0.3, 0.5, 0.7)


def replay_staged(
    policy: StagedPolicy, stages: Sequence[Stage], large_cost: Array
) -> tuple[Mask, Array]:
    """(accepted, cost) per row; an escalated row also pays for the stages it went through."""
    n = len(large_cost)
    accepted, undecided, cost = np.zeros(n, bool), np.ones(n, bool), np.zeros(n)
    if policy.off:
        return accepted, large_cost.astype(np.float64)
    for stage, accept, escalate in zip(stages, policy.accept, policy.escalate, strict=True):
        cost += np.where(undecided, stage.cost, 0.0)
        taken = undecided & (stage.gain <= accept)
        cost += np.where(taken, stage.accept_cost, 0.0)
        accepted |= taken
        undecided &= (stage.gain > accept) & (stage.gain <= escalate)
    return accepted, cost + np.where(accepted, 0.0, large_cost)


def choose_policy(
    stages: Sequence[Stage], small: Array, large: Array, large_cost: Array, rule: Rule
) -> StagedPolicy:
    """The cheapest policy within ε of the large model on these rows, or `OFF`.

    Args:
        stages: in order, with cross-fitted gains: a head is too sure of rows that fitted it.
        small: (n,) correctness.
        large: (n,) correctness.
        large_cost: (n,) dollars.
        rule: what "within" and "cheaper" mean.
    """
    best = OFF
    before_the_draft = len(stages) > 1 and not np.any(stages[0].cost)
    exits = [
        _exits(stage, rule, only_escalate=before_the_draft and i == 0)
        for i, stage in enumerate(stages[:-1])
    ]
    for cuts in product(*exits):
        found = _sweep(stages, cuts, small, large, large_cost, rule)
        if found is not None and found.cost < (rule.ceiling if best is OFF else best.cost):
            best = found
    return best


def _exits(stage: Stage, rule: Rule, *, only_escalate: bool) -> list[tuple[float, float]]:
    """Pairs (accept, escalate) of an inner stage: quantiles from below and from above."""
    highs = [ALWAYS if s == 0 else float(np.quantile(stage.gain, 1 - s)) for s in rule.grid]
    if only_escalate:
        return [(NEVER, high) for high in highs]
    lows = [NEVER if s == 0 else float(np.quantile(stage.gain, s)) for s in rule.grid]
    return [(low, high) for low in lows for high in highs if low <= high]


def _sweep(
    stages: Sequence[Stage],
    cuts: Sequence[tuple[float, float]],
    small: Array,
    large: Array,
    large_cost: Array,
    rule: Rule,
) -> StagedPolicy | None:
    """The best last threshold, swept over every row that is still undecided there."""
    n, lost = len(small), small - large
    accept, escalate = tuple(low for low, _ in cuts), tuple(high for _, high in cuts)
    head = StagedPolicy(
        accept=(*accept, NEVER), escalate=(*escalate, NEVER), cost=0.0, quality_change=0.0
    )
    sure, cost = replay_staged(head, stages, large_cost)
    undecided = np.ones(n, bool)
    for stage, (low, high) in zip(stages, cuts, strict=False):
        undecided &= (stage.gain > low) & (stage.gain <= high)
    rows = np.flatnonzero(undecided)
    rows = rows[np.argsort(stages[-1].gain[rows], kind="stable")]
    quality = _grown(lost[sure].sum(), lost[rows]) / n
    square = _grown((lost[sure] ** 2).sum(), lost[rows] ** 2) / n
    error = np.sqrt(np.maximum(square - quality**2, 1.0 / n**2) / n)
    total = _grown(cost.sum(), (stages[-1].accept_cost - large_cost)[rows]) / large_cost.sum()
    accepted = (sure.sum() + np.arange(len(rows) + 1)) / n
    cost_error = np.sqrt(np.maximum(accepted * (1 - accepted), 1.0 / n) / n)
    last = stages[-1].gain[rows]
    allowed = _ends_of_ties(last) & (quality - rule.caution * error >= -rule.epsilon)
    allowed &= total + rule.margin * cost_error < rule.ceiling
    if not allowed.any():
        return None
    at = int(np.flatnonzero(allowed)[np.argmin(total[allowed])])
    cut = float(last[at - 1]) if at else NEVER
    return StagedPolicy(
        accept=(*accept, cut),
        escalate=(*escalate, cut),
        cost=float(total[at]),
        quality_change=float(quality[at]),
    )


def _grown(first: float, values: Array) -> Array:
    return np.asarray(first + np.concatenate([[0.0], np.cumsum(values)]), dtype=np.float64)


def _ends_of_ties(ranked: Array) -> Mask:
    """Where a threshold may stand among 0, 1, … accepted rows: equal gains go together."""
    if not len(ranked):
        return np.array([True])
    return np.concatenate([[True], np.append(np.diff(ranked) > 0, True)])
