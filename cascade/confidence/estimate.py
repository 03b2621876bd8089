"""What a calibrator gives: a probability, and what another signal could make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from langchain_core.messages import BaseMessage


@dataclass(frozen=True, slots=True)
class Estimate:
    """A calibrated confidence.

    Attributes:
        confidence: P(the draft is correct).
        interval: a range for it as wide as the labels are few (Venn–Abers), where known.
        p_large: P(the large model is correct) on this question, where known.
    """

    confidence: float
    interval: tuple[float, float] | None = None
    p_large: float | None = None


class Calibrator(Protocol):
    """Turns the features of a draft into a probability."""

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the signals it needs, in the order in which they are taken."""
        ...

    def mismatch(self, messages: Sequence[BaseMessage]) -> str | None:
        """Why this conversation is not of the kind it was fitted on, or None."""
        ...

    def estimate(self, features: Mapping[str, float], taken: Sequence[str]) -> Estimate | None:
        """The confidence from the signals taken so far; None when too many are missing."""
        ...

    def outlook(self, confidence: float, taken: Sequence[str]) -> tuple[float, ...]:
        """Confidences to which the next signal led from one like this; empty when unknown."""
        ...
