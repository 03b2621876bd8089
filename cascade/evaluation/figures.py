"""Figures of a report: estimators of `cascade.evaluation.audit` applied to the runs of a ledger.

`runs` are those that `cascade.evaluation.books.Books.columns` gives, a numpy record array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade.evaluation.audit import (
    FEW,
    Array,
    Baselines,
    Estimate,
    Sample,
    SavingReport,
    accepted_error_rate,
    audits_needed,
    hajek_mean,
    quality_loss,
    saving,
    wilson,
)
from cascade.evaluation.render import percent

WORDY = 8.0
"""Where a prediction has no range, the large model is taken to cost at most so many times it."""

ENOUGH_ESCALATED = 10
"""From so many escalated requests they say how far a prediction of the large model's cost is off;
before that, the ranges of the predictions do."""

ASSUMED_VARIANCE = 0.1
"""Variance of the loss before audits say more: drafts disagree with the large model in 10 %."""

LATEST = 3_000
"""Decided requests that thresholds are tried on, the latest ones."""

_Z_95 = 1.96
_GROUP, _MOST_GROUPS = 20, 10
_STEPS, _BINS = 51, 20
_LARGE_ANSWERED = ("escalated", "shadow")


@dataclass(frozen=True, slots=True)
class Quality:
    """What audits say about the answers, with the large model's as the reference.

    Attributes:
        checked: accepted drafts that were compared; `worse`, those worse than the large answer.
        loss: q_L − q_cascade per request.
        error_rate: share of accepted drafts that are worse than the large model's answer.
        represented: share of accepted drafts for which the audits stand, as only these could have
            been audited.
        finished: below 1 where audits are missing: those that came are taken for a random part of
            those that were drawn.
    """

    checked: int
    worse: int
    loss: Estimate
    error_rate: Estimate
    represented: float
    finished: float

    @property
    def sentence(self) -> str:
        """What was seen, then the bounds."""
        if not self.checked:
            return "No accepted draft has been checked: nothing is known about quality."
        seen = f"{self.worse:,} of {self.checked:,} checked drafts were worse than the large answer"
        if self.loss.basis == "measured":
            return f"{seen}: {percent(self.loss.value)} is lost per request, as all were checked."
        return (
            f"{seen}: at most {percent(self.error_rate.high)} of the accepted drafts are, at most "
            f"{percent(self.loss.high)} is lost per request (95 %)."
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What a threshold would have given.

    Attributes:
        threshold: accepted is what has this confidence or more.
        escalated: share of the requests that would have gone to the large model.
        cost_usd: all spent; where the large model was not asked, what it is predicted to cost.
        worse: P(accepted and worse than the large answer) per request: from audits, and for drafts
            that they do not stand for from 1 − calibrated confidence; None where neither is known.
            Its interval takes drafts that were not compared to be all right, or all wrong.
        unjudged: share of the requests that would be accepted and for which no audit stands.
    """

    threshold: float
    escalated: float
    cost_usd: float
    saving: Estimate
    share: Estimate
    worse: float | None
    worse_low: float
    worse_high: float
    unjudged: float


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What every threshold would have given on the latest decided requests of a ledger.

    Attributes:
        in_force: the threshold of the latest decision; None where it had none.
        start: place of the choice that is nearest to it.
        requests: that were looked at; `left_out` earlier ones were not.
        calibrated: share of the confidences that are probabilities.
        choices: by rising threshold.
        bins: (from, to, accepted, escalated) drafts by confidence.
    """

    in_force: float | None
    start: int
    requests: int
    left_out: int
    calibrated: float
    choices: tuple[Choice, ...]
    bins: tuple[tuple[float, float, int, int], ...]


# Money ----------------------------------------------------------------------------------------


def account(runs: Any, spent: float) -> tuple[SavingReport, int, float]:
    """The saving of runs that cost so much; accepted drafts without any baseline; and dollars of
    the baseline that are assumed.

    Baselines of drafts that could not be audited, or in whose place another large model answered,
    enter with the limits that the ledger has for them: audits of others do not stand for them.
    """
    drafts = runs[runs.outcome == "accepted"]
    rated, others = drafts[drafts.rate > 0], drafts[~(drafts.rate > 0)]
    seen, blind = others[~np.isnan(others.large)], others[np.isnan(others.large)]
    sample, _ = _thinned(rated.rate, ~np.isnan(rated.large))
    found = saving(
        rated.large[sample.audited],
        sample,
        _baselines(rated, _spread(runs, rated), limited=sample.n == 0),
        escalated_usd=float(runs.measured.sum() + seen.large.sum()),
        spent_usd=spent,
    )
    limits = _baselines(blind, 0.0, limited=True)
    value = float(limits.predicted.sum() + runs.assumed.sum())
    low = float(limits.least.sum() + runs.assumed_low.sum())
    high = float(limits.most.sum() + runs.assumed_high.sum())
    unknown = int(np.isnan(blind.predicted).sum())
    unknown += 0 if sample.n else int(np.isnan(rated.predicted).sum())
    return _with(found, (value, low, np.inf if unknown else high), spent), unknown, value


def _with(found: SavingReport, more: tuple[float, float, float], spent: float) -> SavingReport:
    """With more baselines: their value and its limits."""
    if not any(more):
        return found

    def moved(figure: Estimate) -> Estimate:
        ends = [
            end + m for end, m in zip((figure.value, figure.low, figure.high), more, strict=True)
        ]
        how = "assumed limits" if figure.method == "exact" else f"{figure.method}; assumed limits"
        update = dict(zip(("value", "low", "high"), ends, strict=True))
        return figure.model_copy(update={**update, "basis": "estimated", "method": how})

    bill = moved(found.baseline)
    shares = [1.0 - spent / end if end > 0 else 0.0 for end in (bill.value, bill.low, bill.high)]
    share = dict(zip(("value", "low", "high"), shares, strict=True))
    return found.model_copy(
        update={
            "estimated_usd": found.estimated_usd + more[0],
            "saving": moved(found.saving),
            "baseline": bill,
            "share": found.share.model_copy(update={**share, "basis": "estimated"}),
        }
    )


def _thinned(rates: Array, came: Any) -> tuple[Sample, float]:
    """The sample of audits that came, and the share of the drawn ones that they are taken for.

    A draw whose audit failed leaves no trace. Where clearly fewer came than the rates say (three
    standard deviations), those that came are taken for a random part of the drawn ones. The
    share is common to all, so that it cancels in Hájek's means and only widens intervals.
    """
    drawn, n = float(rates.sum()), int(came.sum())
    chance = 3.0 * float(np.sqrt(np.sum(rates * (1.0 - rates))))
    share = n / drawn if 0 < n < drawn - chance - 1e-9 else 1.0
    return Sample(rates * share, came), share


def _baselines(drafts: Any, spread: float, *, limited: bool) -> Baselines:
    """Predictions of accepted drafts; an unknown one is taken for nothing.

    `limited`: the limits are those of the ledger. Beside audits the least is nothing, as the
    ledger's range is then that of one request and says nothing sure of a sum.
    """
    predicted = np.nan_to_num(drafts.predicted)
    most = np.where(np.isnan(drafts.high), WORDY * predicted, drafts.high)
    least = np.nan_to_num(drafts.low) if limited else np.zeros(len(drafts))
    return Baselines(predicted, least, most, spread)


def _spread(runs: Any, rated: Any) -> float:
    """How far a prediction of the large model's cost is off, as a standard deviation.

    On escalated requests, which vary more than accepted ones: about a plane over prompt and
    draft length. With too few of them, from the ranges of the predictions.
    """
    hard = runs[(runs.outcome == "escalated") & ~np.isnan(runs.expert_usd + runs.draft_tokens)]
    hard = hard[~np.isnan(hard.expert_tokens)]
    if len(hard) >= ENOUGH_ESCALATED:
        design = np.column_stack([np.ones(len(hard)), hard.expert_tokens, hard.draft_tokens])
        slopes = np.linalg.lstsq(design, hard.expert_usd, rcond=None)[0]
        off = hard.expert_usd - design @ slopes
        return float(np.sqrt(np.sum(off**2) / (len(hard) - 3)))
    widths = (rated.high - rated.low)[~np.isnan(rated.high - rated.low)]
    return float(np.sqrt(np.mean(widths**2))) / (2 * _Z_95) if len(widths) else 0.0


# Quality --------------------------------------------------------------------------------------


def quality_of(runs: Any) -> Quality | None:
    """Loss and errors of the accepted drafts that could be audited.

    Each request counts whose loss is known to be none, as the large model answered, or for which
    audits stand.
    """
    drafts = runs[runs.outcome == "accepted"]
    rated = drafts[drafts.rate > 0]
    if len(drafts) and not len(rated):
        return None
    found = ~np.isnan(rated.loss)
    sample, finished = _thinned(rated.rate, found)
    loss = rated.loss[found]
    safe = int(np.isin(runs.outcome, _LARGE_ANSWERED).sum())
    proxy = 1.0 - rated.confidence
    lost = quality_loss(
        loss,
        sample,
        requests=max(1, safe + len(rated)),
        proxy=None if np.isnan(proxy).any() else proxy,
    )
    wrong = accepted_error_rate(np.maximum(loss, 0.0), sample)
    if not len(drafts):
        nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "note": "", "basis": "measured"}
        lost, wrong = (figure.model_copy(update=nothing) for figure in (lost, wrong))
    represented = len(rated) / len(drafts) if len(drafts) else 1.0
    return Quality(len(loss), int((loss > 0).sum()), lost, wrong, represented, finished)


def right(runs: Any, spent: float, quality: Quality | None) -> Estimate | None:
    """Dollars per answer that is as good as the large model's; its interval is that of quality."""
    accepted = int((runs.outcome == "accepted").sum())
    answers = accepted + int(np.isin(runs.outcome, _LARGE_ANSWERED).sum())
    if quality is None or not answers or (accepted and not quality.checked):
        return None
    wrong = quality.error_rate
    value, low, high = (
        spent / max(answers - accepted * share, 1e-9)
        for share in (wrong.value, wrong.low, wrong.high)
    )
    return wrong.model_copy(update={"value": value, "low": low, "high": high})


