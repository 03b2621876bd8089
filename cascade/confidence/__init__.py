"""Signals about a draft, and what turns them into one confidence.

Calibrations and their fitting need numpy and are imported from their modules:
`cascade.confidence.calibration`, `cascade.confidence.fitting`.
"""

from cascade.confidence.base import (
    FEATURES,
    Ask,
    Asked,
    Calibrator,
    Check,
    Estimate,
    Features,
    LabelledDraft,
    Labels,
    MadeFor,
    ModelIdentity,
    Probe,
    Signal,
    UserSignal,
    combine,
    digest,
    score_of,
    system_hash,
    take,
)
from cascade.confidence.checks import (
    PrefillScore,
    PTrueSignal,
    VerbalisedSignal,
    as_data,
    check_messages,
    p_true,
    speaks_of_grading,
)
from cascade.confidence.free import (
    LogprobSignal,
    PromptSignal,
    TextSignal,
    logprob_features,
    prompt_features,
)
from cascade.confidence.samples import (
    Agreement,
    PromptVotes,
    SelfConsistency,
    SemanticAgreement,
    normalise,
)
from cascade.confidence.signals import BUILT_IN, SignalLike, to_signals, wordings
from cascade.confidence.trajectory import TrajectorySignal
from cascade.confidence.validity import check_schema, check_tools, objection, repetition

__all__ = [
    "BUILT_IN",
    "FEATURES",
    "Agreement",
    "Ask",
    "Asked",
    "Calibrator",
    "Check",
    "Estimate",
    "Features",
    "LabelledDraft",
    "Labels",
    "LogprobSignal",
    "MadeFor",
    "ModelIdentity",
    "PTrueSignal",
    "PrefillScore",
    "Probe",
    "PromptSignal",
    "PromptVotes",
    "SelfConsistency",
    "SemanticAgreement",
    "Signal",
    "SignalLike",
    "TextSignal",
    "TrajectorySignal",
    "UserSignal",
    "VerbalisedSignal",
    "as_data",
    "check_messages",
    "check_schema",
    "check_tools",
    "combine",
    "digest",
    "logprob_features",
    "normalise",
    "objection",
    "p_true",
    "prompt_features",
    "repetition",
    "score_of",
    "speaks_of_grading",
    "system_hash",
    "take",
    "to_signals",
    "wordings",
]
