"""Whether something grows: a line through a series of samples, with an interval."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series of samples does over time.

    Attributes:
        per_hour: slope of the least squares line.
        low, high: 95 % interval of the slope.
        first, last: medians of the first and of the last third.
    """

    per_hour: float
    low: float
    high: float
    first: float
    last: float

    def grows(self, allowed: float) -> bool:
        """Whether it grew: the interval is above 0, and the last third by more than allowed.

        Both, as each alone is no growth worth a name: a line that rises by a page of memory in an
        hour, and one sample that is higher than another.
        """
        return self.low > 0 and self.last - self.first > allowed


def trend_of(hours: Sequence[float], values: Sequence[float]) -> Trend:
    """The trend of samples at these times.

    Neighbouring samples are alike, so that they say less than as many independent ones would:
    the interval counts n (1 − r) / (1 + r) of them, r the correlation of a residual with the one
    before it (Santer et al. 2000, 10.1029/1999JD901105, eq. 6).

    Raises:
        ValueError: there are fewer than six samples.
    """
    n = len(values)
    if n < 6 or n != len(hours):
        raise ValueError(f"a trend needs six samples or more, and a time of each: {n} were given")
    third = n // 3
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    if len(set(values)) == 1:
        return Trend(0.0, 0.0, 0.0, first, last)
    middle, level = statistics.fmean(hours), statistics.fmean(values)
    spread = sum((x - middle) ** 2 for x in hours)
    slope = sum((x - middle) * y for x, y in zip(hours, values, strict=True)) / spread
    left = [y - level - slope * (x - middle) for x, y in zip(hours, values, strict=True)]
    squares = sum(one * one for one in left)
    # Rounding leaves residuals of a straight line that say nothing.
    straight = squares <= 1e-18 * sum(y * y for y in values)
    alike = 0.0 if straight else sum(one * two for one, two in pairwise(left)) / squares
    alike = min(max(alike, 0.0), 0.95)
    effective = max(3.0, n * (1 - alike) / (1 + alike))
    error = (squares / (effective - 2) / spread) ** 0.5
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, effective - 2)) * error
    return Trend(slope, slope - width, slope + width, first, last)
