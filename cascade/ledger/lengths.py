"""Learns how long the large model's answers are, from audits and, where they help, escalations.

Pure Python, so that a running cascade can learn as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cascade.ledger.baseline import AS_DRAFT, LEAST_AUDITS, BaselineModel, check_lengths

PRIOR = 2.0
"""Rows that the prior (as long as the draft) counts for in each slope."""

Row = tuple[float, float]
"""log(draft) and log(prompt)."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts, drafts and large answers; one weight per row, 1/P(row was seen).

    Raises:
        ConfigurationError: the columns have different lengths.
    """

    prompt: Sequence[float]
    draft: Sequence[float]
    large: Sequence[float]
    weight: Sequence[float]

    def __post_init__(self) -> None:
        check_lengths(len(self.prompt), len(self.draft), len(self.large), len(self.weight))


def fit_baseline(audits: Lengths, escalated: Lengths | None = None) -> BaselineModel:
    """Weighted ridge regression of the log length; split conformal range from held-out audits.

    Escalated requests are harder and longer. Where the chance of their being escalated is known,
    its inverse is their weight; where it was a bare threshold it is 1, and then only the audits,
    through the difference estimator of `saving`, take the bias out.
    With escalated rows, all audits calibrate the range; otherwise every second one does.
    """
    n = len(audits.large)
    held = [i for i in range(n) if escalated is not None or i % 2 == 0]
    parts = [_take(audits, sorted(set(range(n)) - set(held)))]
    parts += [] if escalated is None else [escalated]
    x = [row for part in parts for row in _design(part)]
    y = [_log(large) for part in parts for large in part.large]
    w = [weight for part in parts for weight in part.weight]
    if not y:
        return AS_DRAFT.model_copy(update={"audits": n})
    a, b, c = _ridge(x, y, w)
    fitted = [a + b * draft + c * prompt for draft, prompt in x]
    smear = _mean([math.exp(one - at) for one, at in zip(y, fitted, strict=True)], w)
    expected = [math.exp(a + b * draft + c * prompt) * smear for draft, prompt in _design(audits)]
    ratios = [max(one, 1) / at for one, at in zip(audits.large, expected, strict=True)]
    return BaselineModel(
        coefficients=(a, b, c),
        smear=smear,
        ratios=_conformal([(ratios[i], audits.weight[i]) for i in held]),
        audits=n,
        escalated=0 if escalated is None else len(escalated.large),
    )


def _conformal(held: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """2.5 % quantile at either end of the weighted ratios, with the next one's mass beyond them.

    Weighted split conformal prediction (arXiv 1904.06019); the new draft's own weight is taken
    to be the largest seen.
    """
    if len(held) < LEAST_AUDITS:
        return None
    total = math.fsum(weight for _, weight in held) + max(weight for _, weight in held)
    low = _reached(sorted(held, key=lambda pair: -pair[0]), total)
    high = _reached(sorted(held, key=lambda pair: pair[0]), total)
    return None if low is None or high is None else (low, high)


def _reached(ranked: Sequence[tuple[float, float]], total: float) -> float | None:
    """The ratio at which 97.5 % of the mass is reached."""
    mass = 0.0
    for ratio, weight in ranked:
        mass += weight
        if mass / total >= 0.975 - 1e-12:
            return ratio
    return None


def _ridge(x: Sequence[Row], y: Sequence[float], w: Sequence[float]) -> tuple[float, float, float]:
    """Intercept and two slopes; the prior's are 1 (as the draft) and 0."""
    rest = [target - draft for target, (draft, _) in zip(y, x, strict=True)]
    mean_draft, mean_prompt = _mean([d for d, _ in x], w), _mean([p for _, p in x], w)
    mean_rest, mean_weight = _mean(rest, w), math.fsum(w) / len(w)
    rows = [
        (weight / mean_weight, draft - mean_draft, prompt - mean_prompt, one - mean_rest)
        for (draft, prompt), one, weight in zip(x, rest, w, strict=True)
    ]
    dd = math.fsum(u * d * d for u, d, _, _ in rows) + PRIOR
    dp = math.fsum(u * d * p for u, d, p, _ in rows)
    pp = math.fsum(u * p * p for u, _, p, _ in rows) + PRIOR
    dr = math.fsum(u * d * r for u, d, _, r in rows)
    pr = math.fsum(u * p * r for u, _, p, r in rows)
    determinant = dd * pp - dp * dp
    on_draft = (pp * dr - dp * pr) / determinant
    on_prompt = (dd * pr - dp * dr) / determinant
    first = mean_rest - mean_draft * on_draft - mean_prompt * on_prompt
    return first, 1.0 + on_draft, on_prompt


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    products = math.fsum(v * w for v, w in zip(values, weights, strict=True))
    return products / math.fsum(weights)


def _design(rows: Lengths) -> list[Row]:
    pairs = zip(rows.draft, rows.prompt, strict=True)
    return [(_log(draft), _log(prompt)) for draft, prompt in pairs]


def _log(tokens: float) -> float:
    return math.log(max(tokens, 1.0))


def _take(rows: Lengths, chosen: Sequence[int]) -> Lengths:
    columns = (rows.prompt, rows.draft, rows.large, rows.weight)
    return Lengths(*([column[i] for i in chosen] for column in columns))
