"""The curve of cost against quality, in the colours of the page around it."""

from __future__ import annotations

import math

from cascade.demo.report import Curve, Point
from cascade.demo.words import cost_axis, named_points
from cascade.evaluation.drawing import Axis, Mark, Place, Series, chart


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

    def place(point: Point) -> Place:
        return point.cost * factor, point.accuracy * 100

    return chart(
        Axis(title, 0, highest_cost * factor),
        Axis("right answers, %", low * 100, high * 100),
        [
            Series("mix", [place(curve.small), place(curve.large)]),
            Series("curve", [place(point) for point in curve.points]),
        ],
        [Mark(role, name, place(point)) for role, name, point in named_points(curve, threshold)],
        "Cost against quality at every threshold",
    )
