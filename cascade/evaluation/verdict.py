"""What a cascade is worth on recorded answers: a menu of points, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import ConfigDict

from cascade.confidence.calibration import Calibration
from cascade.evaluation.crossfit import (
    Alone,
    Certified,
    Choice,
    Confidence,
    Mistake,
    Options,
    Point,
    Ranking,
    Sheet,
    Step,
    baselines,
    certify_half,
    cheapest_within,
    check,
    confidence_of,
    cross_fit,
    play_on,
    point_of,
    ranking_of,
    recommend,
    worst_mistakes,
)
from cascade.evaluation.features import Pair
from cascade.evaluation.ladder import Ladder, climb, fit_shapes, shape_of_calibration
from cascade.evaluation.metrics import Interval
from cascade.evaluation.render import (
    Axis,
    Cell,
    Document,
    Fact,
    Figure,
    Mark,
    Picture,
    Series,
    Table,
    Tone,
    Unit,
    counted,
    dollars,
    percent,
)
from cascade.state import Record

Verdict = Literal["cascade", "router", "small", "off", "unclear", "unpriced"]

CLEARLY = 0.02
"""A share of right answers that is higher by this is no accident of a few hundred rows."""

WORTHWHILE = 0.05
"""A share of the cost that is worth more rows to find out about."""

UNCERTAIN = 0.05
"""So much more than what may be lost is too much not to know."""

SHAPES: Mapping[str, str] = {
    "score": "the draft's own score decides",
    "gain": "the draft's signals and the question decide",
    "skip": "the question alone sends some straight to the large model; the draft decides the rest",
    "router": "the question alone decides",
    "helper": "where the draft leaves it open, another cheap model is asked too",
    "known": "where the draft leaves it open, another cheap model is asked too, and the likelier "
    "of the two answers is given",
    "calibration": "the calibrated confidence decides, as it does online",
    "off": "the large model answers everything",
}


class Evaluation(Record):
    """Everything that was found; quality and costs are of questions like the recorded ones.

    Attributes:
        sentence: the verdict for people, in one sentence.
        points: the menu, in order of `Options.menu`.
        recommended: the point that the verdict is about.
        shape: what is recommended, fitted to all rows; `off` for the large model alone.
        helper: another model that it asks.
        chosen: how often each shape was chosen in the folds.
        frontier: (cost share, right answers) of the policies at all prices.
        rows_to_tell: rows that would tell the loss to within what may be lost.
        notes: in words, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    small: str
    large: str
    options: Options
    rows: int
    test_rows: int
    left_out: int
    priced: bool
    cost_ratio: float
    verdict: Verdict
    sentence: str
    notes: tuple[str, ...]
    points: tuple[Point, ...]
    recommended: Point
    shape: str
    helper: str | None
    chosen: Mapping[str, int]
    rungs: tuple[Step, ...]
    alone: tuple[Alone, ...]
    frontier: tuple[tuple[float, float], ...]
    rankings: tuple[Ranking, ...]
    confidence: Confidence | None
    certified: Certified | None
    mistakes: tuple[Mistake, ...]
    rows_to_tell: int


