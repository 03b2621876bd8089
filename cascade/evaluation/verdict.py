"""Verdict on recorded answers: a menu of points, and one sentence.

The whole choice, ladder and all, is made again and again on a part of the rows and played on the
others (repeated cross-fitting), so that a figure and its interval cover the choice as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy.optimize import isotonic_regression
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from cascade.confidence.calibrating import auroc, brier, ece
from cascade.confidence.calibration import Array, Calibration
from cascade.errors import ConfigurationError
from cascade.evaluation.audit import wilson
from cascade.evaluation.features import Pair, Rows
from cascade.evaluation.ladder import PRICES, Replay, Shape, climb, fit_shapes, shape_of
from cascade.evaluation.render import Document, Figure, Picture, Series, Table, dollars, percent
from cascade.state import Record

Verdict = Literal["cascade", "router", "small", "off", "unclear", "unpriced"]

LEAST_ROWS = 40
FAIR_TEST = 200  # with fewer rows a cascade that does not save has not had a fair test
FOLDS = 5  # parts of the rows, each left out once; three of many rows
MENU = (0.0, 0.01, 0.02, 0.05)  # losses for which the menu says what they save
NOISE = 1e-12  # rounding errors of sums, which are no difference
WORTHWHILE = 0.05  # a share of the cost that is worth more rows to find out about
UNCERTAIN = 0.05  # so much more than what may be lost is too much not to know
NEAREST = 0.005  # losses that are nearer to each other need not be told apart
SHAPES: Mapping[str, str] = {
    "gain": "the draft, or how it was arrived at, and the question decide",
    "router": "the question alone decides",
    "known": "where the draft leaves it open, another cheap model is asked too, and the likelier "
    "of the two answers is given",
    "calibration": "the calibrated confidence decides, as it does online",
    "off": "the large model answers everything",
}
Choice = Callable[[Pair, Rows], Iterable[Shape]]
"""Fits the shapes to choose from to some rows of a pair, from the simplest up."""


class Interval(NamedTuple):
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def shown(self, unit: Literal["share", "number"]) -> Figure:
        """The figure in a document."""
        return Figure(self.value, unit, self.low, self.high)


Figures = Mapping[str, Interval]


class Options(Record):
    """Options of an evaluation: the share of the right answers that may be lost, by `caution`
    standard errors; in its place dollars of an error; and `repeats` of the cross-fitting, None for
    as many as so many rows need."""

    within: float = Field(default=0.01, ge=0, lt=1)
    caution: float = 0.0
    price_of_error: float | None = None
    repeats: int | None = None


class Point(Record):
    """A policy of the frontier, or a model alone. Cost and loss are shares of the large model's,
    dollars those of a question, None where unknown. It loses more than is allowed (`within`, None
    at a price of an error) by `chance_above`, and is best at its `price_of_error_usd`."""

    name: str
    within: float | None = None
    quality: Interval
    cost: Interval
    loss: Interval
    escalated: float
    cost_usd: float | None
    per_right_usd: float | None
    price_of_error_usd: float | None = None
    chance_above: float = 0.0
    off: bool = False


class Evaluation(Record):
    """Everything that was found; quality and costs are of questions like the recorded ones. The
    verdict is about the point that is `recommended`; the others are the menu, the two models and an
    oracle `alone`, and as (cost share, right answers) the `frontier` of all prices. `rankings` are
    of each shape's expected gain; `mistakes` drafts that were kept where the large model alone was
    right; `rows_to_tell` would tell the loss to within what may be lost."""

    small: str
    large: str
    options: Options
    rows: int
    test_rows: int
    verdict: Verdict = "unclear"
    sentence: str = ""
    notes: tuple[str, ...] = ()
    points: tuple[Point, ...]
    recommended: Point
    shape: str
    helper: str | None
    alone: tuple[Point, ...]
    frontier: tuple[tuple[float, float], ...]
    rankings: Mapping[str, Figures]
    confidence: Mapping[str, Figures]
    mistakes: tuple[Mapping[str, Any], ...]
    rows_to_tell: int


def evaluate(
    pair: Pair,
    options: Options | None = None,
    *,
    test: Pair | None = None,
    calibration: Calibration | None = None,
    choose: Choice = fit_shapes,
) -> Evaluation:
    """Evaluation of a pair of models: a choice on its rows, and figures on those that had no part
    in it, or on the rows of `test`. A `calibration` is judged as it decides online.

    Raises:
        ConfigurationError: too few rows, or drafts without what the calibration reads.
    """
    check(pair)
    options, rows = options or Options(), np.arange(len(pair))
    if test is not None:  # a helper has to be there on both
        pair = copy(pair)
        pair.candidates = tuple(name for name in pair.candidates if name in test.candidates)
    with threadpool_limits(1, "blas"):  # threads on small matrices cost more than they save
        if calibration is None:
            own, shapes = cross_fit(pair, options, choose), list(choose(pair, rows))
        else:
            shapes = [shape_of(calibration, pair, rows)]
            own = play_on(shapes, pair)
    sheet, shape = own if test is None else play_on(shapes, test), climb(shapes)
    at = None if shape.name == "off" else cheapest(own, options)
    menu = [options.model_copy(update={"price_of_error": None, "within": x}) for x in MENU]
    rankings, confidence = _qualities(sheet)
    rights = sheet.played.right.mean(axis=1).tolist()
    found = Evaluation(
        small=pair.small,
        large=pair.large,
        options=options,
        rows=len(pair),
        test_rows=0 if test is None else len(test),
        points=tuple(point_of(sheet, cheapest(own, goal), goal) for goal in menu),
        recommended=point_of(sheet, at, options),
        shape="off" if at is None else shape.name,
        helper=shape.helper,
        alone=alone(sheet.pair),
        frontier=tuple(zip(sheet.share.tolist(), rights, strict=True)),
        rankings=rankings,
        confidence=confidence,
        mistakes=() if at is None else tuple(_worst_mistakes(sheet, at)),
        rows_to_tell=_rows_to_tell(own, at, options),
    )
    verdict, sentence = _judged(found, own)
    notes = tuple(_notes(found, verdict, sheet.pair))
    return found.model_copy(update={"verdict": verdict, "sentence": sentence, "notes": notes})


@dataclass(frozen=True)
class Sheet:
    """Replay of the policies of all `PRICES` on rows that had no part in their choice, with the
    gains of escalating that each shape without a helper expects, P(the draft is right), NaN where
    no shape looks at drafts, and cost share and loss of each shape that was chosen, on all rows
    alike, (2, choices, prices), None for rows that chose nothing."""

    pair: Pair
    played: Replay
    gains: Mapping[str, Array]
    confidence: Array
    choices: Array | None = None

    @cached_property
    def share(self) -> Array:
        """(prices,) cost relative to the large model alone."""
        return np.asarray(self.played.cost.sum(axis=1) / self.pair.large_cost.sum())

    @cached_property
    def lost(self) -> Array:
        """(prices, n) right answers of the large model's that are lost."""
        return np.asarray(self.pair.large_correct - self.played.right)

    @cached_property
    def errors(self) -> Array:
        """(2, prices) standard errors of cost share and loss: within the rows, where one of n more
        or less is possible, and between the ladders that other rows would have chosen (Rubin 1987:
        both variances add up; half of this one, since the parts that chose share their rows)."""
        n, spent = len(self.pair), self.played.cost - self.share[:, None] * self.pair.large_cost
        unit = self.pair.large_cost.mean()
        within = np.array([spent.var(axis=1) / unit**2, self.lost.var(axis=1)])
        between = 0.0 if self.choices is None else 0.5 * self.choices.var(axis=1, ddof=1)
        return np.asarray(np.sqrt(np.maximum(within, 1 / n) / n + between))

    @cached_property
    def loss(self) -> Array:
        """(prices,) expected loss of right answers, which rises with the price: what was seen and
        what the heads expect, by their precision (half a point for heads, which is less with few
        rows), and ¾ of the error for having chosen the cheapest of many policies and for heads that
        promise too much; on rows that chose nothing, what was seen."""
        seen = np.asarray(self.lost.mean(axis=1))
        if self.choices is None:
            return seen
        error, expected = self.errors[1], self.played.expected_loss.mean(axis=1)
        share = 0.005**2 / (0.005**2 + error**2)
        loss = share * seen + (1 - share) * expected + 0.75 * error
        return np.asarray(isotonic_regression(loss).x)


