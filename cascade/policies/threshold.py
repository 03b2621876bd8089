"""Accept at a threshold and above."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, obstacle
from cascade.state import Decision

DEFAULT_THRESHOLD = 0.8
"""Where an uncalibrated cascade starts. It promises nothing; a calibration replaces it."""


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """Accept a draft whose confidence is `threshold` or more.

    Raises:
        ConfigurationError: the threshold is not in [0, 1].
    """

    threshold: float = DEFAULT_THRESHOLD

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigurationError(
                f"ThresholdPolicy(threshold={self.threshold}): a threshold is between 0 and 1."
            )

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate by the threshold."""
        assessment = situation.assessment
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked.model_copy(update={"threshold": self.threshold})
        return compare(assessment.confidence or 0.0, self.threshold, assessment.calibrated)


def compare(confidence: float, threshold: float, calibrated: bool) -> Decision:
    """The decision of a confidence against a threshold, with the reason in words."""
    accepted = confidence >= threshold
    kind = "confidence" if calibrated else "uncalibrated score"
    left, right = f"{confidence:.3f}", f"{threshold:.3f}"
    if left == right and not accepted:
        left, right = f"{confidence}", f"{threshold}"  # 0.800 < 0.800 would explain nothing
    return Decision(
        action="accept" if accepted else "escalate",
        reason=f"{kind} {left} {'≥' if accepted else '<'} {right}",
        threshold=threshold,
        confidence=confidence,
        calibrated=calibrated,
    )