def evaluate(
    pair: Pair,
    options: Options | None = None,
    *,
    test: Pair | None = None,
    calibration: Calibration | None = None,
    choose: Choice | None = None,
) -> Evaluation:
    """What a cascade of a pair is worth.

    Args:
        pair: the rows to fit on; without `test` also those that figures are about.
        options: what was asked for.
        test: other rows of the same models, for the figures alone.
        calibration: judge this one, as it decides online, instead of fitting anything.
        choose: what is fitted instead of the ladder of shapes.

    Raises:
        ConfigurationError: too few rows, or an option that cannot be had with these.
    """
    options = options or Options()
    check(pair, options)
    if calibration is not None:
        ladder = climb([shape_of_calibration(calibration, pair)])
        own = sheet = play_on(ladder, pair if test is None else test)
    else:
        choose = choose or (lambda part, fit: climb(fit_shapes(part, fit)))
        own = sheet = cross_fit(pair, options, choose)
        ladder = choose(pair, np.arange(len(pair)))
        sheet = own if test is None else play_on(ladder, test)
    at = recommend(own, options) if ladder.shape is not None else None
    within = None if options.price_of_error else options.within
    judge = _Judge(sheet, own, ladder, options, point_of(sheet, at, within, options))
    return Evaluation(
        small=pair.small,
        large=pair.large,
        options=options,
        rows=len(pair),
        test_rows=0 if test is None else len(test),
        left_out=sheet.pair.left_out,
        priced=pair.priced,
        cost_ratio=judge.cost_ratio,
        verdict=judge.verdict,
        sentence=judge.sentence,
        notes=judge.notes,
        points=tuple(
            point_of(sheet, cheapest_within(own, loss, options), loss, options)
            for loss in options.menu
        ),
        recommended=judge.point,
        shape=judge.shape,
        helper=None if ladder.shape is None else ladder.shape.helper,
        chosen=dict(own.chosen),
        rungs=tuple(
            Step(
                shape=rung.shape.label,
                helper=rung.shape.helper,
                value=rung.value,
                better=rung.better,
                error=rung.error,
                taken=rung.taken,
            )
            for rung in ladder.rungs
        ),
        alone=baselines(sheet.pair),
        frontier=tuple(zip(sheet.share.tolist(), sheet.right.mean(axis=1).tolist(), strict=True)),
        rankings=tuple(ranking_of(sheet, name, options.seed) for name in sheet.gains),
        confidence=confidence_of(sheet, options.seed),
        certified=certify_half(pair, options, test),
        mistakes=worst_mistakes(sheet, at),
        rows_to_tell=judge.rows_to_tell,
    )


# Words ----------------------------------------------------------------------------------------


