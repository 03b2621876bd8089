"""The picture of a run as PNG: how often each is right, and cost against quality."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from cascade._words import percent
from cascade.demo.chart import limits
from cascade.demo.records import Findings
from cascade.demo.report import Curve, Line
from cascade.demo.words import cost_axis, named_points, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "small": "#d07a1f",
    "large": "#3a67c8",
    "cascade": "#0f8a63",
    "oracle": "#8a8f99",
    "ink": "#22242a",
    "faint": "#e4e6ea",
}


def draw(findings: Findings, path: Path) -> bool:
    """Draw the picture; False where matplotlib (the extra `plot`) is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    # The figure is made without pyplot, which would look for a screen and keep it in memory.
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy

    figure = Figure(figsize=(11, 4.8), dpi=160, facecolor="white", layout="constrained")
    curve = findings.report.curve
    if curve is None:
        _bars(figure.subplots(), findings.report.overall)
    else:
        bars, plane = figure.subplots(1, 2, width_ratios=(2, 3))
        _bars(bars, findings.report.overall)
        _curve(plane, curve, findings.facts.threshold)
    facts = findings.facts
    figure.suptitle(
        f"{short_name(facts.small)} (live) drafts, {short_name(facts.large)} "
        f"({facts.large_source}) is asked where the draft is doubtful",
        x=0.01,
        ha="left",
        fontsize=12,
        color=COLOURS["ink"],
    )
    figure.savefig(path)
    return True


def _bars(axes: Axes, overall: Line) -> None:
    rows = [
        (name, share, COLOURS[name])
        for name, share in (
            ("large", overall.large),
            ("cascade", overall.cascade),
            ("small", overall.small),
        )
        if share is not None
    ]
    for place, (_, share, colour) in enumerate(rows):
        low, high = share.interval
        axes.barh(place, share.rate * 100, height=0.55, color=colour)
        spread = [[(share.rate - low) * 100], [(high - share.rate) * 100]]
        ink = COLOURS["ink"]
        axes.errorbar(share.rate * 100, place, xerr=spread, color=ink, capsize=4, linewidth=1.2)
        axes.text(2, place, percent(share.rate), color="white", va="center", fontweight="bold")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=11)
    axes.set_xlim(0, 100)
    asked = percent(overall.escalated.rate, 0)
    title = f"{overall.n} questions: % right, with 95 % interval\nlarge model asked for {asked}"
    _plain(axes, title, grid="x")


def _curve(axes: Axes, curve: Curve, threshold: float) -> None:
    title, factor = cost_axis(curve)
    highest_cost, low, high = limits(curve)
    axes.plot(
        [curve.small.cost * factor, curve.large.cost * factor],
        [curve.small.accuracy * 100, curve.large.accuracy * 100],
        color=COLOURS["oracle"],
        linestyle=(0, (4, 3)),
        linewidth=1.2,
        label="asking the large model at random",
    )
    axes.plot(
        [point.cost * factor for point in curve.points],
        [point.accuracy * 100 for point in curve.points],
        color=COLOURS["cascade"],
        linewidth=2,
        label="the cascade at every threshold",
    )
    for role, name, point in named_points(curve, threshold):
        axes.scatter(
            point.cost * factor,
            point.accuracy * 100,
            s=60,
            color=COLOURS[role],
            zorder=3,
            label=name,
        )
    axes.set_xlim(0, highest_cost * factor)
    axes.set_ylim(low * 100, high * 100)
    axes.set_xlabel(title, color=COLOURS["ink"])
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    _plain(axes, "cost against quality: % right", grid="y")


def _plain(axes: Axes, title: str, *, grid: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=COLOURS["ink"])
    axes.grid(axis=grid, color=COLOURS["faint"], zorder=0)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=COLOURS["ink"])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
