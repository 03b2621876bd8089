"""The curve of cost against quality as SVG, in the colours of the page around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from cascade.demo.report import Curve, Point
from cascade.demo.words import cost_axis, named_points

WIDTH, HEIGHT = 480, 352
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 32, 46
LINE = 15
"""Height of a label's line; two labels nearer than this would run into each other."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values on an axis to places in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two values, about so many of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def limits(curve: Curve) -> tuple[float, float, float]:
    """Highest cost, lowest and highest accuracy to show, with some air."""
    points = [*curve.points, curve.small, curve.large, curve.oracle, curve.operating]
    accuracies = [point.accuracy for point in points]
    low = math.floor(min(accuracies) * 10 - 0.4) / 10
    high = math.ceil(max(accuracies) * 10 + 0.1) / 10
    return max(p.cost for p in points) * 1.04 or 1.0, max(0.0, low), min(1.05, high)


def curve_svg(curve: Curve, threshold: float) -> str:
    """The drawing, as wide as its container lets it be."""
    title, factor = cost_axis(curve)
    highest_cost, low, high = limits(curve)
    x = Scale(0, highest_cost * factor, LEFT, WIDTH - RIGHT)
    y = Scale(low * 100, high * 100, HEIGHT - BOTTOM, TOP)

    def place(point: Point) -> tuple[float, float]:
        return x(point.cost * factor), y(point.accuracy * 100)

    marks = [(role, name, *place(point)) for role, name, point in named_points(curve, threshold)]
    parts = [
        *_grid(x, y),
        _text(WIDTH - RIGHT, HEIGHT - 8, title, "end", "axis"),
        _text(LEFT - 28, 14, "right answers, %", "start", "axis"),
        _path([place(curve.small), place(curve.large)], "mix"),
        _path([place(point) for point in curve.points], "curve"),
        *(_dot(role, px, py) for role, _, px, py in marks),
        *_labels(marks),
    ]
    label = "Cost against quality at every threshold"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _grid(x: Scale, y: Scale) -> Iterable[str]:
    for value in ticks(y.low, y.high):
        yield f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 7, y(value) + 4, f"{value:.0f}", "end", "tick")
    for value in ticks(x.low, x.high):
        yield _text(x(value), HEIGHT - BOTTOM + 17, f"{value:g}", "middle", "tick")
    yield f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _labels(marks: Sequence[tuple[str, str, float, float]]) -> Iterable[str]:
    """Names beside their points: each on the side with room, none on top of another."""
    taken: list[tuple[float, float, float]] = []
    for role, name, px, py in marks:
        wide = 6.4 * len(name)
        # Left of the curve there is nothing: it rises to the right.
        to_the_left = role in ("cascade", "large") and px - 10 - wide > LEFT
        anchor, gap = ("end", -9) if to_the_left else ("start", 9)
        left = px - 9 - wide if to_the_left else px + 9
        line = py - 6 if to_the_left else py + 4
        while any(
            abs(line - other) < LINE and left < end and begin < left + wide
            for begin, end, other in taken
        ):
            line += LINE
        taken.append((left, left + wide, line))
        yield _text(px + gap, line, name, anchor, f"name {role}")


def _dot(role: str, px: float, py: float) -> str:
    return f'<circle class="{role}" cx="{px:.1f}" cy="{py:.1f}" r="5.5"/>'


def _path(places: Sequence[tuple[float, float]], css: str) -> str:
    return f'<path class="{css}" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in places)}"/>'


def _text(px: float, py: float, text: str, anchor: str, css: str) -> str:
    return (
        f'<text class="{css}" x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )
