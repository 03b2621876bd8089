"""Figures of a choice on rows that had no part in it.

The whole choice, ladder and all, is made again and again on a part of the rows and played on the
others (repeated cross-fitting), so that a figure and its interval cover the choice as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from pydantic import Field
from scipy.optimize import isotonic_regression
from scipy.stats import norm

from cascade.confidence.calibrating import auroc, brier, ece
from cascade.errors import ConfigurationError
from cascade.evaluation import metrics
from cascade.evaluation.audit import wilson
from cascade.evaluation.features import Pair
from cascade.evaluation.ladder import PRICES, Ladder, Replay, fit_ladder
from cascade.evaluation.metrics import Array, Interval, Rows
from cascade.state import Record

LEAST_ROWS = 40

FOLDS = 5
"""Parts of the rows, each left out once; three of many rows."""

MENU = (0.0, 0.01, 0.02, 0.05)
"""Losses for which the menu says what they save."""

OPTIMISM = 0.75
"""Standard errors that are added to an expected loss, because the cheapest of many policies was
chosen on the same rows, and heads promise too much."""

HEADS_ERROR = 0.005
"""Error that is expected of a loss by the heads alone, however many the rows: with few rows it is
the smaller one."""

CHOICE = 0.5
"""Share of the variance between ladders, fitted to parts of the rows, that counts for the ladder
of all rows (Rubin 1987: between and within variances add up; here its parts share their rows)."""

MISTAKES = 5

Figures = Mapping[str, Interval]

Choice = Callable[[Pair, Rows], Ladder]
"""Fits shapes to some rows of a pair and says which of them the labels pay for."""


class Options(Record):
    """Options of an evaluation.

    Attributes:
        within: quality that may be lost against the large model, as a share of the questions.
        caution: standard errors that an expected loss has to stay below what may be lost.
        price_of_error: dollars of a wrong answer; it recommends the point instead of `within`.
        repeats: of the cross-fitting; None for as many as so many rows need.
    """

    within: float = Field(default=0.01, ge=0, lt=1)
    caution: float = 0.0
    price_of_error: float | None = None
    repeats: int | None = None


class Point(Record):
    """A policy of the frontier; dollars are None where unknown.

    Attributes:
        within: the loss that was allowed; None for a point at a price of an error.
        cost: of the large model's alone, as a share; its interval covers the choice.
        loss: expected loss of right answers against the large model, as a share of the questions.
        escalated: share of questions that the large model answers.
        cost_usd, per_right_usd: dollars per question, and per right answer.
        price_of_error_usd: at which this is the best policy: for `Cascade(price_of_error=…)`.
        chance_above: that the true loss is above `within`.
        off: whether this is the large model alone.
    """

    within: float | None
    cost: Interval
    loss: Interval
    escalated: float
    cost_usd: float | None
    per_right_usd: float | None
    price_of_error_usd: float | None
    chance_above: float
    off: bool = False


class Alone(Record):
    """A model that answers everything, or the oracle that knows where the large one helps."""

    name: str
    quality: Interval
    cost: float
    cost_usd: float | None
    per_right_usd: float | None


class Mistake(Record):
    """A draft that was kept though it was wrong and the large model was right."""

    id: str
    question: str
    draft: str | None
    reference: str | None
    confidence: float


# Cross-fitting --------------------------------------------------------------------------------


@dataclass(frozen=True)
class CrossFit:
    """Replay of the policies of all `PRICES` on rows that had no part in their choice, with the
    gain of escalating that each shape expects, and P(the draft is right). `choices` are cost share
    and loss of each ladder that was fitted, on all rows alike, (2, ladders, prices)."""

    pair: Pair
    played: Replay
    choices: Array
    gains: Mapping[str, Array]
    confidence: Array

    @cached_property
    def share(self) -> Array:
        """(prices,) cost relative to the large model alone."""
        return np.asarray(self.played.cost.sum(axis=1) / self.pair.large_cost.sum())

    @cached_property
    def errors(self) -> tuple[Array, Array]:
        """Standard errors of cost share and loss, (prices,) each: within the rows, where one of n
        more or less is possible, and between the ladders that other rows would have chosen."""
        n, unit = len(self.pair), self.pair.large_cost.mean()
        spent = self.played.cost - self.share[:, None] * self.pair.large_cost
        lost = self.pair.large_correct - self.played.right
        between = np.zeros((2, len(self.share)))
        if self.choices.shape[1] > 1:
            between = CHOICE * self.choices.var(axis=1, ddof=1)
        within = spent.var(axis=1) / unit**2, lost.var(axis=1)
        both = zip(within, between, strict=True)
        cost, loss = (np.sqrt(np.maximum(w, 1 / n) / n + b) for w, b in both)
        return cost, loss

    @cached_property
    def loss(self) -> Array:
        """(prices,) expected loss of right answers against the large model: what was seen and what
        the heads expect, by their precision, and a part of the standard error for having chosen; on
        rows that chose nothing, what was seen. The less an error costs, the more is lost."""
        seen = (self.pair.large_correct - self.played.right).mean(axis=1)
        if not self.choices.shape[1]:
            return np.asarray(seen)
        error, expected = self.errors[1], self.played.expected_loss.mean(axis=1)
        share = HEADS_ERROR**2 / (HEADS_ERROR**2 + error**2)
        loss = share * seen + (1 - share) * expected + OPTIMISM * error
        return np.asarray(isotonic_regression(loss).x)


def cross_fit(pair: Pair, options: Options, choose: Choice = fit_ladder) -> CrossFit:
    """Choose on all folds but one and play on that one, for each fold; again with other folds."""
    n = len(pair)
    folds = FOLDS if n < 2000 else 3
    repeats = options.repeats or int(np.clip(1500 // n, 1, 10))
    rng = np.random.default_rng(0)
    played = Replay(*(np.zeros((len(PRICES), n)) for _ in Replay._fields))
    choices, confidence, gains = [], np.zeros(n), dict[str, Array]()
    for fold in (rng.permutation(n) % folds for _ in range(repeats)):
        for k in range(folds):
            held = np.flatnonzero(fold == k)
            ladder = choose(pair, np.flatnonzero(fold != k))
            part = ladder.play(pair)
            for total, seen in zip(played, part, strict=True):
                total[:, held] += seen[:, held] / repeats
            share = part.cost.sum(axis=1) / pair.large_cost.sum()
            choices.append((share, (pair.large_correct - part.right).mean(axis=1)))
            for name, gain in ladder.gains(pair).items():
                gains.setdefault(name, np.zeros(n))[held] += gain[held] / repeats
            confidence[held] += ladder.confidence(pair)[held] / repeats
    whole = {name: gain for name, gain in gains.items() if np.all(gain != 0)}
    return CrossFit(pair, played, np.array(choices).swapaxes(0, 1), whole, confidence)


def play_on(ladder: Ladder, test: Pair) -> CrossFit:
    """Outcome of a ladder that is fitted already, on other rows."""
    nothing = np.zeros((2, 0, len(PRICES)))
    return CrossFit(test, ladder.play(test), nothing, ladder.gains(test), ladder.confidence(test))


# Figures --------------------------------------------------------------------------------------


def check(pair: Pair, options: Options) -> None:
    """Refuse what cannot be evaluated.

    Raises:
        ConfigurationError: too few rows, or a price of errors without costs.
    """
    if len(pair) < LEAST_ROWS:
        raise ConfigurationError(
            f"{len(pair)} rows with both models and their costs: an evaluation needs {LEAST_ROWS} "
            f"at least, {LEAST_ROWS - len(pair)} more, and a few hundred to say much."
        )
    if options.price_of_error is not None and not pair.priced:
        raise ConfigurationError(
            "price_of_error weighs dollars, and the recording knows no costs: record `cost_usd`."
        )


def cheapest_within(sheet: CrossFit, within: float, options: Options) -> int | None:
    """The cheapest policy that loses no more than allowed; None where it saves less than a
    standard error."""
    lost = isotonic_regression(sheet.loss + options.caution * sheet.errors[1]).x
    allowed = np.flatnonzero(lost <= within)
    if not len(allowed):
        return None
    at = int(allowed[np.argmin(sheet.share[allowed])])
    return at if sheet.share[at] + sheet.errors[0][at] < 1 else None


def recommend(sheet: CrossFit, options: Options) -> int | None:
    """The point that is recommended: at the price of an error, or the cheapest within the loss."""
    if options.price_of_error is None:
        return cheapest_within(sheet, options.within, options)
    unit = float(sheet.pair.large_cost.mean())
    price = min(unit / options.price_of_error, PRICES[-1])
    at = int(np.argmin(np.abs(PRICES - price)))
    pays = sheet.loss[at] * options.price_of_error < (1 - sheet.share[at]) * unit
    return at if pays else None


def point_of(sheet: CrossFit, at: int | None, within: float | None, options: Options) -> Point:
    """A point of the frontier with its figures; without an index, the large model alone."""
    pair, unit = sheet.pair, float(sheet.pair.large_cost.mean())
    right, asked = float(pair.large_correct.mean()), 1.0
    (cost, spread), (loss, error), price = (1.0, 0.0), (0.0, 0.0), 0.0
    if at is not None:
        right = float(sheet.played.right[at].mean())
        asked = float(sheet.played.escalated[at].mean())
        cost, spread = float(sheet.share[at]), 1.96 * float(sheet.errors[0][at])
        loss, error = float(sheet.loss[at]), float(sheet.errors[1][at])
        price = float(PRICES[at])
    dollars = cost * unit if pair.priced else None
    weighed = unit / price if pair.priced and price > 0 else None
    if at is not None and within is None:
        weighed = options.price_of_error  # the user's own, not the nearest that was played
    goal = options.within if within is None else within
    return Point(
        within=within,
        cost=Interval(cost, max(cost - spread, 0.0), cost + spread),
        loss=Interval(loss, max(loss - 1.96 * error, -1.0), min(loss + 1.96 * error, 1.0)),
        escalated=asked,
        cost_usd=dollars,
        per_right_usd=dollars / right if dollars is not None and right > 0 else None,
        price_of_error_usd=weighed,
        chance_above=float(norm.sf((goal - loss) / error)) if error else 0.0,
        off=at is None,
    )


def baselines(pair: Pair) -> tuple[Alone, ...]:
    """Small model, large model and oracle."""
    small, large = pair.small_correct, pair.large_correct
    cheap, dear = pair.small_cost, pair.large_cost
    found = []
    for name, rights, costs in (
        (pair.small, small, cheap),
        (pair.large, large, dear),
        (
            "an oracle that asks only where it helps",
            np.maximum(small, large),
            np.where(large > small, dear, cheap),
        ),
    ):
        usd, right = float(costs.mean()) if pair.priced else None, float(rights.mean())
        found.append(
            Alone(
                name=name,
                quality=Interval(right, *wilson(right, len(pair))),
                cost=float(costs.sum() / dear.sum()),
                cost_usd=usd,
                per_right_usd=usd / right if usd is not None and right else None,
            )
        )
    return tuple(found)


def rankings_of(sheet: CrossFit) -> dict[str, Figures]:
    """Ranking of the rows to escalate by the gain that each shape expects."""
    pair = sheet.pair

    def ranking(name: str, at: Rows) -> dict[str, float]:
        score, small, large = sheet.gains[name][at], pair.small_correct[at], pair.large_correct[at]
        drafted = 0.0 if name == "router" else pair.small_cost[at]
        dear = pair.large_cost[at] + drafted
        curve = metrics.deferral_curve(score, small, large, pair.small_cost[at], dear)
        won = ((large > 0.5) & (small <= 0.5)).astype(np.float64)
        return {
            "nAUC": metrics.nauc(score, small, large),
            "AUDC": metrics.audc(curve),
            "APGR": metrics.apgr(curve),
            "CPT 50": metrics.cpt(curve, 0.5),
            "CPT 80": metrics.cpt(curve, 0.8),
            "AIQ": metrics.aiq(curve),
            "ΔIBC": metrics.delta_ibc(curve),
            "AUROC of gain": auroc(score, won),
        }

    return {name: metrics.bootstrap(partial(ranking, name), len(pair)) for name in sheet.gains}


def confidences_of(sheet: CrossFit) -> dict[str, Figures]:
    """Quality of the confidence, on rows that had no part in its fit, and the raw score; empty
    where drafts have none."""
    raw, right = sheet.pair.raw, sheet.pair.small_correct
    if not np.isfinite(sheet.confidence).all() or not np.isfinite(raw).any():
        return {}
    measures = {"ECE": ece, "Brier": brier, "AUROC": auroc, "AURC": metrics.aurc}

    def figures(score: Array, at: Rows) -> dict[str, float]:
        return {title: of(score[at], right[at]) for title, of in measures.items()}

    scores = {"fitted": sheet.confidence, "raw score": np.nan_to_num(raw)}
    return {n: metrics.bootstrap(partial(figures, s), len(right)) for n, s in scores.items()}


def worst_mistakes(sheet: CrossFit, at: int | None) -> tuple[Mistake, ...]:
    """The answers that were kept most surely though the large model was right."""
    if at is None:
        return ()
    pair, sure, found = sheet.pair, np.nan_to_num(sheet.confidence), []
    lost = (pair.large_correct - sheet.played.right[at]) * (1 - sheet.played.escalated[at])
    for i in np.lexsort((-sure, -lost))[:MISTAKES]:
        row = pair.rows[i]
        draft, reference = row.models[pair.small], row.reference
        if lost[i] > 0.5:
            found.append(
                Mistake(
                    id=row.id,
                    question=row.prompt,
                    draft=draft.output or draft.pred,
                    reference=None if reference is None else str(reference),
                    confidence=float(sure[i]),
                )
            )
    return tuple(found)
