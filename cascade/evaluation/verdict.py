"""Verdict on recorded answers: a menu of points, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits

from cascade.confidence.calibration import Calibration
from cascade.evaluation import crossfit
from cascade.evaluation.crossfit import Choice, Figures, Mistake, Options, Point, Sheet
from cascade.evaluation.features import Pair, Rows
from cascade.evaluation.ladder import climb, fit_shapes, shape_of_calibration
from cascade.evaluation.render import Cell, Document, Figure, Picture, Series, Table, percent
from cascade.state import Record

Verdict = Literal["cascade", "router", "small", "off", "unclear", "unpriced"]

WORTHWHILE = 0.05
"""A share of the cost that is worth more rows to find out about."""
UNCERTAIN = 0.05
"""So much more than what may be lost is too much not to know."""
NEAREST = 0.005
"""Losses that are nearer to each other need not be told apart."""
FAIR_TEST = 200
"""With fewer rows a cascade that does not save has not had a fair test."""
SHAPES: Mapping[str, str] = {
    "gain": "the draft, or how it was arrived at, and the question decide",
    "router": "the question alone decides",
    "known": "where the draft leaves it open, another cheap model is asked too, and the likelier "
    "of the two answers is given",
    "calibration": "the calibrated confidence decides, as it does online",
    "off": "the large model answers everything",
}


class Evaluation(Record):
    """Everything that was found; quality and costs are of questions like the recorded ones.

    Attributes:
        points: the menu, in order of `MENU`; the verdict is about the one that is `recommended`.
        alone: the small model, the large one, and an oracle.
        frontier: (cost share, right answers) of the policies at all prices.
        rankings, confidence: quality of each shape's expected gain, of P(draft is right) and of the
            raw score.
        rows_to_tell: rows that would tell the loss to within what may be lost.
    """

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
    mistakes: tuple[Mistake, ...]
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
    options, rows = options or Options(), np.arange(len(pair))
    crossfit.check(pair)
    if test is not None:  # a helper has to be there on both
        both = tuple(name for name in pair.candidates if name in test.candidates)
        pair = replace(pair, candidates=both)
    # Of matrices as small as these, threads cost more than they save: several times over where
    # others use the machine too.
    with threadpool_limits(1, "blas"):
        if calibration is None:
            own, shapes = crossfit.cross_fit(pair, options, choose), list(choose(pair, rows))
        else:
            shapes = [shape_of_calibration(calibration, pair, rows)]
            own = crossfit.play_on(shapes, pair)
    sheet, shape = own if test is None else crossfit.play_on(shapes, test), climb(shapes)
    goal = None if options.price_of_error else options.within
    at = None if shape.name == "off" else crossfit.cheapest_within(own, goal, options)
    menu = [(crossfit.cheapest_within(own, loss, options), loss) for loss in crossfit.MENU]
    rights = sheet.played.right.mean(axis=1).tolist()
    found = Evaluation(
        small=pair.small,
        large=pair.large,
        options=options,
        rows=len(pair),
        test_rows=0 if test is None else len(test),
        points=tuple(crossfit.point_of(sheet, *chosen, options) for chosen in menu),
        recommended=crossfit.point_of(sheet, at, goal, options),
        shape="off" if at is None else shape.name,
        helper=shape.helper,
        alone=crossfit.alone(sheet.pair),
        frontier=tuple(zip(sheet.share.tolist(), rights, strict=True)),
        rankings=crossfit.rankings_of(sheet),
        confidence=crossfit.confidences_of(sheet),
        mistakes=crossfit.worst_mistakes(sheet, at),
        rows_to_tell=_rows_to_tell(own, at, options),
    )
    verdict, sentence = _judged(found, own)
    found = found.model_copy(update={"verdict": verdict, "sentence": sentence})
    return found.model_copy(update={"notes": tuple(_notes(found, sheet.pair))})


def _hidden_by_noise(own: Sheet, options: Options) -> Rows:
    """Policies that save and may lose no more than allowed, with a chance of one in ten."""
    cost, loss = own.errors
    saves = own.share < 1 - np.maximum(1.96 * cost, WORTHWHILE)
    return np.flatnonzero(saves & (own.loss - 1.28 * loss <= options.within))


def _rows_to_tell(own: Sheet, at: int | None, options: Options) -> int:
    """Rows at which the interval of the loss is as wide as what may be lost, on each side, and
    that of the cost ends below the large model's; without a point, those that would tell whether
    the policy that may pay loses too much."""
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


# Words ----------------------------------------------------------------------------------------


def _judged(found: Evaluation, own: Sheet) -> tuple[Verdict, str]:
    """For a manager, in a word and in a sentence: what to do, what it saves, what it may lose, and
    how sure that is."""
    large, n, point, options = found.large, found.rows, found.recommended, found.options
    cost, loss, weighed = point.cost, point.loss, options.price_of_error is not None
    if not own.pair.priced:
        return "unpriced", (
            "What a cascade saves is unknown, since the recording does not say what all "
            f"answers of {found.small} and {large} cost: record both anew with their prices "
            "(`--prices FILE`), or write `cost_usd` into it."
        )
    goal = point.name if weighed else f"within {crossfit.points(options.within)} of {large}"
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


def _notes(found: Evaluation, pair: Pair) -> Iterator[str]:
    """Notes beside the figures."""
    point, within = found.recommended, crossfit.points(found.options.within)
    if found.verdict not in ("off", "unclear"):
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
        yield (
            f"The drafts of {found.small} have no score of their own: record `confidence`, "
            "`features` or `signals`."
        )
    if pair.left_out:
        yield f"Rows left out, without one of the models or without its cost: {pair.left_out:,}."


def to_document(found: Evaluation) -> Document:
    """The evaluation as tables and a picture."""
    strong, listed = found.recommended, list(found.points)
    if strong not in listed:
        listed.append(strong)
    rows = f"{found.test_rows:,} other rows" if found.test_rows else f"{found.rows:,} rows"
    note = (
        f"On {rows}. Cost is relative to {found.large} alone. Price of error: for "
        "Cascade(price_of_error=…), which then decides so."
    )
    heads = "cost", "right answers, points", "large answers", "per right answer", "price of error"
    menu = _points(found, "What you may lose, and what you pay", listed, heads)
    alone = "right answers", "cost", "per question", "per right answer"
    ranked = "nAUC and ΔIBC: 0 is a random mix; nAUC: 1 is the oracle."
    tables = (
        replace(menu, notes=(note,), strong=listed.index(strong)),
        _points(found, "Without a cascade", found.alone, alone),
        _grid("Who is escalated first", found.rankings, ranked),
        _grid("Confidence in the draft", found.confidence, "On rows that did not fit it."),
        _wrong(found),
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


def _points(found: Evaluation, title: str, listed: Iterable[Point], heads: Iterable[str]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for point in listed:
        loss, priced = point.loss, found.verdict != "unpriced"
        change = Figure(-loss.value, "points", -loss.high, -loss.low, "estimated")
        cells: dict[str, Cell] = {
            "right answers": point.quality.shown("share"),
            "cost": point.cost.shown("share") if priced else None,
            "right answers, points": change,
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
    rows: list[tuple[Cell, ...]] = [
        (head, *(figures[head].shown("number") for figures in columns)) for head in heads
    ]
    return Table(title, ("", *known), tuple(rows), (note,), folded=True)


def _wrong(found: Evaluation) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in found.mistakes:
        said, right = (one.draft or "")[:60], str(one.reference or "")[:60]
        rows.append((one.id, Figure(one.confidence, "share"), one.question[-120:], said, right))
    heads = ("id", "confidence", "question", "draft", "right answer")
    return Table("Kept with the most confidence, and wrong", heads, tuple(rows), folded=True)


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
    return Picture(
        "Right answers over cost",
        f"cost, of {found.large} alone",
        "right answers",
        series,
    )
