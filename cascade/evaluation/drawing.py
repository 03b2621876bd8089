"""Small charts as SVG text, in the colours of the page around them; asks nobody for anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 352
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 18, 46
LINE = 15
"""Height of a label's line; two labels nearer than this would run into each other."""

LETTER = 7.4
"""Width of a letter of a label, generously."""

DOT = 5.5

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """A title and the values from one end to the other."""

    title: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points; `css` is its class on the page."""

    css: str
    points: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot with its name beside it."""

    css: str
    name: str
    at: Place


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


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values, about five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def around(values: Iterable[float]) -> Place:
    """Round limits around values in percent, with some air."""
    known = list(values)
    air = max(1.0, 0.08 * (max(known) - min(known)))
    low, high = min(known) - air, max(known) + air
    return max(0.0, math.floor(low / 5) * 5.0), min(100.0, math.ceil(high / 5) * 5.0)


def chart(
    x_axis: Axis,
    y_axis: Axis,
    series: Sequence[Series],
    marks: Sequence[Mark] = (),
    label: str = "",
) -> str:
    """The drawing, as wide as its container lets it be."""
    x = Scale(x_axis.low, x_axis.high, LEFT, WIDTH - RIGHT)
    y = Scale(y_axis.low, y_axis.high, HEIGHT - BOTTOM, TOP)
    places = [(mark, x(mark.at[0]), y(mark.at[1])) for mark in marks]
    parts = [
        *_grid(x, y),
        text(WIDTH - RIGHT, HEIGHT - 8, x_axis.title, "end", "axis"),
        text(4, 11, y_axis.title, "start", "axis"),
        *(path([(x(px), y(py)) for px, py in line.points], line.css) for line in series),
        *(dot(mark.css, px, py) for mark, px, py in places),
        *_labels(places),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )


def _grid(x: Scale, y: Scale) -> Iterable[str]:
    for value in ticks(y.low, y.high):
        yield f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
        yield text(LEFT - 7, y(value) + 4, f"{value:g}", "end", "tick")
    for value in ticks(x.low, x.high):
        yield text(x(value), HEIGHT - BOTTOM + 17, f"{value:g}", "middle", "tick")
    yield f'<path class="base" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _labels(marks: Sequence[tuple[Mark, float, float]]) -> Iterable[str]:
    """Names beside their points: on the side with room, none on top of another or of a dot."""
    taken = [(px - DOT, px + DOT, py + 4) for _, px, py in marks]
    for mark, px, py in marks:
        wide = LETTER * len(mark.name)
        to_the_right = px + 10 + wide < WIDTH
        left = px + 10 if to_the_right else px - 10 - wide
        line = py + 4
        while any(
            abs(line - other) < LINE and left < end and begin < left + wide
            for begin, end, other in taken
        ):
            line += LINE
        taken.append((left, left + wide, line))
        anchor, at = ("start", px + 10) if to_the_right else ("end", px - 10)
        yield text(at, line, mark.name, anchor, f"name {mark.css}")


def dot(css: str, px: float, py: float) -> str:
    """A filled circle."""
    return f'<circle class="{css}" cx="{px:.1f}" cy="{py:.1f}" r="{DOT}"/>'


def path(places: Sequence[Place], css: str) -> str:
    """A line through places in the drawing."""
    return f'<path class="{css}" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in places)}"/>'


def text(px: float, py: float, words: str, anchor: str, css: str) -> str:
    """Words at a place."""
    return (
        f'<text class="{css}" x="{px:.1f}" y="{py:.1f}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )
