"""The pictures of a document as a file, drawn with matplotlib. Needs the extra `plot`."""

from __future__ import annotations

import math
from importlib.util import find_spec
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.evaluation.page import span, tick, ticks
from cascade.evaluation.render import Document, Picture, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "small": "#a8590a",
    "large": "#3560bd",
    "cascade": "#0b7150",
    "router": "#85389f",
    "other": "#6b717b",
}
_INK, _FAINT = "#22242a", "#e4e6ea"

_SHAPES = "osD^vPX"
"""Of single places, which stand in the legend, so that no name covers another."""

FORMATS = ("png", "svg", "pdf")


def save(document: Document, path: Path) -> None:
    """Draw all pictures of a document into one file, two in a row.

    Args:
        document: with one picture or more.
        path: its suffix says the format: `.png`, `.svg` or `.pdf`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        ConfigurationError: another format, or a document without pictures.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "pictures as files are drawn with matplotlib: install agent-cascade with the extra "
            "`plot`, or write a page (HTML), which needs none."
        )
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ConfigurationError(f"{path}: a picture is a file in {', '.join(FORMATS)}.")
    if not document.pictures:
        raise ConfigurationError(f"{document.title}: there is no picture to draw.")
    # The figure is made without pyplot, which would look for a screen and keep it in memory.
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy

    count = len(document.pictures)
    wide, tall = min(2, count), math.ceil(count / 2)
    figure = Figure((6.2 * wide, 4.8 * tall), dpi=160, facecolor="white", layout="constrained")
    places = figure.subplots(tall, wide, squeeze=False).flat
    for axes in places[count:]:
        axes.set_axis_off()
    for axes, picture in zip(places, document.pictures, strict=False):
        _draw(axes, picture)
    figure.suptitle(document.title, x=0.01, ha="left", fontsize=12, color=_INK)
    figure.savefig(path, format=kind)


def _draw(axes: Axes, picture: Picture) -> None:
    bars = [series for series in picture.series if series.kind == "bars"]
    for series in picture.series:
        if not series.points:
            continue
        if series.kind == "bars":
            _bars(axes, series, bars.index(series), len(bars))
        else:
            _points(axes, series)
    for mark, shape in zip(picture.marks, cycle(_SHAPES)):
        colour = COLOURS[mark.role]
        axes.scatter(
            mark.x, mark.y, 55, colour, marker=shape, label=mark.name, zorder=3, clip_on=False
        )
    for axis, way, shown in ((axes.xaxis, "x", picture.x), (axes.yaxis, "y", picture.y)):
        ends = span(picture, way)
        places = ticks(ends, shown.unit)
        axis.set_ticks(places, [tick(place, shown.unit) for place in places])
        (axes.set_xlim if way == "x" else axes.set_ylim)(*ends)
    axes.set_xlabel(picture.x.title, color=_INK)
    axes.set_ylabel(picture.y.title, color=_INK)
    axes.set_title(picture.title, loc="left", fontsize=10, color=_INK)
    if picture.marks or any(series.name for series in picture.series):
        # Below the axes, so that it covers nothing.
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, fontsize=8
        )
    axes.grid(axis="y", color=_FAINT, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _points(axes: Axes, series: Series) -> None:
    xs, ys = zip(*series.points, strict=True)
    colour = COLOURS[series.role]
    if series.ranges:
        lows, highs = zip(*series.ranges, strict=True)
        axes.vlines(xs[: len(lows)], lows, highs, color=_INK, linewidth=0.8, zorder=2)
    name = series.name or "_"  # matplotlib leaves names with an underscore out of the legend
    if series.kind == "dots":
        axes.scatter(xs, ys, s=28, color=colour, label=name, zorder=3)
    else:
        style = "--" if series.dashed else "-"
        axes.plot(xs, ys, color=colour, linestyle=style, linewidth=1.8, label=name)


def _bars(axes: Axes, series: Series, place: int, count: int) -> None:
    xs, ys = zip(*series.points, strict=True)
    ordered = sorted(set(xs))
    gap = min((b - a for a, b in pairwise(ordered)), default=1.0)
    wide = 0.76 * gap / count
    left = [x + (place - (count - 1) / 2) * wide for x in xs]
    axes.bar(left, ys, width=wide, color=COLOURS[series.role], label=series.name or "_", zorder=2)
