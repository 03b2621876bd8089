"""A calibration with its certificates, fitted and proved on disjoint halves of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from cascade.confidence.calibrating import LEAST_LABELS, LabelledDraft, MadeFor, calibrate
from cascade.confidence.calibration import Calibration
from cascade.errors import ConfigurationError
from cascade.policies.certify import Refusal, certify

VALID_DAYS = 90
"""Traffic drifts: a promise older than a quarter should be proved again."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration, and the certificates that could not be given."""

    calibration: Calibration
    refusals: tuple[Refusal, ...] = ()


def calibrate_and_certify(
    drafts: Sequence[LabelledDraft],
    signals: Sequence[tuple[str, int]],
    made_for: MadeFor,
    *,
    max_harms: Sequence[float] = (),
    delta: float = 0.1,
    valid_days: int | None = VALID_DAYS,
    seed: int = 0,
) -> Calibrated:
    """Fit on all drafts, or with `max_harms` on one half of them and certify on the other.

    Args:
        drafts: labelled.
        signals: (name, calls) of every signal, cheapest first.
        made_for: what the calibration is bound to.
        max_harms: bounds on P(accepted and wrong) to certify.
        delta: the chance that a certificate does not hold.
        valid_days: until when a certificate promises; None for ever.
        seed: of the split.

    Raises:
        ConfigurationError: too few labelled drafts, or a bound that is none.
    """
    if not max_harms:
        return Calibrated(calibrate(drafts, signals, made_for))
    if len(drafts) < 2 * LEAST_LABELS:
        raise ConfigurationError(
            f"{len(drafts)} labelled drafts: with max_harm one half of them fits and the other "
            f"proves, which needs {2 * LEAST_LABELS} or more."
        )
    order = np.random.default_rng(seed).permutation(len(drafts))
    half = len(drafts) // 2
    fitting, proving = ([drafts[i] for i in part] for part in (order[:half], order[half:]))
    calibration = calibrate(fitting, signals, made_for)
    names = [name for name, _ in signals]
    estimates = [calibration.estimate(draft.features, names) for draft in proving]
    confidence = np.array([np.nan if e is None else e.confidence for e in estimates])
    correct = np.array([draft.correct for draft in proving])
    until = None if valid_days is None else datetime.now(UTC) + timedelta(days=valid_days)
    found = [
        certify(confidence, correct, max_harm=harm, delta=delta, valid_until=until)
        for harm in max_harms
    ]
    certificates = tuple(c for c in found if not isinstance(c, Refusal))
    return Calibrated(
        calibration.model_copy(update={"certificates": certificates}),
        tuple(r.model_copy(update={"halved": True}) for r in found if isinstance(r, Refusal)),
    )
