"""The pictures of a document as a file, drawn with matplotlib. Needs the extra `plot`."""

from __future__ import annotations

import math
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import ConfigurationError, MissingDependencyError
from cascade.evaluation.page import span, tick, ticks
from cascade.evaluation.render import Document, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "small": "#a8590a",
    "large": "#3560bd",
    "cascade": "#0b7150",
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
    for series in picture.series:
        xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
        dots = series.kind == "dots"
        axes.plot(
            xs,
            ys,
            marker="o" if dots else "",
            linestyle="" if dots else "--" if series.dashed else "-",
            color=COLOURS[series.role],
            label=series.name or "_",  # matplotlib leaves such names out of the legend
        )
        for x, (low, high) in zip(xs, series.ranges, strict=False):
            axes.vlines(x, low, high, color=_INK, linewidth=0.8)
    for mark, shape in zip(picture.marks, cycle(_SHAPES)):
        colour = COLOURS[mark.role]
        axes.scatter(mark.x, mark.y, 55, colour, marker=shape, label=mark.name, clip_on=False)
    for axis, way, shown in ((axes.xaxis, "x", picture.x), (axes.yaxis, "y", picture.y)):
        ends = span(picture, way)
        at = ticks(ends, shown.unit)
        axis.set_ticks(at, [tick(place, shown.unit) for place in at])
        axis.set_label_text(shown.title, color=_INK)
        (axes.set_xlim if way == "x" else axes.set_ylim)(*ends)
    axes.set_title(picture.title, loc="left", fontsize=10, color=_INK)
    if axes.get_legend_handles_labels()[0]:
        # Below the axes, so that it covers nothing.
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False, fontsize=8
        )
    axes.grid(axis="y", color=_FAINT)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
