"""Accept at a threshold and above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, can_change, compare, settled, with_observation
from cascade.state import Decision

DEFAULT_THRESHOLD = 0.8
"""Where an uncalibrated cascade starts. It promises nothing; a calibration replaces it."""


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """Accept a draft whose confidence is `threshold` or more.

    A paid signal is taken only where it led to the other side of the threshold before.

    Args:
        threshold: in [0, 1].
        uncalibrated: threshold of raw scores, where they have one of their own.

    Raises:
        ConfigurationError: a threshold is not in [0, 1].
    """

    threshold: float = DEFAULT_THRESHOLD
    uncalibrated: float | None = None

    def __post_init__(self) -> None:
        for name in ("threshold", "uncalibrated"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigurationError(
                    f"ThresholdPolicy({name}={value}): a threshold is between 0 and 1."
                )

    @classmethod
    def at_rate(cls, confidences: Sequence[float], escalation_rate: float) -> ThresholdPolicy:
        """The threshold that escalates a given share: the ρ-quantile of the confidences.

        Raw scores are on another scale, and have `DEFAULT_THRESHOLD`.

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
        threshold = 1.0 if escalated == len(ordered) else ordered[escalated]
        return cls(threshold, uncalibrated=DEFAULT_THRESHOLD)

    def decide(self, situation: Situation) -> Decision:
        """Accept or escalate by the threshold."""
        assessment, threshold = situation.assessment, self.threshold
        if not assessment.calibrated and self.uncalibrated is not None:
            threshold = self.uncalibrated
        decision = settled(situation)
        if decision is not None:
            return decision.model_copy(update={"threshold": threshold})
        decision = compare(assessment, threshold)
        return with_observation(decision, situation.next_signal, can_change)
