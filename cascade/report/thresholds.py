"""What the requests of a ledger would have cost with another threshold, and what was known of it.

Every threshold goes through the estimators of the report, on the same requests: those whose answer
would have come from the other model are moved, all others stay as they were. At the decisions that
were made this gives the figures of the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Literal

import numpy as np

from cascade.evaluation.audit.estimates import Estimate
from cascade.evaluation.replay import Rows, accepts
from cascade.ledger.amounts import EXACT
from cascade.policies import ThresholdPolicy
from cascade.report.figures import accepted, account, can_be_audited, escalation, quality
from cascade.report.making import total_of
from cascade.report.reading import Books, Row
from cascade.report.records import Quality, Rate
from cascade.state import Record

MOST_ROWS = 3_000
"""Decided requests that are looked at, the latest ones."""

STEPS = 51
"""Thresholds that are tried: quantiles of the confidences, so that each step moves as many."""

BINS = 20

_MOVABLE = ("accepted", "escalated", "shadow")

Source = Literal["audits", "audits and calibration", "calibration", "nothing"]


class Harm(Record):
    """P(accepted and wrong) per request.

    Attributes:
        value: None where drafts would be accepted of which nobody compared any, and their
            confidence is no probability.
        low, high: 95 %, where drafts that nobody compared may all be right, or all wrong.
        source: where it comes from: audits, 1 − calibrated confidence, both, or nothing.
    """

    value: float | None
    low: float
    high: float
    source: Source


class Choice(Record):
    """What a threshold would have given.

    Attributes:
        threshold: accepted is what has this confidence or more; None for the decisions made.
        escalated: share of the requests that would have gone to the large model.
        cost_usd: all spent; where the large model was not asked, what it is predicted to cost.
        saving, share: against the large model alone, in dollars and of its bill.
        quality: of accepted drafts that were audited, as in the report; None where none was.
        harm: accepted and wrong.
        unjudged: share of the requests that would be accepted and for which no audit stands.
    """

    threshold: float | None
    escalated: Rate
    cost_usd: float
    saving: Estimate
    share: Estimate
    quality: Quality | None
    harm: Harm
    unjudged: float


class Bin(Record):
    """How many drafts had a confidence from `low` to `high`, by what became of them."""

    low: float
    high: float
    accepted: int
    escalated: int


class Thresholds(Record):
    """What every threshold would have given on the decided requests of a ledger.

    Attributes:
        requests: that were looked at; `left_out` earlier ones were not.
        calibrated: share of the confidences that are probabilities.
        audits: audited or compared drafts among them.
        made: what the decisions that were made gave.
        choices: by rising threshold.
        confidences: how many drafts had which confidence.
    """

    requests: int
    left_out: int
    calibrated: float
    audits: int
    made: Choice
    choices: tuple[Choice, ...]
    confidences: tuple[Bin, ...]


def thresholds_of(books: Books, *, most: int = MOST_ROWS) -> Thresholds | None:
    """What every threshold would have given; None where no draft was decided about.

    Args:
        books: of a ledger.
        most: of the latest requests; where there are more, only what these cost counts.
    """
    everything = books.runs()
    rows = everything[-most:]
    movable = [row for row in rows if _movable(row)]
    if not any(row.confidence is not None for row in movable):
        return None
    spent = total_of(books).spent
    if len(rows) < len(everything):
        spent = _sum(row.paid for row in rows)
    known = [row.confidence for row in movable if row.confidence is not None]
    confidences = np.array([np.nan if r.confidence is None else r.confidence for r in movable])
    rest = [row for row in rows if not _movable(row)]
    made = _choice(None, rows, spent)
    choices = []
    edges = [r.confidence for r in movable if r.outcome == "accepted" and r.confidence is not None]
    for threshold in _cuts(known, edges):
        policy = ThresholdPolicy(threshold=threshold)
        taken = accepts(policy, Rows(confidence=confidences)).tolist()
        moved, more = _moved(movable, taken)
        choices.append(_choice(threshold, [*rest, *moved], EXACT.add(spent, more)))
    return Thresholds(
        requests=len(rows),
        left_out=len(everything) - len(rows),
        calibrated=sum(row.calibrated for row in movable if row.confidence is not None)
        / len(known),
        audits=sum(row.loss is not None or row.beside is not None for row in movable),
        made=made,
        choices=tuple(choices),
        confidences=_bins(movable),
    )


def _movable(row: Row) -> bool:
    """Whether another threshold could have decided otherwise, or sent it the same way."""
    if row.outcome not in _MOVABLE or row.reviewed:
        return False
    return row.outcome != "accepted" or None not in (row.confidence, _large(row))


def _large(row: Row) -> Decimal | None:
    """What the large model cost, or would have."""
    if row.outcome != "accepted":
        return row.measured
    return row.predicted if row.large is None else row.large


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def _cuts(confidences: Sequence[float], taken: Sequence[float]) -> list[float]:
    """Thresholds from accepting every draft to accepting hardly any, and the least that was
    accepted: where one threshold decided, that repeats its decisions.
    """
    ends = np.quantile(confidences, np.linspace(0.0, 1.0, STEPS), method="lower")
    found = {0.0, *np.clip(ends, 0.0, 1.0).tolist(), 1.0}
    return sorted(found | {min(max(least, 0.0), 1.0) for least in [min(taken, default=1.0)]})


def _moved(rows: Sequence[Row], taken: Sequence[bool]) -> tuple[list[Row], Decimal]:
    """The rows as they would have been, and what would have been spent more."""
    moved, more = [], Decimal(0)
    for row, accept in zip(rows, taken, strict=True):
        large = _large(row)
        if accept == (row.outcome == "accepted") or large is None:
            moved.append(row)
        elif accept:
            more = EXACT.subtract(more, large)
            moved.append(_accepted(row, large))
        else:
            # The call of an audit becomes that of the escalation: it is paid already.
            more = more if row.large is not None else EXACT.add(more, large)
            moved.append(_escalated(row, large))
    return moved, more


def _accepted(row: Row, large: Decimal) -> Row:
    """As if its draft had been accepted: what the large model cost is known all the same."""
    compared = row.beside is not None
    return replace(
        row,
        outcome="accepted",
        measured=EXACT.subtract(row.measured, large),
        large=large,
        predicted=large,
        loss=row.beside,
        # Each of them was compared, whatever the draft was like.
        rate=1.0 if compared else None,
        expert=None,
    )


def _escalated(row: Row, large: Decimal) -> Row:
    """As if the large model had been asked."""
    return replace(
        row,
        outcome="escalated",
        measured=EXACT.add(row.measured, large),
        large=None,
        loss=None,
        predicted=None,
        rate=None,
    )


def _choice(threshold: float | None, rows: Sequence[Row], spent: Decimal) -> Choice:
    saved, _ = account(rows, spent)
    rate = escalation([_as_live(row) for row in rows])
    found = quality(rows)
    drafts = accepted(rows)
    blind = [row for row in drafts if not can_be_audited(row)]
    judged = found is not None and (not drafts or found.error_rate.audits > 0)
    unjudged = blind if judged else drafts
    assert rate is not None, "there are decided requests"
    return Choice(
        threshold=threshold,
        escalated=rate,
        cost_usd=float(spent),
        saving=saved.saving,
        share=saved.share,
        quality=found if judged else None,
        harm=_harm(found if judged else None, drafts, unjudged, rate.n),
        unjudged=len(unjudged) / rate.n,
    )


def _as_live(row: Row) -> Row:
    """A shadow run, for the share that goes to the large model: that answered it."""
    return replace(row, outcome="escalated") if row.outcome == "shadow" else row


def _harm(
    found: Quality | None, drafts: Sequence[Row], unjudged: Sequence[Row], requests: int
) -> Harm:
    if not drafts:
        return Harm(value=0.0, low=0.0, high=0.0, source="nothing")
    open_share = len(unjudged) / requests
    judged_share = (len(drafts) - len(unjudged)) / requests
    wrong = (0.0, 0.0, 0.0)
    if found is not None:
        errors = found.error_rate
        wrong = (errors.value, errors.low, errors.high)
    guess = _by_calibration(unjudged)
    known: Source = "audits" if judged_share else "nothing"
    if unjudged and guess is not None:
        known = "audits and calibration" if judged_share else "calibration"
    value = None if guess is None else wrong[0] * judged_share + guess / requests
    return Harm(
        value=value,
        low=wrong[1] * judged_share,
        high=min(1.0, wrong[2] * judged_share + open_share),
        source=known,
    )


def _by_calibration(rows: Sequence[Row]) -> float | None:
    """How many of these drafts are expected to be wrong: Σ (1 − p); None where p is unknown."""
    sure = [row.confidence for row in rows if row.confidence is not None and row.calibrated]
    return None if len(sure) < len(rows) else float(sum(1.0 - p for p in sure))


def _bins(rows: Sequence[Row]) -> tuple[Bin, ...]:
    edges = np.linspace(0.0, 1.0, BINS + 1)

    def counts(outcomes: Sequence[str]) -> list[int]:
        values = [r.confidence for r in rows if r.outcome in outcomes and r.confidence is not None]
        counted: list[int] = np.histogram(np.clip(values, 0.0, 1.0), edges)[0].tolist()
        return counted

    columns = zip(
        edges[:-1].tolist(),
        edges[1:].tolist(),
        counts(("accepted",)),
        counts(("escalated", "shadow")),
        strict=True,
    )
    return tuple(Bin(low=a, high=b, accepted=n, escalated=m) for a, b, n, m in columns)