def play_on(shapes: Sequence[Shape], pair: Pair) -> Sheet:
    """Outcome of the shape that pays; on rows that fitted it, its heads are leave-one-out."""
    gains, confidence = dict[str, Array](), np.full(len(pair), np.nan)
    for shape in shapes:
        if shape.helper is None:
            first = shape.stages(pair)[0]
            gains[shape.name] = first.large - first.kept
            confidence = confidence if shape.name == "router" else first.kept
    return Sheet(pair, climb(shapes).play(pair, PRICES), gains, confidence)


def cross_fit(pair: Pair, options: Options, choose: Choice = fit_shapes) -> Sheet:
    """Choose on all folds but one and play on that one, for each fold; again with other folds."""
    n = len(pair)
    folds = FOLDS if n < 2000 else 3
    repeats = options.repeats or int(np.clip(1500 // n, 1, 10))
    rng = np.random.default_rng(0)
    played, confidence, choices = np.zeros((4, len(PRICES), n)), np.zeros(n), []
    gains = defaultdict[str, Array](lambda: np.zeros(n))
    for fold in (rng.permutation(n) % folds for _ in range(repeats)):
        for k in range(folds):
            held = np.flatnonzero(fold == k)
            part = play_on(list(choose(pair, np.flatnonzero(fold != k))), pair)
            played[..., held] += np.array(part.played)[..., held] / repeats
            for name, gain in part.gains.items():
                gains[name][held] += gain[held] / repeats
            confidence[held] += part.confidence[held] / repeats
            choices.append((part.share, part.lost.mean(axis=1)))
    return Sheet(pair, Replay(*played), gains, confidence, np.array(choices).swapaxes(0, 1))


def check(pair: Pair) -> None:
    """Refuse a pair of too few rows, with a `ConfigurationError`."""
    if len(pair) < LEAST_ROWS:
        told = f"{len(pair)} rows with both models and their costs: an evaluation needs "
        told += f"{LEAST_ROWS} at least, {LEAST_ROWS - len(pair)} more, and a few hundred"
        raise ConfigurationError(f"{told} to say much.")


def cheapest(sheet: Sheet, options: Options) -> int | None:
    """The cheapest policy that loses no more than allowed, or the best one at a price of an error;
    None where it does not save, by a standard error, or does not pay."""
    if each := options.price_of_error:
        unit = float(sheet.pair.large_cost.mean())
        at = int(np.argmin(np.abs(PRICES - min(unit / each, PRICES[-1]))))
        return at if sheet.loss[at] * each < (1 - sheet.share[at]) * unit else None
    lost = isotonic_regression(sheet.loss + options.caution * sheet.errors[1]).x
    allowed = np.flatnonzero(lost <= options.within)
    if not len(allowed):
        return None
    at = int(allowed[np.argmin(sheet.share[allowed])])
    return at if sheet.share[at] + sheet.errors[0][at] < 1 else None


def point_of(sheet: Sheet, at: int | None, options: Options) -> Point:
    """A point of the frontier with its figures; without an index, the large model alone."""
    price = options.price_of_error or None  # the user's own, not the nearest that was played
    within = None if price else options.within
    name = f"lose {points(within) if within else 'nothing'}"
    name = f"at {dollars(price)} an error" if price else name
    if at is None:
        off = {"name": name, "within": within, "off": True}
        return alone(sheet.pair)[1].model_copy(update=off)
    if not price and sheet.pair.priced and PRICES[at] > 0:
        price = float(sheet.pair.large_cost.mean() / PRICES[at])
    above = float(norm.sf((options.within - sheet.loss[at]) / sheet.errors[1][at]))
    return _point(sheet, at, name, within=within, price_of_error_usd=price, chance_above=above)


def alone(pair: Pair) -> tuple[Point, ...]:
    """Small model, large model, and an oracle that knows where that one helps."""
    helps = pair.large_correct > pair.small_correct
    asked = np.array([np.zeros(len(pair)), np.ones(len(pair)), helps], float)
    right = np.where(asked, pair.large_correct, pair.small_correct)
    cost = np.where(asked, pair.large_cost, pair.small_cost)
    sheet = Sheet(pair, Replay(asked, right, cost, 0 * cost), {}, np.zeros(0))
    names = pair.small, pair.large, "an oracle that asks only where it helps"
    small, large, oracle = (_point(sheet, at, name) for at, name in enumerate(names))
    sure = {"cost": Interval(1, 1, 1), "loss": Interval(0, 0, 0)}
    return small, large.model_copy(update=sure), oracle


def _point(sheet: Sheet, at: int, name: str, **known: Any) -> Point:
    right, n = float(sheet.played.right[at].mean()), len(sheet.pair)
    share, lost, (spread, error) = sheet.share[at], sheet.loss[at], 1.96 * sheet.errors[:, at]
    usd = float(share * sheet.pair.large_cost.mean()) if sheet.pair.priced else None
    return Point(
        name=name,
        quality=Interval(right, *wilson(right, n)),
        cost=Interval(share, max(share - spread, 0.0), share + spread),
        loss=Interval(lost, max(lost - error, -1.0), min(lost + error, 1.0)),
        escalated=float(sheet.played.escalated[at].mean()),
        cost_usd=usd,
        per_right_usd=usd / right if usd is not None and right else None,
        **known,
    )


def points(share: float) -> str:
    """A share in words, as percentage points."""
    return f"{100 * share:g} point{'' if share == 0.01 else 's'}"


def _hidden_by_noise(own: Sheet, options: Options) -> Rows:
    """Policies that save and may lose no more than allowed, with a chance of one in ten."""
    cost, loss = own.errors
    saves = own.share < 1 - np.maximum(1.96 * cost, WORTHWHILE)
    return np.flatnonzero(saves & (own.loss - 1.28 * loss <= options.within))


def _rows_to_tell(own: Sheet, at: int | None, options: Options) -> int:
    """Rows at which the interval of the loss is as wide as what may be lost, on each side, and that
    of the cost ends below 1; without a point, those that tell whether one that may pay does."""
    near = min(max(options.within, NEAREST), UNCERTAIN)
    if at is None:
        hidden = _hidden_by_noise(own, options)
        if not len(hidden):
            return len(own.pair)
        at = int(hidden[np.argmin(own.loss[hidden])])
        near = min(near, max(abs(own.loss[at] - options.within), NEAREST))
    share, (cost, loss) = own.share[at], 1.96 * own.errors[:, at]
    too_wide = cost / (1 - share) if share < 1 <= share + cost else 0.0
    return math.ceil(len(own.pair) * float(max(loss / near, too_wide)) ** 2)


def _judged(found: Evaluation, own: Sheet) -> tuple[Verdict, str]:
    """What to do, in a word and in a sentence: what it saves and loses, and how sure that is."""
    large, n, point, options = found.large, found.rows, found.recommended, found.options
    cost, loss, weighed = point.cost, point.loss, options.price_of_error is not None
    if not own.pair.priced:
        return "unpriced", (
            "What a cascade saves is unknown, since the recording does not say what all "
            f"answers of {found.small} and {large} cost: record both anew with their prices "
            "(`--prices FILE`), or write `cost_usd` into it."
        )
    goal = point.name if weighed else f"within {points(options.within)} of {large}"
    saves = f"it saves {percent(1 - cost.value)} of what {large} alone costs"
    gives = f"{_fewer(loss.value)} of 100 answers are right"
    seems = f"it seems that {saves}, and that {gives}, but it may be {_fewer(loss.high)}"
    unclear = not weighed and loss.high > options.within + UNCERTAIN
    if off := point.off or cost.high >= 1:
        seems = f"a saving {goal} is possible and not shown"
        hidden = not weighed and len(_hidden_by_noise(own, options)) > 0
        hopeless = n >= FAIR_TEST and found.rows_to_tell > 11 * n  # ten times more to label
        possible = hidden or (not point.off and cost.value < 1 - WORTHWHILE)
        unclear = possible and not hopeless
    if unclear:
        more = _rounded(max(found.rows_to_tell, 2 * n) - n)
        return "unclear", f"Too few rows to tell: with {n:,} {seems}. About {more} more would tell."
    if off:
        why = f"no cascade with {found.small} saves money {goal} on these {n:,} rows"
        if (missing := max(FAIR_TEST, found.rows_to_tell) - n) > 0:
            why = f"{why}, and to be sure takes about {_rounded(missing)} more"
        if (ratio := found.alone[0].cost.value) >= 1:
            why = f"a draft costs {percent(ratio)} of a large answer"
        return "off", f"Switch it off and let {large} answer everything: {why}."
    most = f"{percent(1 - cost.high).removesuffix(' %')} to {percent(1 - cost.low)}"
    sure = f"{saves} (95 % sure: {most}), and {gives} ({_fewer(loss.high)} to {_fewer(loss.low)})."
    if point.escalated < 0.01 and found.shape != "known":
        return "small", f"Let {found.small} answer everything: {sure}"
    if found.shape == "router":
        return "router", f"Use a router that reads the question alone: {sure}"
    return "cascade", f"Use the cascade: {sure}"


def _rounded(count: int) -> str:
    """A number of rows, to two digits: more would be pretended."""
    return f"{round(count, 2 - len(str(count))):,}"


def _fewer(loss: float) -> str:
    if abs(loss) < 5e-4:
        return "as many"
    return f"{abs(100 * loss):.1f} {'fewer' if loss > 0 else 'more'}"


def _notes(found: Evaluation, verdict: Verdict, pair: Pair) -> Iterator[str]:
    point, within = found.recommended, points(found.options.within)
    if verdict not in ("off", "unclear"):
        asked = f" ({found.helper})" if found.helper else ""
        yield f"How: {SHAPES[found.shape]}{asked}; {percent(point.escalated)} are escalated."
        chance = f"The chance that it loses more than {within} is {100 * point.chance_above:.0f} %"
        if (more := found.rows_to_tell - found.rows) > 0:
            chance += f"; {_rounded(more)} more rows would tell the loss to within {within}"
        yield f"{chance}."
        if (each := point.price_of_error_usd) is not None:
            yield f"For Cascade: price_of_error={each:.3g}, the dollars that an error costs."
    if pair.priced:
        saves = "a cascade saves only where more than that share of the drafts is kept"
        if (ratio := found.alone[0].cost.value) >= 1:
            saves = "no cascade of these two can save money"
        yield f"A draft costs {percent(ratio)} of a large answer: {saves}."
    if not np.isfinite(pair.raw).any() and not any(pair.runs):
        why = f"The drafts of {found.small} have no score of their own"
        yield f"{why}: record `confidence`, `features` or `signals`."
    if pair.left_out:
        yield f"Rows left out, without one of the models or without its cost: {pair.left_out:,}."


def to_document(found: Evaluation) -> Document:
    """The evaluation as tables and a picture."""
    strong, listed = found.recommended, list(found.points)
    if strong not in listed:
        listed.append(strong)
    rows = f"{found.test_rows:,} other rows" if found.test_rows else f"{found.rows:,} rows"
    note = f"On {rows}. Cost is relative to {found.large} alone. Price of error: for "
    note += "Cascade(price_of_error=…), which then decides so."
    paid = "cost", "right answers, points", "large answers", "per right answer", "price of error"
    menu = _points(found, "What you may lose, and what you pay", listed, *paid)
    alone = "right answers", "cost", "per question", "per right answer"
    ranked = "nAUC and ΔIBC: 0 is a random mix; nAUC: 1 is the oracle."
    wrong: list[Any] = []
    for one in found.mistakes:
        sure, asked = Figure(one["confidence"], "share"), one["question"][-120:]
        said, right = (one["draft"] or "")[:60], str(one["reference"] or "")[:60]
        wrong.append((one["id"], sure, asked, said, right))
    heads = "id", "confidence", "question", "draft", "right answer"
    tables = (
        replace(menu, notes=(note,), strong=listed.index(strong)),
        _points(found, "Without a cascade", found.alone, *alone),
        _grid("Who is escalated first", found.rankings, ranked),
        _grid("Confidence in the draft", found.confidence, "On rows that did not fit it."),
        Table("Kept with the most confidence, and wrong", heads, tuple(wrong), folded=True),
    )
    good = found.verdict in ("cascade", "router", "small")
    return Document(
        title=f"{found.small} before {found.large}",
        sentence=found.sentence,
        tables=tuple(table for table in tables if table.rows),
        pictures=(_picture(found),),
        notes=found.notes,
        tone="good" if good else "bad" if found.verdict == "off" else "open",
    )


def _points(found: Evaluation, title: str, listed: Sequence[Point], *heads: str) -> Table:
    rows: list[Any] = []
    for point in listed:
        lost, least, most = point.loss
        cells: dict[str, Any] = {
            "right answers": point.quality.shown("share"),
            "cost": None if found.verdict == "unpriced" else point.cost.shown("share"),
            "right answers, points": Figure(-lost, "points", -most, -least, "estimated"),
            "large answers": Figure(point.escalated, "share"),
            "per question": Figure(point.cost_usd, "usd"),
            "per right answer": Figure(point.per_right_usd, "usd"),
            "price of error": Figure(point.price_of_error_usd, "usd"),
        }
        if point.off:
            cells |= dict.fromkeys(("right answers, points", "large answers", "price of error"), "")
            cells["cost"] = "off"
        rows.append((point.name, *(cells[head] for head in heads)))
    return Table(title, ("", *heads), tuple(rows))


def _grid(title: str, known: Mapping[str, Figures], note: str) -> Table:
    """Figures by name, a column each, which is narrow."""
    heads, columns = next(iter(known.values()), {}), known.values()
    rows: list[Any] = [(head, *(by[head].shown("number") for by in columns)) for head in heads]
    return Table(title, ("", *known), tuple(rows), (note,), folded=True)


def _picture(found: Evaluation) -> Picture:
    small, large, oracle = found.alone
    point, best = found.recommended, large.quality.value
    mix = ((small.cost.value, small.quality.value), (1.0, best))
    chosen = ((point.cost.value, best - point.loss.value),)
    series = (
        Series("cascade, on rows left out", tuple(sorted(found.frontier))),
        Series("random mix", mix, role="other"),
        Series(found.small, mix[:1], "dots", "small"),
        Series(found.large, mix[1:], "dots", "large"),
        Series("oracle", ((oracle.cost.value, oracle.quality.value),), "dots", "other"),
        *(() if point.off else (Series("recommended", chosen, "dots"),)),
    )
    cost = f"cost, of {found.large} alone"
    return Picture("Right answers over cost", cost, "right answers", series)


def curve_of(score: Array, first: Array, last: Array) -> tuple[Array, Array]:
    """Share of the rows that is escalated, by falling score, and the mean of what rows go from, and
    to once they are; rows of equal score are one step, so that their order does not count."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order]) < 0), len(order) - 1) + 1
    total = first.sum() + np.cumsum((last - first)[order])[ends - 1]
    return np.append(0, ends) / len(order), np.append(first.sum(), total) / len(order)


def ranking(
    score: Array, small: Array, large: Array, kept: Array, asked: Array
) -> dict[str, float]:
    """Figures of how well a score finds the rows to escalate, from how right both models are, and
    the dollars of rows that are kept, and escalated; NaN where there is nothing to gain.

    `AUDC`: area under quality over the escalated share. `nAUC`: this area above that of a random
    mix, 1 for an oracle. `APGR`: mean share of the gap between the models that is recovered
    (2406.18665); `CPT 50`: the least share of large calls that recovers half of it. `AIQ`: mean
    height of the non-decreasing upper hull over cost (2403.12031). `ΔIBC`: what a dollar gains
    over one of the large model's, less 1, the mean of ten equal steps of cost (2310.12963).
    """
    (share, quality), (_, dollars) = curve_of(score, small, large), curve_of(score, kept, asked)
    oracle_share, oracle = curve_of(large - small, small, large)
    area, mix = np.trapezoid(quality, share), 0.5 * (small.mean() + large.mean())
    best, gap = np.trapezoid(oracle, oracle_share) - mix, quality[-1] - quality[0]
    rooms = np.array([best, gap, dollars[-1] - dollars[0]])
    best, gap, dearer = np.where(rooms > NOISE, rooms, np.nan)
    recovered, steps = (quality - quality[0]) / gap, np.linspace(0.1, 1, 10)
    better = np.interp(dearer * steps, dollars - dollars[0], recovered) / steps

    def calls(least: float) -> float:
        at = max(int(np.argmax(recovered >= least - NOISE)), 1)
        return float(np.interp(least, recovered[at - 1 : at + 1], share[at - 1 : at + 1]))

    return {
        "nAUC": float((area - mix) / best),
        "AUDC": float(area),
        "APGR": float((area - quality[0]) / gap),
        "CPT 50": calls(0.5),
        "CPT 80": calls(0.8),
        "AIQ": _hull_height(quality, dollars),
        "ΔIBC": float(better.mean() - 1),
        "AUROC of gain": auroc(score, ((large > 0.5) & (small <= 0.5)).astype(np.float64)),
    }


def _hull_height(quality: Array, cost: Array) -> float:
    """Mean height of the least concave curve above these points: their slopes, made to fall."""
    order = np.lexsort((-quality, cost))
    x, first = np.unique(cost[order], return_index=True)
    y = np.maximum.accumulate(quality[order])[first]
    if len(x) == 1:
        return float(y[0])
    width = np.diff(x)
    slopes = isotonic_regression(np.diff(y) / width, weights=width, increasing=False).x
    hull = y[0] + np.append(0.0, np.cumsum(slopes * width))
    return float(np.trapezoid(hull, x) / (x[-1] - x[0]))


def grading(confidence: Array, correct: Array) -> dict[str, float]:
    """Figures of a confidence; `AURC`: mean over all coverages of the error among the accepted."""
    share, risk = curve_of(confidence, np.zeros(len(correct)), 1.0 - correct)
    coverage = np.arange(1, len(correct) + 1) / len(correct)
    return {
        "ECE": ece(confidence, correct),
        "Brier": brier(confidence, correct),
        "AUROC": auroc(confidence, correct),
        "AURC": float(np.mean(np.interp(coverage, share, risk) / coverage)),
    }


def bootstrap(
    statistics: Callable[..., Mapping[str, float]], *columns: Array, draws: int = 100
) -> dict[str, Interval]:
    """95 % intervals of figures of columns (n,) over resampled rows: the spread of the draws around
    the figure itself, since resampling moves some (the ECE grows). Shares stay within 0 and 1."""
    n, rng = len(columns[0]), np.random.default_rng(0)
    rows = [np.arange(n), *(rng.integers(0, n, n) for _ in range(draws))]
    whole, *drawn = (statistics(*(column[at] for column in columns)) for at in rows)
    found = {}
    for name, figure in whole.items():
        known = np.array([draw[name] for draw in drawn if np.isfinite(draw[name])])
        ends = np.full(2, np.nan)
        if len(known):
            ends = figure + np.quantile(known - known.mean(), [0.025, 0.975])
            if min(figure, known.min()) >= 0 and max(figure, known.max()) <= 1:
                ends = np.clip(ends, 0.0, 1.0)
        found[name] = Interval(float(figure), *ends.tolist())
    return found


def _qualities(sheet: Sheet) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Figures of what each shape expects to gain, and of the confidence where drafts have one."""
    pair, right, rankings = sheet.pair, sheet.pair.small_correct, dict[str, Figures]()
    for name, gain in sheet.gains.items():
        asked = pair.large_cost + (0.0 if name == "router" else pair.small_cost)
        rankings[name] = bootstrap(ranking, gain, right, pair.large_correct, pair.small_cost, asked)
    if not np.isfinite(sheet.confidence).all() or not np.isfinite(pair.raw).any():
        return rankings, {}
    scores = {"fitted": sheet.confidence, "raw score": np.nan_to_num(pair.raw)}
    return rankings, {name: bootstrap(grading, score, right) for name, score in scores.items()}


def _worst_mistakes(sheet: Sheet, at: int) -> Iterator[Mapping[str, Any]]:
    sure, lost = np.nan_to_num(sheet.confidence), sheet.lost[at] * (1 - sheet.played.escalated[at])
    for i in np.lexsort((-sure, -lost))[:5]:
        row, draft = sheet.pair.rows[i], sheet.pair.rows[i].models[sheet.pair.small]
        asked = {"id": row.id, "question": row.prompt, "draft": draft.output or draft.pred}
        if lost[i] > 0.5:
            yield {**asked, "reference": row.reference, "confidence": float(sure[i])}
