"""Accept under a certificate: P(accepted and wrong) ≤ α with confidence 1 − δ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, obstacle
from cascade.policies.threshold import compare
from cascade.state import Decision, Record


class Certificate(Record):
    """What was proved about a threshold on labelled drafts that the calibrator never saw.

    For every threshold τ' ≥ `threshold` the Clopper–Pearson upper bound on the joint harm
    R(τ') = P(accept ∧ wrong) is at most `max_harm`; R is monotone in τ, so no correction for
    many looks is needed (fixed-sequence testing; arXiv 2101.02703, 2407.18370).

    Attributes:
        threshold: accept at this confidence and above.
        max_harm: α, the promised bound per request.
        delta: δ, the chance that the promise does not hold.
        n: labelled drafts used.
        errors: accepted and wrong among them.
        coverage: share of them that is accepted.
        bound: upper bound of the harm at `threshold`.
        valid_until: the promise is void afterwards; None for no end.
    """

    threshold: float
    max_harm: float
    delta: float
    n: int
    errors: int
    coverage: float
    bound: float
    valid_until: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether the promise is void at `now`."""
        return self.valid_until is not None and now >= self.valid_until


@dataclass(frozen=True, slots=True)
class CertifiedPolicy:
    """Accept what the certificate covers; escalate the rest, and everything without it.

    The promise holds for the calibrated confidence only: an uncalibrated score, as after a
    change of model or prompt, is escalated.

    Args:
        certificate: what was proved.
        now: the time at which it has to be valid; policies have no clock.
    """

    certificate: Certificate
    now: datetime | None = None

    def __post_init__(self) -> None:
        if self.certificate.expired(self.now or datetime.now(UTC)):
            raise ConfigurationError(
                f"the certificate ended on {self.certificate.valid_until:%Y-%m-%d}: calibrate "
                "again on new examples."
            )

    def decide(self, situation: Situation) -> Decision:
        """Accept at the certified threshold and above."""
        assessment, certificate = situation.assessment, self.certificate
        blocked = obstacle(assessment)
        if blocked is not None:
            return blocked.model_copy(update={"threshold": certificate.threshold})
        if not assessment.calibrated:
            return Decision(
                action="escalate",
                reason="the certificate covers calibrated confidences only",
                threshold=certificate.threshold,
                confidence=assessment.confidence,
            )
        decision = compare(assessment.confidence or 0.0, certificate.threshold, True)
        promise = f"harm ≤ {certificate.max_harm:.1%} with {1 - certificate.delta:.0%} confidence"
        return decision.model_copy(update={"reason": f"{decision.reason} ({promise})"})
