"""Figures of a report: estimators of `cascade.evaluation.audit` applied to the runs of a ledger.

`runs` are those that `cascade.evaluation.books.Books.columns` gives, a numpy record array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from operator import add
from typing import Any

import numpy as np

from cascade.evaluation.audit import (
    Array,
    Baselines,
    Sample,
    SavingReport,
    accepted_error_rate,
    hajek_mean,
    quality_loss,
    saving,
    wilson,
)
from cascade.evaluation.render import Figure, percent

WORDY = 8.0
"""Where a prediction has no range, the large model is taken to cost at most so many times it."""

ENOUGH_ESCALATED = 10
"""From so many escalated requests they say how much the large model's cost varies; before that,
the ranges of the predictions do."""

_GROUP, _MOST_GROUPS, _STEPS = 20, 10, 8
_LARGE_ANSWERED = ("escalated", "shadow")


@dataclass(frozen=True, slots=True)
class Quality:
    """What audits say about the answers, with the large model's as the reference: of so many
    `checked` drafts so many were `worse`; the loss q_L − q_cascade per request; the share of
    accepted drafts that are worse; and how many audits were `due`.
    """

    checked: int
    worse: int
    loss: Figure
    error_rate: Figure
    due: float

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
    """What a threshold would have given on the decided requests.

    Attributes:
        threshold: accepted is what has this confidence or more; the latest decision is `in_force`.
        escalated: share of the requests that would have gone to the large model.
        cost_usd: all spent; where the large model was not asked, what it is predicted to cost.
        worse: P(accepted and worse than the large answer) per request: from audits, and for drafts
            that they do not stand for from 1 − calibrated confidence; None where neither is known.
            Its interval takes drafts that were not compared to be all right, or all wrong.
    """

    threshold: float
    in_force: bool
    escalated: float
    cost_usd: float
    saving: Figure
    worse: Figure


# Money ----------------------------------------------------------------------------------------


def account(runs: Any, spent: float, *, unpriced: bool = False) -> tuple[SavingReport, int, float]:
    """The saving of runs that cost so much; accepted drafts without any baseline; and dollars of
    the baseline that are assumed.

    Baselines of drafts that could not be audited, or in whose place another large model answered,
    enter with the limits that the ledger has for them: audits of others do not stand for them. A
    cost without a price (`unpriced`) leaves a saving no lower end, a draft without a baseline
    leaves it no upper one.
    """
    accepted, audited = runs.outcome == "accepted", ~np.isnan(runs.large)
    rated = runs[accepted & (runs.rate > 0)]
    blind = runs[(accepted & ~(runs.rate > 0) & ~audited) | (~accepted & (runs.predicted > 0))]
    seen = runs[accepted & ~(runs.rate > 0) & audited]
    sample = _sample(rated.rate, ~np.isnan(rated.large))
    limits = _baselines(blind, limited=True)
    unknown = int(np.isnan(blind.predicted).sum())
    unknown += 0 if sample.n else int(np.isnan(rated.predicted).sum())
    value, most = float(limits.predicted.sum()), float(limits.most.sum())
    found = saving(
        rated.large[sample.audited],
        sample,
        _baselines(rated, limited=sample.n == 0, spread=_spread(runs, rated)),
        escalated_usd=float(runs.measured.sum() + seen.large.sum()),
        spent_usd=spent,
        assumed=(value, float(limits.least.sum()), most),
    )
    gaps: dict[str, Any] = {"value": None, "high": None} if unknown else {}
    baseline = replace(found.baseline, **gaps)
    gaps |= {"value": None, "low": None} if unpriced else {}
    saved, share = replace(found.saving, **gaps), replace(found.share, **gaps)
    return replace(found, saving=saved, share=share, baseline=baseline), unknown, value


def _sample(rates: Array, came: Any) -> Sample:
    """The audits that came. Where they are fewer than were due, as the draw of one that failed
    leaves no trace, they are taken for a random part of those; this cancels in Hájek's means and
    only widens intervals."""
    drawn, n = float(rates.sum()), int(came.sum())
    return Sample(rates * (n / drawn if 0 < n < drawn else 1.0), came)


def _baselines(drafts: Any, *, limited: bool, spread: float = 0.0) -> Baselines:
    """Predictions of accepted drafts; an unknown one is taken for nothing.

    `limited`: the limits are those of the ledger. Beside audits the least is nothing, as the
    ledger's range is then that of one request and says nothing sure of a sum.
    """
    predicted = np.nan_to_num(drafts.predicted)
    most = np.where(np.isnan(drafts.high), WORDY * predicted, drafts.high)
    least = np.nan_to_num(drafts.low) if limited else np.zeros(len(drafts))
    return Baselines(predicted, least, most, spread)


def _spread(runs: Any, rated: Any) -> float:
    """How far a prediction of the large model's cost may be off, as a standard deviation: as much
    as its costs vary on escalated requests, or as the ranges of the predictions say."""
    costs = runs.large_usd[(runs.outcome == "escalated") & ~np.isnan(runs.large_usd)]
    if len(costs) >= ENOUGH_ESCALATED:
        return float(np.std(costs, ddof=1))
    widths = (rated.high - rated.low)[~np.isnan(rated.high - rated.low)]
    return float(np.sqrt(np.mean(widths**2))) / (2 * 1.96) if len(widths) else 0.0


# Quality --------------------------------------------------------------------------------------


def quality_of(runs: Any) -> Quality | None:
    """Loss and errors of the accepted drafts; None where none of them could be audited.

    Each request counts whose loss is known to be none, as the large model answered, or for which
    audits stand.
    """
    drafts = runs[runs.outcome == "accepted"]
    rated = drafts[drafts.rate > 0]
    if len(drafts) and not len(rated):
        return None
    sample = _sample(rated.rate, ~np.isnan(rated.loss))
    loss, proxy = rated.loss[sample.audited], 1.0 - rated.confidence
    lost = quality_loss(
        loss,
        sample,
        requests=max(1, _large_answers(runs) + len(rated)),
        proxy=None if np.isnan(proxy).any() else proxy,
    )
    wrong = accepted_error_rate(np.maximum(loss, 0.0), sample)
    if not len(drafts):
        lost = wrong = Figure(0.0, "share", 0.0, 0.0)
    return Quality(len(loss), int((loss > 0).sum()), lost, wrong, float(rated.rate.sum()))


def _large_answers(runs: Any) -> int:
    return int(np.isin(runs.outcome, _LARGE_ANSWERED).sum())


def right(runs: Any, spent: float, quality: Quality | None) -> Figure | None:
    """Dollars per answer that is as good as the large model's; its interval is that of quality."""
    accepted = int((runs.outcome == "accepted").sum())
    answers = accepted + _large_answers(runs)
    if quality is None or not answers or (accepted and not quality.checked):
        return None
    wrong = quality.error_rate
    return wrong.map(lambda share: spent / max(answers - accepted * share, 1e-9), "usd")