def escalation(runs: Any) -> Estimate | None:
    """Share of the decided requests that went to the large model; None where none was decided."""
    up = int(np.isin(runs.outcome, ("escalated", "degraded")).sum())
    n = up + int(np.isin(runs.outcome, ("accepted", "abstained", "person")).sum())
    return _share(up / n, n, n) if n else None


def _share(value: float, effective: float, n: int) -> Estimate:
    low, high = wilson(value, effective)
    return Estimate(value=value, low=low, high=high, n=n, basis="measured", method="Wilson")


def audits_to_come(runs: Any, precision: float) -> tuple[int, int]:
    """Audits that a half width of `precision` of the loss per request takes, at the spread of those
    at hand; and how many of them are still missing."""
    rated = runs[(runs.outcome == "accepted") & (runs.rate > 0)]
    seen = rated[~np.isnan(rated.loss)]
    share = len(rated) / max(1, int(np.isin(runs.outcome, _LARGE_ANSWERED).sum()) + len(rated))
    variance = ASSUMED_VARIANCE
    if len(seen) >= FEW:
        mean = np.average(seen.loss, weights=1.0 / seen.rate)
        spread = float(np.average((seen.loss - mean) ** 2, weights=1.0 / seen.rate))
        variance = max(spread, 1.0 / len(seen))  # all may agree, and there be something to find
    audits = audits_needed(variance, precision / (share or 1.0))
    if 0 < len(seen) == len(rated):
        audits = min(audits, len(seen))  # there is nothing more to know of these requests
    return audits, max(0, audits - len(seen))


