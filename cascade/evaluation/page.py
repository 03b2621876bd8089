"""An evaluation as one HTML file that asks no other host for anything."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cascade._page import card, document, grid
from cascade.evaluation.drawing import Axis, Mark, Series, around, chart
from cascade.evaluation.metrics import Interval
from cascade.evaluation.report import Bin, Confidence, Evaluation, Point
from cascade.evaluation.text import WHAT, certified_words, economic_words, number, percent
from cascade.evaluation.text import points as in_points
from cascade.evaluation.verdict import SHAPES


def to_page(found: Evaluation) -> str:
    """The whole page."""
    sections = (_head, _cards, _pictures, _shapes, _rankings, _promises, _method)
    return document(
        f"{found.small} and {found.large}: what a cascade is worth",
        "\n".join(section(found) for section in sections),
    )


def _head(found: Evaluation) -> str:
    remarks = "".join(f"<li>{_marked(remark)}</li>" for remark in found.remarks)
    css = "verdict off" if found.verdict == "off" else "verdict"
    return f"""<h1>{escape(found.small)} first, {escape(found.large)} when in doubt?</h1>
<p class="{css}">{_marked(found.headline)}</p><ul>{remarks}</ul>"""


def _cards(found: Evaluation) -> str:
    chosen = found.chosen
    cost, change = chosen.cost, chosen.change
    cards = [
        ("small alone", _rate(found.accuracy_small), f"costs {found.cost_ratio:.1%} of large"),
        ("large alone", _rate(found.accuracy_large), "right answers"),
        ("recommended", ("off", "") if chosen.off else (chosen.shape, ""), SHAPES[chosen.shape]),
        ("its cost", _rate(cost), "of large alone"),
        ("its quality", (f"{100 * change.value:+.1f}", _range(change)), "points, against large"),
    ]
    shown = (
        card(label, value, f"{between}; {note}" if between else note)
        for label, (value, between), note in cards
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def _rate(figure: Interval) -> tuple[str, str]:
    return f"{figure.value:.1%}", f"{100 * figure.low:.1f} to {100 * figure.high:.1f}"


def _range(figure: Interval) -> str:
    return f"{100 * figure.low:+.1f} to {100 * figure.high:+.1f}"


def _pictures(found: Evaluation) -> str:
    second = "" if found.confidence is None else _reliability(found.confidence)
    return f'<div class="plots" style="margin-top:28px">{_plane(found)}{second}</div>'


def plane(found: Evaluation) -> tuple[Axis, Axis, list[Series], list[Mark]]:
    """Cost against quality: axes, lines and dots, for any way of drawing."""
    small = (100 * found.cost_ratio, 100 * found.accuracy_small.value)
    large = (100.0, 100 * found.accuracy_large.value)
    series = [Series("mix", [small, large]), Series("best", _places(found.curves["oracle"]))]
    series.append(Series("routed", _places(found.curves["router"])))
    for name in ("gain", "confidence"):
        if name in found.curves:
            series.append(Series("curve", _places(found.curves[name])))
            break
    chosen = found.chosen
    marks = [
        Mark("small", "small alone", small),
        Mark("large", "large alone", large),
        Mark("oracle", "oracle", (100 * found.oracle.cost, 100 * found.oracle.quality)),
    ]
    if not chosen.off:
        css = "router" if chosen.shape == "router" else "cascade"
        place = (100 * chosen.cost.value, 100 * chosen.quality.value)
        marks.append(Mark(css, "recommended", place))
    every = [place for line in series for place in line.points] + [mark.at for mark in marks]
    x_axis = Axis("cost, % of large alone", 0.0, max(105.0, 1.04 * max(x for x, _ in every)))
    y_axis = Axis("right answers, %", *around(y for _, y in every))
    return x_axis, y_axis, series, marks


def reliability(found: Confidence) -> tuple[Axis, Axis, list[Series]]:
    """Confidence against the share of right drafts."""
    axes = (Axis("confidence, %", 0.0, 100.0), Axis("drafts that are right, %", 0.0, 100.0))
    series = [
        Series("mix", [(0.0, 0.0), (100.0, 100.0)]),
        Series("rough", _bins(found.reliability_raw)),
        Series("curve", _bins(found.reliability)),
    ]
    return *axes, series


def _plane(found: Evaluation) -> str:
    x_axis, y_axis, series, marks = plane(found)
    drawn = chart(x_axis, y_axis, series, marks, "Cost against quality")
    cascade = "<span>draft first, every threshold</span>" if len(series) > 3 else ""
    return f"""<div class="plot"><div class="key">{cascade}
