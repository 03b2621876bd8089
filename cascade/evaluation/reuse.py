"""What it is worth to show the large model the draft, against letting it write anew; recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import Interval, bootstrap
from cascade.evaluation.recorded import Rows
from cascade.evaluation.report import Reviews
from cascade.evaluation.transcripts import Outcome, Transcript
from cascade.policies.reuse import Reuse

if TYPE_CHECKING:
    from cascade.evaluation.evaluating import Study
    from cascade.evaluation.study import FittedPolicy

LEAST_REVIEWS = 20
"""Fewer questions say nothing about either side."""


def with_draft(large: str) -> str:
    """The name under which a transcript has the outcome of a large model that saw the draft."""
    return f"{large}+draft"


def reviewed(rows: Iterable[Transcript], small: str, large: str) -> list[Transcript]:
    """The rows that have both ways with their costs."""
    found = []
    for row in rows:
        names = (small, large, with_draft(large))
        outcomes = [row.models[name] for name in names if name in row.models]
        costs = [outcome.cost_usd for outcome in outcomes[1:]]
        if len(outcomes) == len(names) and None not in costs and _says(outcomes[-1]):
            found.append(row)
    return found


def _says(outcome: Outcome) -> bool:
    return outcome.approved is not None and outcome.instruction is not None


def compare(
    rows: Iterable[Transcript],
    small: str,
    large: str,
    *,
    escalated: bool = False,
    tolerance: float = 0.01,
    seed: int = 0,
) -> Reviews:
    """Compare the two ways to answer escalated questions.

    Args:
        rows: of which those count that have both ways.
        small: the model that drafted.
        large: the model that answered anew, and with the draft.
        escalated: whether the rows are those that a cascade would have escalated.
        tolerance: quality that may be lost.
        seed: of the bootstrap.

    Raises:
        ConfigurationError: too few rows, or costs that are all nothing, or two instructions.
    """
    found = reviewed(rows, small, large)
    if len(found) < LEAST_REVIEWS:
        raise ConfigurationError(
            f"{len(found)} rows have {small!r}, {large!r} and {with_draft(large)!r} with "
            f"`approved`, `instruction` and costs; a comparison needs {LEAST_REVIEWS} at least. "
            "docs/reuse.md says how they are recorded."
        )
    shown = [row.models[with_draft(large)] for row in found]
    versions = {outcome.instruction for outcome in shown}
    if len(versions) > 1:
        raise ConfigurationError(
            f"the drafts were shown with the instructions {sorted(map(str, versions))}: compare "
            "one at a time."
        )
    figures = _figures(found, shown, large, seed)
    rights = [outcome.correct for outcome in shown if outcome.approved]
    quality, cost = figures["quality"], figures["cost"]
    evidence = Reuse(
        small=small,
        large=large,
        version=versions.pop() or 0,
        n=len(found),
        approval_rate=figures["approved"].value,
        quality=quality,
        cost=(cost.value - 1, cost.low - 1, cost.high - 1),
        tolerance=tolerance,
    )
    approved_right = sum(rights) / len(rights) if rights else None
    return Reviews(
        n=len(found),
        escalated=escalated,
        approved_right=approved_right,
        evidence=evidence,
        **figures,
    )


def compare_escalated(study: Study, best: FittedPolicy) -> Reviews | None:
    """Compare on what the recommended shape escalates in the test part, where that was recorded
    often enough; else on all rows that have both ways. None where too few have.

    Args:
        study: of recorded rows.
        best: what is recommended.
    """
    recorded, options = study.recorded, study.options
    accepted, _ = study.replayed[best.shape]
    up = [recorded.rows[i] for i, kept in zip(study.test, accepted, strict=True) if not kept]
    pair = (recorded.small, recorded.large)
    given: dict[str, Any] = {"tolerance": options.epsilon, "seed": options.seed}
    if len(reviewed(up, *pair)) >= LEAST_REVIEWS:
        return compare(up, *pair, escalated=True, **given)
    if len(reviewed(recorded.rows, *pair)) >= LEAST_REVIEWS:
        return compare(recorded.rows, *pair, **given)
    return None


def _figures(
    rows: Sequence[Transcript], shown: Sequence[Outcome], large: str, seed: int
) -> dict[str, Interval]:
    anew = [row.models[large] for row in rows]
    columns = np.array(
        [
            (a.correct, r.correct, a.cost_usd or 0.0, r.cost_usd or 0.0, float(bool(r.approved)))
            for a, r in zip(anew, shown, strict=True)
        ]
    )
    if not columns[:, 2].sum() > 0:
        raise ConfigurationError(
            f"all answers of {large} cost nothing: give its tier a price when they are recorded."
        )

    def by_weight(chosen: Rows, weight: Array) -> Mapping[str, Array]:
        means = weight @ columns[chosen] / weight.sum(axis=-1, keepdims=True)
        return {
            "anew": means[:, 0],
            "with_draft": means[:, 1],
            "quality": means[:, 1] - means[:, 0],
            "cost": means[:, 3] / means[:, 2],
            "approved": means[:, 4],
        }

    return bootstrap(by_weight, len(rows), seed=seed)
