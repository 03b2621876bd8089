"""Accept at a threshold and above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, obstacle
from cascade.policies.rule import can_change, with_observation
from cascade.state import Decision

DEFAULT_THRESHOLD = 0.8
"""Where an uncalibrated cascade starts. It promises nothing; a calibration replaces it."""


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """Accept a draft whose confidence is `threshold` or more.

    A paid signal is taken only where it led to the other side of the threshold before.

    Raises:
        ConfigurationError: the threshold is not in [0, 1].
    """

    threshold: float = DEFAULT_THRESHOLD

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigurationError(
                f"ThresholdPolicy(threshold={self.threshold}): a threshold is between 0 and 1."
            )

    @classmethod
    def at_rate(cls, confidences: Sequence[float], escalation_rate: float) -> ThresholdPolicy:
        """The threshold that escalates a given share: the ρ-quantile of the confidences.

        Args:
            confidences: of drafts like those to come.
            escalation_rate: ρ, between 0 and 1. Ties at the quantile are accepted.

        Raises:
            ConfigurationError: no confidences, or a rate outside [0, 1].
        """
        if not 0.0 <= escalation_rate <= 1.0:
            raise ConfigurationError(
                f"escalation_budget={escalation_rate}: a share of requests is between 0 and 1."
            )
        if not confidences:
            raise ConfigurationError("an escalation budget needs confidences of earlier drafts.")
        ordered = sorted(confidences)
        escalated = round(escalation_rate * len(ordered))
        return cls(1.0 if escalated == len(ordered) else ordered[escalated])

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate by the threshold."""
        assessment = situation.assessment
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked.model_copy(update={"threshold": self.threshold})
        decision = compare(assessment.confidence or 0.0, self.threshold, assessment.calibrated)
        return with_observation(decision, situation.next_signal, can_change)


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
