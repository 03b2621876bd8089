"""A cascade in words and figures for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cascade.api import Cascade
from cascade.confidence.calibration import Calibration
from cascade.policies import CertifiedPolicy, Policy, ThresholdPolicy
from cascade.service.protocols.models import tiers_of


def describe(name: str, cascade: Cascade) -> dict[str, Any]:
    """Its tiers, who decides, at which threshold, and how good its calibration is."""
    return {
        "name": name,
        "tiers": tiers_of(cascade),
        "policy": type(cascade.policy).__name__,
        "threshold": _threshold(cascade.policy),
        "calibration": _calibration(cascade.calibration),
    }


def _threshold(policy: Policy) -> float | None:
    """The one threshold that a policy holds drafts against; None where it depends on costs."""
    inner: object = policy
    while inner is not None:
        if isinstance(inner, ThresholdPolicy):
            return inner.threshold
        if isinstance(inner, CertifiedPolicy):
            return inner.certificate.threshold
        inner = getattr(inner, "inner", None)
    return None


def _calibration(calibration: Calibration | None) -> Mapping[str, Any] | None:
    if calibration is None:
        return None
    return {
        "created_at": calibration.created_at,
        "labels": calibration.labels,
        "quality": calibration.quality,
        "certificates": calibration.certificates,
    }
