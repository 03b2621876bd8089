"""What escalating a draft is expected to bring, and to cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from cascade.jobs.rows import Row
from cascade.jobs.running import guessed
from cascade.ledger.baseline import AS_DRAFT, BaselineModel, predict_usd
from cascade.pausing import Paused
from cascade.state import Assessment
from cascade.tiers import OpenTier

if TYPE_CHECKING:
    from cascade.confidence.calibration import Calibration

__all__ = ["Weighing"]


@dataclass(frozen=True, slots=True)
class Weighing:
    """Weighs drafts.

    Attributes:
        large: the model that would be asked.
        calibration: makes probabilities.
        fitted: whether it was fitted on a sample of these very drafts, so that what they were
            judged by before does not count.
        lengths: how long the large model's answers are.
    """

    large: OpenTier
    calibration: Calibration
    fitted: bool = False
    lengths: BaselineModel = AS_DRAFT

    def assessed(self, paused: Paused) -> Assessment | None:
        """What is known of a draft; None where there is none."""
        assessment = paused.assessment
        if assessment is None or assessment.confidence is None or not self.fitted:
            return assessment
        seen = self.calibration.estimate(assessment.signals, assessment.taken)
        if seen is None:
            missing = "its signals are not those of the sample"
            return replace(assessment, confidence=None, calibrated=False, missing=missing)
        return replace(
            assessment,
            confidence=seen.confidence,
            calibrated=True,
            interval=seen.interval,
            p_large=seen.p_large,
        )

    def gain(self, assessment: Assessment | None) -> float:
        """p_L − p_S, how much more probably the large model is right.

        Where there is no draft, or it is ruled out, or cannot be judged, p_S counts as 0, as a
        policy would escalate it. p_L is 1 where nothing is known of it, as with a calibration on
        agreement with the large model.

        Args:
            assessment: as of `assessed`.
        """
        known = 1.0 if self.calibration.p_large is None else self.calibration.p_large
        if assessment is None or assessment.objection is not None:
            return known
        large = known if assessment.p_large is None else assessment.p_large
        if not assessment.calibrated or assessment.confidence is None:
            return large
        return large - assessment.confidence

    def cost(self, row: Row, paused: Paused) -> Decimal:
        """Dollars: by the draft's tokens and the learned lengths, else by the question's length.

        Raises:
            ConfigurationError: the large model has no price.
        """
        usd = None
        if paused.draft is not None:
            completion = paused.draft.completion
            usd = predict_usd(
                completion.usage,
                self.large.pricing,
                self.lengths,
                cap=self.large.settings.max_tokens,
                tool_calls=len(completion.tool_calls),
            )
        return guessed(row, (self.large,)) if usd is None else usd
