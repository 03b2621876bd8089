"""How long a call to a model takes: by its mean and spread, or as it was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cached_property
from random import Random
from typing import Protocol, runtime_checkable

from pydantic import Field, model_validator

from cascade.evaluation.plan.inputs import Checked

__all__ = ["LognormalTime", "MeasuredTimes", "ServiceTime"]


@runtime_checkable
class ServiceTime(Protocol):
    """A random time, in seconds."""

    @property
    def mean_s(self) -> float:
        """Its mean."""
        ...

    @property
    def cv(self) -> float:
        """Its standard deviation over its mean."""
        ...

    def draw(self, rng: Random) -> float:
        """One of them."""
        ...


class LognormalTime(Checked):
    """A time whose logarithm is normal: never below 0, with a long tail, as answers have it.

    Args:
        mean_s: mean, in seconds.
        cv: standard deviation over mean; 0 for a time that is always the same.
    """

    mean_s: float = Field(gt=0, allow_inf_nan=False)
    cv: float = Field(default=1.0, ge=0, le=100, allow_inf_nan=False)

    def draw(self, rng: Random) -> float:
        """One of them."""
        if self.cv == 0:
            return self.mean_s
        variance = math.log1p(self.cv**2)
        return rng.lognormvariate(math.log(self.mean_s) - variance / 2, math.sqrt(variance))


class MeasuredTimes(Checked):
    """Times that were measured, each as likely as the others.

    Args:
        seconds: one or more; none below 0, not all of them 0.
    """

    seconds: tuple[float, ...] = Field(min_length=1, repr=False)

    @model_validator(mode="after")
    def _are_times(self) -> MeasuredTimes:
        wrong = next((s for s in self.seconds if not (s >= 0 and math.isfinite(s))), None)
        if wrong is not None or not any(self.seconds):
            raise ValueError(f"{'0' if wrong is None else wrong} s is no time that a call takes")
        return self

    @classmethod
    def of_ms(cls, milliseconds: Sequence[float]) -> MeasuredTimes:
        """From milliseconds, as the ledger has them."""
        return cls(seconds=tuple(each / 1000 for each in milliseconds))

    @property
    def mean_s(self) -> float:
        """Mean, in seconds."""
        return self._mean_and_cv[0]

    @property
    def cv(self) -> float:
        """Standard deviation over mean."""
        return self._mean_and_cv[1]

    @cached_property
    def _mean_and_cv(self) -> tuple[float, float]:
        mean = statistics.fmean(self.seconds)
        return mean, statistics.pstdev(self.seconds) / mean

    def draw(self, rng: Random) -> float:
        """One of them."""
        return rng.choice(self.seconds)
