"""Fits the large model's output length on audits, and on escalated requests where they help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cascade.confidence.metrics import Array
from cascade.ledger.baseline import AS_DRAFT, LEAST_AUDITS, BaselineModel, check_lengths

PRIOR = 2.0
"""Rows that the prior (as long as the draft) counts for in each slope."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts, drafts and large answers; one weight per row, 1/P(row was seen)."""

    prompt: Array
    draft: Array
    large: Array
    weight: Array

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
    held = np.arange(n) % 2 == 0 if escalated is None else np.ones(n, dtype=bool)
    parts = [_take(audits, ~held)] + ([] if escalated is None else [escalated])
    x = np.vstack([_design(part) for part in parts])
    y = np.concatenate([_log(part.large) for part in parts])
    w = np.concatenate([part.weight for part in parts])
    if not len(y):
        return AS_DRAFT.model_copy(update={"audits": n})
    a, b, c = _ridge(x, y, w)
    smear = float(np.average(np.exp(y - x @ np.array([a, b, c])), weights=w))
    fitted = np.exp(_design(audits) @ np.array([a, b, c])) * smear
    return BaselineModel(
        coefficients=(a, b, c),
        smear=smear,
        ratios=_conformal((np.maximum(audits.large, 1) / fitted)[held], audits.weight[held]),
        audits=n,
        escalated=0 if escalated is None else len(escalated.large),
    )


def _conformal(ratios: Array, weight: Array) -> tuple[float, float] | None:
    """2.5 % quantile at either end of the weighted ratios, with the next one's mass beyond them.

    Weighted split conformal prediction (arXiv 1904.06019); the new draft's own weight is taken
    to be the largest seen.
    """
    if len(ratios) < LEAST_AUDITS:
        return None
    order = np.argsort(ratios)
    ranked, mass = ratios[order], weight[order]
    total = mass.sum() + mass.max()
    high = np.flatnonzero(np.cumsum(mass) / total >= 0.975 - 1e-12)
    low = np.flatnonzero(np.cumsum(mass[::-1]) / total >= 0.975 - 1e-12)
    if not len(high) or not len(low):
        return None
    return float(ranked[::-1][low[0]]), float(ranked[high[0]])


def _ridge(x: Array, y: Array, w: Array) -> tuple[float, float, float]:
    prior = np.array([0.0, 1.0, 0.0])
    center = np.average(x, axis=0, weights=w)
    off, rest = x[:, 1:] - center[1:], y - x @ prior
    w = w / w.mean()
    gram = (off * w[:, None]).T @ off + PRIOR * np.eye(2)
    slopes = np.linalg.solve(gram, off.T @ (w * (rest - np.average(rest, weights=w))))
    first = float(np.average(rest, weights=w) - center[1:] @ slopes)
    return first, 1.0 + float(slopes[0]), float(slopes[1])


def _design(rows: Lengths) -> Array:
    return np.column_stack([np.ones(len(rows.draft)), _log(rows.draft), _log(rows.prompt)])


def _log(values: Array) -> Array:
    return np.asarray(np.log(np.maximum(values, 1.0)))


def _take(rows: Lengths, chosen: Array | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Lengths:
    mask = np.asarray(chosen, dtype=bool)
    return Lengths(rows.prompt[mask], rows.draft[mask], rows.large[mask], rows.weight[mask])