<span class="routed">router before the draft</span><span class="best">oracle</span>
<span class="random">large model at random</span></div>{drawn}</div>"""


def _reliability(found: Confidence) -> str:
    drawn = chart(*reliability(found), label="Confidence against correctness")
    return f"""<div class="plot"><div class="key"><span>calibrated confidence</span>
<span class="rough">raw score</span><span class="random">as it should be</span></div>
{drawn}</div>"""


def _places(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(100 * point.cost, 100 * point.quality) for point in points]


def _bins(bins: Sequence[Bin]) -> list[tuple[float, float]]:
    return [(100 * part.confidence, 100 * part.correct) for part in bins]


def _shapes(found: Evaluation) -> str:
    heads = ("shape", "cost", "quality, points", "large answers", "ΔIBC")
    rows = [
        (
            shape.shape,
            "off" if shape.off else percent(shape.cost),
            in_points(shape.change),
            percent(shape.escalated),
            number(shape.delta_ibc),
        )
        for shape in found.shapes
    ]
    helpers = {name for shape in found.shapes for name in shape.helpers}
    asked = f" Other cheap models: {escape(', '.join(sorted(helpers)))}." if helpers else ""
    goal = f"{100 * found.options.epsilon:g}"
    return f"""<h2>Within {goal} point of the large model</h2>{grid(heads, rows, found.best)}
<p class="soft">Thresholds are from the fit part and unchanged on the test part; cost is relative to
the large model alone, drafts and signals paid.{asked}</p>"""


def _rankings(found: Evaluation) -> str:
    heads = ("who is escalated first", "nAUC", "APGR", "CPT 50", "CPT 80", "AIQ", "AUROC of gain")
    rows = [
        (
            WHAT[ranking.name],
            number(ranking.nauc),
            number(ranking.apgr),
            percent(ranking.cpt50),
            percent(ranking.cpt80),
            number(ranking.aiq),
            number(ranking.auroc_gain),
        )
        for ranking in found.rankings
    ]
    c = found.confidence
    calibration = (
        ""
        if c is None
        else f"<p>Calibrated on {c.labels:,} labels ({c.calibrator}): ECE {number(c.ece)}, raw "
        f"{number(c.ece_raw)}, noise {c.ece_floor:.3f}; Brier {number(c.brier)}, raw "
        f"{number(c.brier_raw)}; AUROC {number(c.auroc)}, raw {number(c.auroc_raw)}.</p>"
    )
    return f"<h2>How well the right questions are found</h2>{grid(heads, rows)}{calibration}"


def _promises(found: Evaluation) -> str:
    said = []
    if found.economic is not None:
        said.append(economic_words(found.economic))
    if found.certified is not None:
        said.append(certified_words(found.certified))
    if not said:
        return ""
    return "<h2>Policies</h2>" + "".join(f"<p>{escape(words)}</p>" for words in said)


def _method(found: Evaluation) -> str:
    return f"""<h2>How this was measured</h2>
<p class="soft">Fitted on {found.fit_rows:,} rows chosen at random (seed {found.options.seed});
every figure is from the other {found.test_rows:,}. Intervals are 95 %, by bootstrap. nAUC: 0 is a
random mix, 1 the oracle. CPT 50: share of calls to the large model that recovers half of the
gap.</p>"""


def _marked(words: str) -> str:
    """Escaped, with what stands between backticks as code."""
    parts = escape(words).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(parts))