def escalation(runs: Any) -> Figure | None:
    """Share of the decided requests that went to the large model; None where none was decided."""
    up = int(np.isin(runs.outcome, ("escalated", "degraded")).sum())
    n = up + int(np.isin(runs.outcome, ("accepted", "abstained", "person")).sum())
    return _share(up / n, n, n) if n else None


def _share(value: float, effective: float, n: int) -> Figure:
    return Figure(value, "share", *wilson(value, effective), n=n, method="Wilson")


def reliability(runs: Any) -> list[tuple[float, Figure]]:
    """Confidence against correctness on audited drafts, each weighted by 1/π, in groups of about
    equal size. A draft is correct as far as the large model's answer is not better."""
    judged = runs[(runs.outcome == "accepted") & (runs.rate > 0)]
    judged = judged[~np.isnan(judged.loss + judged.confidence)]
    judged = judged[np.argsort(judged.confidence, kind="stable")]
    count, groups = min(_MOST_GROUPS, max(1, len(judged) // _GROUP)), []
    for places in np.array_split(np.arange(len(judged)), count) if len(judged) else ():
        part = judged[places]
        sample = Sample(part.rate, np.ones(len(part), dtype=bool))
        correct = hajek_mean(1.0 - np.maximum(part.loss, 0.0), sample)
        sure = hajek_mean(part.confidence, sample)
        groups.append((sure, _share(correct, sample.size, len(part))))
    return groups


# Thresholds -----------------------------------------------------------------------------------


def choices_of(runs: Any, spent: float, bill: Figure) -> tuple[Choice, ...]:
    """What other thresholds would have given on the same requests, by rising threshold; none where
    no draft was decided about. `bill`, of the large model alone, does not depend on thresholds.
    """
    decided = runs[np.isin(runs.outcome, ("accepted", *_LARGE_ANSWERED))]
    was = decided.outcome == "accepted"
    measured = np.where(decided.measured > 0, decided.measured, np.nan)
    known = np.where(np.isnan(decided.large), decided.predicted, decided.large)
    large = np.where(was, known, measured)
    movable = ~np.isnan(decided.confidence + large)
    if not movable.any():
        return ()
    # A draft beside the large model's answer was compared whatever it was like.
    loss = np.where(np.isnan(decided.beside), decided.loss, decided.beside)
    rate = np.where(np.isnan(decided.beside), decided.rate, 1.0)
    ends = np.quantile(decided.confidence[movable], np.linspace(0, 1, _STEPS), method="lower")
    given = decided.threshold[movable & ~np.isnan(decided.threshold)][-1:].tolist()
    choices = []
    for cut in sorted({0.0, 1.0, *np.clip([*ends, *given], 0.0, 1.0).tolist()}):
        taken = np.where(movable, decided.confidence >= cut, was)
        # The call of an audit becomes that of the escalation: it is paid already.
        called, saved = was & ~taken & np.isnan(decided.large), taken & ~was
        cost = spent + float(large[called].sum() - large[saved].sum())
        rated = taken & (rate > 0)
        sample = _sample(rate[rated], ~np.isnan(loss[rated]))
        errors = accepted_error_rate(np.maximum(loss[rated][sample.audited], 0.0), sample)
        blind = decided[taken & ~rated] if sample.n else decided[taken]
        choices.append(
            Choice(
                threshold=cut,
                in_force=cut in given,
                escalated=1.0 - float(taken.mean()),
                cost_usd=cost,
                saving=bill.map(partial(add, -cost)),
                worse=_worse(errors, int(taken.sum()) - len(blind), blind, len(decided)),
            )
        )
    return tuple(choices)


def _worse(errors: Figure, judged: int, blind: Any, n: int) -> Figure:
    """P(accepted and worse) of n requests: so many for which audits stand, and the blind ones."""
    value, low, high = (end * judged / n for end in errors.numbers)
    guess, known = float((1.0 - blind.confidence).sum()) / n, (blind.calibrated > 0).all()
    return Figure(value + guess if known else None, "share", low, high + len(blind) / n)
