"""Accept under a certificate: P(accepted and wrong) ≤ α with confidence 1 − δ."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cascade.errors import ConfigurationError
from cascade.policies.base import Policy, Situation, obstacle
from cascade.policies.rule import observe
from cascade.policies.threshold import compare
from cascade.state import Certificate, Decision


def promises(policy: Policy) -> bool:
    """Whether what a policy accepts has a certificate, also one that others stand around."""
    inner: object = policy
    while inner is not None:
        if isinstance(inner, CertifiedPolicy):
            return True
        inner = getattr(inner, "inner", None)
    return False


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
        if situation.next_signal is not None:
            # The promise was proved for the confidence from all signals, not from some of them.
            return observe(situation.next_signal, decision, "belongs to the certificate")
        promise = f"harm ≤ {certificate.max_harm:.1%} with {1 - certificate.delta:.0%} confidence"
        return decision.model_copy(update={"reason": f"{decision.reason} ({promise})"})
