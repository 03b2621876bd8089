"""Signals about a draft, and what turns them into one confidence.

Calibrations and their fitting need numpy and are imported from their modules:
`cascade.confidence.calibration`, `cascade.confidence.calibrating`.
"""

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
    system_hash,
    take,
)
from cascade.confidence.checks import as_data, check_messages
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
from cascade.confidence.validity import (
    check_schema,
    check_tools,
    objection,
    repetition,
    speaks_of_grading,
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
    "check_schema",
    "check_tools",
    "combine",
    "digest",
    "normalise",
    "objection",
    "repetition",
    "score_of",
    "speaks_of_grading",
    "system_hash",
    "take",
    "to_signals",
]
