"""Whether what a calibration's file says can be computed with: a file is data, and may be anyone's.

Its form is checked when it is read. Here is what a form cannot say: numbers that are none, tables
that do not fit together, trees that lead nowhere or in a circle. Each would end in an error in the
middle of a request, in an endless loop, or in a confidence that every comparison finds false.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from cascade.confidence.calibrators import (
    Beta,
    Constant,
    FittedCalibrator,
    Isotonic,
    Logistic,
    Temperature,
    VennAbersBand,
)

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration, Stage
    from cascade.confidence.gain import GainHead, Trees

__all__ = ["DEEPEST", "LARGEST", "problem_of", "unsound_number"]

LARGEST = 64 * 2**20
"""Bytes of a file; one with boosted trees has less than two million."""

ROUNDING = 1e-9
"""Means of labels are that much beside 0 or 1 at times."""

DEEPEST = 64
"""Steps from the root of a tree; fitted ones have seven."""


def unsound_number(text: str) -> str | None:
    """The first number of a JSON document that is none, or too large to be one; None where there
    is none. NaN is written as null.
    """

    def refuse(word: str) -> NoReturn:
        raise _UnsoundError(word)

    def finite(word: str) -> float:
        number = float(word)
        return number if math.isfinite(number) else refuse(word)

    try:
        json.loads(text, parse_constant=refuse, parse_float=finite)
    except _UnsoundError as error:
        return str(error)
    return None


class _UnsoundError(Exception):
    pass


def problem_of(calibration: Calibration) -> str | None:
    """What does not fit together in a calibration, with its place; None where all does."""
    return next(_problems(calibration), None)


def _problems(calibration: Calibration) -> Iterator[str]:
    for number, stage in enumerate(calibration.stages):
        for problem in _of_stage(stage):
            yield f"stages.{number}: {problem}"
    if calibration.gain is not None:
        for problem in _of_gain(calibration.gain):
            yield f"gain: {problem}"
    if not _shares(calibration.confidences):
        yield "confidences: not all are between 0 and 1"
    if calibration.p_large is not None and not 0 <= calibration.p_large <= 1:
        yield "p_large: not between 0 and 1"
    for number, promise in enumerate(calibration.certificates):
        shares = (promise.max_harm, promise.delta, promise.coverage, promise.bound)
        if not _shares(shares) or not 0 <= promise.errors <= promise.n:
            yield f"certificates.{number}: its figures are none of a certificate"


def _of_stage(stage: Stage) -> Iterator[str]:
    for problem in _of_calibrator(stage.calibrator, len(stage.columns)):
        yield f"calibrator: {problem}"
    if stage.band is not None:
        yield from _of_band(stage.band)
    if not _shares([share for pair in stage.outlook for share in pair]):
        yield "outlook: not all are between 0 and 1"
    elif list(stage.outlook) != sorted(stage.outlook, key=lambda pair: pair[0]):
        yield "outlook: not sorted"


def _of_calibrator(fitted: FittedCalibrator, width: int) -> Iterator[str]:
    match fitted:
        case Constant(value=value):
            if not 0 <= value <= 1:
                yield "value: not between 0 and 1"
        case Temperature(column=column):
            if not 0 <= column < width:
                yield f"column: there is none of number {column}"
        case Logistic():
            yield from _of_logistic(fitted, width)
        case Beta(inner=inner):
            yield from _of_logistic(inner, width)
        case Isotonic(inner=inner, knots=knots, values=values):
            yield from _of_logistic(inner, width)
            if not _is_curve(knots, values):
                yield "knots: they are no curve of probabilities"


def _of_logistic(fitted: Logistic, width: int) -> Iterator[str]:
    sizes = {len(fitted.columns), len(fitted.mean), len(fitted.scale), len(fitted.weights)}
    if len(sizes) != 1:
        yield "columns, mean, scale and weights: of different lengths"
    if not all(0 <= column < width for column in fitted.columns):
        yield f"columns: there are {width}"
    if not all(scale > 0 for scale in fitted.scale):
        yield "scale: not above 0"


def _of_band(band: VennAbersBand) -> Iterator[str]:
    for bounds in (band.low, band.high):
        if not _is_curve(band.scores, bounds):
            yield "band: it is no curve of probabilities"


def _of_gain(head: GainHead) -> Iterator[str]:
    width = len(head.mean)
    weights = [len(linear.weights) for linear in (head.small, head.large, head.direct)]
    if {len(head.scale), *weights} != {width}:
        yield "mean, scale and weights: of different lengths"
    if not all(scale > 0 for scale in head.scale):
        yield "scale: not above 0"
    if head.trees is not None:
        yield from _of_trees(head.trees, width)


def _of_trees(trees: Trees, width: int) -> Iterator[str]:
    tables = (trees.threshold, trees.left, trees.right, trees.missing_left, trees.value)
    sizes = [len(tree) for tree in trees.feature]
    if any([len(tree) for tree in table] != sizes for table in tables) or 0 in sizes:
        yield "trees: their tables are of different lengths"
        return
    if not 0 <= trees.depth <= DEEPEST:
        yield f"trees: depth {trees.depth}, of {DEEPEST} at most"
    if not all(0 <= column < width for tree in trees.feature for column in tree):
        yield f"trees: there are {width} columns"
    for table in (trees.left, trees.right):
        for size, tree in zip(sizes, table, strict=True):
            if not all(0 <= child < size for child in tree):
                yield "trees: a branch leads out of its tree"
                return


def _is_curve(places: Sequence[float], shares: Sequence[float]) -> bool:
    rising = all(a <= b for a, b in pairwise(places))
    return 0 < len(places) == len(shares) and rising and _shares(shares)


def _shares(values: Sequence[float]) -> bool:
    return all(-ROUNDING <= value <= 1 + ROUNDING for value in values)
