"""Signals about a draft, and what turns them into one confidence.

Signals that cost a call load on first use. Calibrations and their fitting need numpy and are
imported from their modules: `cascade.confidence.calibration`, `cascade.confidence.calibrating`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily
from cascade.confidence.base import (
    Asked,
    Calibrator,
    Estimate,
    LabelledDraft,
    LogprobSignal,
    MadeFor,
    ModelIdentity,
    Probe,
    Signal,
    combine,
    digest,
    score_of,
    shots_of,
    system_hash,
    take,
)
from cascade.confidence.checks import as_data, check_messages
from cascade.confidence.validity import objection, repetition, speaks_of_grading

if TYPE_CHECKING:
    from cascade.confidence.signals import (
        Agreement,
        PrefillScore,
        PTrueSignal,
        SelfConsistency,
        UserSignal,
        VerbalisedSignal,
        normalise,
        to_signals,
    )
    from cascade.confidence.trajectory import TrajectorySignal

_SIGNALS = "Agreement PTrueSignal PrefillScore SelfConsistency UserSignal VerbalisedSignal"

__getattr__ = lazily(
    __name__,
    {"signals": f"{_SIGNALS} normalise to_signals", "trajectory": "TrajectorySignal"},
)

__all__ = [
    "Agreement",
    "Asked",
    "Calibrator",
    "Estimate",
    "LabelledDraft",
    "LogprobSignal",
    "MadeFor",
    "ModelIdentity",
    "PTrueSignal",
    "PrefillScore",
    "Probe",
    "SelfConsistency",
    "Signal",
    "TrajectorySignal",
    "UserSignal",
    "VerbalisedSignal",
    "as_data",
    "check_messages",
    "combine",
    "digest",
    "normalise",
    "objection",
    "repetition",
    "score_of",
    "shots_of",
    "speaks_of_grading",
    "system_hash",
    "take",
    "to_signals",
]
