"""Certificates: P(accepted and wrong) ≤ α with confidence 1 − δ, proved and kept.

Fixed-sequence testing from the strictest threshold down, with Clopper–Pearson bounds on the joint
harm R(τ) = P(accept ∧ wrong), which is monotone in τ (arXiv 2101.02703, 2407.18370).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cascade._numbers import to_number
from cascade.errors import ConfigurationError
from cascade.policies.base import Situation, observe
from cascade.state import Certificate, Decision

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class CertifiedPolicy:
    """Accept what the certificate covers, and escalate the rest: also every uncalibrated score, as
    after a change of model or prompt.

    Raises:
        ConfigurationError: it is no certificate, or has ended.
    """

    certificate: Certificate

    def __post_init__(self) -> None:
        given: object = self.certificate
        if not isinstance(given, Certificate):
            raise ConfigurationError(f"CertifiedPolicy({given!r}): give one of `certify`.")
        until = self.certificate.valid_until
        if until is not None and datetime.now(UTC) >= until.astimezone():
            raise ConfigurationError(
                f"the certificate ended on {until:%Y-%m-%d}: calibrate again on new examples."
            )

    def decide(self, situation: Situation) -> Decision:
        """Accept at the certified threshold and above."""
        proof, threshold = self.certificate, self.certificate.threshold
        if (settled := situation.settled(threshold)) is not None:
            return settled
        if not situation.assessment.calibrated:
            reason = "the certificate covers calibrated confidences only"
            return situation.decided("escalate", reason, threshold)
        decision = situation.compared(threshold)
        if situation.next_signal is not None:
            # The promise was proved for the confidence from all signals, not from some of them.
            return observe(situation.next_signal, decision, "belongs to the certificate")
        promise = f"harm ≤ {proof.max_harm:.1%} with {1 - proof.delta:.0%} confidence"
        return decision.model_copy(update={"reason": f"{decision.reason} ({promise})"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """No threshold can be certified, for a `reason` in words, with the way out; `labels_needed` is
    a lower limit of how many it would take, where more can help."""

    reason: str
    labels_needed: int | None = None


def certify(
    confidence: ArrayLike,
    correct: ArrayLike,
    *,
    max_harm: float,
    delta: float = 0.1,
    valid_until: datetime | None = None,
) -> Certificate | Refusal:
    """The lowest τ such that for every τ' ≥ τ the bound on P(accept ∧ wrong) is at most α.

    Args:
        confidence: (n,) of drafts that neither fitted nor chose the calibrator; NaN for a draft
            without one, which is never accepted. Equal ones are accepted together.
        correct: (n,) whether each was right: above 0.5, as for calibrators.
        max_harm, delta: α, and the chance δ that the promise does not hold.

    Raises:
        ConfigurationError: α, δ or a confidence is no probability, or not one label per row.
    """
    import numpy as np  # noqa: PLC0415 - heavy
    from scipy.stats import beta  # noqa: PLC0415

    said, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64) > 0.5
    max_harm = to_number("max_harm", max_harm, above=0, below=1)
    delta = to_number("delta", delta, above=0, below=1)
    n, known = len(said), ~np.isnan(said)
    if n == 0 or len(right) != n:
        raise ConfigurationError(f"{n} confidences, {len(right)} labels: give one for each.")
    if ((said[known] < 0.0) | (said[known] > 1.0)).any():
        raise ConfigurationError("a confidence is between 0 and 1; here some are not.")
    order = np.argsort(-said, kind="stable")[: known.sum()]
    ranked, wrong = said[order], np.cumsum(~right[order])
    ends = np.flatnonzero(np.diff(ranked, append=-1.0) < 0)  # the last of those that are equal
    # Clopper–Pearson: BetaInv(1 − δ; k + 1, n − k); NaN, which passes nowhere, where all are wrong.
    bounds = beta.ppf(1.0 - delta, wrong[ends] + 1.0, n - wrong[ends])
    passing = np.flatnonzero(np.minimum.accumulate(bounds <= max_harm))
    if not len(passing):
        # A sample of m without any error certifies 1 − δ^(1/m), and no less.
        needed = max(n + 1, math.ceil(math.log(delta) / math.log1p(-max_harm) - 1e-9))
        return Refusal(
            f"no threshold keeps harm at {max_harm:.1%} with {1 - delta:.0%} confidence on {n} "
            f"labels (without a single error they certify {1.0 - delta ** (1.0 / n):.1%}): bring "
            f"{needed} or more, or allow more harm",
            needed,
        )
    last = int(ends[passing[-1]])
    return Certificate(
        threshold=float(ranked[last]),
        max_harm=max_harm,
        delta=delta,
        n=n,
        errors=int(wrong[last]),
        coverage=(last + 1) / n,
        bound=float(bounds[passing[-1]]),
        valid_until=valid_until,
    )