# Thresholds -----------------------------------------------------------------------------------


def what_if_of(runs: Any, spent: float) -> WhatIf | None:
    """What every threshold would have given; None where no draft was decided about.

    Every threshold goes through the estimators of the report, on the same requests: those whose
    answer would have come from the other model are moved, all others stay as they were.
    """
    decided = runs[np.isin(runs.outcome, ("accepted", *_LARGE_ANSWERED))]
    latest = decided[-LATEST:]
    spent = spent if len(latest) == len(decided) else float(latest.paid_usd.sum())
    known = np.where(np.isnan(latest.large), latest.predicted, latest.large)
    large = np.where(latest.outcome == "accepted", known, latest.measured)
    movable = ~np.isnan(latest.confidence + large)
    if not movable.any():
        return None
    sure, taken = latest.confidence[movable], latest.outcome[movable] == "accepted"
    thresholds = latest.threshold[movable & ~np.isnan(latest.threshold)]
    in_force = float(thresholds[-1]) if len(thresholds) else None
    ends = np.quantile(sure, np.linspace(0.0, 1.0, _STEPS), method="lower")
    cuts = {0.0, 1.0, *np.clip([*ends, *thresholds[-1:]], 0.0, 1.0).tolist()}
    choices = tuple(_choice(latest, movable, large, cut, spent) for cut in sorted(cuts))
    gaps = [abs(choice.threshold - (in_force or 0.0)) for choice in choices]
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    counts = (np.histogram(np.clip(sure[part], 0, 1), edges)[0] for part in (taken, ~taken))
    bins = zip(edges[:-1].tolist(), edges[1:].tolist(), *(c.tolist() for c in counts), strict=True)
    return WhatIf(
        in_force=in_force,
        start=gaps.index(min(gaps)),
        requests=len(latest),
        left_out=len(decided) - len(latest),
        calibrated=float(latest.calibrated[movable].mean()),
        choices=choices,
        bins=tuple(bins),
    )