class _Judge:
    """What the figures mean."""

    def __init__(
        self, sheet: Sheet, own: Sheet, ladder: Ladder, options: Options, point: Point
    ) -> None:
        self.sheet, self.own, self.options, self.point = sheet, own, options, point
        self.small, self.large = sheet.pair.small, sheet.pair.large
        self.ladder = ladder
        self.shape = "off" if point.off or ladder.shape is None else ladder.shape.name
        self.cost_ratio = float(sheet.pair.small_cost.sum() / sheet.pair.large_cost.sum())

    @property
    def rows_to_tell(self) -> int:
        """Rows at which the interval of the loss is as wide as what may be lost, on each side, and
        that of the cost ends below the large model's."""
        goal, cost = max(self.options.within, 0.005), self.point.cost
        widths = [1.96 * self._loss_error / goal]
        if cost.value < 1 <= cost.high:
            widths.append((cost.high - cost.value) / (1 - cost.value))
        return math.ceil(len(self.own.pair) * max(widths) ** 2)

    @property
    def _loss_error(self) -> float:
        half = (self.point.loss.high - self.point.loss.low) / 3.92
        return half or float(self.own.errors[1][int(np.argmin(self.own.loss))])

    @property
    def verdict(self) -> Verdict:
        """In one word."""
        if not self.sheet.pair.priced:
            return "unpriced"
        if self.point.off:
            return "unclear" if self._hidden_by_noise else "off"
        if self.point.cost.high >= 1:
            worth_more_rows = self.point.cost.value < 1 - WORTHWHILE or self._hidden_by_noise
            return "unclear" if worth_more_rows else "off"
        weighed = self.options.price_of_error is not None
        if not weighed and self.point.loss.high > self.options.within + UNCERTAIN:
            return "unclear"
        if self.point.escalated < CLEARLY / 2 and self.shape not in ("helper", "known"):
            return "small"
        return "router" if self.shape == "router" else "cascade"

    @property
    def _hidden_by_noise(self) -> bool:
        """Whether nothing is recommended only because so few rows leave the loss open."""
        if self.options.price_of_error is not None:
            return False
        cost, loss = self.own.errors
        saves = self.own.share < 1 - np.maximum(1.96 * cost, WORTHWHILE)
        may_lose = self.own.loss - 1.96 * loss <= self.options.within
        return bool(np.any(saves & may_lose))

    @property
    def sentence(self) -> str:
        """For a manager."""
        large, verdict = self.large, self.verdict
        pays = f"costs {_span(self.point.cost)} of {large} alone"
        gives = f"is expected to give {_lost(self.point.loss.value)}"
        gives += f" ({_lost_between(self.point.loss)})"
        why = f"no cascade with {self.small} saves money"
        if self.cost_ratio >= 1:
            why = f"a draft costs {percent(self.cost_ratio)} of a large answer"
        return {
            "unpriced": "What a cascade saves is unknown, since the recording does not say what "
            f"the answers cost: record `cost_usd` of {self.small} and {large}.",
            "off": f"Switch it off and let {large} answer everything: {why} {self._goal}.",
            "unclear": self._open(pays),
            "small": f"Let {self.small} answer everything: it {pays} and {gives}.",
            "router": f"Use a router that reads the question alone: it {pays} and {gives}.",
            "cascade": f"Use the cascade: it {pays} and {gives}.",
        }[verdict]

    def _open(self, pays: str) -> str:
        rows, point = len(self.own.pair), self.point
        seems = f"a saving {self._goal} is not shown"
        if not point.off and point.cost.high < 1:
            seems = (
                f"it seems that a cascade {pays} and gives {_lost(point.loss.value)}, but it may "
                f"give {100 * point.loss.high:.1f} points fewer"
            )
        more = max(self.rows_to_tell - rows, 1)
        return f"Too few rows to tell: with {rows:,} {seems}. About {more:,} more would tell."

    @property
    def _goal(self) -> str:
        if self.options.price_of_error is not None:
            return f"at {dollars(self.options.price_of_error)} an error"
        return f"within {_points(self.options.within)} of {self.large}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know besides."""
        found = [
            *self._about_the_point(),
            self._better_drafter(),
            self._unstable(),
            self._ratio(),
        ]
        if not np.isfinite(self.sheet.pair.raw).any():
            found.append(
                f"The drafts of {self.small} have no score of their own: record `confidence`, "
                "`features` or `signals`."
            )
        if self.sheet.pair.left_out:
            found.append(
                f"{counted(self.sheet.pair.left_out, 'row')} without one of the models, or "
                "without its cost, left out."
            )
        return tuple(note for note in found if note)

    def _about_the_point(self) -> list[str]:
        point, own = self.point, len(self.own.pair)
        if self.verdict in ("off", "unclear"):
            return []
        helper = self.ladder.shape.helper if self.ladder.shape else None
        asked = f" ({helper})" if helper else ""
        found = [f"How: {SHAPES[self.shape]}{asked}; {percent(point.escalated)} are escalated."]
        chance = f"The chance that it loses more than {_points(self.options.within)} is "
        chance += f"{percent(point.chance_above, 0)}"
        if self.rows_to_tell > own:
            chance += f"; {self.rows_to_tell - own:,} rows more would tell to within that"
        found.append(f"{chance}.")
        if point.price_of_error_usd is not None:
            each = dollars(point.price_of_error_usd)
            found.append(f"It acts as if an error costs {each}: price_of_error={each[1:]}.")
        return found

    def _better_drafter(self) -> str:
        pair = self.sheet.pair
        best = next(iter(pair.helpers(np.arange(len(pair)))), None)
        if best is None or pair.view(best).correct.mean() <= pair.small_correct.mean() + CLEARLY:
            return ""
        return (
            f"{best} is cheap too and right more often than {self.small}: let it draft, and "
            "evaluate that."
        )

    def _unstable(self) -> str:
        (name, most), *_ = self.own.chosen.most_common(1)
        total = self.own.chosen.total()
        if most >= 0.6 * total or self.verdict in ("off", "unpriced"):
            return ""
        others = ", ".join(f"{shape} {n}" for shape, n in self.own.chosen.most_common())
        del name
        return f"On parts of the rows other shapes were chosen ({others}): bring more rows."

    def _ratio(self) -> str:
        if not self.sheet.pair.priced:
            return ""
        said = f"A draft costs {percent(self.cost_ratio)} of a large answer: "
        if self.cost_ratio >= 1:
            return f"{said}no cascade of these two can save money."
        return f"{said}a cascade saves only where more than that share of the drafts is kept."


def _points(share: float) -> str:
    count = 100 * share
    return f"{count:g} point{'' if count == 1 else 's'}"


def _span(interval: Interval) -> str:
    low, high = (percent(max(end, 0.0)).removesuffix(" %") for end in interval[1:])
    return f"{percent(interval.value)} ({low} to {high})"


