"""An evaluation as PNG: cost against quality, and reliability. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.errors import MissingDependencyError
from cascade.evaluation.drawing import Axis, Mark, Series
from cascade.evaluation.page import plane, reliability
from cascade.evaluation.report import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "small": "#d07a1f",
    "large": "#3a67c8",
    "cascade": "#0f8a63",
    "router": "#8a3fa8",
    "oracle": "#8a8f99",
    "ink": "#22242a",
    "faint": "#e4e6ea",
}
LINES = {
    "curve": (COLOURS["cascade"], "-", "draft first, every threshold"),
    "routed": (COLOURS["router"], "-", "router before the draft"),
    "best": (COLOURS["oracle"], "-", "oracle"),
    "mix": (COLOURS["oracle"], "--", "large model at random"),
}
RELIABILITY = {
    "curve": (COLOURS["cascade"], "-", "calibrated confidence"),
    "rough": (COLOURS["small"], "-", "raw score"),
    "mix": (COLOURS["oracle"], "--", "as it should be"),
}


def draw(found: Evaluation, path: Path) -> None:
    """Draw the picture.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "a PNG is drawn with matplotlib: pip install 'agent-cascade[plot]', or take --html."
        )
    # The figure is made without pyplot, which would look for a screen and keep it in memory.
    from matplotlib.figure import Figure  # noqa: PLC0415 - heavy

    count = 1 if found.confidence is None else 2
    figure = Figure(figsize=(6.2 * count, 4.8), dpi=160, facecolor="white", layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    x_axis, y_axis, series, marks = plane(found)
    _draw(axes[0], x_axis, y_axis, series, marks, LINES)
    if found.confidence is not None:
        _draw(axes[1], *reliability(found.confidence), (), RELIABILITY)
    figure.suptitle(
        f"{found.small} first, {found.large} when in doubt: {found.test_rows:,} test rows",
        x=0.01,
        ha="left",
        fontsize=12,
        color=COLOURS["ink"],
    )
    figure.savefig(path, format="png")


def _draw(
    axes: Axes,
    x_axis: Axis,
    y_axis: Axis,
    series: Sequence[Series],
    marks: Sequence[Mark],
    styles: dict[str, tuple[str, str, str]],
) -> None:
    for line in series:
        colour, style, label = styles[line.css]
        xs, ys = zip(*line.points, strict=True)
        axes.plot(xs, ys, color=colour, linestyle=style, linewidth=1.8, label=label)
    for mark in marks:
        axes.scatter(*mark.at, s=60, color=COLOURS[mark.css], zorder=3, label=mark.name)
    axes.set_xlim(x_axis.low, x_axis.high)
    axes.set_ylim(y_axis.low, y_axis.high)
    axes.set_xlabel(x_axis.title, color=COLOURS["ink"])
    axes.set_title(y_axis.title, loc="left", fontsize=10, color=COLOURS["ink"])
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    axes.grid(axis="y", color=COLOURS["faint"], zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=COLOURS["ink"])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
