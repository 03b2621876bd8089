"""Signals about a draft, and calibrators that make one confidence of them; loaded on first use.

Calibrations and their fitting need numpy and are imported from their modules:
`cascade.confidence.calibration`, `cascade.confidence.calibrating`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cascade._lazy import lazily

if TYPE_CHECKING:
    from cascade.confidence.base import Asked as Asked
    from cascade.confidence.base import Calibrator as Calibrator
    from cascade.confidence.base import Estimate as Estimate
    from cascade.confidence.base import LogprobSignal as LogprobSignal
    from cascade.confidence.base import Probe as Probe
    from cascade.confidence.base import Signal as Signal
    from cascade.confidence.base import combine as combine
    from cascade.confidence.base import digest as digest
    from cascade.confidence.base import score_of as score_of
    from cascade.confidence.base import shots_of as shots_of
    from cascade.confidence.base import system_hash as system_hash
    from cascade.confidence.base import take as take
    from cascade.confidence.checks import as_data as as_data
    from cascade.confidence.checks import check_messages as check_messages
    from cascade.confidence.signals import Agreement as Agreement
    from cascade.confidence.signals import PrefillScore as PrefillScore
    from cascade.confidence.signals import PTrueSignal as PTrueSignal
    from cascade.confidence.signals import SelfConsistency as SelfConsistency
    from cascade.confidence.signals import UserSignal as UserSignal
    from cascade.confidence.signals import VerbalisedSignal as VerbalisedSignal
    from cascade.confidence.signals import normalise as normalise
    from cascade.confidence.signals import to_signals as to_signals
    from cascade.confidence.trajectory import TrajectorySignal as TrajectorySignal
    from cascade.confidence.validity import objection as objection
    from cascade.confidence.validity import repetition as repetition
    from cascade.confidence.validity import speaks_of_grading as speaks_of_grading

_BASE = (
    "Asked Calibrator Estimate LogprobSignal Probe Signal "
    "combine digest score_of shots_of system_hash take"
)
_SIGNALS = (
    "Agreement PTrueSignal PrefillScore SelfConsistency UserSignal VerbalisedSignal normalise "
    "to_signals"
)
__getattr__ = lazily(
    __name__,
    {
        "base": _BASE,
        "checks": "as_data check_messages",
        "signals": _SIGNALS,
        "trajectory": "TrajectorySignal",
        "validity": "objection repetition speaks_of_grading",
    },
)