def _lost(loss: float) -> str:
    if abs(loss) < 5e-4:
        return "as many right answers"
    return f"{abs(100 * loss):.1f} points {'fewer' if loss > 0 else 'more'} right answers"


def _lost_between(loss: Interval) -> str:
    ends = [f"{abs(100 * end):.1f} {'fewer' if end > 0 else 'more'}" for end in loss[1:]]
    return " to ".join(reversed(ends))


# Document -------------------------------------------------------------------------------------


def to_document(found: Evaluation) -> Document:
    """The evaluation as tables and pictures."""
    tones: dict[Verdict, Tone] = {
        "cascade": "good",
        "router": "good",
        "small": "good",
        "off": "bad",
    }
    return Document(
        title=f"{found.small} before {found.large}",
        sentence=found.sentence,
        tables=tuple(
            table
            for table in (
                _menu(found),
                _alone(found),
                _ladder(found),
                _rankings(found),
                _confidence(found),
                _certificate(found),
                _wrong(found),
            )
            if table is not None
        ),
        pictures=_pictures(found),
        facts=_facts(found),
        notes=found.notes,
        tone=tones.get(found.verdict, "open"),
    )


def _figure(interval: Interval | None, unit: Unit = "number") -> Figure:
    if interval is None:
        return Figure(None, unit)
    return Figure(interval.value, unit, interval.low, interval.high)


def _change(point: Point) -> Figure:
    """Quality against the large model: minus what is lost."""
    return Figure(-point.loss.value, "points", -point.loss.high, -point.loss.low, "estimated")


def _facts(found: Evaluation) -> tuple[Fact, ...]:
    point = found.recommended
    rows = f"{found.test_rows:,} other rows" if found.test_rows else f"{found.rows:,} rows"
    cost = _figure(point.cost, "share") if found.priced else Figure(None, "share")
    return (
        Fact("cost of the large model's alone", cost, f"on {rows}"),
        Fact("right answers against it", _change(point), "points; 95 % interval"),
        Fact("cost per right answer", Figure(point.per_right_usd, "usd")),
    )


def _menu(found: Evaluation) -> Table:
    points = list(found.points)
    strong = next((i for i, p in enumerate(points) if p == found.recommended), None)
    if strong is None:
        points.append(found.recommended)
        strong = len(points) - 1

    def row(point: Point) -> tuple[Cell, ...]:
        goal = (
            f"at {dollars(found.options.price_of_error)} an error"
            if point.within is None
            else f"lose {_points(point.within)}"
            if point.within
            else "lose nothing"
        )
        if point.off:
            return (goal, "off", "", "", Figure(point.per_right_usd, "usd"), "")
        return (
            goal,
            _figure(point.cost, "share") if found.priced else None,
            _change(point),
            Figure(point.escalated, "share"),
            Figure(point.per_right_usd, "usd"),
            Figure(point.price_of_error_usd, "usd"),
        )

    return Table(
        "What you may lose, and what you pay",
        (
            "",
            "cost",
            "right answers, points",
            "large answers",
            "per right answer",
            "price of error",
        ),
        tuple(row(point) for point in points),
        notes=(
            f"Cost is relative to {found.large} alone. Price of error: for Cascade(price_of_error="
            "…), which then decides so.",
        ),
        strong=strong,
    )


def _alone(found: Evaluation) -> Table:
    return Table(
        "Without a cascade",
        ("", "right answers", "cost", "per question", "per right answer"),
        tuple(
            (
                one.name,
                _figure(one.quality, "share"),
                Figure(one.cost, "share") if found.priced else None,
                Figure(one.cost_usd, "usd"),
                Figure(one.per_right_usd, "usd"),
            )
            for one in found.alone
        ),
    )


def _ladder(found: Evaluation) -> Table:
    def row(step: Step) -> tuple[Cell, ...]:
        ends = step.better - 1.96 * step.error, step.better + 1.96 * step.error
        return (
            step.shape,
            step.helper or "",
            Figure(step.value, "points"),
            Figure(step.better, "points", *ends),
            "yes" if step.taken else "no",
        )

    return Table(
        "Shapes, from the simplest up",
        ("", "asks", "worth, points", "more than below", "taken"),
        tuple(row(step) for step in found.rungs),
        notes=(
            "Worth: right answers per hundred beyond the large model alone, with costs priced in "
            "errors. A shape is taken where it is worth more than the one below by more than a "
            "standard error.",
        ),
        folded=True,
    )


