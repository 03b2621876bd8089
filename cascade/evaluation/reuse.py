"""What it is worth to show the large model the draft, against letting it write anew; recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cascade._words import table
from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.evaluation.metrics import Interval, bootstrap
from cascade.evaluation.recorded import Rows
from cascade.evaluation.text import percent, points
from cascade.evaluation.transcripts import Outcome, Transcript
from cascade.policies.reuse import Reuse
from cascade.state import Record

LEAST_REVIEWS = 20
"""Fewer questions say nothing about either side."""


def with_draft(large: str) -> str:
    """The name under which a transcript has the outcome of a large model that saw the draft."""
    return f"{large}+draft"


class Reviews(Record):
    """Writing anew against approving or correcting, on the same questions.

    Attributes:
        n: questions that have all three outcomes with their costs.
        approved: share of them whose draft the large model let stand.
        approved_right: share of the approved drafts that are right; None where there are none.
        anew, with_draft: share of right answers.
        quality: their difference.
        cost: of the calls with the draft, as a share of those without.
        evidence: for `Cascade(reuse=…)`.
    """

    n: int
    approved: Interval
    approved_right: float | None
    anew: Interval
    with_draft: Interval
    quality: Interval
    cost: Interval
    evidence: Reuse


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
    tolerance: float = 0.01,
    seed: int = 0,
) -> Reviews:
    """Compare the two ways to answer escalated questions.

    Args:
        rows: of which those count that have both ways.
        small: the model that drafted.
        large: the model that answered anew, and with the draft.
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
    return Reviews(n=len(found), approved_right=approved_right, evidence=evidence, **figures)


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


def render(found: Reviews) -> str:
    """The comparison as text."""
    rows = [
        ("writing anew", percent(found.anew), "100.0%"),
        ("with the draft", percent(found.with_draft), percent(found.cost)),
        ("difference, points", points(found.quality), ""),
    ]
    right = "" if found.approved_right is None else f", {found.approved_right:.1%} of them right"
    return "\n".join(
        [
            f"{found.evidence.verdict[0].upper()}{found.evidence.verdict[1:]}.",
            table((f"{found.n} questions", "right answers", "cost"), rows),
            f"drafts approved: {percent(found.approved)}{right}",
        ]
    )
