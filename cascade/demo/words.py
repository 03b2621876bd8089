"""Figures in the words that console, picture and page share."""

from __future__ import annotations

from cascade.demo.report import Curve, Point, Share

PER = 1_000_000
"""Dollars are told per this many questions: one question costs too little to read."""


def interval(share: Share) -> str:
    """`67.8 to 78.9 %`, the 95 % interval."""
    low, high = share.interval
    return f"{low * 100:.1f} to {high * 100:.1f} %"


def short_name(model: str) -> str:
    """A model's name without provider and folders."""
    return model.partition(":")[2].rpartition("/")[2] or model


def cost_axis(curve: Curve) -> tuple[str, float]:
    """Title of the cost axis, and what a point's cost is multiplied by to stand on it."""
    if curve.unit == "dollars":
        return "dollars per million questions", float(PER)
    return "questions that the large model answers, %", 100.0


def named_points(curve: Curve, threshold: float) -> list[tuple[str, str, Point]]:
    """The points that carry a name: (role, name, point)."""
    return [
        ("oracle", "oracle: asks only where it helps", curve.oracle),
        ("small", "small alone", curve.small),
        ("large", "large alone", curve.large),
        ("cascade", f"this run, threshold {threshold:g}", curve.operating),
    ]