_RANKED = {
    "nauc": "nAUC",
    "audc": "AUDC",
    "apgr": "APGR",
    "cpt50": "CPT 50",
    "cpt80": "CPT 80",
    "aiq": "AIQ",
    "auroc_gain": "AUROC of gain",
}


def _rankings(found: Evaluation) -> Table | None:
    if not found.rankings:
        return None
    return Table(
        "Who is escalated first",
        ("", *_RANKED.values()),
        tuple(
            (
                one.name,
                *(
                    _figure(one.figures[name], "share" if name.startswith("cpt") else "number")
                    for name in _RANKED
                ),
            )
            for one in found.rankings
        ),
        notes=("nAUC: 0 is a random mix, 1 the oracle.",),
        folded=True,
    )


def _confidence(found: Evaluation) -> Table | None:
    if found.confidence is None:
        return None
    names = {"ece": "ECE", "brier": "Brier", "auroc": "AUROC", "aurc": "AURC"}
    known = found.confidence.figures

    def row(title: str, suffix: str) -> tuple[Cell, ...]:
        figures = (known.get(f"{name}{suffix}") for name in names)
        return (title, *("" if figure is None else _figure(figure) for figure in figures))

    return Table(
        "Confidence in the draft",
        ("", *names.values()),
        (row("fitted, on rows left out", ""), row("raw score", "_raw")),
        folded=True,
    )


def _certificate(found: Evaluation) -> Table | None:
    known = found.certified
    if known is None:
        return None
    promise = f"harm ≤ {percent(known.max_harm)} with {percent(1 - known.delta, 0)} confidence"
    if known.threshold is None:
        return Table(f"Certificate: {promise}", (), (), notes=(f"Refused: {known.reason}.",))
    return Table(
        f"Certificate: {promise}",
        ("threshold", "accepted", "proved harm", "harm on other rows"),
        (
            (
                Figure(known.threshold),
                Figure(known.accepted, "share"),
                Figure(known.bound, "share"),
                "" if known.harm is None else _figure(known.harm, "share"),
            ),
        ),
        notes=(f"{known.reason}; as many rows fitted the confidence.",),
    )


def _wrong(found: Evaluation) -> Table | None:
    if not found.mistakes:
        return None
    return Table(
        "Kept with the most confidence, and wrong",
        ("id", "confidence", "question", "draft", "right answer"),
        tuple(
            (
                one.id,
                Figure(one.confidence, "share"),
                one.question[-120:],
                (one.draft or "")[:60],
                (one.reference or "")[:60],
            )
            for one in found.mistakes
        ),
        folded=True,
    )


def _pictures(found: Evaluation) -> tuple[Picture, ...]:
    small, large, oracle = found.alone
    point, best = found.recommended, large.quality.value
    marks = [
        Mark(found.small, small.cost, small.quality.value, "small"),
        Mark(found.large, 1.0, best, "large"),
        Mark("oracle", oracle.cost, oracle.quality.value, "other"),
    ]
    if not point.off:
        marks.append(Mark("recommended", point.cost.value, best - point.loss.value, "cascade"))
    mix = ((small.cost, small.quality.value), (1.0, best))
    pictures = [
        Picture(
            "Right answers over cost",
            Axis(f"cost, of {found.large} alone", "share"),
            Axis("right answers", "share"),
            (
                Series("cascade, on rows left out", tuple(sorted(found.frontier))),
                Series("random mix", mix, role="other", dashed=True),
            ),
            tuple(marks),
        )
    ]
    if found.confidence is not None:
        bins = tuple((p, right) for p, right, _ in found.confidence.reliability)
        pictures.append(
            Picture(
                "Is the confidence what it says?",
                Axis("confidence", "share", 0, 1),
                Axis("right drafts", "share", 0, 1),
                (
                    Series("drafts in ten parts", bins, kind="dots"),
                    Series("perfect", ((0, 0), (1, 1)), role="other", dashed=True),
                ),
            )
        )
    return tuple(pictures)
