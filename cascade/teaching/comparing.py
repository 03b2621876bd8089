"""What a new small model is worth beside the old one, on the same questions. numpy only.

Questions stand for requests to come, each by its weight. `large` is the reference: what it would
have answered is right by 1 unless the rows say otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cascade.confidence.calibrators import logit
from cascade.confidence.fitting import fit_temperature
from cascade.confidence.metrics import Array
from cascade.errors import ConfigurationError
from cascade.evaluation.audit.design import audits_needed
from cascade.evaluation.audit.intervals import Sample, adjusted, degrees, hajek_mean
from cascade.evaluation.metrics import Interval
from cascade.evaluation.replay import Mask, Rows, accepts
from cascade.policies import ThresholdPolicy
from cascade.state import Record

LEAST = 30
"""With fewer questions nothing is said, whatever they show."""

LEAST_FITTED = 10
"""Right and wrong answers, of each, from which a confidence is fitted anew."""

FOLDS = 5

_TINY_RATE = 1e-9
"""Questions are a sample of requests to come, a population without end."""

Verdict = Literal["switch", "keep the old one", "cannot tell"]
Way = Literal["recalibrated", "threshold"]
"""How drafts are accepted: at the same probability of being right, fitted anew for each model on
rows that it is not used on; or at the same raw score."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one model, (n,) each.

    Attributes:
        correct: from 0 to 1, against the reference.
        confidence: a raw score or a probability; NaN where there is none.
        cost: of drafts with their checks; NaN where nobody knows.
    """

    correct: Array
    confidence: Array
    cost: Array


@dataclass(frozen=True, slots=True)
class Paired:
    """The same questions, answered by the old model and by the new one.

    Attributes:
        weight: (n,) how many requests each stands for.
        large_cost: (n,) of the large model; NaN where nobody knows.
        large_correct: (n,).
        represents: whether the weights stand for all requests, and not for escalated ones alone.
    """

    old: Answers
    new: Answers
    weight: Array
    large_cost: Array
    large_correct: Array
    represents: bool

    def __len__(self) -> int:
        return len(self.weight)


class Model(Record):
    """Figures of one model under the policy, each with its 95 % interval.

    Attributes:
        accuracy: of its drafts.
        escalated: share of the requests.
        saving: per request, against the large model alone.
        quality: of what users would get.
    """

    accuracy: Interval
    escalated: Interval
    saving: Interval
    quality: Interval


class Comparison(Record):
    """The new model beside the old one.

    Attributes:
        n: questions; `effective` is how many equally weighted ones say as much (Kish).
        unit: of the savings; `calls` of the large model where some cost is unknown.
        way: how drafts were accepted, and `threshold` from where on.
        difference: new less old, paired.
        more: how many more questions would probably decide it; 0 when it is decided.
    """

    n: int
    effective: float
    represents: bool
    unit: Literal["dollars", "calls"]
    way: Way
    threshold: float
    old: Model
    new: Model
    difference: Model
    verdict: Verdict
    reason: str
    more: int = 0


def compare(
    rows: Paired, *, threshold: float = 0.8, way: Way = "recalibrated", within: float = 0.01
) -> Comparison:
    """Both models under the same policy, and whether to switch.

    Switch where the new one certainly saves more, and answers are certainly not worse by more than
    `within`; keep the old one where one of both is certainly not so.

    Args:
        rows: at least two.
        threshold: of the confidence, from which drafts are accepted.
        way: whether the confidence is fitted anew for each model.
        within: quality per request that may be lost against the old model.

    Raises:
        ConfigurationError: too few rows, or a value out of its range.
    """
    if not 0 <= threshold <= 1 or not 0 <= within < 1:
        raise ConfigurationError(f"threshold={threshold:g}, within={within:g}: shares from 0 to 1.")
    if len(rows) < 2:
        raise ConfigurationError(f"{len(rows)} questions with both answers: give at least 2.")
    way = way if way == "threshold" or _fittable(rows) else "threshold"
    by_calls = bool(np.isnan(np.r_[rows.old.cost, rows.new.cost, rows.large_cost]).any())
    large = np.ones(len(rows)) if by_calls else rows.large_cost
    values = [
        _values(answers, rows, large, _accepted(answers, way, threshold), by_calls)
        for answers in (rows.old, rows.new)
    ]
    most = float(max(1e-12, large.max()))
    difference = {name: values[1][name] - values[0][name] for name in values[0]}
    verdict, reason, more = _judge(difference, rows, within)
    sample = _sample(rows)
    return Comparison(
        n=len(rows),
        effective=degrees(sample) + 1,
        represents=rows.represents,
        unit="calls" if by_calls else "dollars",
        way=way,
        threshold=threshold,
        old=_model(values[0], sample, 0.0, most),
        new=_model(values[1], sample, 0.0, most),
        difference=_model(difference, sample, -1.0, most),
        verdict=verdict,
        reason=reason,
        more=more,
    )


def _fittable(rows: Paired) -> bool:
    return all(
        min((each.correct > 0.5).sum(), (each.correct <= 0.5).sum()) >= LEAST_FITTED
        and not np.isnan(each.confidence).all()
        for each in (rows.old, rows.new)
    )


def _accepted(answers: Answers, way: Way, threshold: float) -> Mask:
    confidence = answers.confidence
    if way == "recalibrated":
        known = np.isfinite(confidence)
        confidence = np.where(known, _fitted(np.where(known, confidence, 0.5), answers), np.nan)
    return accepts(ThresholdPolicy(threshold), Rows(confidence))


def _fitted(confidence: Array, answers: Answers) -> Array:
    """P(correct) of each row by a slope and a shift that were fitted without it, in five parts with
    as many right answers each; for a threshold on one score no richer calibrator is needed."""
    part = np.empty(len(confidence), dtype=np.intp)
    part[np.argsort(answers.correct, kind="stable")] = np.arange(len(confidence)) % FOLDS
    columns, fitted = logit(confidence)[:, None], np.empty(len(confidence))
    for held in (part == fold for fold in range(FOLDS)):
        calibrator = fit_temperature(columns[~held], answers.correct[~held])
        fitted[held] = calibrator.predict(columns[held])
    return fitted


def _values(
    answers: Answers, rows: Paired, large: Array, accepted: Mask, by_calls: bool
) -> dict[str, Array]:
    cost = 0.0 if by_calls else answers.cost
    return {
        "accuracy": answers.correct,
        "escalated": np.asarray(1.0 - accepted, dtype=np.float64),
        "saving": accepted * large - cost,
        "quality": np.where(accepted, answers.correct, rows.large_correct).astype(np.float64),
    }


def _sample(rows: Paired) -> Sample:
    rates = _TINY_RATE * rows.weight.min() / rows.weight
    return Sample(rates, np.ones(len(rows), dtype=np.bool_))


def _model(values: dict[str, Array], sample: Sample, lowest: float, most: float) -> Model:
    return Model(
        **{
            name: _interval(each, sample, (-most, most) if name == "saving" else (lowest, 1.0))
            for name, each in values.items()
        }
    )


def _interval(values: Array, sample: Sample, limits: tuple[float, float]) -> Interval:
    low, high = min(limits[0], float(values.min())), max(limits[1], float(values.max()))
    return Interval(hajek_mean(values, sample), *adjusted(values, sample, (low, high)))


def _judge(difference: dict[str, Array], rows: Paired, within: float) -> tuple[Verdict, str, int]:
    sample = _sample(rows)
    effective = degrees(sample) + 1
    if not rows.represents:
        why = (
            "these are questions that the old model was unsure of, and not how questions come: "
            "give --evaluation, or a ledger with audits"
        )
        return "cannot tell", why, max(0, LEAST - len(rows))
    if effective < LEAST:
        more = max(1, int(np.ceil((LEAST - effective) * len(rows) / effective - 1e-3)))
        return "cannot tell", f"they say as much as {effective:.0f} questions of {LEAST}", more
    most = float(max(1e-12, np.abs(difference["saving"]).max()))
    quality = _interval(difference["quality"], sample, (-1.0, 1.0))
    saving = _interval(difference["saving"], sample, (-most, most))
    if quality.high < -within:
        return "keep the old one", f"answers get worse by at least {-quality.high:.1%}", 0
    if saving.high <= 0:
        return "keep the old one", "the new one saves less", 0
    if quality.low >= -within and saving.low > 0:
        return (
            "switch",
            f"it saves more, and answers get worse by {max(0.0, -quality.low):.1%} at most",
            0,
        )
    return (
        "cannot tell",
        "the intervals still hold both answers",
        _more(difference, sample, (quality, saving), within),
    )


def _more(
    difference: dict[str, Array], sample: Sample, found: tuple[Interval, Interval], within: float
) -> int:
    """3.84·Var/h² questions, h being how far a figure is from its limit; at least one more.

    Where all agree, other values may still be there in a share of ln(40)/n, which is to be below h.
    """
    quality, saving = found
    scale = float(max(1e-12, np.abs(difference["saving"]).max()))
    n, effective = len(sample), degrees(sample) + 1
    wanted = 0.0
    for values, gap in (
        (difference["quality"], quality.value + within),
        (difference["saving"] / scale, saving.value / scale),
    ):
        half, variance = max(abs(gap), 0.005), float(np.var(values))
        wanted = max(wanted, audits_needed(variance, half) if variance else math.log(40) / half)
    return max(1, int(np.ceil((wanted - effective) * n / effective)))