def _choice(runs: Any, movable: Any, large: Array, threshold: float, spent: float) -> Choice:
    was = runs.outcome == "accepted"
    taken = np.where(movable, runs.confidence >= threshold, was)
    down, up = taken & ~was, was & ~taken
    # The call of an audit becomes that of the escalation: it is paid already.
    spent += float(large[up & np.isnan(runs.large)].sum() - large[down].sum())
    moved = runs.copy()
    moved.outcome[down], moved.outcome[up] = "accepted", "escalated"
    moved.measured[down] -= large[down]
    moved.measured[up] += large[up]
    for name in ("large", "predicted", "loss", "rate"):
        moved[name][up] = np.nan
    moved.large[down] = moved.predicted[down] = large[down]
    # A draft beside the large model's answer was compared whatever it was like.
    moved.loss[down] = runs.beside[down]
    moved.rate[down] = np.where(np.isnan(runs.beside[down]), np.nan, 1.0)
    moved.expert_usd[down | up] = np.nan
    found, _, _ = account(moved, spent)
    quality = quality_of(moved)
    drafts = moved[moved.outcome == "accepted"]
    errors = quality.error_rate if quality is not None and quality.checked else None
    blind = drafts if errors is None else drafts[~(drafts.rate > 0)]
    seen, unjudged = (len(drafts) - len(blind)) / len(runs), len(blind) / len(runs)
    value, low, high = (errors.value, errors.low, errors.high) if errors else (0.0, 0.0, 0.0)
    guess = float((1.0 - blind.confidence).sum()) / len(runs)
    return Choice(
        threshold=threshold,
        escalated=float((moved.outcome != "accepted").mean()),
        cost_usd=spent,
        saving=found.saving,
        share=found.share,
        worse=value * seen + guess if bool((blind.calibrated > 0).all()) else None,
        worse_low=low * seen,
        worse_high=min(1.0, high * seen + unjudged),
        unjudged=unjudged,
    )


def reliability(runs: Any) -> list[tuple[float, Estimate]]:
    """Confidence against correctness on audited drafts, each weighted by 1/π, in groups of equal
    weight. A draft is correct as far as the large model's answer is not better."""
    judged = runs[(runs.outcome == "accepted") & (runs.rate > 0)]
    judged = judged[~np.isnan(judged.loss + judged.confidence)]
    judged = judged[np.argsort(judged.confidence, kind="stable")]
    count = min(_MOST_GROUPS, max(1, len(judged) // _GROUP))
    reached = np.cumsum(1.0 / judged.rate)
    place = np.minimum((reached / reached[-1:] * count - 1e-9).astype(int), count - 1)
    groups = []
    for part in (judged[place == i] for i in range(count)):
        if len(part):
            sample = Sample(part.rate, np.ones(len(part), dtype=bool))
            effective = float(sample.weights.sum() ** 2 / np.sum(sample.weights**2))
            correct = hajek_mean(1.0 - np.maximum(part.loss, 0.0), sample)
            groups.append(
                (hajek_mean(part.confidence, sample), _share(correct, effective, len(part)))
            )
    return groups
